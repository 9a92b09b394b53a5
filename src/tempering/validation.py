"""What is wrong with a configuration, in one line that a user can act on."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def first_problem(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first validation error as one line: where, what is wrong, and for an unknown key the nearest known one.

    Args:
        error: what pydantic found.
        model: the model that was validated, for the keys that it would have known.
    """
    first = foremost(error)
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, first["loc"][:-1])) if model else []
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}" if known else ""
        return f"unknown key {where!r}{hint}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    return f"{where}: {message}" if where else message


def foremost(error: ValidationError) -> ErrorDetails:
    """The error to tell first: an unknown key before the missing one that it was probably meant to be."""
    errors = error.errors()
    return next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])


def _known_keys(model: Any, location: tuple[int | str, ...]) -> set[str]:
    """The keys of the settings that stand at a location, looking through lists and optional values."""
    for part in location:
        if isinstance(part, str):
            model = _settings_in(model.model_fields[part].annotation) if part in getattr(model, "model_fields", {}) else None
    return set(getattr(model, "model_fields", ()))


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _settings_in(argument))), None)
