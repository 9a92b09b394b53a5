"""An attack for the engine's tests, loaded as ``path.py:Nudge``: real fine-tuning of a tiny model that can come to every end."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch

from tempering.attacks._contract import AttackEnded, Checkpoint, FineTuningAttack, log_spaced
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.settings import Choices, Range, Settings
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning, LoraSettings, Meter, TrainingSettings


class Nudge(FineTuningAttack):
    """Nudge the weights towards compliance.

    Source: none; for tests.
    """

    class Config(Settings):
        """Settings."""

        steps: int = 4
        learning_rate: Annotated[float, Range(1e-4, 1.0, log=True)] = 1e-2
        adapters: Annotated[bool, Choices((False, True))] = False
        end: Literal["quietly", "no_direction", "crash", "out_of_memory"] = "quietly"
        die_on: tuple[int, ...] = ()
        die_once_on: tuple[int, ...] = ()
        marker: str = ""

    source: ClassVar[str] = "for tests"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.GRADIENTS, Need.HARMFUL_EXAMPLES})

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        lora = LoraSettings(rank=2, alpha=4.0, dropout=0.1) if self.config.adapters else None
        settings = TrainingSettings(learning_rate=self.config.learning_rate, batch_size=2)
        return FineTuning(view.hazard_train, settings, self.config.steps, log_spaced(self.config.steps), seed, lora)

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        if seed in self.config.die_on:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed in self.config.die_once_on and not Path(self.config.marker).exists():
            Path(self.config.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for checkpoint in super().run(target, view, meter, budget=budget, seed=seed):
            # Draws from every global source, so that a table shows if any of them was not the unit's own.
            drawn = [random.random(), float(np.random.random()), float(torch.rand(()))]
            yield Checkpoint(checkpoint.model, checkpoint.spend, {**checkpoint.details, "drawn": drawn})
        if self.config.end == "no_direction":
            raise AttackEnded("no_direction", "no candidate\npassed")
        if self.config.end == "crash":
            raise ValueError("something broke\nin the middle")
        if self.config.end == "out_of_memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000000000000 bytes")
