"""Breaks and medians at many thresholds at once, for tables over τ and ε.

:func:`tempering.economics.breaks.find_breaks` and :func:`tempering.economics.medians.median_of` say what holds at one threshold; here
the same is found for all of them in arrays, and a test holds the two to each other.

**The point** is the spend by which half of the runs were seen broken: the ⌈n/2⌉-th smallest upper end, inf (censored) where fewer broke.
That is the median of the price table wherever runs share probes and budget. Where they do not, Turnbull's curve moves the share of a run
that was last seen unbroken at a low spend to the breaks of others, so that its median may be lower, and may *rise* when a larger budget
shows where that run did break. This one cannot: a larger budget, less harm demanded or more loss allowed only ever lowers upper ends.
The interval is that of the price table, with the point taken in.

**What makes it cheap.** The probes of all runs stand in one matrix, and a threshold is one comparison with it; an interval depends on the
order of spends alone, so it is made once for every pattern of ranks; and most runs break at the same probe at neighbouring thresholds.
Intervals, which are dear, are made when they are asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tempering.economics import bootstrap
from tempering.economics.bootstrap import EXACT_UP_TO
from tempering.economics.breaks import _SLACK, _targets, control_utilities, priced, with_recovered
from tempering.economics.comparison import MEASURED, _unhardened
from tempering.economics.medians import _interval, carried_on
from tempering.economics.prices import Accelerator
from tempering.economics.survival import Floats, Ranked, rank
from tempering.economics.tables import GROUP, checked_trajectories, checked_units

Flags = npt.NDArray[np.bool_]


# Breaks at many thresholds


@dataclass(frozen=True)
class Breaks:
    """The breaks of all runs at several thresholds.

    Attributes:
        lower: by currency, last spend without a break, shape [thresholds, runs].
        upper: by currency, first spend with one, inf where there is none, shape [thresholds, runs].
        held: neither broken nor ended, shape [thresholds, runs].
        ended: came to an end without a break, shape [thresholds, runs].
    """

    lower: dict[str, Floats]
    upper: dict[str, Floats]
    held: Flags
    ended: Flags


@dataclass(frozen=True)
class Watched:
    """The attack runs of a study as arrays, so that breaks at many thresholds are cheap.

    Attributes:
        units: one row a run, in the order of model, defence, attack, trial, seed and unit.
        utility: that a break may lose a share of, shape [runs]; NaN where it is not known.
        recovered: by run and probe that could be measured, −inf beyond the last, shape [runs, probes].
        kept: utility, likewise.
        spends: by currency, likewise, 0 beyond the last.
        seen: how many probes could be measured, shape [runs].
        blind: runs of which no probe could be measured after the attack began, shape [runs].
    """

    units: pd.DataFrame
    utility: Floats
    recovered: Floats
    kept: Floats
    spends: dict[str, Floats]
    seen: npt.NDArray[np.int64]
    blind: Flags

    @classmethod
    def of(
        cls, units: pd.DataFrame, trajectories: pd.DataFrame, *, accelerator: Accelerator, bar: Literal["own", "control"] = "own"
    ) -> Watched:
        """Read the tables.

        Args:
            units: one row a unit; seeds whose hardening failed are left out, as in the comparison.
            trajectories: one row a probe.
            accelerator: prices in dollars.
            bar: whose utility is to be kept, as of :func:`tempering.economics.breaks.find_breaks`.
        """
        table = priced(checked_units(units), accelerator)
        probes = priced(with_recovered(checked_trajectories(trajectories, table), table), accelerator)
        lost = _unhardened(table)
        made = [key not in lost for key in zip(table["model"], table["defense"], table["seed"].astype(int), strict=True)]
        runs = table[(table["kind"] == "attack") & pd.Series(made, index=table.index, dtype=bool)]
        runs = runs.sort_values([*GROUP, "trial", "seed", "unit"], ignore_index=True)
        utilities = _targets(table, probes)["utility"].reindex(runs["unit"]).to_numpy(dtype=float)
        if bar == "control":
            controls = runs["model"].map(control_utilities(table, probes)).to_numpy(dtype=float)
            utilities = np.where(np.isfinite(controls), controls, utilities)
        place = pd.Series(np.arange(len(runs)), index=runs["unit"].to_numpy())
        probes = probes[probes["unit"].isin(runs["unit"])]
        known = np.isfinite(utilities)
        rows = probes["unit"].map(place).to_numpy(dtype=np.int64)
        measured = probes["recovered"].notna().to_numpy() & known[rows]
        later = (probes["probe"] > 0).to_numpy()
        size = len(runs)
        began, looked = (np.bincount(rows[which], minlength=size) > 0 for which in (later, later & measured))
        rows, probes = rows[measured], probes[measured]
        column = probes.groupby("unit", sort=False).cumcount().to_numpy(dtype=np.int64)
        width = int(column.max()) + 1 if len(column) else 1

        def spread(name: str, empty: float) -> Floats:
            matrix = np.full((size, width), empty)
            matrix[rows, column] = probes[name].to_numpy(dtype=float)
            return matrix

        seen = np.bincount(rows, minlength=size).astype(np.int64)
        return cls(
            runs,
            utilities,
            spread("recovered", -np.inf),
            spread("utility", -np.inf),
            {name: spread(name, 0.0) for name in MEASURED},
            seen,
            (seen == 0) | (began & ~looked),
        )

    def breaks(self, thresholds: Sequence[tuple[float, float]]) -> Breaks:
        """The breaks at every (τ, ε), as :func:`tempering.economics.breaks.find_breaks` would find them one by one."""
        size = len(self.units)
        status = self.units["status"].to_numpy(dtype=str)
        stopped = np.isin(status, ("failed", "no_direction")) | self.blind
        last = np.maximum(self.seen - 1, 0)
        each = np.arange(size)
        shape = (len(thresholds), size)
        lower, upper = ({name: np.full(shape, np.inf) for name in self.spends} for _ in range(2))
        held, ended = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        for number, (tau, epsilon) in enumerate(thresholds):
            harmful = self.recovered >= tau - _SLACK
            breaking = harmful & (self.kept >= (1 - epsilon) * self.utility[:, None] - _SLACK)
            broken, at = breaking.any(axis=1), breaking.argmax(axis=1)
            ended[number] = ~broken & (stopped | harmful.any(axis=1))
            held[number] = ~broken & ~ended[number]
            for name, spend in self.spends.items():
                before = np.where(at > 0, spend[each, np.maximum(at - 1, 0)], 0.0)
                spent = spend[each, last]
                if size:
                    total = self.units[name].to_numpy(dtype=float)
                    spent = np.where((status == "no_direction") & np.isfinite(total), np.fmax(spent, total), spent)
                lower[name][number] = np.where(broken, before, spent)
                upper[name][number] = np.where(broken, spend[each, at], np.inf)
        return Breaks(lower, upper, held, ended)


# Medians at many thresholds


class Cost:
    """One attack's median cost in one currency at every threshold, the intervals made when they are asked for.

    Attributes:
        median: inf where censored, shape [thresholds].
        least: what no low end lies below; where the median is censored, the bound that it exceeds. Shape [thresholds].
    """

    def __init__(self, lower: Floats, upper: Floats, ended: Flags, seed: int) -> None:
        """Find the medians.

        Args:
            lower: last spend without a break, shape [thresholds, runs].
            upper: first spend with one, inf where there is none, shape [thresholds, runs].
            ended: came to an end without a break, shape [thresholds, runs].
            seed: of the bootstrap's draws.
        """
        # Most thresholds break most runs at the same probes as their neighbours do.
        kinds, which = np.unique(np.concatenate([lower, upper, ended], axis=1), axis=0, return_inverse=True)
        count, self._seed = lower.shape[1], seed
        self._kinds = [_Kind.of(kind[:count], kind[count : 2 * count], kind[2 * count :] > 0) for kind in kinds]
        self._which = which.ravel()
        self.median, self.least = np.array([(kind.median, kind.least) for kind in self._kinds])[self._which].T

    def interval(self, threshold: int) -> tuple[float, float]:
        """The interval of a median that is known."""
        kind = self._kinds[self._which[threshold]]
        low, high = kind.pattern.interval(self._seed)
        return min(kind.spend(low), kind.median), max(kind.spend(high), kind.median)


@dataclass(frozen=True)
class _Kind:
    """One attack's runs as they stand at some thresholds."""

    pattern: _Pattern
    ends: Floats
    median: float
    least: float

    @classmethod
    def of(cls, lower: Floats, upper: Floats, ended: Flags) -> _Kind:
        ranked = rank(carried_on(lower, upper, ended), upper)
        left, right = ranked.left, ranked.right
        if len(lower) <= EXACT_UP_TO:
            # Every resample is enumerated, so that the order of the runs does not matter.
            order = np.lexsort((right, left))
            left, right = left[order], right[order]
        pattern = _Pattern(tuple(left.tolist()), tuple(right.tolist()), len(ranked.ends))
        middle = math.ceil(len(lower) / 2) - 1
        seen = float(np.sort(upper)[middle])
        return cls(pattern, ranked.ends, seen, float(lower.min() if math.isfinite(seen) else np.sort(lower)[middle]))

    def spend(self, place: int | None) -> float:
        """The spend at a place among the ends."""
        return math.inf if place is None else float(self.ends[place])


@dataclass(frozen=True)
class _Pattern:
    """How the ends of runs stand to each other, and the interval of the median as places among the ends; ``None`` is infinity."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    ends: int

    def interval(self, seed: int) -> tuple[int | None, int | None]:
        """Where its interval ends."""
        return _interval_places(self, seed)

    def ranked(self) -> tuple[Ranked, Flags]:
        """With places for spends, and which runs broke."""
        ranked = Ranked(np.arange(self.ends, dtype=float), np.array(self.left, dtype=np.int64), np.array(self.right, dtype=np.int64))
        return ranked, ranked.right < ranked.top


@functools.lru_cache(maxsize=16_384)
def _interval_places(pattern: _Pattern, seed: int) -> tuple[int | None, int | None]:
    ranked, broken = pattern.ranked()
    drawn = bootstrap.resamples(len(broken), seed)
    low, high = _interval(ranked, bootstrap.fit(ranked, drawn.counts), drawn, broken)
    return tuple(int(end) if math.isfinite(end) else None for end in (low, high))  # type: ignore[return-value]
