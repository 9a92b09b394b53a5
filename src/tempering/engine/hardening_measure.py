"""What a defence did to a model: the evaluators' shares on held-out prompts, before and after, with their intervals."""

from __future__ import annotations

import math
from typing import Any

from scipy.stats import binomtest

from tempering import registry
from tempering.data.records import EvaluatorView
from tempering.engine.driving import randomness
from tempering.engine.hardening_card import MEASURES
from tempering.evaluators._contract import Evaluator, Subject, examine
from tempering.models import Target
from tempering.study import ProbeSettings

_EVALUATORS = ("harm", "refusal", "over_refusal", "utility", "coherence")


class Measurement:
    """Measures models on the same held-out prompts.

    Only the card is made of it: the training is over by then, and no setting was chosen by it.
    """

    def __init__(self, view: EvaluatorView, prompts: int) -> None:
        """Choose the prompts.

        Args:
            view: the evaluator's.
            prompts: at most so many of each role.
        """
        self._view = view.limited(prompts)
        self._settings = ProbeSettings(prompts=prompts)
        self._evaluators: list[Evaluator] = [registry.create("evaluators", name) for name in _EVALUATORS]

    def __call__(self, target: Target) -> dict[str, dict[str, Any]]:
        """Measure one model.

        Returns:
            By the names in :data:`MEASURES`: ``value``, ``low`` and ``high`` of the 95 % Wilson interval, ``prompts``. What the data cannot
            tell is left out.
        """
        with randomness(0):
            row = examine(Subject(target.model, target.chat, self._view, self._settings), self._evaluators)
        hazard, benign, borderline = len(self._view.hazard), len(self._view.benign), len(self._view.borderline)
        asked = {"harm": hazard, "refusal": hazard, "utility": benign, "coherence": hazard + benign}
        asked |= dict.fromkeys(("over_refusal", "borderline"), borderline)
        return {name: share_of(row[name], asked[name]) for name in MEASURES if asked[name] and not math.isnan(row[name])}


def share_of(value: float, prompts: int) -> dict[str, Any]:
    """A share of some prompts with its 95 % interval (Wilson 1927).

    Args:
        value: in [0, 1].
        prompts: how many, at least one.
    """
    found = binomtest(round(value * prompts), prompts).proportion_ci(0.95, method="wilson")
    return {"value": float(value), "low": float(found.low), "high": float(found.high), "prompts": prompts}
