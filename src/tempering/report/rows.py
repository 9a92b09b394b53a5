"""The assessment's price table, read once into plain objects that page, terminal and summary share.

Nothing is computed here; the one thing looked up beside it is what runs that did not break had spent when they ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from tempering.economics.tables import SUMMED
from tempering.report.formatting import CURRENCIES, TITLES, Price

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment

OUTCOMES = ("broken", "held", "destroyed", "no_direction", "failed")
"""What can come of one run, in the order in which tables show it."""

MEANINGS = {
    "broken": "broke the safeguard and kept the model useful",
    "held": "did not break it within the budget",
    "destroyed": "recovered the harm, but only by ruining the model",
    "no_direction": "found no refusal direction that passes selection",
    "failed": "crashed or diverged; counted as a run that did not break",
}
"""Each outcome in words."""

LABELS = {"broken": "broken", "held": "held", "destroyed": "destroyed", "no_direction": "no direction", "failed": "failed"}
"""Each outcome as a reader meets it."""


_GROUP = ("model", "defense", "attack")

SEARCHED = ("flops", "usd")
"""Currencies in which tables show a price with its search."""


@dataclass(frozen=True)
class SearchCost:
    """What finding an attack's settings cost.

    Attributes:
        trials: settings tried, median over runs.
        spent: median of what the searches took, by currency.
        totals: cost to break with the search in it, by currency.
    """

    trials: float
    spent: dict[str, float]
    totals: dict[str, Price]


@dataclass(frozen=True)
class PriceRow:
    """One attack on one model behind one defence.

    Attributes:
        model: reference of the model.
        defense: name of the defence; "none" where there is none.
        attack: name of the attack.
        trials: runs of it, failed ones included.
        outcomes: how many runs ended in each outcome.
        prices: median break and interval by currency.
        best_recovered: greatest share of the harm recovered in any run at kept utility; NaN where unknown.
        utility_kept: share of the target's utility left at the break; NaN where nothing broke.
        few_seeds: too few runs for the interval to mean much.
        search: what finding its settings cost; ``None`` where they were not searched for.
    """

    model: str
    defense: str
    attack: str
    trials: int
    outcomes: dict[str, int]
    prices: dict[str, Price]
    best_recovered: float
    utility_kept: float
    few_seeds: bool
    search: SearchCost | None = None

    @property
    def outcome_lines(self) -> list[str]:
        """The counts that are not zero: "4 of 5 broken", "1 held"."""
        parts = [(LABELS[name], number) for name, number in self.outcomes.items() if number]
        if not parts:
            return ["not run"]
        first = f"{parts[0][1]} of {self.trials} {parts[0][0]}"
        return [first, *(f"{number} {label}" for label, number in parts[1:])]

    def with_search(self, currency: str) -> Price:
        """The price with the search for the settings in it; the price alone where there was none."""
        return self.search.totals[currency] if self.search else self.prices[currency]

    @property
    def outcome_words(self) -> str:
        """The same in one line."""
        return ", ".join(self.outcome_lines)


def price_rows(assessment: Assessment) -> list[PriceRow]:
    """Every row of the price table: the models in its own order, the attacks on each from the cheapest to the dearest."""
    runs = {tuple(map(str, key)): table for key, table in assessment.breaks.groupby(list(_GROUP), sort=False)}
    none = assessment.breaks.iloc[:0]
    records = assessment.prices.to_dict(orient="records")
    rows = [_row(record, runs.get(tuple(str(record[name]) for name in _GROUP), none)) for record in records]
    return [row for members in groups(rows).values() for row in sorted(members, key=_dearness)]


def _dearness(row: PriceRow) -> tuple[bool, float, bool, float, str]:
    """Known prices first and rising, then what held longest last, then what could not be priced at all."""
    price = row.prices["usd"]
    known = not price.censored and math.isfinite(price.median)
    bound = 0.0 if math.isnan(price.bound) else price.bound
    return (not known, price.median if known else 0.0, not price.tried, bound, row.attack)


def spent_in(rows: list[PriceRow], currency: str) -> bool:
    """Whether a table has a column for this currency: queries have one only where some attack's price is not zero in them."""
    if currency != "queries":
        return True
    prices = [row.prices[currency] for row in rows]
    return any(value > 0 and math.isfinite(value) for price in prices for value in (price.median, price.low, price.budget))


def price_columns(rows: list[PriceRow]) -> list[tuple[str, Callable[[PriceRow], Price]]]:
    """The columns of a full price table: for each its title, and which of a row's prices stands there."""

    def alone(currency: str) -> Callable[[PriceRow], Price]:
        return lambda row: row.prices[currency]

    def searched(currency: str) -> Callable[[PriceRow], Price]:
        return lambda row: row.with_search(currency)

    columns = [(TITLES[currency], alone(currency)) for currency in CURRENCIES if spent_in(rows, currency)]
    if any(row.search for row in rows):
        columns += [(f"{TITLES[currency]} with search", searched(currency)) for currency in SEARCHED]
    return columns


def groups(rows: list[PriceRow]) -> dict[tuple[str, str], list[PriceRow]]:
    """Rows by model and defence, in order of first appearance."""
    found: dict[tuple[str, str], list[PriceRow]] = {}
    for row in rows:
        found.setdefault((row.model, row.defense), []).append(row)
    return found


def group_title(model: str, defense: str) -> str:
    """What a model behind a defence is called: "organism:tiny" or "organism:tiny behind tar"."""
    return model if defense in ("", "none") else f"{model} behind {defense}"


def _row(record: dict[Hashable, Any], runs: pd.DataFrame) -> PriceRow:
    least = _least_unbroken(runs, CURRENCIES)
    return PriceRow(
        model=str(record["model"]),
        defense=str(record["defense"]),
        attack=str(record["attack"]),
        trials=int(record["trials"]),
        outcomes={name: int(record[name]) for name in OUTCOMES},
        prices={currency: _price(record, currency, least[currency]) for currency in CURRENCIES},
        best_recovered=number(record["best_recovered"]),
        utility_kept=number(record["utility_kept"]),
        few_seeds=bool(record["few_seeds"]),
        search=_search(record, runs),
    )


def _search(record: dict[Hashable, Any], runs: pd.DataFrame) -> SearchCost | None:
    trials = number(record.get("search_trials", 0))  # runs of before there were searches have no such column
    if not trials:
        return None
    least = _least_unbroken(runs.assign(**{f"{name}_lower": runs[f"{name}_lower"] + runs[f"{name}_search"] for name in SUMMED}), SUMMED)
    return SearchCost(
        trials=trials,
        spent={currency: number(record[f"search_{currency}_median"]) for currency in CURRENCIES},
        totals={currency: _price(record, currency, least[currency], prefix="total_") for currency in SUMMED},
    )


def _price(record: dict[Hashable, Any], currency: str, budget: float, prefix: str = "") -> Price:
    return Price(
        currency=currency,
        median=number(record[f"{prefix}{currency}_median"]),
        low=number(record[f"{prefix}{currency}_low"]),
        high=number(record[f"{prefix}{currency}_high"]),
        censored=bool(record[f"{prefix}{currency}_censored"]),
        budget=budget,
        tried=any(record[name] for name in ("broken", "held", "destroyed")),
        exceeds=number(record.get(f"{prefix}{currency}_exceeds")),  # tables of before had none
    )


def _least_unbroken(runs: pd.DataFrame, currencies: Sequence[str]) -> dict[str, float]:
    """The least spends at which a run ended unbroken; runs that failed early say little, so those that held are asked first."""
    for outcomes in (("held", "destroyed"), ("no_direction", "failed")):
        ended = runs["outcome"].isin(outcomes).to_numpy()
        if ended.any():
            return {currency: number(runs[f"{currency}_lower"].to_numpy()[ended].min()) for currency in currencies}
    return dict.fromkeys(currencies, math.nan)


def number(value: object) -> float:
    """A float, NaN where the table has nothing."""
    return math.nan if value is None or value is pd.NA else float(value)  # type: ignore[arg-type]
