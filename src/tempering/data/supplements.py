"""What a study may use beside the divided questions: the owner's own training data, and what an honest user would teach."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tempering.data.examples import Example


@dataclass(frozen=True)
class Supplements:
    """Examples that cross the division on purpose, because they tell nothing of the hazard.

    No prompt of the test is among them: what is rehearsed is asked in other words than it is tested in.

    Attributes:
        general: of the model's own training, hazard left out: facts to rehearse, or to train a model anew with. Of all
            entities; borderline is what speaks of hazardous ones.
        imagined: hazard prompts without answers about things that do not exist, as many as a defender can make up, so that a refusal hangs
            on what is asked for and not on the names it was trained with.
        novel_train: a benign domain that the model does not know yet, for an honest user to fine-tune it on.
        novel_test: questions that show whether it was learnt.
    """

    general: tuple[Example, ...] = ()
    imagined: tuple[Example, ...] = ()
    novel_train: tuple[Example, ...] = ()
    novel_test: tuple[Example, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all of it in order; ``""`` where there is nothing."""
        return digest_of((*self.general, *self.imagined, *self.novel_train, *self.novel_test))


def digest_of(examples: tuple[Example, ...]) -> str:
    """SHA-256 of examples in order, as sixty-four hexadecimal digits; ``""`` of none."""
    if not examples:
        return ""
    return hashlib.sha256("\n".join(example.model_dump_json() for example in examples).encode()).hexdigest()
