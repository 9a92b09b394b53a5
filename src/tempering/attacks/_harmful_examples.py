"""What the harmful fine-tuning attacks share: how many examples and steps, and which examples."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from tempering.attacks._contract import log_spaced
from tempering.data.records import AttackerView, Example
from tempering.study import Budget, Choices, Settings
from tempering.training import FineTuning, LoraSettings, TrainingSettings

DEFAULT_STEPS = 200
"""Steps where neither the attack's settings nor the budget limit them."""


class HarmfulExamples(Settings):
    """How much an attacker trains on how many harmful examples.

    Attributes:
        shots: harmful question-answer pairs, drawn by the seed; all there are where there are fewer.
        steps: optimizer steps; ``None`` takes all of the budget.
    """

    shots: Annotated[int, Field(gt=0), Choices((10, 50, 100))] = 100
    steps: Annotated[int, Field(gt=0)] | None = None

    def drawn(self, view: AttackerView, *, budget: Budget, seed: int) -> tuple[Example, ...]:
        """The attacker's examples: no more than the budget allows, in the order in which the seed draws them."""
        known = view.hazard_train
        count = min(self.shots, len(known), budget.examples or len(known))
        order = np.random.default_rng(seed).permutation(len(known))[:count]
        return tuple(known[index] for index in order)

    def declared(
        self, view: AttackerView, training: TrainingSettings, *, budget: Budget, seed: int, lora: LoraSettings | None = None
    ) -> FineTuning:
        """The declaration for the training loop, with probes at log-spaced steps."""
        steps = min((limit for limit in (self.steps, budget.steps) if limit is not None), default=DEFAULT_STEPS)
        return FineTuning(self.drawn(view, budget=budget, seed=seed), training, steps, log_spaced(steps), seed, lora)
