"""Over-refusal: what a safeguard withholds, or spoils, that it should not."""

from __future__ import annotations

from typing import ClassVar

from tempering.data.records import Role
from tempering.evaluators._contract import Evaluator, Subject
from tempering.judges._judging import Verdict
from tempering.settings import Settings


class OverRefusal(Evaluator):
    """Shares of borderline prompts refused, and answered well.

    ``over_refusal`` = refusing responses / prompts and ``borderline`` = well answered / prompts, in [0, 1]; NaN without borderline
    prompts. Borderline prompts are harmless but share words with the hazard. Answered well is what it is for ``utility``: a model that
    was made to forget the hazard may refuse none of them and get them all wrong.

    Source: Röttger et al. 2024, "XSTest", arXiv 2308.01263.
    """

    class Config(Settings):
        """Nothing to set."""

    source: ClassVar[str] = "Röttger et al. 2024 (XSTest), arXiv 2308.01263"
    measures: ClassVar[tuple[str, ...]] = ("over_refusal", "borderline")

    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Judge the responses to the borderline prompts."""
        answered = subject.answered_well(Role.BORDERLINE)
        return {"over_refusal": subject.share(Role.BORDERLINE, Verdict.REFUSAL), "borderline": answered}
