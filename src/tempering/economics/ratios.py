"""How many times dearer: the ratio of two median costs, with an interval over seeds.

    ratio = median cost with the defence / median cost of the control

Both medians are those of :mod:`tempering.economics.medians`: spends at which the median run was *seen* to get there. So a ratio is
exact up to the spacing of the probes, which enters above and below alike.

* The median with the defence is censored: the ratio is a lower bound, (the spend that the median exceeds) / (median of the control).
* The median of the control is censored, or is 0: there is nothing to compare with, and no ratio.

**The interval** is the percentile bootstrap over seeds. A seed is drawn whole: where both sides have it, both of its runs enter the
resample together, because they share data order and draws (Efron and Tibshirani 1993, ch. 8, on resampling the unit of sampling).
Up to seven seeds every resample is enumerated, beyond that they are drawn; see :mod:`tempering.economics.bootstrap`.

In a resample the m-th smallest cost is the median, and it lies between the m-th smallest lower end and the m-th smallest upper end,
whatever it was that censored a run: in (a, b] with the defence and (c, d] without. So the ratio lies between a / d
and b / c. The ends of the interval are the 2.5 % quantile of a / d and the 97.5 % quantile of b / c: the gap between two probes is part
of it, as in every price.

* An interval that opens at spend 0 closes at a run's first checkpoint. Nothing cheaper was on offer, so it counts as the point
  where it closes. Otherwise every ratio to an attack with a single checkpoint would be unbounded.
* A resample in which fewer than half of the runs got there has its median in (bound, ∞), with the bound of such a median.
* A resample without any seed of one side says nothing, and is left out.

In simulations with known truth and a tenth of the costs beyond the budget it covers 95 to 99 % of the time for costs seen exactly,
five, ten or twenty seeds, paired or not: a percentile bootstrap of medians is a little too wide, not too narrow. Between probes spaced
by a factor of √2 it covers 99 to 100 %: there the gap, above and below the line, is wider than the luck of the seeds.

**Other quantiles** than the median take its place by parameter: the ratio of the cheapest quarter's costs, say. A quantile far from
the median needs more seeds; see :func:`tempering.economics.binomial.runs_needed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tempering.economics import bootstrap
from tempering.economics.binomial import TAILS
from tempering.economics.medians import Median, carried_on, quantile_of, quantiles
from tempering.economics.survival import Floats, Integers

_SLACK = 1e-9
"""So that ⌈q n⌉ is what it is on paper."""

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
    """The ratio of two median costs; arguments as of :func:`ratio_of_quantiles`."""
    return ratio_of_quantiles(defended, control, seed=seed)


def ratio_of_quantiles(defended: Costs, control: Costs, *, quantile: float = 0.5, seed: int = 0) -> Ratio:
    """The ratio of two quantiles of cost.

    Args:
        defended: above the line; at least one seed.
        control: below it; at least one seed. Seeds that both have are paired.
        quantile: share of the seeds that must have got there, in (0, 1); the median unless told.
        seed: of the bootstrap's draws.
    """
    above, below = (quantile_of(costs.lower, costs.upper, costs.ended, quantile=quantile) for costs in (defended, control))
    status = _status(above, below)
    if status not in ("known", "at_least"):
        return Ratio(status, math.nan, math.nan, math.nan, above, below)
    assert below.value is not None
    value = _reached(above) / below.value
    low, high = ratio_interval(defended, control, quantile=quantile, seed=seed)
    return Ratio(status, value, min(low, value), math.inf if status == "at_least" else max(high, value), above, below)


def _reached(above: Median) -> float:
    """The value, or what the runs exceed."""
    if above.value is not None:
        return above.value
    return above.low if above.exceeds is None else above.exceeds


def _status(above: Median, below: Median) -> Status:
    if below.value is None:
        return "control_held"
    if below.value == 0:
        return "free"
    if above.value is not None:
        return "known"
    return "at_least" if _reached(above) > 0 else "unknown"


def ratio_interval(defended: Costs, control: Costs, *, quantile: float = 0.5, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval alone; arguments as of :func:`ratio_of_quantiles`."""
    seeds = np.union1d(defended.seeds, control.seeds)
    drawn = bootstrap.resamples(len(seeds), seed)
    above, below = (resampled(costs, seeds, drawn.counts, quantile) for costs in (defended, control))
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.nan_to_num(above.opens / below.closes, nan=0.0, posinf=np.inf)
        high = np.nan_to_num(above.closes / below.opens, nan=np.inf, posinf=np.inf)
    told = above.told & below.told
    chances = drawn.probabilities[told] / drawn.probabilities[told].sum()
    return tuple(float(quantiles(ends[told][:, None], chances, share)[0]) for ends, share in zip((low, high), TAILS, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True)
class Quantiles:
    """Where each resample's quantile lies, in (opens, closes].

    Attributes:
        opens: where ``closes`` is inf, the spend that the quantile exceeds, shape [resamples].
        closes: inf where the quantile lies beyond every run, shape [resamples].
        told: false where a resample holds no seed of this side, shape [resamples].
    """

    opens: Floats
    closes: Floats
    told: npt.NDArray[np.bool_]


def resampled(costs: Costs, seeds: Integers, counts: Integers, quantile: float) -> Quantiles:
    """A quantile of cost in every resample of the seeds.

    Args:
        costs: of one side.
        seeds: of both sides, ascending.
        counts: how often each occurs, shape [resamples, seeds].
        quantile: share of the seeds that must have got there.
    """
    own = counts[:, np.searchsorted(seeds, costs.seeds)]
    closes = placed(costs.upper, own, quantile)
    opens = placed(carried_on(costs.lower, costs.upper, costs.ended), own, quantile)
    # What lies beyond every run is bounded by what was seen alone.
    opens = np.where(np.isfinite(closes), np.where(opens == 0, closes, opens), placed(costs.lower, own, quantile))
    return Quantiles(opens, closes, own.sum(axis=1) > 0)


def placed(ends: Floats, counts: Integers, quantile: float) -> Floats:
    """Each resample's ⌈q n⌉-th smallest end, shape [resamples].

    Args:
        ends: of the intervals that hold the costs, shape [n].
        counts: how often each occurs, shape [resamples, n].
        quantile: share of the seeds that must have got there.
    """
    order = np.argsort(ends, kind="stable")
    enough = counts[:, order].cumsum(axis=1) >= quantile * counts.sum(axis=1, keepdims=True) - _SLACK
    found: Floats = ends[order][enough.argmax(axis=1)]
    return found
