"""How many times dearer: the ratio of two median costs, with an interval over seeds.

    ratio = median cost with the defence / median cost of the control

Both medians are those of :mod:`tempering.economics.medians`: spends at which the median run was *seen* to get there. So a ratio is
exact up to the spacing of the probes, which enters above and below alike.

* The median with the defence is censored: the ratio is a lower bound, (the spend that the median exceeds) / (median of the control).
* The median of the control is censored, or is 0: there is nothing to compare with, and no ratio.

**The interval** is the percentile bootstrap over seeds. A seed is drawn whole: where both sides have it, both of its runs enter the
resample together, because they share data order and draws (Efron and Tibshirani 1993, ch. 8, on resampling the unit of sampling).
Up to seven seeds every resample is enumerated, beyond that they are drawn; see :mod:`tempering.economics.bootstrap`.

In a resample the medians lie in innermost intervals (a, b] with the defence and (c, d] without, so their ratio lies between a / d
and b / c. The ends of the interval are the 2.5 % quantile of a / d and the 97.5 % quantile of b / c: the gap between two probes is part
of it, as in every price.

* An interval that opens at spend 0 closes at a run's first checkpoint. Nothing cheaper was on offer, so it counts as the point
  where it closes. Otherwise every ratio to an attack with a single checkpoint would be unbounded.
* A resample in which fewer than half of the runs got there has its median in (bound, ∞), with the bound of such a median.
* A resample without any seed of one side says nothing, and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tempering.economics import bootstrap
from tempering.economics.medians import TAILS, Median, carried_on, fitted, median_intervals, median_of, quantiles
from tempering.economics.survival import Floats, Integers, rank

Status = Literal["known", "at_least", "control_held", "free", "unknown"]

STATUSES: dict[Status, str] = {
    "known": "both medians are known, and so is their ratio",
    "at_least": "the defended median lies beyond the budget; the ratio is a lower bound",
    "control_held": "the control's median lies beyond the budget; there is nothing to compare with",
    "free": "the control costs nothing in this currency; there is no ratio to nothing",
    "unknown": "no defended run got far enough to say anything",
}
"""What can be said of a ratio."""


@dataclass(frozen=True)
class Costs:
    """What something cost in each of several seeds.

    Attributes:
        seeds: each once, shape [n].
        lower: last spend at which it was not there yet, finite, shape [n].
        upper: first spend at which it was, inf where it was not seen, shape [n].
        ended: seeds that came to an end without it before their budget did, shape [n].
    """

    seeds: Integers
    lower: Floats
    upper: Floats
    ended: npt.NDArray[np.bool_]

    @property
    def reached(self) -> int:
        """In how many seeds it was seen."""
        return int(np.isfinite(self.upper).sum())


@dataclass(frozen=True)
class Ratio:
    """How many times dearer.

    Attributes:
        status: what can be said; a key of :data:`STATUSES`.
        value: the ratio, or the bound that it exceeds; NaN where there is none.
        low: low end of the 95 % interval; NaN likewise.
        high: high end, inf where the ratio has no upper bound; NaN likewise.
        defended: the median above the line.
        control: the median below it.
    """

    status: Status
    value: float
    low: float
    high: float
    defended: Median
    control: Median


def ratio_of_medians(defended: Costs, control: Costs, *, seed: int = 0) -> Ratio:
    """The ratio of two median costs.

    Args:
        defended: above the line; at least one seed.
        control: below it; at least one seed. Seeds that both have are paired.
        seed: of the bootstrap's draws.
    """
    above, below = (median_of(costs.lower, costs.upper, costs.ended, seed=seed) for costs in (defended, control))
    status = _status(above, below)
    if status not in ("known", "at_least"):
        return Ratio(status, math.nan, math.nan, math.nan, above, below)
    assert below.value is not None
    value = (above.low if above.value is None else above.value) / below.value
    low, high = _interval(defended, control, seed)
    return Ratio(status, value, min(low, value), math.inf if status == "at_least" else max(high, value), above, below)


def _status(above: Median, below: Median) -> Status:
    if below.value is None:
        return "control_held"
    if below.value == 0:
        return "free"
    if above.value is not None:
        return "known"
    return "at_least" if above.low > 0 else "unknown"


def _interval(defended: Costs, control: Costs, seed: int) -> tuple[float, float]:
    seeds = np.union1d(defended.seeds, control.seeds)
    drawn = bootstrap.resamples(len(seeds), seed)
    above, below = (_resampled(costs, seeds, drawn.counts) for costs in (defended, control))
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.nan_to_num(above.opens / below.closes, nan=0.0, posinf=np.inf)
        high = np.nan_to_num(above.closes / below.opens, nan=np.inf, posinf=np.inf)
    told = above.told & below.told
    chances = drawn.probabilities[told] / drawn.probabilities[told].sum()
    return tuple(float(quantiles(ends[told][:, None], chances, share)[0]) for ends, share in zip((low, high), TAILS, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True)
class _Medians:
    """Where each resample's median lies, in (opens, closes]; ``told`` is false where a resample holds no seed of this side."""

    opens: Floats
    closes: Floats
    told: npt.NDArray[np.bool_]


def _resampled(costs: Costs, seeds: Integers, counts: Integers) -> _Medians:
    own = counts[:, np.searchsorted(seeds, costs.seeds)]
    told = own.sum(axis=1) > 0
    own = np.ascontiguousarray(np.where(told[:, None], own, 1))
    ranked = rank(carried_on(costs.lower, costs.upper, costs.ended), costs.upper)
    opens, closes, found = median_intervals(ranked, fitted(ranked, own), own, np.isfinite(costs.upper))
    opens = np.where(found, np.where(opens == 0, closes, opens), _bounds(costs.lower, own))
    return _Medians(opens, np.where(found, closes, np.inf), told)


def _bounds(lower: Floats, counts: Integers) -> Floats:
    """What each resample's median exceeds where it is censored: the ⌈n/2⌉-th smallest lower end, shape [resamples]."""
    order = np.argsort(lower, kind="stable")
    enough = 2 * counts[:, order].cumsum(axis=1) >= counts.sum(axis=1, keepdims=True)
    bounds: Floats = lower[order][enough.argmax(axis=1)]
    return bounds
