"""The defender's frontier, read once into plain objects that its pictures, its table and the summary share.

Nothing is computed here; what each defence multiplies the price by is put beside what it takes, and both into words.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from tempering.economics.frontier import CHANGES
from tempering.economics.tables import CONTROL
from tempering.report.defended import Measured, Times
from tempering.report.formatting import NOTHING, flops, share
from tempering.report.rows import number

LESSON, TRAINING = "trainability", "training_flops"

_ROUNDING = 1e-9
"""What a difference of two shares may be off by."""


@dataclass(frozen=True)
class Tax:
    """One thing that a defence may take.

    Attributes:
        key: its column in the table of the frontier.
        title: of its column on the page.
        axis: what its axis counts.
        nothing: what a defence that takes none of it has.
        without: "without …", as a sentence has it.
    """

    key: str
    title: str
    axis: str
    nothing: float
    without: str

    @property
    def ratio(self) -> bool:
        """Whether it is a ratio to the undefended model."""
        return self.key == LESSON

    @property
    def share(self) -> bool:
        """Whether it is a difference of two shares."""
        return self.key in CHANGES


UTILITY = Tax("utility_lost", "Utility lost", "utility lost", 0.0, "losing utility")
TAXES = (
    UTILITY,
    Tax("borderline_lost", "Borderline lost", "borderline answers lost", 0.0, "losing borderline answers"),
    Tax("over_refusal_gained", "Refused more", "more borderline prompts refused", 0.0, "refusing more borderline prompts"),
    Tax(LESSON, "Lesson", "times the steps of an honest user", 1.0, "slowing an honest user down"),
    Tax(TRAINING, "Training", "FLOPs of the defender's training", 0.0, "training"),
)
"""What a defence takes, in the order of the page; less is better."""


@dataclass(frozen=True)
class Taken:
    """How much of one tax a defence takes.

    Attributes:
        value: the number, or the bound that it exceeds; NaN where it was not measured.
        low: low end of its 95 % interval; NaN without one.
        high: high end, possibly inf.
        bound: whether the value is what it exceeds.
        text: as it is read.
        interval: the interval as it is read; "" where it is as narrow as the number, or there is none.
        rank: by what a table sorts it.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    bound: bool = False
    text: str = NOTHING
    interval: str = ""
    rank: float = math.nan

    @property
    def told(self) -> bool:
        """Whether there is a number."""
        return math.isfinite(self.value)

    def __str__(self) -> str:
        """Number and interval: "3.6 % (2.1 – 5.2 %)"."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True)
class FrontierRow:
    """One defence of one model: what it multiplies the best attacker's FLOPs by, and what it takes.

    Attributes:
        model: reference of the model.
        defense: title of the defence.
        multiplier: of the best attacker's price.
        taken: by the key of the tax.
        dominated: whether another defence, or none at all, is at least as good in everything and better in something.
        by: which, the one that raises the price most first; ``none`` is no defence at all.
        share: of the resamples over seeds in which it is dominated; NaN where none can tell.
        beyond_doubt: whether the intervals say so too.
        surely_by: those whose intervals do.
        few_seeds: too few for the intervals to mean much.
    """

    model: str
    defense: str
    multiplier: Times
    taken: dict[str, Taken]
    dominated: bool
    by: tuple[str, ...]
    share: float
    beyond_doubt: bool
    surely_by: tuple[str, ...]
    few_seeds: bool

    @property
    def drawn(self) -> bool:
        """Whether its multiplier has a place on a logarithmic axis."""
        return self.multiplier.told and self.multiplier.value > 0


def frontier_rows(frontier: pd.DataFrame) -> list[FrontierRow]:
    """Every defence, model by model: those on the frontier first, then the dearest to break first.

    Args:
        frontier: from :func:`tempering.economics.frontier.frontier`; a table without rows is one without defences.
    """
    if frontier.empty:
        return []
    records = frontier[frontier["currency"] == "flops"].to_dict("records")
    prices = {(record["model"], record["defense"]): _times(record, "").rank for record in records}
    found = [_row(record, {name: rank for (model, name), rank in prices.items() if model == record["model"]}) for record in records]
    return sorted(found, key=lambda row: (row.model, row.dominated, not row.multiplier.told, _falling(row.multiplier.rank), row.defense))


def measured(rows: Sequence[FrontierRow]) -> tuple[Tax, ...]:
    """The taxes that were measured for any of these defences."""
    return tuple(tax for tax in TAXES if any(row.taken[tax.key].told for row in rows))


def _row(record: Mapping[Hashable, object], ranks: Mapping[str, float]) -> FrontierRow:
    by, surely = (_names(str(record[name]), ranks) for name in ("dominated_by", "beyond_doubt_by"))
    return FrontierRow(
        model=str(record["model"]),
        defense=str(record["defense"]),
        multiplier=_times(record, ""),
        taken={tax.key: _taken(record, tax) for tax in TAXES},
        dominated=bool(record["dominated"]),
        by=by,
        share=number(record["dominated_share"]),
        beyond_doubt=bool(record["dominated_beyond_doubt"]),
        surely_by=surely,
        few_seeds=bool(record["few_seeds"]),
    )


def _names(joined: str, ranks: Mapping[str, float]) -> tuple[str, ...]:
    """The defences in a list that commas join, the dearest to break first; a name may have commas in it."""
    found = _apart(joined, {*ranks, CONTROL}) if joined else []
    return tuple(sorted(found or [joined] * bool(joined), key=lambda name: (_falling(ranks.get(name, 1.0)), name)))


def _apart(joined: str, names: set[str]) -> list[str] | None:
    """The one way to read the list as known names, or ``None``."""
    for name in sorted(names, key=len, reverse=True):
        if joined == name:
            return [name]
        if joined.startswith(f"{name}, ") and (rest := _apart(joined[len(name) + 2 :], names - {name})) is not None:
            return [name, *rest]
    return None


def _falling(rank: float) -> float:
    return -rank if math.isfinite(rank) else 0.0


def _times(record: Mapping[Hashable, object], prefix: str) -> Times:
    value = prefix or "multiplier"
    ends = (f"{prefix}_low", f"{prefix}_high") if prefix else ("low", "high")
    return Times(str(record[f"{prefix}_status" if prefix else "status"]), *(number(record[name]) for name in (value, *ends)))


def _taken(record: Mapping[Hashable, object], tax: Tax) -> Taken:
    if tax.ratio:
        ratio = _times(record, tax.key)
        return Taken(ratio.value, ratio.low, ratio.high, ratio.bound, ratio.middle, ratio.interval, ratio.rank) if ratio.told else Taken()
    value = number(record[tax.key])
    if not math.isfinite(value):
        return Taken()
    if not tax.share:
        return Taken(value, text=flops(value), rank=value)
    told = Measured(*(_clean(number(record[f"{tax.key}{end}"])) for end in ("", "_low", "_high")))
    return Taken(told.value, told.low, told.high, text=share(told.value), interval=told.interval, rank=told.value)


def _clean(value: float) -> float:
    """Without what subtraction leaves of nothing, which would read "-0 %"."""
    return 0.0 if abs(value) < _ROUNDING else value
