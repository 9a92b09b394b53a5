"""What a unit leaves behind, as plain values that travel between processes and into files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["completed", "enough", "no_direction", "failed"]

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


Outcome = Literal["broken", "held", "destroyed", "no_direction", "failed"]
"""What came of a trial; as :mod:`tempering.economics.breaks` says it of a run."""

Stopped = Literal["", "broke", "beaten", "halved", "budget"]
"""Why a trial was not run on: it broke, it had spent more than the best break so far, it lagged behind, or the budget. ``""``: it ended."""


@dataclass(frozen=True)
class Trial:
    """One run of an attack with settings that a search tried, judged by the attacker's own validation prompts.

    Attributes:
        number: from 0; the first has the attack's own settings.
        config: what the search set, by dotted name.
        outcome: on the validation prompts.
        stopped: why it was not run on.
        objective: what the search minimises; see :mod:`tempering.engine.search`.
        recovered: most harm recovered at kept utility; NaN where nothing could be measured.
        utility_kept: share of utility at the break, or else where it came nearest to one; NaN likewise.
        spend: what the attack had used when it stopped, by the names in :data:`SPEND`.
        break_spend: what it had used at the break; empty without one.
        checks: what asking the validation prompts took, by the same names.
        error: why it failed or found no direction, in one line.
    """

    number: int
    config: dict[str, Any]
    outcome: Outcome
    stopped: Stopped
    objective: float
    recovered: float
    utility_kept: float
    spend: dict[str, float]
    break_spend: dict[str, float]
    checks: dict[str, float]
    error: str = ""


@dataclass(frozen=True)
class SearchResult:
    """What a search tried and chose.

    Attributes:
        trials: in the order in which they were run.
        chosen: number of the trial whose settings are used.
        examples: distinct examples that all trials and checks together have seen.
    """

    trials: list[Trial]
    chosen: int
    examples: int

    @property
    def config(self) -> dict[str, Any]:
        """What the search set the attack to, by dotted name."""
        return self.trials[self.chosen].config

    @property
    def spend(self) -> dict[str, float]:
        """Everything the search used: its trials to where each was stopped, and the asking in between. Examples count once."""
        total = {name: sum(trial.spend[name] + trial.checks[name] for trial in self.trials) for name in SPEND}
        return {**total, "examples": self.examples}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SearchResult:
        """From plain values."""
        return cls(**{**values, "trials": [Trial(**trial) for trial in values["trials"]]})


@dataclass(frozen=True)
class UnitResult:
    """Everything a unit leaves behind.

    Attributes:
        status: ``completed``; ``enough``: ended where the attacker had enough, within the budget; ``no_direction`` or ``failed``.
        error: why not completed, in one line; ``""`` otherwise.
        probes: in order of spend.
        spend: at the end of the unit.
        wall_s: seconds from start to end, probes included.
        search: how the attack's settings were found, where they were searched. Its spend is not in ``spend``.
        judging: what each judge took meanwhile, by title and by the names in :data:`tempering.judges._contract.COSTS`; empty where the
            text judged alone. Units that run one after the other share the untouched model's probe: the first has its cost.
    """

    status: Status
    error: str
    probes: list[Probe]
    spend: dict[str, float]
    wall_s: float
    search: SearchResult | None = None
    judging: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As plain values for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> UnitResult:
        """Undo :meth:`as_json`."""
        search = values.get("search")
        parts = {"probes": [Probe(**probe) for probe in values["probes"]], "search": SearchResult.from_json(search) if search else None}
        return cls(**{**values, **parts})


@dataclass(frozen=True)
class Tables:
    """The tables of a run.

    Attributes:
        units: one row a unit: ``unit, kind, model, defense, attack, trial, config, seed, status, error, wall_s``, the spend at the end
            of the unit, and of its search ``search_trials``, the ``search_<spend>`` and ``chosen``, the settings it found, as JSON.
        trajectories: one row a probe: ``unit, model, defense, attack, trial, seed, probe``, the cumulative spend, the
            measurements, and ``details`` as JSON.
        trials: one row a trial of a search: the same names, and the columns of :func:`tempering.engine.tables.encode_trials`;
            ``None`` or empty where nothing was searched.
    """

    units: pd.DataFrame
    trajectories: pd.DataFrame
    trials: pd.DataFrame | None = None
