"""A defence for the engine's tests, loaded as ``path.py:Firm``: real training of a tiny model to refuse, that can come to every end."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Defense, Material
from tempering.models import Target
from tempering.settings import Settings
from tempering.training import Objective, Pool, Stage, TrainingSettings, Workshop


class _Refuse(Objective):
    def __init__(self, examples: Sequence[Example], config: Any, seed: int) -> None:
        self._examples, self._config, self._seed = examples, config, seed

    def begin(self, workshop: Workshop) -> None:
        self._pool: Pool = workshop.pool(self._examples)

    def step(self, workshop: Workshop) -> dict[str, float]:
        if self._seed in self._config.nan_on:
            return {"loss": float("nan")}
        if self._seed in self._config.crash_on:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000000000000 bytes")
        if workshop.step == 1 and self._config.die_once and not Path(self._config.die_once).exists():
            Path(self._config.die_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        loss = workshop.run(self._pool.rows(workshop.step, 2)).cross_entropy()
        loss.backward()
        return {"loss": float(loss.detach())}


class Firm(Defense):
    """Refuse, in words that the tiny tokenizer knows.

    Source: none; for tests.
    """

    class Config(Settings):
        """Settings."""

        steps: int = 3
        learning_rate: float = 1e-2
        nan_on: tuple[int, ...] = ()
        crash_on: tuple[int, ...] = ()
        die_once: str = ""
        general: bool = False

    source: ClassVar[str] = "for tests"
    claim: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS})
    withholds: ClassVar[str] = "refusal"

    @property
    def requires(self) -> frozenset[Material]:
        return self.needs | ({Material.GENERAL} if self.config.general else set())

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        refused = [example.model_copy(update={"answer": "no", "accept": ()}) for example in view.hazard]
        settings = TrainingSettings(learning_rate=self.config.learning_rate)
        return [Stage("refuse", _Refuse(refused, self.config, seed), settings, self.config.steps)]
