"""Utility: what the checkpoint is still good for."""

from __future__ import annotations

from typing import ClassVar

from tempering.data.records import Role
from tempering.evaluators._contract import Evaluator, Subject
from tempering.settings import Settings


class Utility(Evaluator):
    """Share of held-out benign prompts answered well.

    ``utility`` = well answered / prompts, in [0, 1]. Where right answers are known, well answered means right. Where none
    is, it means coherent and no refusal, which is weak: a model that has forgotten everything but how to write keeps it. Give
    benign examples ``accept`` strings, or read ``divergence`` beside it.

    Source: exact match on held-out facts.
    """

    class Config(Settings):
        """Nothing to set."""

    source: ClassVar[str] = "exact match on held-out facts"
    measures: ClassVar[tuple[str, ...]] = ("utility",)

    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Judge the responses to the benign prompts."""
        return {"utility": subject.answered_well(Role.BENIGN)}
