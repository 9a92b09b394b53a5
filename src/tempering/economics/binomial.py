"""What counts alone can say: exact intervals for a share of runs, and which order statistics enclose a quantile.

**A share.** Of n runs k did something. The interval of Clopper and Pearson,

    [ Beta(2.5 %; k, n − k + 1),  Beta(97.5 %; k + 1, n − k) ],

covers the true share at least 95 % of the time, whatever it is: 0 of 5 is [0, .52], not the point [0, 0] that a bootstrap makes of it.

**A quantile.** Let t_(1) ≤ … ≤ t_(n) be the runs' costs and ξ the true q-quantile. The number of runs below ξ is binomial, so

    P(ξ < t_(k)) = P(B ≤ k − 1)      P(ξ > t_(k)) = P(B ≥ k)      B ~ Binomial(n, q),

for any distribution of costs. The two order statistics whose probabilities come nearest to 2.5 % are the ends of the interval. For a
median the interval then covers between 92.3 % and 98.4 % with any n ≥ 5, exactly known beforehand (5 runs: smallest to largest,
93.75 %; 10: second to ninth, 97.9 %; 20: sixth to fifteenth, 95.9 %). With fewer runs nothing comes near 95 %; the smallest and the
largest stand in, and :func:`runs_needed` tells from how many on they serve.

Sources: Clopper and Pearson 1934 (Biometrika 26, 404–413); Thompson 1936 (Ann. Math. Statist. 7, 122–128); Conover 1999, Practical
Nonparametric Statistics, section 3.2.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from tempering.economics.survival import Floats, Integers

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
"""The probabilities at the two ends of an interval."""

_MOST_IN_A_TAIL = 0.04
"""Of an order statistic that still serves as the end of a 95 % interval; 1/32, that of the smallest of five for a median, does."""

_SLACK = 1e-9
"""So that ⌈q n⌉ is what it is on paper."""


def share_interval(counts: Integers, runs: int) -> tuple[Floats, Floats]:
    """The exact 95 % interval of a share.

    Args:
        counts: in how many runs it was so, any shape.
        runs: of how many.
    """
    with np.errstate(invalid="ignore"):
        low = np.where(counts > 0, special.betaincinv(np.maximum(counts, 1), runs - counts + 1, TAILS[0]), 0.0)
        high = np.where(counts < runs, special.betaincinv(counts + 1, np.maximum(runs - counts, 1), TAILS[1]), 1.0)
    return np.asarray(low), np.asarray(high)


def place(runs: int, quantile: float) -> int:
    """Which run, counted from the cheapest and from 1, is the sample's quantile: ⌈q n⌉."""
    return max(1, math.ceil(quantile * runs - _SLACK))


def enclosing(runs: int, quantile: float) -> tuple[int, int]:
    """Which runs, counted from the cheapest and from 1, enclose the true quantile at 95 %.

    Args:
        runs: how many there are, at least 1.
        quantile: in (0, 1).
    """
    order = np.arange(1, runs + 1)
    below = special.bdtr(order - 1, runs, quantile)
    above = special.bdtrc(order - 1, runs, quantile)
    low, high = (order[np.abs(tail - TAILS[0]).argmin()] for tail in (below, above))
    return min(int(low), place(runs, quantile)), max(int(high), place(runs, quantile))


def runs_needed(quantile: float) -> int:
    """From how many runs on the smallest and the largest enclose the true quantile well enough: 5 for a median, 12 for a quartile."""
    rarer = max(quantile, 1 - quantile)
    return math.ceil(math.log(_MOST_IN_A_TAIL) / math.log(rarer))
