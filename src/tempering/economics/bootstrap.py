"""Turnbull's estimate for every bootstrap resample at once.

A bootstrap refits the curve for thousands of resamples, at some ten milliseconds each in lifelines. Two things make it cheap:

* A resample of n units is a multiset: only how often each unit occurs matters. There are C(2n − 1, n) of them, 126 for five
  units. Up to seven units *all* are enumerated, each with its multinomial probability, so the bootstrap distribution is
  exact and nothing is drawn. Beyond that, resamples are drawn with a fixed seed and equal ones are fitted once.
* All are fitted together by the self-consistency (EM) iteration in numpy.

The NPMLE puts mass only on innermost intervals [a, b]: a is a left end, b a right end, and no end of the sample lies
between them (Peto 1973). They depend on which units a resample holds, so every pair (a, b) is a candidate and each resample
has its own set of live ones. With weights w, n = Σ w, candidate j inside interval i written j ⊂ i, the iteration is

    p_j ← p_j / n · Σ_{i ⊃ j} w_i / Σ_{k ⊂ i} p_k .

Sources: Turnbull 1976; Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 6 and 13; Fisher and Hall 1991
(J. Statist. Plann. Inference 27, 157–169) on exact bootstraps.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tempering.economics.survival import Floats, Integers, Ranked

EXACT_UP_TO = 7
"""Units up to which every resample is enumerated: 1,716 multisets for seven."""

DRAWS = 1000
"""Resamples drawn beyond that."""

ACCURACY = 5e-3
"""How close a survival probability comes. Where a mass tends to 0 without the likelihood asking for it (a boundary of the
simplex at which the gradient vanishes too), EM approaches as 1 / steps, here and in lifelines. Whoever compares a curve
with one half allows for this much, so that a curve that is at one half on paper is there in numbers."""

_MOVE = 1e-6
"""The iteration stops once no mass moves by more; at such a boundary that leaves about √_MOVE = 1e-3."""

_MOST_STEPS = 3000
_CHUNK = 4_000_000
"""Numbers in the largest array of the iteration."""


@dataclass(frozen=True)
class Resamples:
    """Multisets of units.

    Attributes:
        counts: how often each unit occurs, shape [resamples, units]; every row sums to the number of units.
        probabilities: how likely each is, shape [resamples]; they sum to 1.
    """

    counts: Integers
    probabilities: Floats


@dataclass(frozen=True)
class Fits:
    """The NPMLE of every resample.

    Attributes:
        left: left rank of every candidate interval, shape [candidates].
        right: right rank, ascending, shape [candidates].
        mass: probability mass, 0 where a candidate is not innermost, shape [resamples, candidates].
    """

    left: Integers
    right: Integers
    mass: Floats

    def survival(self, ends: int) -> Floats:
        """Share unbroken after each of so many ends, shape [resamples, ends]."""
        reached = self.right[:, None] <= 2 * np.arange(1, ends + 1)[None, :]
        return np.asarray(1.0 - self.mass @ reached)


@functools.lru_cache(maxsize=64)
def resamples(units: int, seed: int = 0) -> Resamples:
    """All resamples of so many units with their probabilities, or where these are too many, draws.

    Args:
        units: at least 1.
        seed: of the draws; without effect where resamples are enumerated.
    """
    if units <= EXACT_UP_TO:
        picks = np.array(list(itertools.combinations_with_replacement(range(units), units)))
        counts = (picks[:, :, None] == np.arange(units)).sum(axis=1)
        ways = np.array([math.factorial(units) / math.prod(map(math.factorial, row)) for row in counts.tolist()])
        return Resamples(counts, ways / float(units) ** units)
    draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=DRAWS)
    counts, times = np.unique(draws, axis=0, return_counts=True)
    return Resamples(counts.astype(np.int64), times / DRAWS)


def fit(ranked: Ranked, counts: Integers) -> Fits:
    """Turnbull's estimate for every resample.

    Args:
        ranked: the units' intervals, shape [units].
        counts: how often each occurs, shape [resamples, units].
    """
    left, right = _candidates(ranked)
    live = _innermost(ranked, counts > 0, left, right)
    used = live.any(axis=0)
    left, right, live = left[used], right[used], live[:, used]
    inside = ((ranked.left[:, None] <= left) & (right <= ranked.right[:, None])).astype(float)
    return Fits(left, right, _self_consistent(counts.astype(float), inside, live))


def _candidates(ranked: Ranked) -> tuple[Integers, Integers]:
    left, right = np.meshgrid(np.unique(ranked.left), np.unique(ranked.right), indexing="ij")
    possible = left <= right
    left, right = left[possible], right[possible]
    order = np.lexsort((left, right))
    return left[order], right[order]


def _innermost(ranked: Ranked, held: npt.NDArray[np.bool_], left: Integers, right: Integers) -> npt.NDArray[np.bool_]:
    """Which candidates are innermost among the intervals that a resample holds, shape [resamples, candidates]."""
    presence = held.astype(float)

    def any_held(units: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return np.asarray(presence @ units > 0)

    lefts, rights = ranked.left[:, None], ranked.right[:, None]
    ends = any_held(lefts == left) & any_held(rights == right)
    between = any_held((left < lefts) & (lefts <= right)) | any_held((left <= rights) & (rights < right))
    return ends & ~between


def _self_consistent(weights: Floats, inside: Floats, live: npt.NDArray[np.bool_]) -> Floats:
    """Masses of the live candidates by EM, shape [resamples, candidates].

    Args:
        weights: how often each unit occurs, shape [resamples, units].
        inside: whether a candidate lies in a unit's interval, shape [units, candidates].
        live: which candidates may carry mass, shape [resamples, candidates].
    """
    mass = np.zeros(live.shape)
    most = int(live.sum(axis=1).max())
    rows = max(1, _CHUNK // (most * weights.shape[1]))
    for start in range(0, len(mass), rows):
        chunk = slice(start, start + rows)
        # Few candidates are live at once: gather them, so that the arrays stay narrow.
        chosen = np.argsort(~live[chunk], axis=1, kind="stable")[:, :most]
        valid = np.take_along_axis(live[chunk], chosen, axis=1)
        covers = inside[:, chosen].transpose(1, 0, 2) * valid[:, None, :]
        np.put_along_axis(mass[chunk], chosen, _iterate(weights[chunk], covers, valid), axis=1)
    return mass


def _iterate(weights: Floats, covers: Floats, valid: npt.NDArray[np.bool_]) -> Floats:
    mass = valid / valid.sum(axis=1, keepdims=True)
    total = weights.sum(axis=1, keepdims=True)
    moving = np.arange(len(mass))
    for step in range(_MOST_STEPS):
        now = mass[moving]
        chance = np.matmul(covers, now[:, :, None])[:, :, 0]
        # A unit that a resample does not hold may have no live candidate at all: 0 / 0, which counts for nothing.
        share = np.divide(weights, chance, out=np.zeros_like(weights), where=weights > 0)
        after = now * np.matmul(share[:, None, :], covers)[:, 0, :] / total
        mass[moving] = after
        far = np.abs(after - now).max(axis=1) > _MOVE
        if not far.any():
            break
        if step % 16 == 0 and 2 * int(far.sum()) < len(far):
            moving, weights, covers, total = moving[far], weights[far], covers[far], total[far]
    return np.asarray(mass)
