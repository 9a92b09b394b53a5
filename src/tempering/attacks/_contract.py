"""What every attack promises.

An attack is a generator of (checkpoint, spend). It never calls an evaluator and never sees the test split. A fine-tuning
attack is a declaration that the one training loop executes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transformers import PreTrainedModel

from tempering.data.asking import PLAIN, Asking
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.settings import Settings
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning, LoraSettings, Meter, Spend, TrainingSettings, estimate, fine_tune


@dataclass(frozen=True)
class Checkpoint:
    """A tampered model at one moment of an attack.

    Attributes:
        model: the live model. Valid until the attack is asked for its next checkpoint; whoever wants to keep it copies it.
        spend: everything the attack has used up to here.
        details: facts worth keeping (chosen layer, training loss), as JSON values.
        asking: how the attacker puts hazard prompts to this model.
        more: whether the attack is sure to make another, so that a glance at this one may do.
    """

    model: PreTrainedModel
    spend: Spend
    details: dict[str, Any] = field(default_factory=dict)
    asking: Asking = PLAIN
    more: bool = False


class AttackEnded(Exception):
    """The attack has come to an end of its own that is an outcome, not a crash.

    Attributes:
        outcome: ``no_direction`` (no candidate passed selection) or ``failed`` (loss not finite, out of memory).
    """

    def __init__(self, outcome: Literal["no_direction", "failed"], reason: str) -> None:
        """Keep the outcome and, in one line, why."""
        super().__init__(reason)
        self.outcome = outcome


class Attack(ABC):
    """One attack, configured.

    Attributes:
        Config: pydantic settings with the paper's defaults, search space on the fields.
        source: paper and where in it.
        needs: what the attacker must hold; a threat model that does not allow all of it leaves the attack out. It is given no other
            data than this names, and what ``uses`` names.
        uses: data of its own that it makes use of where there is any, and can do without.
        family: ``fine-tuning``, ``weight surgery``, ``input``, ``latent``, ``retrieval`` or ``composition``.
        quick: whether an audit runs it unasked. One that takes minutes on a small model leaves this off.
        quick_unanswered: whether it does so at least on data without harmful answers, where the attacks that train on those cannot run.
    """

    Config: ClassVar[type[Settings]]
    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    uses: ClassVar[frozenset[Need]] = frozenset()
    family: ClassVar[str]
    quick: ClassVar[bool] = False
    quick_unanswered: ClassVar[bool] = False

    def __init__(self, config: Settings) -> None:
        """Keep the validated configuration."""
        self.config: Any = config

    @property
    def requires(self) -> frozenset[Need]:
        """What this attack needs as it is configured; attacks whose settings decide it override this."""
        return self.needs

    @property
    def edits_weights(self) -> bool:
        """Whether it writes into the model's own weights as it is configured; weights held in four or eight bits cannot be."""
        return self.family == "weight surgery"

    @abstractmethod
    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Attack the target.

        Args:
            target: what to attack; left exactly as it was.
            view: the attacker's own data.
            meter: counts everything used.
            budget: where the engine will cut the attack off; schedules may be planned by it.
            seed: decides every random choice.

        Yields:
            Checkpoints in order of spend, at log-spaced moments.

        Raises:
            AttackEnded: the attack found nothing to do or could not go on.
        """

    @abstractmethod
    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """What a run to the end of the budget is expected to use, without running it; for ``temper plan``."""


class FineTuningAttack(Attack):
    """An attack that only declares what is trained; the training loop executes the declaration."""

    family: ClassVar[str] = "fine-tuning"

    @property
    def adapters(self) -> LoraSettings | None:
        """What it trains in place of the weights; ``None`` for the weights themselves."""
        return self.config.lora if getattr(self.config, "parameters", "all") == "lora" else None

    @property
    def training(self) -> TrainingSettings | None:
        """The settings that it declares, where its configuration tells them; ``None`` leaves it to be run alone."""
        settings = getattr(self.config, "training", None)
        return settings if isinstance(settings, TrainingSettings) else None

    @property
    def edits_weights(self) -> bool:
        """Unless it trains adapters."""
        return self.adapters is None

    @abstractmethod
    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Which examples in which order, which parameters move, by which optimiser, and when to stop for a probe."""

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Execute the declaration in the one training loop."""
        declaration = self.declare(target, view, budget=budget, seed=seed)
        for moment in fine_tune(target, declaration, meter):
            more = moment.step < declaration.probes[-1]
            yield Checkpoint(moment.model, meter.spend(), {"loss": moment.loss}, declaration.asking, more)

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Spend of the declared steps, from the analytic count."""
        return estimate(target, self.declare(target, view, budget=budget, seed=0))


def log_spaced(last: int, per_doubling: int = 2) -> tuple[int, ...]:
    """Whole numbers from 1 to ``last``, evenly spaced in the logarithm, both ends included.

    Args:
        last: the greatest, at least 1.
        per_doubling: how many between a number and its double.
    """
    points = {1, last}
    position = 0
    while (value := round(2 ** (position / per_doubling))) <= last:
        points.add(value)
        position += 1
    return tuple(sorted(points))
