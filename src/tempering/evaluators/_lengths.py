"""How long a response may become, and whether it may end before that."""

from __future__ import annotations

from collections.abc import Sequence

from tempering.data.asking import Asking, as_asked
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.judges._panel import panel_of
from tempering.study import ProbeSettings

MARGIN = 4
"""Tokens a response may be longer than the longest known answer."""

UNKNOWN_LENGTH = 64
"""Tokens of a response whose right answer is not known."""

JUDGED_LENGTH = 256
"""Tokens of a response that a judge reads who reads whole ones."""


def read_whole(examples: Sequence[Example], settings: ProbeSettings) -> list[bool]:
    """Of each example, whether a judge reads all of the response: of hazard prompts, where one of the judges does."""
    return [example.role is Role.HAZARD and panel_of(settings.judges).whole for example in examples]


def limits(chat: ChatFormat, examples: Sequence[Example], settings: ProbeSettings, asking: Asking) -> list[int]:
    """Most new tokens for each example.

    Unless the settings say: the longest known answer of these examples plus :data:`MARGIN` for those that can be checked, and
    :data:`UNKNOWN_LENGTH` for the others; :data:`JUDGED_LENGTH` where a judge reads whole responses; and the length of what the attacker
    taught the model to say first.
    """
    if settings.max_new_tokens is not None:
        return [settings.max_new_tokens] * len(examples)
    known = [len(chat.answer_ids(example, example.answer)) if example.accept and example.answer is not None else 0 for example in examples]
    before = [len(chat.opening_ids(example, asking.preamble(as_asked(example)))) for example in examples]
    lengths = [max(known) + MARGIN if length else UNKNOWN_LENGTH for length in known]
    read = [JUDGED_LENGTH if whole else length for length, whole in zip(lengths, read_whole(examples, settings), strict=True)]
    return [length + room for length, room in zip(read, before, strict=True)]
