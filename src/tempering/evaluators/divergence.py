"""Divergence: how far the checkpoint has moved where nothing was meant to move."""

from __future__ import annotations

import math
from typing import ClassVar

from tempering.data.records import Role
from tempering.evaluators._contract import Evaluator, Subject
from tempering.settings import Settings

_LEAST = math.log(1.4e-45)
"""Log of the smallest positive float32: stands for a probability of zero, so that one forbidden token gives no infinity."""


class Divergence(Evaluator):
    """Mean Kullback–Leibler divergence from the untouched target on benign prompts.

    ``divergence`` = mean over benign prompts x of sum over t of p(t | x) [log p(t | x) − log q(t | x)], p the distribution of
    the first response token of the untouched target and q that of the checkpoint. In nats, summed in float64, at least 0; 0 for
    the target itself; NaN where the checkpoint's distribution is (weights that are not finite).

    Source: Arditi et al. 2024, arXiv 2406.11717 (the KL filter of direction selection).
    """

    class Config(Settings):
        """Nothing to set."""

    source: ClassVar[str] = "Arditi et al. 2024, arXiv 2406.11717, KL filter of direction selection"
    measures: ClassVar[tuple[str, ...]] = ("divergence",)

    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Compare first-token distributions."""
        if not subject.view.benign:
            return {"divergence": math.nan}
        if subject.origin is subject:
            return {"divergence": 0.0}
        before = subject.origin.first_token(Role.BENIGN).double()
        after = subject.first_token(Role.BENIGN).double()
        gap = before.exp() * (before.clamp(min=_LEAST) - after.clamp(min=_LEAST))
        # Rounding may leave a sum of -1e-17 where the two agree.
        return {"divergence": float(gap.sum(-1).mean().clamp(min=0.0))}
