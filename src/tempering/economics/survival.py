"""Survival curves over spend: which share of the runs is still unbroken after so much of it?

Point estimates come from lifelines. Turnbull's estimator is the nonparametric maximum likelihood estimate (NPMLE) of the
distribution of the break under interval censoring; Kaplan–Meier is its special case for breaks seen exactly.

lifelines reads intervals as closed and reports a curve, not masses, so spends are handed over as ranks:

* (lower, upper] of neighbouring units share an end but no break. As closed intervals they would share that one point, and
  all the mass would fall on it. On the scale of ranks, end k lies at 2k, a lower end opens just above, at 2k + 1.
* An exact observation, lower = upper, lies at 2k, within every interval that ends there, as it should.
* An upper end at infinity becomes the rank after the last; lifelines' own tables do not survive infinite ends.
* The curve is read halfway after each end, at 2k + ½: at an exact observation lifelines reports the value before the step.

The estimate is the same for spends in the same order, so all currencies in which the units stand alike share one fit.

Sources: Turnbull 1976 (J. R. Statist. Soc. B 38, 290–295); Peto 1973 (Appl. Statist. 22, 86–91); Kaplan and Meier 1958
(J. Am. Statist. Ass. 53, 457–481).
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """Censoring intervals on the scale of ranks.

    Attributes:
        ends: the distinct finite ends, ascending, shape [m]; end k (from 1) has rank 2k.
        left: closed left rank of every interval, shape [n].
        right: closed right rank of every interval, shape [n]; ``top`` where the break was not seen.
    """

    ends: Floats
    left: Integers
    right: Integers

    @property
    def top(self) -> int:
        """The rank that stands for infinity."""
        return 2 * (len(self.ends) + 1)

    def spend(self, rank: int, *, lower: bool = False) -> float:
        """The spend at a right rank, or with ``lower`` the one at which a left rank opens."""
        if rank == self.top and not lower:
            return float("inf")
        return float(self.ends[rank // 2 - 1])


def rank(lower: Floats, upper: Floats) -> Ranked:
    """Put intervals (lower, upper] on the scale of ranks; lower = upper is an exact observation.

    Args:
        lower: finite, shape [n].
        upper: at least ``lower``, inf where right-censored, shape [n].

    Raises:
        ValueError: an interval is empty, or a bound is not a number.
    """
    if not (np.isfinite(lower).all() and (upper >= lower).all()):
        raise ValueError("an interval needs a finite lower end and an upper end that is no less")
    ends = np.unique(np.concatenate([lower, upper[np.isfinite(upper)]]))
    top = 2 * (len(ends) + 1)
    at_lower, at_upper = 2 * np.searchsorted(ends, lower) + 2, 2 * np.searchsorted(ends, upper) + 2
    exact = lower == upper
    return Ranked(ends, np.where(exact, at_lower, at_lower + 1), np.where(np.isfinite(upper), at_upper, top))


def turnbull(lower: Floats, upper: Floats, weights: Integers | None = None) -> tuple[Floats, Floats]:
    """Turnbull's estimate of the share that survives each spend.

    Within the intervals that carry mass the data do not say where the curve falls; it is drawn to fall at their right ends,
    where a break was first seen.

    Args:
        lower: last spend without a break, shape [n].
        upper: first spend with one, inf where none was seen, shape [n].
        weights: how often each interval occurs, shape [n]; once each by default.

    Returns:
        The distinct finite ends, ascending, and the share still unbroken after each, both of shape [m].
    """
    ranked = rank(lower, upper)
    repeats = (1,) * len(lower) if weights is None else tuple(map(int, weights))
    return ranked.ends, _fitted(tuple(map(int, ranked.left)), tuple(map(int, ranked.right)), repeats, len(ranked.ends))


@functools.lru_cache(maxsize=512)
def _fitted(left: tuple[int, ...], right: tuple[int, ...], weights: tuple[int, ...], ends: int) -> Floats:
    # lifelines takes a second or two to import; commands that estimate nothing need not wait for it.
    from lifelines import KaplanMeierFitter
    from lifelines.exceptions import ConvergenceWarning

    after = 2.0 * np.arange(1, ends + 1) + 0.5
    with warnings.catch_warnings():
        # lifelines takes log-odds of masses that reach 0 or 1; it then keeps the last sound step. And it stops at a gain
        # in likelihood from 0 to ``tol``, which rounding can keep just below 0 for ever: hence ``max_iter``.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = KaplanMeierFitter().fit_interval_censoring(
            np.array(left, dtype=float),
            np.array(right, dtype=float),
            weights=np.array(weights, dtype=float),
            timeline=after,
            tol=1e-9,
            max_iter=1000,
        )
    curve: Floats = fit.survival_function_["NPMLE_estimate_upper"].to_numpy(dtype=float).clip(0.0, 1.0)
    curve.setflags(write=False)
    return curve


def kaplan_meier(durations: Floats, observed: npt.NDArray[np.bool_], at: Floats) -> Floats:
    """The Kaplan–Meier estimate: share that survives each of some spends.

    Args:
        durations: spend at the break, or at which a run was last seen unbroken, shape [n].
        observed: whether the break was seen, shape [n].
        at: spends, shape [m].

    Returns:
        Shape [m].
    """
    # The estimate depends on the order of the spends alone, so ranks stand for them, and currencies share it. Zero keeps rank zero.
    spends = np.unique(np.concatenate([[0.0], durations, at]))
    ranks = (tuple(map(int, np.searchsorted(spends, values))) for values in (durations, at))
    return np.array(_product_limit(*ranks, tuple(map(bool, observed))))


@functools.lru_cache(maxsize=512)
def _product_limit(durations: tuple[int, ...], at: tuple[int, ...], observed: tuple[bool, ...]) -> tuple[float, ...]:
    from lifelines import KaplanMeierFitter

    fit = KaplanMeierFitter().fit(np.array(durations, dtype=float), np.array(observed))
    return tuple(map(float, fit.survival_function_at_times(np.array(at, dtype=float))))
