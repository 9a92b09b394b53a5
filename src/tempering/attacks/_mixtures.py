"""Training data of which a share is harmful: how many of each kind, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from tempering.attacks._fine_tuning import FineTuningSettings, drawn
from tempering.data.records import Example
from tempering.errors import UnusableData
from tempering.settings import Choices, Range
from tempering.study import Budget
from tempering.training import TrainingSettings


class MixtureTraining(TrainingSettings):
    """The loop's settings with the paper's defaults, so that a study which sets one of them keeps the others."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-3, log=True)] = 2e-4
    schedule: Annotated[Literal["constant", "linear", "cosine"], Choices(("constant", "linear", "cosine"))] = "linear"
    batch_size: Annotated[int, Field(gt=0), Choices((4, 8, 16, 32, 64))] = 4


class MixtureSettings(FineTuningSettings):
    """How a poisoned set is put together and trained: batches of 4, adapters of rank 16, five epochs, decaying linearly.

    Attributes:
        examples: size N of the whole set; the largest that can be had with the same fraction where the attacker has fewer.
    """

    examples: Annotated[int, Field(gt=0), Choices((50, 100, 200, 500, 1000, 5000))] = 5000
    training: MixtureTraining = MixtureTraining()
    parameters: Annotated[Literal["all", "lora"], Choices(("all", "lora"))] = "lora"
    epochs: Annotated[Annotated[float, Field(gt=0)] | None, Choices((1.0, 3.0, 5.0, 10.0, None))] = 5.0


@dataclass(frozen=True)
class Mixture:
    """A training set of two kinds.

    Attributes:
        poison: the harmful examples.
        cover: the benign ones they stand among.
    """

    poison: tuple[Example, ...]
    cover: tuple[Example, ...]

    @property
    def examples(self) -> tuple[Example, ...]:
        """All of them; the loop shuffles."""
        return self.poison + self.cover


def mixed(harmful: Sequence[Example], benign: Sequence[Example], *, size: int, fraction: float, budget: Budget, seed: int) -> Mixture:
    """Draw the largest mixture of at most ``size`` examples that keeps the fraction.

    With one seed the poison of a smaller fraction is part of a larger one's, and so is the cover, so that what differs between
    fractions is the poison and not the luck of the draw.

    Args:
        harmful: to draw the poison from; those without an answer are passed over.
        benign: to draw the cover from; likewise.
        size: examples in all, N.
        fraction: share p of the poison, in [0, 1]: :func:`poison_count` of them.
        budget: its examples limit the size too.
        seed: decides which.

    Raises:
        UnusableData: one of the kinds is needed and there is none.
    """
    harmful, benign = answered(harmful), answered(benign)
    if fraction > 0 and not harmful:
        raise UnusableData("the attacker has no harmful examples with answers to poison with", "add some, or set poison_fraction to 0")
    if fraction < 1 and not benign:
        raise UnusableData("the attacker has no benign examples with answers to mix poison into", "add some, or set poison_fraction to 1")
    total = min(size, budget.examples or size, len(harmful) + len(benign))
    while (poison := poison_count(fraction, total)) > len(harmful) or total - poison > len(benign):
        total -= 1
    free = Budget(steps=None)
    return Mixture(drawn(harmful, poison, budget=free, seed=seed), drawn(benign, total - poison, budget=free, seed=seed))


def poison_count(fraction: float, total: int) -> int:
    """Exactly round(p N) harmful examples, at least one where p is above zero: small sets are not poisoned by chance."""
    return max(1, round(fraction * total)) if fraction > 0 else 0


def answered(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Those with an answer to train on."""
    return tuple(example for example in examples if example.answer is not None)
