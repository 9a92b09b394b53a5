"""What a unit's manifest says, checked: it may have been written by somebody who knows how to seal it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tempering.engine.files import Damaged
from tempering.engine.results import COUNTS, SPEND, Status
from tempering.validation import first_problem

_STATUSES = get_args(Status)
_MOST = 1 << 62
"""No count is as high, and those that are do not fit into a table."""


class _Spend(BaseModel):
    model_config = ConfigDict(extra="ignore")

    examples: Annotated[int, Field(ge=0, le=_MOST)]
    tokens: Annotated[int, Field(ge=0, le=_MOST)]
    steps: Annotated[int, Field(ge=0, le=_MOST)]
    flops: float
    device_seconds: float
    trials: Annotated[int, Field(ge=0, le=_MOST)]
    queries: Annotated[int, Field(ge=0, le=_MOST)]


class _Search(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    trials: Annotated[int, Field(ge=0, le=_MOST)]
    spend: _Spend
    chosen: int
    config: dict[str, Any]


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    sha256: str
    bytes: int


class _Unit(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    hash: str


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    unit: _Unit
    status: Literal["completed", "enough", "no_direction", "failed"]
    error: str
    files: dict[str, _File]
    spend: _Spend
    search: _Search | None = None
    judging: dict[str, dict[str, float]] = {}
    wall_s: float
    environment: str


assert set(_STATUSES) == set(get_args(cast(Any, _Manifest.model_fields["status"].annotation)))
assert set(_Spend.model_fields) == set(SPEND) >= set(COUNTS)


def check_manifest(manifest: dict[str, Any]) -> None:
    """Refuse a manifest that lacks something, or holds what cannot be there.

    Raises:
        Damaged: that is so.
    """
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise Damaged(f"its description is not one: {first_problem(error)}") from None
