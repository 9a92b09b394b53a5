"""The comparison of prices: one row an attack, its median break and interval on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from tempering.report.axes import log_ticks
from tempering.report.drawing import Canvas, Drawing, Panel
from tempering.report.formatting import Price
from tempering.report.rows import PriceRow, group_title, groups
from tempering.report.section_words import both_ends
from tempering.report.style import INK, MUTED, SURFACE, Look

AMOUNTS = {"usd": "Dollars", "flops": "FLOPs", "steps": "Optimizer steps", "examples": "Distinct examples", "queries": "Prompts sent"}
"""What the comparison of prices counts, as a sentence begins with it."""
_LONGEST = 42
"""Characters of a name that have room beside a price; what is wider than the panel would leave its axes no width at all."""
_LONGEST_ALONE = 58
"""Likewise of a name that has its line to itself."""


def draw_prices(rows: list[PriceRow], look: dict[str, Look], suffix: str = "", currencies: Sequence[str] = ("usd",)) -> Drawing:
    """The comparison of prices in dollars; the page has it in other currencies too."""
    several = len(groups(rows)) > 1
    height = 0.85 + 0.46 * len(rows) + (0.32 * len(groups(rows)) if several else 0)
    panels = tuple(
        Panel(
            name=f"prices{suffix}-{currency}",
            alt=f"{AMOUNTS[currency]} at the median break with 95 % interval, one row an attack, on a logarithmic axis. "
            + ". ".join(
                f"{group_title(row.model, row.defense) + ', ' if several else ''}{row.attack}: {row.prices[currency]}" for row in rows
            )
            + ".",
            size=(4.3, max(height, 1.5)),
            draw=partial(_draw_prices, rows=rows, look=look, several=several, currency=currency),
            currency=currency,
            extra=currency != currencies[0],
        )
        for currency in currencies
    )
    sentence = (
        "Dollars at the median break: the dot is the median, the bar its 95 % interval, and an arrow says that it lies beyond the budget."
    )
    return Drawing("prices", "What each attack costs", sentence, panels, {})


def has_price(rows: list[PriceRow], currency: str) -> bool:
    """Whether some attack's price in this currency has a place on a logarithmic axis."""
    return any(math.isfinite(value) and value > 0 for row in rows for value in _ends(row, currency))


def _draw_prices(canvas: Canvas, *, rows: list[PriceRow], look: dict[str, Look], several: bool, currency: str) -> None:
    axes = canvas.subplots()
    known = [value for row in rows for value in _ends(row, currency) if math.isfinite(value) and value > 0]
    low, high = (min(known), max(known)) if known else (1e-3, 1.0)
    reach = max((high / low) ** 0.15, 1.8)
    axes.set_xscale("log")
    axes.set_xlim(low / reach, high * reach**1.6)
    position, last_group = 0.0, None
    for row in rows:
        group = (row.model, row.defense)
        if several and group != last_group:
            axes.annotate(
                both_ends(group_title(*group), _LONGEST_ALONE),
                (0, position),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                fontsize=8.5,
                fontweight="bold",
            )
            position, last_group = position + 0.75, group
        _draw_price(axes, row, row.prices[currency], position, look[row.attack], right=high * reach**1.3)
        position += 1.1
    axes.set_ylim(position - 0.35, -0.75)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{'US dollars' if currency == 'usd' else AMOUNTS[currency]} at the median break")
    log_ticks(axes, currency, low, high)


def _ends(row: PriceRow, currency: str) -> tuple[float, ...]:
    price = row.prices[currency]
    return (price.bound, price.low) if price.censored else (price.median, price.low, price.high)


def _draw_price(axes: Axes, row: PriceRow, price: Price, position: float, look: Look, right: float) -> None:
    axes.annotate(
        both_ends(row.attack, _LONGEST),
        (0, position),
        xycoords=("axes fraction", "data"),
        xytext=(0, 7),
        textcoords="offset points",
        color=INK,
        fontsize=8.5,
        va="bottom",
    )
    axes.annotate(
        price.middle,
        (1, position),
        xycoords=("axes fraction", "data"),
        xytext=(0, 7),
        textcoords="offset points",
        va="bottom",
        ha="right",
        color=INK,
        fontsize=8.5,
    )
    axes.axhline(position, color=MUTED, linewidth=0.4, alpha=0.45, zorder=0.5)
    style: dict[str, Any] = {"color": look.colour, "zorder": 3}
    if price.censored:
        if price.tried and math.isfinite(price.bound):
            if price.has_interval:
                start = max(price.low, axes.get_xlim()[0])
                axes.plot([start, price.bound], [position, position], linewidth=4.5, alpha=0.45, solid_capstyle="butt", **style)
            _arrow(axes, price.bound, right, position, look)
        return
    if not math.isfinite(price.median) or price.median <= 0:
        return
    if math.isfinite(price.low):
        start = max(price.low, axes.get_xlim()[0])  # an interval that begins at nothing begins at the edge of a log axis
        if math.isinf(price.high):
            _arrow(axes, start, right, position, look)
        elif math.isfinite(price.high):
            axes.plot([start, price.high], [position, position], linewidth=4.5, alpha=0.45, solid_capstyle="round", **style)
    axes.plot(price.median, position, marker=look.marker, markersize=7.5, markeredgecolor=SURFACE, markeredgewidth=1, **style)


def _arrow(axes: Axes, start: float, end: float, position: float, look: Look) -> None:
    """From a bound to the right edge: it lies somewhere beyond."""
    axes.annotate(
        "", (end, position), (start, position), arrowprops={"arrowstyle": "-|>", "color": look.colour, "linewidth": 2, "shrinkA": 0}
    )
    axes.plot(start, position, marker="|", markersize=9, markeredgewidth=2, color=look.colour, zorder=3)
