"""Does resistance to one kind of attack go with resistance to another?

The field's claim is that a model which resists tampering resists input-space attacks too; and one may ask the same of fine-tuning and
ablation. A point is one (defence, seed); its resistance to a group of attacks is the price of the cheapest of them in that seed, as in
:mod:`tempering.economics.comparison`: in (lower, upper], or beyond lower. Two points are *ordered* where one's upper end is no more than
the other's lower end, and otherwise their order is not known:

    a_ij = 1 where i is known to be dearer than j to the first group, −1 where cheaper, else 0;    b_ij likewise for the second
    τ = Σ a_ij b_ij / √(Σ a_ij² Σ b_ij²)        over pairs of points of different defences of one model

which is Kendall's τ_b where every price is known exactly. Why Kendall: its ties need no rank. Prices come in rungs, and runs that held
to the end of one budget all say the same. Spearman's would have to give each a number; the order of two prices is what interval and
right censoring leave intact (Gehan's scoring). So a point that held lies above every price that was seen by then, ties with others that
held, and to a price seen beyond its own budget it has no order. A run that came to an end without a usable break counts as held to the
largest spend of its model. What τ estimates is the agreement that the budget lets one see: with a larger budget it may be another.

Pairs of two seeds of one defence are left out: the claim is about defences. The control is no defence; put it in (``with_control``) and τ
also says that defences defend at all.

**The interval.** Seeds of one defence are not so many defences. Percentile bootstraps of defences cover 81–96 % in simulation (5 to 12
defences; 41 % and less where most points held), for resampling five defences repeats some and ties them. Here: the jackknife over
defences of artanh τ, with Student's t of D − 1 degrees of freedom,

    artanh τ ± t √max(jackknife variance, h · 0.437 / (D′ − 2)),    |τ| taken as at most 1 − 1 / C(D, 2)

The floor is Fieller, Hartley and Pearson's variance of artanh τ, with D′ from the share f of pairs ordered on both sides, D′ (D′ − 1) =
f D (D − 1), and h = 1 for one seed a defence, else ½; the bound on |τ| leaves half of one pair of defences in doubt. Without them five
defences in the same order twice would have the interval [1, 1]. Simulated coverage at 95 % (5 and 8 defences, 1 to 5 seeds, latent
correlations 0, .6, .95; 400 studies each): nothing censored 95–100 %, half of the points 95–99.8 %, nine tenths 99–100 %. It errs
towards too wide; nothing narrower was found that covers everywhere.

**The test** permutes whole defences: each keeps its seeds, and what it is on the second side is dealt out anew. All D! ways up to seven
defences, else 4,999 draws and the one that was seen. p is the share with |τ| no less than that seen: exact whatever the distribution, the
seeds or the censoring. Below :data:`LEAST_DEFENSES` it cannot be less than 5 % in both directions (two of 24 for four).

**resistances** (out of :func:`resistances`), one row a (model, defense, seed, group): ``lower, upper, attacks`` (how many were run
against every defence). **agreement** (out), one row a (model, first, second): ``currency, status, defenses, points, ordered`` (share of
pairs known on both sides), ``tau, low, high, p_value``. Without a status of "known" the interval is [−1, 1] and p is NaN: nothing can
be said; τ is then what was seen, or NaN where no pair is ordered.

Sources: Kendall 1938 (Biometrika 30, 81–93); Gehan 1965 (Biometrika 52, 203–223); Oakes 1982 (Biometrics 38, 451–455) on concordance
under censoring; Fieller, Hartley and Pearson 1957 (Biometrika 44, 470–481); Cameron and Miller 2015 (J. Hum. Resour. 50, 317–372) on
few clusters. The claim: Che et al. 2025 (arXiv 2502.05209).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from tempering.economics.attackers import attackers
from tempering.economics.medians import CONFIDENCE, carried_on
from tempering.economics.ratios import Costs
from tempering.economics.survival import Floats
from tempering.economics.tables import CONTROL

LEAST_DEFENSES = 5
"""Defences below which no permutation test can tell anything at 5 %."""
EXACT_UP_TO = 7
"""Defences up to which every permutation is tried: 5,040 for seven."""
DRAWS = 4999
"""Permutations drawn beyond that."""

STATUSES = {
    "known": "the agreement and its interval are known",
    "too_few_defenses": "too few defences; chance alone would put them in the same order often enough",
    "too_censored": "too few pairs of defences whose order is known on both sides",
    "untried": "no attack of one of the groups was run against every defence",
}

_VARIANCE = 0.437
_LEAST_ORDERED = 3.0
_SLACK = 1e-12
_POINT_TYPES = {
    **dict.fromkeys(("model", "defense"), "object"),
    "seed": "int64",
    "group": "object",
    **dict.fromkeys(("lower", "upper"), "float64"),
    "attacks": "int64",
}
_TYPES = {
    **dict.fromkeys(("model", "first", "second", "currency", "status"), "object"),
    **dict.fromkeys(("defenses", "points"), "int64"),
    **dict.fromkeys(("ordered", "tau", "low", "high", "p_value"), "float64"),
}


def resistances(
    units: pd.DataFrame,
    breaks: pd.DataFrame,
    groups: Mapping[str, Collection[str]],
    *,
    currency: str = "flops",
    budget: Mapping[str, float | None] | None = None,
    with_control: bool = False,
) -> pd.DataFrame:
    """The price of the cheapest attack of each group, for every defence and seed.

    Args:
        units: one row a unit, as :func:`tempering.economics.tables.checked_units` returns them.
        breaks: from :func:`tempering.economics.breaks.find_breaks`.
        groups: the attacks of each group, by its name; only those that were run against every defence of a model count.
        currency: one of :data:`tempering.economics.attackers.MEASURED`, or "total_flops" or "total_usd".
        budget: what one run might spend, by currency.
        with_control: whether the undefended model is a point too.

    Returns:
        The table described at the head of this module; seeds whose hardening failed are not in it.
    """
    prices = attackers(units, breaks, budget)
    tables: list[pd.DataFrame] = []
    for model, runs in breaks.groupby("model", sort=True):
        runs = runs if with_control else runs[runs["defense"] != CONTROL]
        sides = {str(defense): side for defense, side in runs.groupby("defense", sort=True)}
        common = set.intersection(*(set(side["attack"]) for side in sides.values())) if sides else set()
        for group, attacks in groups.items():
            chosen = tuple(sorted(common & set(attacks)))
            found = [_priced(prices.price(str(model), defense, chosen, currency).costs, defense) for defense in sides] if chosen else []
            points = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
            if len(points):
                points["lower"] = carried_on(*(points[name].to_numpy() for name in ("lower", "upper", "ended")))
                tables.append(points.assign(model=model, group=group, attacks=len(chosen)))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(_POINT_TYPES))
    return table[list(_POINT_TYPES)].astype(_POINT_TYPES)


def _priced(costs: Costs, defense: str) -> pd.DataFrame:
    columns = {"seed": costs.seeds, "lower": costs.lower, "upper": costs.upper, "ended": costs.ended}
    return pd.DataFrame({**columns, "defense": np.full(len(costs.seeds), defense, dtype=object)})


def agreement(points: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, currency: str = "flops", seed: int = 0) -> pd.DataFrame:
    """Whether resistances to two groups of attacks go together.

    Args:
        points: from :func:`resistances`.
        pairs: names of two groups each.
        currency: that of the points; passed through.
        seed: of the permutations, beyond the number of defences for which all are tried.

    Returns:
        The table described at the head of this module, in the order of models and pairs.
    """
    rows = []
    for model, own in points.groupby("model", sort=True):
        for first, second in pairs:
            rows.append({"model": model, "first": first, "second": second, "currency": currency} | _agreement(own, first, second, seed))
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def _agreement(points: pd.DataFrame, first: str, second: str, seed: int) -> dict[str, Any]:
    sides = [points[points["group"] == name].set_index(["defense", "seed"])[["lower", "upper"]] for name in (first, second)]
    both = sides[0].join(sides[1], how="inner", lsuffix="_first", rsuffix="_second").sort_index()
    row = {"defenses": both.index.get_level_values(0).nunique(), "points": len(both), "ordered": math.nan, "tau": math.nan}
    row |= {"low": -1.0, "high": 1.0, "p_value": math.nan}
    if not (len(sides[0]) and len(sides[1])):
        return row | {"status": "untried"}
    orders = _Orders.of(both)
    row |= {"ordered": orders.ordered, "tau": orders.tau()}
    if row["defenses"] < LEAST_DEFENSES:
        return row | {"status": "too_few_defenses"}
    if orders.effective < _LEAST_ORDERED:
        return row | {"status": "too_censored"}
    low, high = orders.interval()
    return row | {"status": "known", "low": low, "high": high, "p_value": orders.p_value(seed)}


@dataclass(frozen=True)
class _Orders:
    """Who is known to be dearer than whom, on either side.

    Attributes:
        first: a_ij for seeds s of defence d and t of e, shape [defences, defences, seeds, seeds]; 0 within a defence.
        second: b_ij likewise.
        there: whether both points exist, same shape.
    """

    first: Floats
    second: Floats
    there: Floats

    @classmethod
    def of(cls, both: pd.DataFrame) -> _Orders:
        defenses, seeds = (both.index.get_level_values(level).unique().sort_values() for level in (0, 1))
        whole = both.reindex(pd.MultiIndex.from_product([defenses, seeds]))
        shape = (len(defenses), len(seeds))
        ends = {name: whole[name].to_numpy(dtype=float).reshape(shape) for name in whole}
        there = ~np.isnan(ends["lower_first"])
        pairs = there[:, None, :, None] & there[None, :, None, :] & ~np.eye(len(defenses), dtype=bool)[:, :, None, None]
        orders = [_order(ends[f"lower_{side}"], ends[f"upper_{side}"]) * pairs for side in ("first", "second")]
        return cls(orders[0], orders[1], pairs.astype(float))

    @property
    def defenses(self) -> int:
        return len(self.first)

    @property
    def ordered(self) -> float:
        """Share of the pairs of points that are ordered on both sides."""
        pairs = self.there.sum()
        return float((self.first * self.second != 0).sum() / pairs) if pairs else math.nan

    @property
    def effective(self) -> float:
        """How many defences would have as many pairs if all of them were ordered."""
        return 0.0 if math.isnan(self.ordered) else (1 + math.sqrt(1 + 4 * self.ordered * self.defenses * (self.defenses - 1))) / 2

    def tau(self) -> float:
        return float(_tau(*self._sums(np.ones((1, self.defenses))))[0])

    def interval(self) -> tuple[float, float]:
        count = self.defenses
        most = 1 - 1 / math.comb(count, 2)
        whole = np.arctanh(np.clip(self.tau(), -most, most))
        left_out = np.nan_to_num(_tau(*self._sums(1 - np.eye(count))))
        logs = np.arctanh(np.clip(left_out, -most, most))
        jackknife = (count - 1) / count * ((logs - logs.mean()) ** 2).sum()
        share = 1.0 if self.first.shape[2] == 1 else 0.5
        floor = share * _VARIANCE / (self.effective - 2)
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * math.sqrt(max(jackknife, floor))
        return float(np.tanh(whole - reach)), float(np.tanh(whole + reach))

    def p_value(self, seed: int) -> float:
        """Share of the ways to deal out the second side that agree, or disagree, no less."""
        orders, exact = _permutations(self.defenses, seed)
        flat = [array.reshape(self.defenses**2, -1) for array in (self.first, self.second, self.there)]
        # How block (d, e) of the first side goes with block (d', e') of the second; seeds that one of them lacks say nothing.
        products = (flat[0] @ flat[1].T, np.abs(flat[0]) @ flat[2].T, flat[2] @ np.abs(flat[1]).T)
        blocks = orders[:, :, None] * self.defenses + orders[:, None, :]
        own = np.arange(self.defenses**2).reshape(self.defenses, self.defenses)
        sums = [product[own[None], blocks].sum(axis=(1, 2)) for product in products]
        dealt = np.nan_to_num(_tau(*sums))
        as_much = int((np.abs(dealt) >= abs(self.tau()) - _SLACK).sum())
        return as_much / len(orders) if exact else (as_much + 1) / (len(orders) + 1)

    def _sums(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Σ ab, Σ a² and Σ b² with every defence weighted, each of shape [rows]."""
        blocks = ((self.first * self.second).sum(axis=(2, 3)), (self.first**2).sum(axis=(2, 3)), (self.second**2).sum(axis=(2, 3)))
        products, first, second = (np.asarray(np.einsum("wd,de,we->w", weights, block, weights)) for block in blocks)
        return products, first, second


def _order(lower: Floats, upper: Floats) -> Floats:
    """1 where the point of the row is known to be dearer, −1 where cheaper, 0 where neither is known; shape [d, d, s, s]."""
    dearer = lower[:, None, :, None] >= upper[None, :, None, :]
    cheaper = upper[:, None, :, None] <= lower[None, :, None, :]
    return np.asarray(dearer.astype(float) - cheaper.astype(float))


def _tau(products: Floats, first: Floats, second: Floats) -> Floats:
    """NaN where no pair is ordered on one of the sides."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((first > 0) & (second > 0), products / np.sqrt(first * second), np.nan))


def _permutations(count: int, seed: int) -> tuple[npt.NDArray[np.int64], bool]:
    if count <= EXACT_UP_TO:
        return np.array(list(itertools.permutations(range(count)))), True
    source = np.random.default_rng(seed)
    return np.array([source.permutation(count) for _ in range(DRAWS)]), False
