"""The median cost to break, with an interval over seeds.

The median is the smallest spend after which at most half of the runs are still unbroken on Turnbull's curve, and the curve
falls at the right ends of its intervals. So it is a spend at which the median run was *seen* broken: "the attacker needs
at most this", never an interpolated number that no probe confirms. It exists only if at least half of all runs broke;
otherwise the cost is censored and reads "> bound".

The interval is the percentile bootstrap over runs: its low end is the 2.5 % quantile of the *lower* ends of the resamples'
median intervals, its high end the 97.5 % quantile of their upper ends. The gap between two probes is therefore always part
of it, and for a single run the interval is that gap. A resample in which fewer than half of the runs broke has its median at
infinity, so a high end may be infinite.

How runs without a break enter:

* ``held`` is right-censored at its last spend. Runs of one study share a budget, so this says nothing about the others.
* ``destroyed``, ``no_direction`` and ``failed`` came to an end without a usable break. They are counted as unbroken up to the
  largest spend of their group. Censoring them where they stopped would hand their weight to the runs that did break: two
  breaks and three early crashes would read as an attack that always works. They would be dropped, and they must not be.
* The bound of a censored median uses only what was seen: the ⌈n/2⌉-th smallest lower end. Up to that spend, fewer than half
  of the runs can have broken, whatever happened after.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tempering.economics import bootstrap
from tempering.economics.survival import Floats, Integers, Ranked, kaplan_meier, rank, turnbull

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
"""Which quantiles of the resamples are the ends of an interval."""

FEW_SEEDS = 5
"""With n runs the interval from the smallest to the largest covers the true median with probability 1 − 2^(1 − n): 50 % for
2, 75 % for 3, 87.5 % for 4, 93.75 % for 5. Below five seeds no interval drawn from the runs comes near 95 %."""

_HALF = 0.5 + bootstrap.ACCURACY


@dataclass(frozen=True)
class Median:
    """A median cost to break in one currency.

    Attributes:
        value: the spend; ``None`` where censored.
        low: low end of the interval; where censored, the spend that the median exceeds.
        high: high end, possibly inf.
        censored: whether fewer than half of the runs broke.
    """

    value: float | None
    low: float
    high: float
    censored: bool


@dataclass(frozen=True)
class Curve:
    """A survival curve over spend; every array has shape [ends + 1] and starts at spend 0.

    Attributes:
        spend: ascending.
        survival: Turnbull's estimate of the share unbroken after ``spend``.
        low: pointwise 2.5 % quantile over resamples.
        high: pointwise 97.5 % quantile.
        kaplan_meier: the same share if every break had happened at the probe that saw it.
    """

    spend: Floats
    survival: Floats
    low: Floats
    high: Floats
    kaplan_meier: Floats


def cost_to_break(lower: Floats, upper: Floats, ended: npt.NDArray[np.bool_], *, seed: int = 0) -> tuple[Median, Curve]:
    """Median and survival curve of one attack in one currency.

    Args:
        lower: last spend at which each run was seen unbroken, shape [n], n ≥ 1.
        upper: spend at which it was first seen broken, inf where it was not, shape [n].
        ended: runs that came to an end without a usable break before the budget did, shape [n].
        seed: of the bootstrap's draws, beyond the number of runs for which it is exact.

    Returns:
        The median with its interval, and the curve with its band.
    """
    carried = carried_on(lower, upper, ended)
    ranked = rank(carried, upper)
    drawn = bootstrap.resamples(len(lower), seed)
    broken = np.isfinite(upper)
    band = fitted(ranked, drawn.counts).survival(len(ranked.ends))
    ends, survival = turnbull(carried, upper)
    exactly = kaplan_meier(np.where(broken, upper, carried), broken, ends)
    low_band, high_band = (quantiles(band, drawn.probabilities, share) for share in TAILS)
    return median_of(lower, upper, ended, seed=seed), _from_zero(Curve(ends, survival, low_band, high_band, exactly))


def median_of(lower: Floats, upper: Floats, ended: npt.NDArray[np.bool_], *, seed: int = 0) -> Median:
    """The median alone; arguments as of :func:`cost_to_break`."""
    carried = carried_on(lower, upper, ended)
    ranked = rank(carried, upper)
    drawn = bootstrap.resamples(len(lower), seed)
    broken = np.isfinite(upper)
    ends, survival = turnbull(carried, upper)
    at_half = np.flatnonzero(survival <= _HALF)
    if 2 * int(broken.sum()) < len(broken) or not len(at_half):
        return Median(None, float(np.sort(lower)[math.ceil(len(lower) / 2) - 1]), math.inf, censored=True)
    low, high = _interval(ranked, fitted(ranked, drawn.counts), drawn, broken)
    value = float(ends[at_half[0]])
    return Median(value, min(low, value), max(high, value), censored=False)


def carried_on(lower: Floats, upper: Floats, ended: npt.NDArray[np.bool_]) -> Floats:
    """The lower ends, those of runs that ended without a usable break moved to the largest spend of all; see the head of this module.

    Args:
        lower: last spend at which each run was seen unbroken, shape [n].
        upper: spend at which it was first seen broken, inf where it was not, shape [n].
        ended: runs that came to an end without a usable break before the budget did, shape [n].
    """
    broken = np.isfinite(upper)
    return np.where(ended & ~broken, np.concatenate([lower, upper[broken]]).max(), lower)


def fitted(ranked: Ranked, counts: Integers) -> bootstrap.Fits:
    """Turnbull's estimate for every resample; shared by currencies, since it depends on the order of the ends alone.

    Args:
        ranked: the runs' intervals, shape [n].
        counts: how often each run occurs, shape [resamples, n].
    """
    return _fits(ranked.left.tobytes(), ranked.right.tobytes(), len(ranked.ends), counts.tobytes(), counts.shape)


@functools.lru_cache(maxsize=256)
def _fits(left: bytes, right: bytes, ends: int, counts: bytes, shape: tuple[int, int]) -> bootstrap.Fits:
    ranked = Ranked(np.arange(1.0, ends + 1), np.frombuffer(left, dtype=np.int64), np.frombuffer(right, dtype=np.int64))
    return bootstrap.fit(ranked, np.frombuffer(counts, dtype=np.int64).reshape(shape))


def median_intervals(
    ranked: Ranked, fits: bootstrap.Fits, counts: Integers, broken: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """The innermost interval that holds each resample's median.

    Args:
        ranked: the runs' intervals, shape [n].
        fits: the estimates of the resamples.
        counts: how often each run occurs in a resample, shape [resamples, n].
        broken: which runs broke, shape [n].

    Returns:
        Where it opens, where it closes, and whether there is one: fewer than half of the runs broke where there is none. Each of shape
        [resamples]; the first two mean nothing where the third is false.
    """
    remaining = 1.0 - fits.mass.cumsum(axis=1)
    reaches = (remaining <= _HALF) & (fits.right < ranked.top)
    first = reaches.argmax(axis=1)
    found = reaches.any(axis=1) & (2 * counts[:, broken].sum(axis=1) >= counts.sum(axis=1))
    opens = np.array([ranked.spend(int(left), lower=True) for left in fits.left])
    closes = np.array([ranked.spend(int(right)) for right in fits.right])
    return opens[first], closes[first], found


def _interval(ranked: Ranked, fits: bootstrap.Fits, drawn: bootstrap.Resamples, broken: npt.NDArray[np.bool_]) -> tuple[float, float]:
    opens, closes, found = median_intervals(ranked, fits, drawn.counts, broken)
    low, high = (
        quantiles(np.where(found, ends, np.inf)[:, None], drawn.probabilities, share)[0]
        for ends, share in zip((opens, closes), TAILS, strict=True)
    )
    return float(low), float(high)


def quantiles(values: Floats, probabilities: Floats, share: float) -> Floats:
    """Per column, the smallest value at or below which at least ``share`` of the probability lies; never interpolated, so inf may occur.

    Args:
        values: shape [resamples, columns].
        probabilities: shape [resamples].
        share: between 0 and 1.
    """
    order = values.argsort(axis=0, kind="stable")
    below = probabilities[order].cumsum(axis=0)
    at = (below >= share - 1e-12).argmax(axis=0)
    ascending: Floats = np.take_along_axis(values, order, axis=0)
    return np.asarray(ascending[at, np.arange(values.shape[1])])


def _from_zero(curve: Curve) -> Curve:
    """Begin at spend 0, where every run is unbroken unless the target was broken before the attack began."""
    if curve.spend[0] == 0.0:
        return curve
    one = np.ones(1)
    return Curve(
        np.concatenate([[0.0], curve.spend]),
        *(np.concatenate([one, values]) for values in (curve.survival, curve.low, curve.high, curve.kaplan_meier)),
    )
