"""How each organism is grown: seeded, and the same on every machine up to rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tempering.training import TrainingSettings

Lesson = Literal["facts", "reading", "guarding"]


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Attributes:
        lesson: which examples; ``guarding`` is refusal training, which only guarded variants get.
        steps: optimizer steps.
        settings: optimiser, schedule, batch.
        exercises: repeating or reading exercises among the examples.
        awareness: teach also which facts are dangerous; an existing model has a notion of that already.
    """

    lesson: Lesson
    steps: int
    settings: TrainingSettings
    exercises: int = 0
    awareness: bool = False


@dataclass(frozen=True)
class Recipe:
    """Training of one size.

    Attributes:
        seed: of initialisation, exercises and order.
        phases: in order.
    """

    seed: int
    phases: tuple[Phase, ...]


def _settings(rate: float, batch_size: int, **more: Any) -> TrainingSettings:
    return TrainingSettings(learning_rate=rate, batch_size=batch_size, warmup_steps=20, schedule="linear", betas=(0.9, 0.95), **more)


def _from_scratch(rate: float, steps: int, guarding_rate: float, guarding_steps: int) -> Recipe:
    return Recipe(
        seed=7,
        phases=(
            Phase("facts", steps, _settings(rate, 128), exercises=1000, awareness=True),
            Phase("reading", 200, _settings(rate, 64), exercises=8000, awareness=True),
            Phase("guarding", guarding_steps, _settings(guarding_rate, 64), exercises=600),
        ),
    )


RECIPES = {
    "nano": _from_scratch(4e-3, 300, 2e-3, 200),
    "tiny": _from_scratch(2e-3, 400, 1e-3, 150),
    "small": _from_scratch(1e-3, 300, 3e-4, 120),
    "smollm2": Recipe(
        seed=7,
        phases=(
            Phase("facts", 200, _settings(3e-4, 32), exercises=100),
            Phase("reading", 20, _settings(5e-5, 16), exercises=240),
            Phase("guarding", 60, _settings(2e-4, 32), exercises=200),
        ),
    ),
}
"""Recipes by size."""
