"""What every configuration is made of: the closed base class, and the search spaces that stand on its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Range:
    """Search space of a numeric configuration field, as ``Annotated[float, Range(1e-6, 1e-3, log=True)]``."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choices:
    """Search space of a categorical configuration field."""

    options: tuple[Any, ...]


@dataclass(frozen=True)
class OnlyIf:
    """Says of a field that it matters only where another of the same settings has this value, so that no search sets it in vain."""

    field: str
    value: Any


class Settings(BaseModel):
    """Base of every configuration: frozen, finite, and closed to unknown keys so that a typing error is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
