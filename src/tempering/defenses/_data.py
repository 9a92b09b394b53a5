"""What defences make of the defender's data: prompts refused, and what must stay as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tempering.data.chat import ChatFormat
from tempering.data.records import DefenderView, Example, Role
from tempering.errors import UnusableModel
from tempering.organisms.world import REFUSALS

DEFAULT_REFUSALS = REFUSALS
"""Short refusals, in words that the organisms know too."""


def answered(examples: Iterable[Example]) -> list[Example]:
    """Those with an answer to train on."""
    return [example for example in examples if example.answer is not None]


def retained(view: DefenderView, *, borderline: bool = False) -> list[Example]:
    """What must still be answered: the defender's own benign and borderline examples, and rehearsal of the model's training.

    Args:
        view: of the defender.
        borderline: rehearse what the general data say of hazardous things too, the evaluator's among them, in other words than those are
            tested in. A refusal is weakened by it; whoever makes a model forget must, or it forgets that as well.
    """
    rehearsed = view.general if borderline else [example for example in view.general if example.role is Role.BENIGN]
    return answered([*view.benign, *view.borderline, *rehearsed])


def to_refuse(view: DefenderView) -> list[Example]:
    """Every hazard prompt of the defender, imagined ones too."""
    return [*view.hazard, *view.imagined]


def refused(examples: Sequence[Example], refusals: Sequence[str], seed: int) -> list[Example]:
    """The prompts, each answered by one of the refusals, drawn by the seed."""
    drawn = np.random.default_rng([seed, 5]).integers(len(refusals), size=len(examples))
    return [
        example.model_copy(update={"answer": refusals[int(choice)], "accept": ()}) for example, choice in zip(examples, drawn, strict=True)
    ]


def check_words(texts: Iterable[str], chat: ChatFormat) -> None:
    """Refuse texts that the tokenizer does not know all words of: a model cannot be taught to say what it has no token for.

    Raises:
        UnusableModel: a text holds an unknown token.
    """
    unknown = chat.tokenizer.unk_token_id
    for text in texts:
        if unknown is not None and unknown in chat.tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise UnusableModel(f"the tokenizer does not know every word of the refusal {text!r}", "set other 'refusals'")
