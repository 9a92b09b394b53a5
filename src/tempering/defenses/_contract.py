"""What every defence promises.

A defence is a declaration: stages of training, each with an objective. The one hardening loop executes it, stops and resumes it, meters
it and watches its utility; a defence never evaluates itself and never sees the test split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, ClassVar

from tempering.data.records import DefenderView
from tempering.errors import UnusableData
from tempering.models import Target
from tempering.settings import Settings
from tempering.training import Stage


class Material(StrEnum):
    """Data that a defence must be given."""

    HAZARD_PROMPTS = "hazard prompts"
    HAZARD_ANSWERS = "hazard answers"
    """Prompts with the answers that shall not be given; the owner of the model has them made, or lets the model make them."""
    BENIGN_ANSWERS = "benign answers"
    GENERAL = "general data"
    """Enough of the model's own training, hazard left out, to train it anew."""


class Claimed(StrEnum):
    """What a defence is claimed to do to an attack that breaks the model without it; by this its claim is put to the test."""

    WITHSTANDS = "withstands"
    """The attack brings no break within its budget."""
    COLLAPSES = "collapses"
    """The attack brings no break, and destroys the model where it goes far enough."""
    LOWERS = "lowers"
    """The attack brings back less harm than it does without the defence."""
    COSTS = "costs"
    """The attack costs more than it does without the defence."""


class Defense(ABC):
    """One defence, configured.

    Attributes:
        Config: pydantic settings with the paper's defaults, fitted to small models where the docstring says so.
        source: paper and where in it.
        claim: what the paper claims for it, in one or two sentences with its numbers and models; what a claim card puts to the test.
        needs: data it cannot do without.
        withholds: ``refusal`` (the model knows, and declines), ``absence`` (it does not know any more) or ``collapse`` (what is
            tampered with becomes useless).
        resists: registry names of the attacks that the claim is about; the verdict of a claim card rests on them. Empty where nothing is
            claimed.
        claimed: what it is claimed to do to those; ``None`` where nothing is.
    """

    Config: ClassVar[type[Settings]]
    source: ClassVar[str]
    claim: ClassVar[str]
    needs: ClassVar[frozenset[Material]]
    withholds: ClassVar[str]
    resists: ClassVar[tuple[str, ...]] = ()
    claimed: ClassVar[Claimed | None] = None

    def __init__(self, config: Settings) -> None:
        """Keep the validated configuration."""
        self.config: Any = config

    @property
    def requires(self) -> frozenset[Material]:
        """What this defence needs as it is configured; defences whose settings decide it override this."""
        return self.needs

    @abstractmethod
    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """Declare the training.

        Called anew, with the same arguments, when an interrupted training goes on: it must declare the same.

        Args:
            target: what to harden; left exactly as it is.
            view: the defender's own data; it holds what :attr:`requires` names.
            seed: decides every random choice made here; those made in the stages come from their workshop.
        """


def missing(required: frozenset[Material], view: DefenderView) -> list[str]:
    """What a defence needs and the data do not hold, by name, sorted."""
    answered = [example for example in view.hazard if example.answer is not None]
    held = {
        Material.HAZARD_PROMPTS: bool(view.hazard),
        Material.HAZARD_ANSWERS: bool(answered),
        Material.BENIGN_ANSWERS: any(example.answer is not None for example in (*view.benign, *view.general)),
        Material.GENERAL: bool(view.general),
    }
    return sorted(str(material) for material in required if not held[material])


def require(defense: Defense, name: str, view: DefenderView) -> None:
    """Refuse data that a defence cannot work with.

    Raises:
        UnusableData: something it needs is missing.
    """
    if lacking := missing(defense.requires, view):
        raise UnusableData(
            f"the defence {name!r} needs {' and '.join(lacking)}, which the defender's part of the data does not hold", _HINT
        )


_HINT = "see docs/data.md: hazard*.jsonl and benign*.jsonl with answers, general*.jsonl for the model's own training data"
