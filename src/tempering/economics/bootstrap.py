"""All resamples of a few runs at once, each with its probability.

A resample of n units is a multiset: only how often each unit occurs matters. There are C(2n − 1, n) of them, 126 for five
units. Up to seven units *all* are enumerated, each with its multinomial probability, so the bootstrap distribution is
exact and nothing is drawn. Beyond that, resamples are drawn with a fixed seed and equal ones are kept once.

Sources: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 6 and 13; Fisher and Hall 1991
(J. Statist. Plann. Inference 27, 157–169) on exact bootstraps.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from tempering.economics.survival import Floats, Integers

EXACT_UP_TO = 7
"""Units up to which every resample is enumerated: 1,716 multisets for seven."""

DRAWS = 1000
"""Resamples drawn beyond that."""


@dataclass(frozen=True)
class Resamples:
    """Multisets of units.

    Attributes:
        counts: how often each unit occurs, shape [resamples, units]; every row sums to the number of units.
        probabilities: how likely each is, shape [resamples]; they sum to 1.
    """

    counts: Integers
    probabilities: Floats


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
