"""What the engine tells whoever watches: one event each time something happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

EventKind = Literal[
    "preparing",
    "planned",
    "unit_started",
    "trial",
    "training",
    "probe",
    "unit_finished",
    "unit_failed",
    "unit_reused",
    "left_out",
    "warning",
    "note",
    "finished",
]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: ``preparing`` while something is made that the plan needs, ``planned`` once at the start, then the course of the units
            (``training``: a defence's goes on), ``left_out`` after a hardening that failed, for what was to be done to its model,
            ``warning`` where the store mended itself, ``note`` for something good to know, and ``finished`` once at the end.
        unit: hash of the unit it happened to, or ``""``.
        label: what to call that unit ("full_finetune seed 3").
        total: units of the run.
        done: units with a result, reused ones included, and those that were left out.
        measurements: what a probe measured.
        spend: what the attack had used by then, by the names in :data:`tempering.engine.results.SPEND`.
        steps_done: optimizer steps the unit has made.
        steps_total: optimizer steps it is expected to make; 0 where it makes none.
        trials_done: trials of the unit's search that are over.
        trials_total: trials that its search makes at most; 0 without a search.
        message: one line for a reader: an error, an outcome, a warning.
    """

    kind: EventKind
    unit: str = ""
    label: str = ""
    total: int = 0
    done: int = 0
    measurements: dict[str, float] = field(default_factory=dict)
    spend: dict[str, float] = field(default_factory=dict)
    steps_done: int = 0
    steps_total: int = 0
    trials_done: int = 0
    trials_total: int = 0
    message: str = ""
