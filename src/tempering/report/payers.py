"""Who can pay which price: prices by threat model and shares of attackers, read once for drawing, sentence and table.

Nothing is estimated here; shares and factors are those of :mod:`tempering.economics.population`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from tempering.economics.population import ANY, Group, factor_of_share, from_multipliers, share_by_price
from tempering.report.formatting import NOTHING, Price, dollars, share, significant, times

if TYPE_CHECKING:
    from tempering.report.section import Material

UNDEFENDED = "undefended"
"""What the model as it came is called."""
UNKNOWN = "not known"
"""Stands where a share may be anything."""


@dataclass(frozen=True)
class Payers:
    """The attackers who pay the price of one threat model, and what each defence makes it.

    Attributes:
        threat_model: whose price they pay.
        groups: of attackers.
        prices: in dollars by defence, the model as it came first as :data:`UNDEFENDED`, then from the dearest to the cheapest.
    """

    threat_model: str
    groups: tuple[Group, ...]
    prices: dict[str, Price]

    @property
    def undefended(self) -> Price:
        """The price of the model as it came."""
        return self.prices[UNDEFENDED]


def payers(material: Material, model: str) -> list[Payers]:
    """The attackers of a study by the threat model whose price they pay, as the study names them first."""
    groups = [Group(**group.model_dump()) for group in material.study.population]
    prices = from_multipliers(material.assessment.multipliers)
    prices = prices[prices["model"] == model]
    defenses = sorted(set(map(str, prices["defense"])))
    return [
        Payers(
            name, tuple(group for group in groups if group.threat_model == name), _prices(prices[prices["threat_model"] == name], defenses)
        )
        for name in dict.fromkeys(group.threat_model for group in groups)
    ]


def _prices(table: pd.DataFrame, defenses: Sequence[str]) -> dict[str, Price]:
    rows: dict[str, dict[Hashable, Any]] = {str(row["defense"]): row for row in table.to_dict("records")}
    controls = [_price(row, "control") for row in rows.values()]
    found = {name: _price(rows.get(name, {}), "defended") for name in defenses}
    dearest_first = sorted(defenses, key=lambda name: (math.isnan(found[name].rank), -_number(found[name].rank), name))
    return {
        UNDEFENDED: next((price for price in controls if not math.isnan(price.rank)), _price({}, "control")),
        **{name: found[name] for name in dearest_first},
    }


def _price(row: Mapping[Hashable, Any], side: str) -> Price:
    median, low, high = (float(row.get(f"{side}_{part}", math.nan)) for part in ("median", "low", "high"))
    censored = bool(row.get(f"{side}_censored", False))
    tried = not math.isnan(low) and (not censored or low > 0)  # a bound of nothing says nothing
    return Price("usd", median, low, high, censored, tried=tried, exceeds=low if censored else math.nan)


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


# What prices would have to be multiplied by


@dataclass(frozen=True)
class Factor:
    """What the undefended price has to be multiplied by for half of the attackers to be priced out.

    Attributes:
        value: at the median prices; NaN where one is not known.
        low: at the upper ends of prices.
        high: at the lower ends of prices, or bounds.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In words that follow "multiplied by": "35 billion (29 – 41 billion)"."""
        if math.isinf(self.low):
            return "more than any number: for half of them the attack is free"
        if math.isnan(self.value):
            return f"{many(self.high)} at most" if math.isfinite(self.high) else NOTHING
        least = f"{many(self.low)} or more"
        if many(self.low) == many(self.value) or math.isinf(self.value):
            return least if math.isinf(self.high) else _between(self.low, self.high)
        return f"{many(self.value)} ({least if math.isinf(self.high) else _between(self.low, self.high)})"


def half_factor(found: Sequence[Payers]) -> Factor | None:
    """What prices out half; ``None`` where some attackers' price was not even tried."""
    if not all(each.undefended.tried for each in found):
        return None
    population = [group for each in found for group in each.groups]
    prices = {each.threat_model: each.undefended for each in found}
    known = not any(price.censored for price in prices.values())
    middle = {name: price.median for name, price in prices.items()}
    value = factor_of_share(middle, population=population) if known else math.nan
    ends = (
        factor_of_share({name: getattr(price, end) for name, price in prices.items()}, population=population) for end in ("high", "low")
    )
    return Factor(value, *ends)


def _between(low: float, high: float) -> str:
    ends = many(low), many(high)
    number, _, unit = ends[0].partition(" ")
    return f"{number} – {ends[1]}" if unit and ends[1].endswith(f" {unit}") else f"{ends[0]} – {ends[1]}" if ends[0] != ends[1] else ends[0]


def many(value: float) -> str:
    """A factor in digits and words: "24", "0.42", "35 billion"."""
    for name, size in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
        if value >= size * 0.995:
            return f"{significant(float(f'{value / size:.1e}'))} {name}"
    return times(value).removesuffix("×")


# Words


def portion(value: float) -> str:
    """A share of attackers; what is nearly all or nearly none does not read as if it were all or none."""
    if 0 < abs(value) < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 < value < 1 else share(value)


def span(low: float, high: float) -> str:
    """Its interval, "22 – 31 %"; nothing where it is no wider than what is shown of it."""
    if math.isnan(low) or math.isnan(high) or portion(low) == portion(high):
        return ""
    return f"{portion(low).removesuffix(' %')} – {portion(high)}"


def at_most(value: float) -> str:
    """What a share does not exceed: "≤ 40 %", "< 0.1 %"; that it is not more than nearly all is not worth saying."""
    return UNKNOWN if value > 0.9995 else f"≤ {portion(value)}".removeprefix("≤ " if value < 0.0005 else "")


def at_least(value: float) -> str:
    """What a share does not fall below: "≥ 40 %"; that it is not less than nearly none is not worth saying."""
    return UNKNOWN if value < 0.0005 else f"≥ {portion(value)}".removeprefix("≥ " if value > 0.9995 else "")


def can_pay(price: Price, groups: Sequence[Group]) -> str:
    """The share of those groups that can pay a price, in a word or two: "63 %", "≤ 40 %", "not known"."""
    if not price.tried:
        return UNKNOWN
    (able,) = share_by_price([price.low if price.censored else price.median], groups)["share"]
    return at_most(able) if price.censored else portion(able)


def allowed(threat_model: str) -> str:
    """Which attacks a threat model leaves: "any attack", "what query-only allows"."""
    return "any attack" if threat_model == ANY else f"what {threat_model} allows"


def described(group: Group) -> str:
    """A group of attackers in words that hold every number of it."""
    budget = f"half of them have less than {dollars(group.budget)}"
    if group.budget_spread > 1:
        ends = [dollars(float(f"{group.budget * group.budget_spread**z:.1e}")) for z in (-1.96, 1.96)]
        budget += f", one in forty less than about {ends[0]} and one in forty more than about {ends[1]}"
    skill = f"the median attacker pays {group.skill:.3g} times the price that was measured until the attack works"
    if group.skill_spread > 1:
        skill += f", one in six more than {group.skill * group.skill_spread:.3g} times"
    return f"{budget}; {skill}; they use {allowed(group.threat_model)}"
