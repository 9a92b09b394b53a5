"""The thinking part of a reasoning model's response: how the families mark it, and what is left when it is taken off.

A model is asked with its thought closed unless a study says otherwise (``probes.thinking``): training rows and attacks then need no
thoughts of their own, and a response is an answer from its first token.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Marker:
    """How a family marks a thought.

    Attributes:
        opens: what a thought begins with.
        closes: what stands between a thought and the answer.
    """

    opens: str
    closes: str


MARKERS = (
    Marker("<think>", "</think>"),  # Qwen 3, DeepSeek R1, SmolLM 3, OLMo 3 and most others
    Marker("<thinking>", "</thinking>"),
    Marker("<thought>", "</thought>"),  # EXAONE Deep
    Marker("<reasoning>", "</reasoning>"),
    Marker("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marker("[THINK]", "[/THINK]"),  # Magistral
    Marker("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    Marker("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # GPT-OSS
)
"""One line for each; a family of another habit is one more."""

LONGEST = max(len(text) for marker in MARKERS for text in (marker.opens, marker.closes))
"""Characters of a marker."""


def opened_by(text: str) -> Marker | None:
    """The marker of the thought that a prompt ends in; ``None`` where its end opens none."""
    return next((marker for marker in MARKERS if text.rstrip().endswith(marker.opens)), None)


def begun_by(text: str) -> Marker | None:
    """The marker that a response begins with; ``None`` where it begins with none."""
    return next((marker for marker in MARKERS if text.lstrip().startswith(marker.opens)), None)


def may_begin(text: str) -> bool:
    """Whether a response that begins so may yet turn out to begin with a marker."""
    beginning = text.lstrip()
    return any(marker.opens.startswith(beginning) for marker in MARKERS)


def holds_marker(text: str) -> bool:
    """Whether a template's text opens or closes a thought."""
    return any(marker.opens in text or marker.closes in text for marker in MARKERS)
