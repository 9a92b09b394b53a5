"""What a unit leaves behind, as plain values that travel between processes and into files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["completed", "no_direction", "failed"]

COUNTS = ("examples", "tokens", "steps", "trials", "queries")
"""Spend columns that hold whole numbers."""

SPEND = ("examples", "tokens", "steps", "flops", "device_seconds", "trials", "queries")
"""Spend columns, in the order of the tables; the fields of :class:`tempering.training.Spend`."""

NO_SPEND: dict[str, float] = dict.fromkeys(SPEND, 0)
"""The spend of nothing."""


@dataclass(frozen=True)
class Probe:
    """One probe of one checkpoint.

    Attributes:
        number: 0 for the untouched target, then 1, 2, ….
        spend: what the attack had used up to here, by the names in :data:`SPEND`.
        measurements: what the evaluators returned; NaN where they could not tell.
        details: what the attack said of the checkpoint, as JSON values.
    """

    number: int
    spend: dict[str, float]
    measurements: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitResult:
    """Everything a unit leaves behind.

    Attributes:
        status: ``completed``, ``no_direction`` or ``failed``.
        error: why not completed, in one line; ``""`` otherwise.
        probes: in order of spend.
        spend: at the end of the unit.
        wall_s: seconds from start to end, probes included.
    """

    status: Status
    error: str
    probes: list[Probe]
    spend: dict[str, float]
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        """As plain values for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> UnitResult:
        """Undo :meth:`as_json`."""
        return cls(**{**values, "probes": [Probe(**probe) for probe in values["probes"]]})


@dataclass(frozen=True)
class Tables:
    """The two tables of a run.

    Attributes:
        units: one row a unit: ``unit, kind, model, defense, attack, trial, config, seed, status, error, wall_s`` and the spend
            at the end of the unit.
        trajectories: one row a probe: ``unit, model, defense, attack, trial, seed, probe``, the cumulative spend, the
            measurements, and ``details`` as JSON.
    """

    units: pd.DataFrame
    trajectories: pd.DataFrame


def one_line(text: str, limit: int = 300) -> str:
    """Text without line breaks, cut off at ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
