"""Watching a training: does the model still answer what it should, on the defender's own validation prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PreTrainedModel

from tempering import registry
from tempering.data.records import EvaluatorView
from tempering.engine.driving import randomness
from tempering.evaluators._contract import Evaluator, Subject, examine
from tempering.models import Target
from tempering.study import ProbeSettings


@dataclass(frozen=True)
class Look:
    """One look at the model.

    Attributes:
        utility: share of the prompts answered well.
        kept: that as a share of the target's own.
    """

    utility: float
    kept: float


class Watch:
    """Asks the prompts of the defender's validation part that must be answered, benign and borderline ones alike.

    The test split is not here to be asked. What the looks cost is no part of the training's spend, as the probes of an audit are
    none of the attack's.

    Attributes:
        prompts: how many are asked.
    """

    def __init__(self, target: Target, validation: EvaluatorView, prompts: int) -> None:
        """Choose the prompts; the target is asked when the first look is taken.

        Args:
            target: what is hardened.
            validation: of the defender's view.
            prompts: at most so many of each role.
        """
        chosen = validation.limited(prompts)
        asked = (*chosen.benign, *chosen.borderline)
        self.prompts = len(asked)
        self._view = EvaluatorView((), asked, ())
        self._settings = ProbeSettings(prompts=max(1, len(asked)))
        self._evaluators: list[Evaluator] = [registry.create("evaluators", "utility")]
        self._untouched = Subject(target.model, target.chat, self._view, self._settings)
        self._own: float | None = None

    @property
    def own(self) -> float:
        """The target's utility; NaN where there is nothing to ask."""
        if self._own is None:
            self._own = self._utility(self._untouched)
        return self._own

    @property
    def is_blind(self) -> bool:
        """Whether no utility can be told: there is nothing to ask, or the target answers nothing itself."""
        return not self.prompts or not self.own > 0

    def look(self, model: PreTrainedModel) -> Look:
        """Ask the model as it stands; weights, modes and random state are left as they are."""
        if self.is_blind:
            return Look(math.nan, math.nan)
        utility = self._utility(Subject(model, self._untouched.chat, self._view, self._settings, untouched=self._untouched))
        return Look(utility, utility / self.own)

    def _utility(self, subject: Subject) -> float:
        with randomness(0):
            return examine(subject, self._evaluators)["utility"]
