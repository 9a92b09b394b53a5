"""Tempering's models for Inspect: ``inspect eval TASK --model tempering/REFERENCE``.

Inspect finds this module by the entry point group ``inspect_ai``. A reference is what an audit takes: ``organism:tiny``, a directory, a
PEFT adapter, a GGUF file, ``hub-id@revision``. What an audit refuses is refused here too (pickles, a model's own code), and the chat
template is rendered the same way. Model arguments (``-M name=value``): ``dtype``, ``device``, ``chat_template`` (a file), ``batch_size``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import GenerateConfig, ModelAPI, modelapi

from tempering.errors import InvalidStudy, TemperingError

BATCH_SIZE = 16
"""Conversations answered in one pass, unless told."""

_ARGUMENTS = ("dtype", "device", "chat_template", "batch_size")


@modelapi(name="tempering")  # type: ignore[untyped-decorator]
def tempering() -> type[ModelAPI]:
    """The provider; torch is imported only once a model is asked for."""
    from tempering.evaluators._inspect_model import LoadedModel
    from tempering.models import load

    class ReferencedModel(LoadedModel):
        """A model that the house loads by its reference."""

        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: GenerateConfig | None = None,
            **model_args: Any,
        ) -> None:
            """Load the model.

            Args:
                model_name: the reference.
                base_url: not used.
                api_key: not used.
                config: of Inspect.
                model_args: those named at the head of this module.
            """
            try:
                settings = _checked(model_args)
                batch_size = settings.pop("batch_size", BATCH_SIZE)
                target = load(model_name, **settings)
            except TemperingError as error:
                raise PrerequisiteError(str(error)) from None
            super().__init__(model_name, target.model, target.chat, config=config, batch_size=batch_size)

    return ReferencedModel


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Model arguments in their types.

    Raises:
        InvalidStudy: one is unknown, or no number.
    """
    unknown = [name for name in given if name not in _ARGUMENTS]
    if unknown:
        raise InvalidStudy(f"a model of Tempering's takes no argument {unknown[0]!r}", f"known: {', '.join(_ARGUMENTS)}")
    checked = dict(given)
    if "chat_template" in checked:
        checked["chat_template"] = Path(str(checked["chat_template"]))
    if "batch_size" in checked:
        size = checked["batch_size"]
        if not isinstance(size, int) or size < 1:
            raise InvalidStudy(f"-M batch_size={size}: it should be a number from 1")
    return checked
