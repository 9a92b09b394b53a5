"""What a worker holds from one unit to the next: one model with its public base, and one division of the data.

Each is what was planned, or the run ends: a model or data that have changed since would leave rows behind that their name does not tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tempering.data.records import AttackerView, Division, EvaluatorView
from tempering.engine.defended import load_defended
from tempering.engine.driving import is_large, release_memory
from tempering.engine.loading import load_base, load_model, load_records, restrict
from tempering.engine.placement import on_host
from tempering.engine.units import Unit, Work
from tempering.errors import UnusableData, UnusableModel
from tempering.evaluators._contract import Subject
from tempering.model_choice import ModelChoice
from tempering.models import Target
from tempering.models.ranks import Ranks
from tempering.models.sharding import sharded


@dataclass(frozen=True)
class Divided:
    """The divided data of a unit, with the views that most units need."""

    division: Division
    attacker: AttackerView
    evaluator: EvaluatorView


class Holding:
    """One model, one public base and one division of data, each held until a unit needs another.

    Attributes:
        examined: what was measured of the model untouched, by what it was measured for; it holds the model too, and goes with it.
    """

    def __init__(self, models: Path, ranks: Ranks, *, checkpointing: bool) -> None:
        """Start with nothing loaded.

        Args:
            models: folder of the defended models.
            ranks: the processes that hold each model together.
            checkpointing: fine-tuning computes activations anew in the backward pass.
        """
        self._models = models
        self._ranks = ranks
        self._checkpointing = checkpointing
        self._target: tuple[tuple[Any, ...], Target] | None = None
        self._base: tuple[str, Target] | None = None
        self.examined: tuple[tuple[str, str], tuple[Subject, dict[str, float]]] | None = None
        self._divided: tuple[tuple[Any, ...], Divided] | None = None

    def attacked(self, unit: Unit) -> Target:
        """The target, with its public base where the attack is given it."""
        work, target = unit.work, self.target_of(unit)
        if work.base is None:
            self._base = None
            return target
        if self._base is None or self._base[0] != work.base_digest:
            self._base = work.base_digest, _unchanged(load_base(work.base, target), work.base_digest)
        return replace(target, public_base=self._base[1])

    def target_of(self, unit: Unit) -> Target:
        """What a unit is done to: the model that its defence made, or the model as it came."""
        if not unit.defended:
            return self.target_as_it_came(unit.work)
        return self._kept(
            (unit.work.model, unit.defended), lambda: replace(load_defended(unit, self._models), checkpointing=self._checkpointing)
        )

    def target_as_it_came(self, work: Work) -> Target:
        """The audited model, without a defence."""
        return self._kept((work.model, work.model_digest), lambda: self.load(work.model, work.model_digest, work.device))

    def load(self, choice: ModelChoice, digest: str, device: str) -> Target:
        """A model as it was planned, which is not held; over several devices it is loaded into the host's memory and divided from there."""
        if self._ranks.size == 1:
            return replace(load_planned(choice, digest), checkpointing=self._checkpointing)
        target = sharded(load_planned(on_host(choice), digest), self._ranks, device)
        return replace(target, checkpointing=self._checkpointing)

    def data(self, work: Work) -> Divided:
        """The data of a work, divided."""
        key = (work.data, work.data_digest, work.supplements_digest, work.probes.prompts)
        if self._divided is None or self._divided[0] != key:
            records = load_records(work.data, work.model)
            division = restrict(records, work.data.domains).divide(work.data.seed)
            supplements = division.supplements().digest if work.supplements_digest else ""
            if (records.digest, supplements) != (work.data_digest, work.supplements_digest):
                raise UnusableData(f"the data {records.name} has changed since the run was planned", "put it back, or start a new run")
            self._divided = key, Divided(division, division.attacker_view(), division.evaluator_view().limited(work.probes.prompts))
        return self._divided[1]

    def forget_model(self) -> None:
        """Load the model anew for the next unit."""
        last, self._target, self._base, self.examined = self._target, None, None, None
        if last is not None:
            large = is_large(last[1])
            del last
            release_memory(large)

    def _kept(self, key: tuple[Any, ...], load: Callable[[], Target]) -> Target:
        """The model that is loaded already, or another one in its place."""
        if self._target is None or self._target[0] != key:
            self.forget_model()
            self._target = key, load()
        return self._target[1]


def load_planned(choice: ModelChoice, digest: str) -> Target:
    """A model as it was planned.

    Raises:
        UnusableModel: it is not the one that was planned any more.
    """
    return _unchanged(load_model(choice), digest)


def _unchanged(target: Target, digest: str) -> Target:
    if target.digest != digest:
        raise UnusableModel(f"the model {target.reference} has changed since the run was planned", "put it back, or start anew")
    return target
