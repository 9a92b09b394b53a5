"""A model as a study names it: where it is, how it is loaded, and how it is deployed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from tempering.reading import Unreadable, expanded, read_text
from tempering.settings import Settings

SYSTEM_BYTES = 1 << 18
"""Of a file with a system prompt; no model's context holds more."""


_LATER = ("system", "quantization", "label")


class ModelChoice(Settings):
    """A model to audit.

    Attributes:
        reference: ``organism:tiny``, a directory, ``hub-id@revision``, a GGUF file or a PEFT adapter.
        unguarded: the same model without the safeguard, where one is known; harm 1.0 otherwise. Organisms know theirs.
        base: the published model that this one was made from, for attackers who merge with it. Organisms know theirs.
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``None`` keeps the checkpoint's own.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``None`` takes an accelerator where there is one.
        chat_template: a file with a Jinja chat template, for models that come without.
        trust_remote_code: run code that ships with the model. Off unless the user names this very model.
        system: the system prompt that the model is deployed with, as text or as ``{file: PATH}``. Every prompt has it, in attacks and
            probes alike, unless the prompt brings one of its own.
        quantization: hold the weights in four bits (``nf4``) or eight (``int8``) by bitsandbytes. Attacks that change no weights can run.
        label: what tables and figures call it; its reference where it has none. One model with two system prompts needs two.
    """

    reference: str
    unguarded: str | None = None
    base: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    chat_template: Path | None = None
    trust_remote_code: bool = False
    system: Annotated[str, Field(min_length=1)] | None = None
    quantization: Literal["nf4", "int8"] | None = None
    label: Annotated[str, Field(min_length=1, max_length=60)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_reference(cls, value: object) -> object:
        return {"reference": value} if isinstance(value, str) else value

    @field_validator("system", mode="before")
    @classmethod
    def _text_or_file(cls, value: object) -> object:
        """A file's text takes its place, so that a study is whole wherever it is sent."""
        if not isinstance(value, dict):
            return value
        if set(value) != {"file"} or not isinstance(value["file"], str):
            raise ValueError("write the system prompt as text, or as {file: PATH}")
        try:
            return read_text(expanded(value["file"]), SYSTEM_BYTES).rstrip("\n")
        except Unreadable as error:
            raise ValueError(f"cannot read the system prompt {value['file']}: {error}") from None

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies of before there were these keep their digest."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name not in _LATER or value is not None}

    @property
    def title(self) -> str:
        """What tables and figures call it."""
        return self.label or self.reference

    @property
    def deployment(self) -> dict[str, Any]:
        """What of the way it is deployed decides results beside its weights and template; empty where it is deployed plainly."""
        return {"system": self.system} if self.system is not None else {}


def told_apart(models: Iterable[ModelChoice]) -> None:
    """Refuse two models of one title that are deployed differently, or that were given it.

    Raises:
        ValueError: there are two; the message names them.
    """
    seen: dict[str, ModelChoice] = {}
    for choice in models:
        other = seen.setdefault(choice.title, choice)
        if other is not choice and (other.system != choice.system or other.label or choice.label):
            raise ValueError(f"two models are called {choice.title!r}; give each a label of its own")
