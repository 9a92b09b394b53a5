"""Who is priced out: the share of a population of attackers that can afford to break a model, before a defence and after it.

**The model.** An attacker has a budget B and a want of skill K, and needs K times the price P that was measured:

    breaks  ⟺  B ≥ K · P,    ln B ~ Normal(ln b, β²),    ln K ~ Normal(ln k, κ²),    independent

so that the share of a group that breaks the model has a closed form,

    share(P) = Φ( (ln b − ln k − ln P) / √(β² + κ²) ).

b is the median budget; exp(β) the factor by which budgets typically differ. The price that was measured is that of an attacker who
knows what is to be done, so k ≥ 1 says how many times over the median attacker pays until the attack works. A population is one group
or several: each has a weight, and a threat model whose price it pays: who can only send prompts pays the price of the cheapest prompt
attack. The share of the population is the weighted mean of the groups' shares; weights are taken relative to their sum.

* A price of 0 excludes nobody: the share is 1, whatever the budgets.
* A price known only to exceed a bound gives a share that lies between 0 and the share at the bound.
* No price at all, or no price for a group's threat model: the share lies between 0 and 1 (``unknown``). A threat model under which no
  attack was tried is no threat model that is safe.

**The interval** is that of the price carried through: a share falls with the price, so the ends of the one are the ends of the other,
and it covers as often. Shares of several groups are added end by end. It holds the uncertainty of the *price* only: that of the
population is not statistical, and is shown by computing the table for other populations (:func:`varied`). ``priced_out``, share before
− share after, lies between low before − high after and high before − low after. If both prices are in their intervals so is it, at
least 90 % of the time by Bonferroni and more than 95 % in simulation, the two being estimated apart.

**The defaults are assumptions**, not measurements: no survey of such budgets is known to us. They say: half of those who would try have
less than 300 dollars, one in forty less than about 3 and one in forty more than about 30,000 (a geometric standard deviation of ten);
the median attacker pays three times the price of the tuned attack, and skill differs by a factor of three. A report that shows a
share has to show the population beside it.

**prices** (in), one row a (model, defense, threat_model): ``control_median, _low, _high, _censored`` and ``defended_median, …`` in
dollars, of the same attacks on both sides; of a censored median ``low`` is what it exceeds. :func:`from_multipliers` makes it.
**priced_out** (out), one row a model × defence: ``model, defense, status`` ("known", "bounded", "unknown": the worse of the two sides),
``control_share, _low, _high``, ``defended_share, _low, _high``, ``priced_out, _low, _high``; where a side has only bounds, its share
and ``priced_out`` are NaN and the ends are those bounds.

Sources: the closed form is the usual one for stress and strength, P(X > Y) of two log-normals (Johnson, Kotz and Balakrishnan 1994,
Continuous Univariate Distributions 1, ch. 14; Kotz, Lumelskii and Pensky 2003).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from tempering.errors import TemperingError

ANY = "any"
"""The threat model of an attacker who may use whatever attack is cheapest."""

STATUSES = {
    "known": "prices are known on both sides",
    "bounded": "a price is known only to exceed what was spent; the share has a bound",
    "unknown": "no price is known for some attackers; their share may be anything",
}

_SIDES = ("control", "defended")
_PARTS = ("median", "low", "high", "censored")
_TYPES = {
    **dict.fromkeys(("model", "defense", "status"), "object"),
    **{f"{side}{part}": "float64" for side in ("control_share", "defended_share", "priced_out") for part in ("", "_low", "_high")},
}


class InvalidPopulation(TemperingError):
    """A population that nobody can belong to."""


@dataclass(frozen=True)
class Group:
    """Attackers of one kind; the defaults are assumptions, see the head of this module.

    Attributes:
        budget: median budget in dollars.
        budget_spread: geometric standard deviation of budgets, 1 for all alike.
        skill: how many times the price the median attacker pays.
        skill_spread: its geometric standard deviation.
        weight: how many they are, relative to other groups.
        threat_model: whose price they pay.
    """

    budget: float = 300.0
    budget_spread: float = 10.0
    skill: float = 3.0
    skill_spread: float = 3.0
    weight: float = 1.0
    threat_model: str = ANY

    def __post_init__(self) -> None:
        positive = {"budget": self.budget, "skill": self.skill, "weight": self.weight}
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise InvalidPopulation(f"{name} of a group of attackers is {value}", "it is a positive number")
        for name, value in {"budget_spread": self.budget_spread, "skill_spread": self.skill_spread}.items():
            if not (math.isfinite(value) and value >= 1):
                raise InvalidPopulation(f"{name} of a group of attackers is {value}", "it is a factor, 1 or more")

    def share(self, price: float) -> float:
        """The share of the group that can break a model at this price in dollars."""
        if price == 0:
            return 1.0
        if price == math.inf:
            return 0.0
        distance = math.log(self.budget / (self.skill * price))
        spread = math.hypot(math.log(self.budget_spread), math.log(self.skill_spread))
        return float(ndtr(distance / spread)) if spread > 0 else float(distance >= 0)

    def price(self, share: float) -> float:
        """The price in dollars that this share of the group can pay, between 0 and 1; the other way round than :meth:`share`."""
        spread = math.hypot(math.log(self.budget_spread), math.log(self.skill_spread))
        return self.budget / self.skill * math.exp(-spread * float(ndtri(share)))


DEFAULT = (Group(),)
"""One group that may use any attack."""


def priced_out(prices: pd.DataFrame, population: Sequence[Group] = DEFAULT) -> pd.DataFrame:
    """Who can break each model before each defence and after it.

    Args:
        prices: as the head of this module says.
        population: groups of attackers.

    Returns:
        The table described there, ordered by model and defence; empty without a defence.

    Raises:
        InvalidPopulation: there is no group.
    """
    if not population:
        raise InvalidPopulation("a population without any attacker", "name a group")
    rows: list[dict[str, Any]] = []
    for (model, defense), models in prices.groupby(["model", "defense"], sort=True):
        by_threat = {row["threat_model"]: row for row in models.to_dict("records")}
        sides = [_share(by_threat, side, population) for side in _SIDES]
        control, defended = (side[1] for side in sides)
        difference = (control[0] - defended[0], control[1] - defended[2], control[2] - defended[1])
        status = max((side[0] for side in sides), key=list(STATUSES).index)
        row = {"model": model, "defense": defense, "status": status}
        for name, numbers in zip((*(f"{side}_share" for side in _SIDES), "priced_out"), (control, defended, difference), strict=True):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def _share(prices: dict[Any, dict[Any, Any]], side: str, population: Sequence[Group]) -> tuple[str, tuple[float, float, float]]:
    """Status, and share of the population with its ends; the share is NaN where some group's price is not known."""
    total = math.fsum(group.weight for group in population)
    statuses, sums = ["known"], [0.0, 0.0, 0.0]
    for group in population:
        row = prices.get(group.threat_model)
        status, shares = _of_group(group, None if row is None else {part: row[f"{side}_{part}"] for part in _PARTS})
        statuses.append(status)
        sums = [sofar + group.weight / total * share for sofar, share in zip(sums, shares, strict=True)]
    return max(statuses, key=list(STATUSES).index), (sums[0], sums[1], sums[2])


def _of_group(group: Group, price: dict[str, Any] | None) -> tuple[str, tuple[float, float, float]]:
    if price is None or (not price["censored"] and math.isnan(price["median"])) or math.isnan(price["low"]):
        return "unknown", (math.nan, 0.0, 1.0)
    if price["censored"]:
        return "bounded", (math.nan, 0.0, group.share(price["low"]))
    share, most, least = (group.share(float(price[part])) for part in _PARTS[:3])
    return "known", (share, least, most)


def from_multipliers(multipliers: pd.DataFrame, *, currency: str = "usd") -> pd.DataFrame:
    """Prices of the best attacker, as :data:`ANY`, and of every threat model, out of :mod:`tempering.economics.comparison`'s multipliers.

    Args:
        multipliers: the table.
        currency: "usd", or "total_usd" for the price with the search in it.
    """
    best = multipliers[multipliers["scope"].isin(("best attacker", "threat model")) & (multipliers["currency"] == currency)]
    names = best["name"].mask(best["scope"] == "best attacker", ANY)
    columns = [f"{side}_{part}" for side in _SIDES for part in _PARTS]
    return best.assign(threat_model=names)[["model", "defense", "threat_model", *columns]].reset_index(drop=True)


def varied(population: Sequence[Group] = DEFAULT, *, factor: float = 10.0) -> dict[str, tuple[Group, ...]]:
    """The population, and those in which everybody has so many times more or less money, or pays twice or half as much.

    Args:
        population: groups of attackers.
        factor: by which budgets go up and down.

    Returns:
        By a name in words, "as assumed" first.
    """
    budgets = {f"{factor:g} times poorer": 1 / factor, "as assumed": 1.0, f"{factor:g} times richer": factor}
    skills = {"half as skilled": 2.0, "as assumed": 1.0, "twice as skilled": 0.5}
    found: dict[str, tuple[Group, ...]] = {"as assumed": tuple(population)}
    for (money, times), (skill, over) in itertools.product(budgets.items(), skills.items()):
        if (times == 1) != (over == 1):  # one thing at a time
            name = money if over == 1 else skill
            found[name] = tuple(replace(group, budget=group.budget * times, skill=group.skill * over) for group in population)
    return found


def share_by_price(prices: Sequence[float], population: Sequence[Group] = DEFAULT) -> pd.DataFrame:
    """The curve from price to share, for a picture: columns ``usd`` and ``share``, one row a price.

    Args:
        prices: in dollars, not negative.
        population: groups of attackers.
    """
    weights = np.array([group.weight for group in population])
    shares = [np.average([group.share(float(price)) for group in population], weights=weights) for price in prices]
    return pd.DataFrame({"usd": np.asarray(prices, dtype=float), "share": np.asarray(shares, dtype=float)})


def price_of_share(share: float = 0.5, population: Sequence[Group] = DEFAULT) -> float:
    """The price in dollars, the same for everybody, that this share of the population can pay.

    Shares fall with the price, so the answer lies between the least and the greatest of the prices that this share of each single group
    can pay; there Brent's method finds it. Where groups whose members are all alike make the share jump, it is the price of the jump, and
    where a share holds for a range of prices, one of them.

    Args:
        share: between 0 and 1, both excluded.
        population: groups of attackers.

    Raises:
        InvalidPopulation: there is no group.
    """
    if not population:
        raise InvalidPopulation("a population without any attacker", "name a group")
    prices = sorted(group.price(share) for group in population)
    total = math.fsum(group.weight for group in population)

    def excess(log_price: float) -> float:
        return math.fsum(group.weight * group.share(math.exp(log_price)) for group in population) / total - share

    low, high = math.log(prices[0]) - 1e-9, math.log(prices[-1]) + 1e-9  # so that rounding leaves the answer inside
    return math.exp(brentq(excess, low, high, xtol=1e-12)) if high - low > 1e-8 else prices[0]


def factor_of_share(prices: Mapping[str, float], share: float = 0.5, population: Sequence[Group] = DEFAULT) -> float:
    """What all prices have to be multiplied by for just this share of the population to be able to pay.

    Args:
        prices: in dollars, by threat model, of each that some group has; infinite where nobody can pay.
        share: between 0 and 1, both excluded.
        population: groups of attackers.

    Returns:
        The factor; infinite where more than this share pay nothing, 0 where fewer than this share can pay whatever the factor.

    Raises:
        KeyError: no price for the threat model of some group.
    """
    asked = [(group, prices[group.threat_model]) for group in population]
    paying = [replace(group, budget=group.budget / price) for group, price in asked if 0 < price < math.inf]
    free, total = (math.fsum(group.weight for group, price in asked if price <= most) for most in (0.0, math.inf))
    wanted = share * total - free
    weight = math.fsum(group.weight for group in paying)
    if wanted <= 0:
        return math.inf
    return price_of_share(wanted / weight, paying) if wanted < weight else 0.0
