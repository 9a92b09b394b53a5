"""Is one defence's cost to break another one's? A log-rank test by permutation, for interval-censored costs of few, paired seeds.

**Scores.** S is Turnbull's estimate of all runs of both sides together. A run whose cost lies in (l, u] has the score

    c = [ S(l) log S(l) − S(u) log S(u) ] / [ S(l) − S(u) ]        S(∞) log S(∞) = 0,

the derivative of the likelihood under proportional hazards at no effect (Finkelstein 1986): positive for an early break, log S(l) for
a run that held. The statistic is the sum of the defended runs' scores. For costs seen exactly it is the log-rank statistic, observed
less expected breaks, up to the steps' being finite: with S(u) → S(l) the score becomes 1 + log S.

**Permutation.** Under the hypothesis that the defence changes nothing, the labels are exchangeable, and the statistic is compared with
those of all ways to put the labels. The scores stay as they are. It is exact for any number of seeds: no normal approximation enters.

* **Swapped within seeds**: the two runs of a seed share data order and draws, so only they are exchangeable with each other: 2^m ways
  for m pairs. Seeds of one side only are permuted among themselves.
* **Permuted over runs**, where swapping could not reach p ≤ .05: 2 of 2^m ways are as extreme as a complete separation, .0625 for five
  pairs. All labels are then permuted, C(10, 5) = 252 ways. That is exact where a seed's two runs are independent, and cautious where a
  seed pushes both the same way: the difference then scatters less than the permutations do. Which one it is depends on the numbers of
  seeds alone, never on the costs.

Up to 20,000 ways are enumerated; beyond that 9,999 are drawn, and the one that was observed is added to them (Phipson and Smyth 2010).
p is the share of ways at least as far from their mean as what was observed. ``least`` is the smallest p that these runs could have
given: with it at .06, "not significant" says nothing of the defence.

Runs that ended without a usable break count as unbroken to the largest spend of both sides.

Sources: Finkelstein 1986 (Biometrics 42, 845–854); Sun 1996 (Stat. Med. 15, 1387–1395); Fay and Shaw 2010 (J. Stat. Softw. 36, 2), whose
scores these are; Phipson and Smyth 2010 (Stat. Appl. Genet. Mol. Biol. 9, 39); Holm 1979 (Scand. J. Statist. 6, 65–70).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from tempering.economics.medians import carried_on
from tempering.economics.ratios import Costs
from tempering.economics.survival import Floats, turnbull

SWAPPED = "swapped within seeds"
PERMUTED = "permuted over runs"
_LEVEL = 0.05
_MOST_WAYS = 20_000
_DRAWS = 9_999
_SLACK = 1e-9


@dataclass(frozen=True)
class LogRank:
    """What a permutation test says.

    Attributes:
        statistic: sum of the defended runs' scores less its mean over the permutations; negative where the defence breaks later.
        p_value: two-sided.
        least: the smallest p-value that these runs could have given under any labels.
        kind: :data:`SWAPPED` or :data:`PERMUTED`.
    """

    statistic: float
    p_value: float
    least: float
    kind: str


def pooled(defended: Costs, control: Costs) -> tuple[Floats, Floats]:
    """Lower and upper ends of both sides, the defended first; runs that ended carried on to the largest spend of both."""
    lower, upper, ended = (np.concatenate([getattr(costs, name) for costs in (defended, control)]) for name in ("lower", "upper", "ended"))
    return carried_on(lower, upper, ended), upper


def scores(lower: Floats, upper: Floats) -> Floats:
    """Finkelstein's scores; large where a break came early.

    Args:
        lower: last spend without a break, shape [n].
        upper: first spend with one, inf where none was seen, shape [n].
    """
    ends, survival = turnbull(lower, upper)
    curve = np.concatenate([[1.0], survival])
    after = curve[np.searchsorted(ends, upper, side="right")]
    # An exact cost has the mass of its own end; otherwise the mass begins after the lower end.
    before = np.where(lower == upper, curve[np.searchsorted(ends, lower, side="left")], curve[np.searchsorted(ends, lower, side="right")])
    after = np.where(np.isfinite(upper), after, 0.0)
    mass = before - after
    flat = 1.0 + np.log(np.maximum(before, _SLACK))
    steep = (special.xlogy(before, before) - special.xlogy(after, after)) / np.where(mass > _SLACK, mass, 1.0)
    return np.asarray(np.where(mass > _SLACK, steep, flat))


def log_rank(defended: Costs, control: Costs, *, pairing: bool | None = None, seed: int = 0) -> LogRank:
    """The permutation log-rank test.

    Args:
        defended: one side; at least one seed.
        control: the other; at least one seed.
        pairing: whether labels are swapped within seeds; by default where that can reach .05.
        seed: of the draws where there are too many permutations to enumerate.
    """
    values = scores(*pooled(defended, control))
    own, other = values[: len(defended.seeds)], values[len(defended.seeds) :]
    common, mine, theirs = np.intersect1d(defended.seeds, control.seeds, return_indices=True)
    if pairing is None:
        alone = math.comb(len(values) - 2 * len(common), len(own) - len(common))
        pairing = len(common) > 0 and 2 ** len(common) * alone >= 2 / _LEVEL
    if not pairing:
        mine, theirs = mine[:0], theirs[:0]
    halves = (own[mine] - other[theirs]) / 2
    rest = np.concatenate([np.delete(own, mine), np.delete(other, theirs)])
    statistic = halves.sum() + rest[: len(own) - len(mine)].sum() - rest.mean() * (len(own) - len(mine)) if len(rest) else halves.sum()
    ways, exact = _ways(halves, rest - rest.mean() if len(rest) else rest, len(own) - len(mine), seed)
    far, most = np.abs(ways), max(np.abs(ways).max(), abs(statistic))

    def share(beyond: float) -> float:
        reached = int((far >= beyond - _SLACK).sum())
        return reached / len(ways) if exact else (reached + 1) / (len(ways) + 1)

    return LogRank(float(statistic), share(abs(statistic)), share(most), SWAPPED if pairing else PERMUTED)


def _ways(halves: Floats, rest: Floats, chosen: int, seed: int) -> tuple[Floats, bool]:
    """The statistic under every way to put the labels, or under draws of them, and whether these are all."""
    swaps, choices = 2 ** len(halves), math.comb(len(rest), chosen)
    if swaps * choices <= _MOST_WAYS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(halves)))).reshape(swaps, len(halves))
        picks = np.array(list(itertools.combinations(range(len(rest)), chosen)), dtype=np.int64).reshape(choices, chosen)
        return np.add.outer(signs @ halves, rest[picks].sum(axis=1)).ravel(), True
    draws = np.random.default_rng(seed)
    signs = draws.choice((-1.0, 1.0), size=(_DRAWS, len(halves)))
    picks = draws.random((_DRAWS, len(rest))).argsort(axis=1)[:, :chosen]
    return np.asarray(signs @ halves + rest[picks].sum(axis=1)), False


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; NaN stays NaN and is not counted."""
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), math.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, values[order] * np.arange(len(order), 0, -1)))
    return [float(value) for value in adjusted]
