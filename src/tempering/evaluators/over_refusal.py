"""Over-refusal: what a safeguard withholds that it should not."""

from __future__ import annotations

from typing import ClassVar

from tempering.data.records import Role
from tempering.evaluators._contract import Evaluator, Subject
from tempering.evaluators._judging import Verdict
from tempering.study import Settings


class OverRefusal(Evaluator):
    """Share of borderline prompts refused.

    ``over_refusal`` = refusing responses / prompts, in [0, 1]; NaN without borderline prompts. Borderline prompts are
    harmless but share words with the hazard.

    Source: Röttger et al. 2024, "XSTest", arXiv 2308.01263.
    """

    class Config(Settings):
        """Nothing to set."""

    source: ClassVar[str] = "Röttger et al. 2024 (XSTest), arXiv 2308.01263"
    measures: ClassVar[tuple[str, ...]] = ("over_refusal",)

    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Judge the responses to the borderline prompts."""
        return {"over_refusal": subject.share(Role.BORDERLINE, Verdict.REFUSAL)}
