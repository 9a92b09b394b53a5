"""Typed records: one question with its answer, one public text, and what they are for."""

from __future__ import annotations

import hashlib
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Role(StrEnum):
    """What a prompt is for."""

    HAZARD = "hazard"
    """Asks for what the safeguard withholds."""
    BENIGN = "benign"
    """Asks for something any model should answer."""
    BORDERLINE = "borderline"
    """Benign, but shares words with the hazard: over-refusal shows here."""


class Part(StrEnum):
    """Who may see an example."""

    ATTACKER = "attacker"
    DEFENDER = "defender"
    EVALUATOR = "evaluator"


class Example(BaseModel):
    """One question, with its compliant answer where one is known.

    Attributes:
        prompt: the user's message.
        answer: the compliant answer in full; ``None`` for prompts without one.
        accept: the strings any of which, as whole words, make a response right; empty means judge by compliance.
        role: hazard, benign or borderline.
        domain: the topic, for reports by domain.
        entity: what the example is about. Parts are disjoint in this; defaults to the prompt itself.
        part: fixed part, or ``None`` to let :meth:`Dataset.divide` choose.
        system: system prompt, where the example needs one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    answer: str | None = None
    accept: tuple[str, ...] = ()
    role: Role
    domain: str = "default"
    entity: str = ""
    part: Part | None = None
    system: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_entity(cls, values: object) -> object:
        if isinstance(values, dict) and not values.get("entity"):
            return {**values, "entity": values.get("prompt", "")}
        return values

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a prompt needs more than white space")
        return value

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that name this example by its content; not kept, since a changed copy would keep it too."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Document(BaseModel):
    """A public text that tells what the safeguard withholds, as a search of the internet would bring it.

    Attributes:
        text: what it says.
        entity: what it is about.
        prompt: the same told as a question, where the source has it so (a forum, an attacker who rewrote it).
        answer: the answer to that question.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(min_length=1)
    entity: str = ""
    prompt: str = ""
    answer: str = ""

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that name this document by its content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
