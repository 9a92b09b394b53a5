"""What the page says at one threshold: headline, tiles and tables.

The study's own threshold is what the page shows. What it would say at others lies beside it in inert ``<template>`` elements, made by the
same macros and escaped by the same engine; the script only puts one in the place of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.economics import thresholds
from tempering.report.defense_page import comparison_context, comparison_tiles, in_order, title_in_comparison
from tempering.report.formatting import Price, count, share
from tempering.report.rows import LABELS, MEANINGS, OUTCOMES, PriceRow, group_title, groups, price_rows, spent_in
from tempering.report.terminal import cheapest_row, sentence

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment
    from tempering.study import Study

CHOICES = {
    "flops": "FLOPs",
    "usd": "Dollars",
    "examples": "Examples",
    "steps": "Steps",
    "gpu_hours": "GPU time",
    "queries": "Queries",
}
"""Currencies that a reader may choose, with what the switch calls them."""

_DOTS = 24
"""Up to so many runs are drawn as dots beside their counts."""


Columns = Sequence[tuple[str, Callable[[PriceRow], Price]]]
"""The price columns of a page: their titles, and which price of a row stands there."""


@dataclass(frozen=True)
class Tile:
    """One of the numbers under the headline."""

    label: str
    value: str
    note: str
    interval: str = ""


def views(
    study: Study, assessment: Assessment, others: Mapping[float, Assessment], look: Mapping[str, Any], columns: Columns
) -> list[dict[str, Any]]:
    """What the page says at every threshold, the study's own first.

    Args:
        study: the resolved study.
        assessment: at its own threshold.
        others: at others.
        look: of every attack.
        columns: the same for every threshold, so that only cells change.
    """
    keys = [key for key, _ in in_order(assessment, groups(price_rows(assessment)))]
    own = study.threshold.tau
    return [_view(study, at, tau, keys, look, columns) for tau, at in ((own, assessment), *sorted(others.items()))]


def _view(
    study: Study, assessment: Assessment, tau: float, keys: Sequence[tuple[str, str]], look: Mapping[str, Any], columns: Columns
) -> dict[str, Any]:
    rows = price_rows(assessment)
    own = groups(rows)
    comparison = comparison_context(assessment)
    return {
        "tau": f"{tau:g}",
        "bar": f"{100 * tau:g}",
        "sentence": sentence(assessment),
        "tiles": _comparison_tiles(assessment, rows, study) if comparison else _tiles(rows, study, tau),
        "comparison": comparison,
        "meanings": [(name, LABELS[name], MEANINGS[name]) for name in OUTCOMES if any(row.outcomes[name] for row in rows)],
        "groups": [
            {
                "title": title_in_comparison(*key) if comparison else group_title(*key),
                "gist": _gist(own.get(key, [])),
                "rows": [_price_line(row, look, columns) for row in own.get(key, [])],
            }
            for key in keys
        ],
    }


def choices(rows: list[PriceRow]) -> list[tuple[str, str]]:
    """The currencies that a reader of these prices may choose, by name and title."""
    return [(name, title) for name, title in CHOICES.items() if spent_in(rows, name)]


def left_out(runs: int) -> str:
    """Why a page has few or no other thresholds, or nothing where it has all of them."""
    if thresholds.grid(runs) == thresholds.GRID:
        return ""
    instead = "temper report --tau writes this page anew for any threshold."
    if thresholds.grid(runs):
        return f"With {runs:,} runs, this page has the prices at a few other thresholds only; {instead}"
    return f"With {runs:,} runs, the prices at other thresholds are not in this page; {instead}"


def _tiles(rows: list[PriceRow], study: Study, tau: float) -> list[Tile]:
    best = cheapest_row(rows)
    runs = sum(row.trials for row in rows)
    where = f" on {group_title(best.model, best.defense)}" if best and len(groups(rows)) > 1 else ""
    attacks = len({row.attack for row in rows})
    scope = Tile(
        "Tried", f"{runs} {'run' if runs == 1 else 'runs'}", f"{_plural(attacks, 'attack')}, {_plural(len(study.seeds), 'seed')} each"
    )
    if best is None:
        most = max((row.best_recovered for row in rows if math.isfinite(row.best_recovered)), default=math.nan)
        return [
            Tile("Cheapest break", "none", "within the budget"),
            Tile("Most harm recovered", share(most), f"of the withheld harm; τ is {share(tau)}"),
            scope,
        ]
    tiles = [Tile("Cheapest break", best.prices["usd"].middle, f"by {best.attack}{where}{_for_a_cent(best.prices['usd'].median)}")]
    for currency, label in (("examples", "Examples"), ("flops", "Compute"), ("gpu_hours", f"Time on one {study.accelerator}")):
        price = best.prices[currency]
        tiles.append(Tile(label, price.middle, "95 % interval" if price.interval else "", price.interval))
    return [*tiles, scope]


def _comparison_tiles(assessment: Assessment, rows: list[PriceRow], study: Study) -> list[Tile]:
    """The defence that raises the price most, and what the undefended model costs."""
    scope = _tiles(rows, study, study.threshold.tau)[-1]
    return [
        *(Tile(**tile) for tile in comparison_tiles(assessment)),
        Tile(scope.label, scope.value, f"{_plural(len(study.defenses), 'defence')}, {scope.note}"),
    ]


def _gist(rows: list[PriceRow]) -> str:
    """The cheapest break of a group in a few words."""
    best = cheapest_row(rows)
    if best is None:
        return "nothing broke it in half of the runs"
    return f"{best.prices['usd'].middle} by {best.attack}, {best.prices['flops'].middle}"


def _for_a_cent(price: float) -> str:
    """Small prices the other way round, since nobody counts zeros: "; a cent pays for about 97,000"."""
    return f"; one cent pays for about {count(float(f'{0.01 / price:.1e}'))}" if 0 < price < 1e-3 else ""


def _price_line(row: PriceRow, look: Mapping[str, Any], columns: Sequence[tuple[str, Callable[[PriceRow], Price]]]) -> dict[str, Any]:
    prices = [(title, read(row)) for title, read in columns]
    return {
        "attack": row.attack,
        "look": look[row.attack],
        "trials": row.trials,
        "lines": row.outcome_lines,
        "broken": row.outcomes["broken"] / row.trials if row.trials else math.nan,
        "dots": [name for name in OUTCOMES for _ in range(row.outcomes[name])] if row.trials <= _DOTS else [],
        "prices": [
            {"title": title, "currency": price.currency, "middle": price.middle, "interval": price.interval, "rank": price.rank}
            for title, price in prices
        ],
        "utility": share(row.utility_kept),
        "kept": row.utility_kept,
        "few": row.few_seeds,
    }


def _plural(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"
