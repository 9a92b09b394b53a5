"""The picture of who is priced out: the curve from price to share of attackers, and below it every defence's price on the same axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tempering.economics.population import ANY, Group, price_of_share, share_by_price, varied
from tempering.report.axes import log_ticks
from tempering.report.drawing import Canvas, Panel
from tempering.report.formatting import Price, dollars, share
from tempering.report.payers import UNDEFENDED, Payers, allowed, can_pay, many
from tempering.report.section_words import both_ends
from tempering.report.style import ATTACK_COLOURS, INK, MUTED, SURFACE, THRESHOLD

_WIDTH, _CURVE, _ROW, _AXIS = 4.3, 1.75, 0.31, 0.95
"""Inches: width of a panel, height of its curve, of a row and of the axes' labels."""
_DEFENDED = ATTACK_COLOURS[0][0]
_LONGEST = 34
"""Characters of a name that have room beside a price."""
_EDGES = (0.985, 0.015)
"""Shares of attackers at whose prices the curve may leave the picture."""


def payer_panel(payers: Payers, name: str) -> Panel:
    """One threat model's attackers: curve and prices.

    Args:
        payers: who they are and what they would pay.
        name: of the panel.
    """
    words = " ".join(f"{defense}: {price}, {can_pay(price, payers.groups)} can pay." for defense, price in payers.prices.items())
    half = price_of_share(0.5, payers.groups)
    return Panel(
        name=name,
        alt=f"Share of attackers who can pay, against the price in dollars, for {allowed(payers.threat_model)}. "
        f"Half of them can pay {dollars(half)}. {words}",
        size=(_WIDTH, _CURVE + _AXIS + _ROW * len(payers.prices)),
        draw=partial(_draw, payers=payers, half=half),
    )


def _draw(canvas: Canvas, *, payers: Payers, half: float) -> None:
    curve, rows = canvas.subplots(2, 1, sharex=True, height_ratios=(_CURVE, _ROW * len(payers.prices)))
    low, high = _range(payers, half)
    rows.set_xscale("log")
    rows.set_xlim(low, high)
    log_ticks(rows, "usd", low, high)
    _draw_curve(curve, payers, half, np.geomspace(low, high, 300))
    for place, (name, price) in enumerate(payers.prices.items()):
        _draw_row(rows, name, price, can_pay(price, payers.groups), place)
    places = range(len(payers.prices))
    rows.plot([half] * len(places), places, marker="|", markersize=4, markeredgewidth=1.2, color=THRESHOLD, linestyle="none", zorder=2)
    rows.set_ylim(len(payers.prices) - 0.55, -0.85)
    rows.yaxis.set_major_locator(NullLocator())
    rows.spines["left"].set_visible(False)
    rows.set_xlabel("US dollars for a break")


def _range(payers: Payers, half: float) -> tuple[float, float]:
    """From what nearly all can pay to what nearly none can, and every price with its interval between."""
    edges = [price_of_share(edge, payers.groups) for edge in _EDGES]
    ends = [end for price in payers.prices.values() for end in _ends(price)]
    values = [half, *edges, *ends]
    low, high = min(values), max(values)
    return low / max((high / low) ** 0.04, 1.5), high * max((high / low) ** 0.04, 1.5)


def _ends(price: Price) -> list[float]:
    values = (price.bound,) if price.censored else (price.median, price.low, price.high)
    return [value for value in values if math.isfinite(value) and value > 0]


# The curve


def _draw_curve(axes: Axes, payers: Payers, half: float, prices: Any) -> None:
    others = varied(payers.groups)
    poorer, richer = (_shares(prices, groups) for name, groups in others.items() if name.endswith(("poorer", "richer")))
    axes.fill_between(prices, poorer, richer, color=MUTED, alpha=0.14, linewidth=0)
    axes.plot(prices, _shares(prices, payers.groups), color=INK, linewidth=1.8, zorder=3)
    axes.axvline(half, color=THRESHOLD, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for name, price in reversed(payers.prices.items()):
        if not price.censored and price.tried:
            _dot(axes, max(price.median, axes.get_xlim()[0]), _shares([price.median], payers.groups)[0], name)
    _half_label(axes, payers.undefended, half)
    axes.set_ylim(0, 1.06)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: share(value)))
    axes.tick_params(labelbottom=True)
    axes.set_title("Attackers who can pay" if payers.threat_model == ANY else f"Who can pay {allowed(payers.threat_model)}")


def _shares(prices: Any, groups: Sequence[Group]) -> Any:
    return share_by_price(list(prices), groups)["share"].to_numpy()


def _half_label(axes: Axes, undefended: Price, half: float) -> None:
    """The price that half can pay, and how far the undefended price lies from it."""
    left, right = axes.get_xlim()
    to_the_left = math.log(half / left) > math.log(right / half)
    known = undefended.tried and not undefended.censored and undefended.median > 0
    words = f"half can pay {dollars(half)}"
    if known:
        arrow = {"arrowstyle": "-|>", "color": THRESHOLD, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 2}
        axes.annotate("", (half, 0.5), (undefended.median, 0.5), arrowprops=arrow, zorder=4)
        words += f",\n{many(half / undefended.median)} times the undefended price"
    axes.annotate(
        words,
        (half, 0.5),
        xytext=(-8, -6) if to_the_left else (8, 6),  # the curve falls: below it on its left, above it on its right
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        va="top" if to_the_left else "bottom",
        fontsize=8,
        color=INK,
        linespacing=1.35,
        zorder=6,
    )


def _dot(axes: Axes, x: float, y: float, name: str) -> None:
    shape: dict[str, Any] = (
        {"marker": "D", "markersize": 6.5, "color": INK} if name == UNDEFENDED else {"marker": "o", "markersize": 6, "color": _DEFENDED}
    )
    axes.plot(x, y, markeredgecolor=SURFACE, markeredgewidth=0.9, linestyle="none", zorder=5, **shape)


# The prices


def _draw_row(axes: Axes, name: str, price: Price, able: str, place: int) -> None:
    colour = INK if name == UNDEFENDED else _DEFENDED
    note: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "fontsize": 8, "color": INK, "annotation_clip": False}
    axes.annotate(both_ends(name, _LONGEST), (0, place), xycoords=("axes fraction", "data"), xytext=(0, 3), **note)
    words = f"{price.middle}: {able}" if price.tried else able
    axes.annotate(words, (1, place), xycoords=("axes fraction", "data"), xytext=(0, 3), ha="right", **note)
    axes.axhline(place, color=MUTED, linewidth=0.4, alpha=0.45, zorder=0.5)
    left, right = axes.get_xlim()
    if not price.tried:
        return
    if price.censored:
        _arrow(axes, price.bound, right, place, colour)
        axes.plot(price.bound, place, marker="|", markersize=8, markeredgewidth=2, color=colour, zorder=4)
        return
    start = max(price.low, left)  # an interval that begins at nothing begins at the edge of a log axis
    if math.isinf(price.high):
        _arrow(axes, start, right, place, colour)
    else:
        axes.plot([start, max(price.high, left)], [place, place], linewidth=4, alpha=0.4, solid_capstyle="butt", color=colour, zorder=3)
    _dot(axes, max(price.median, left), place, name)


def _arrow(axes: Axes, start: float, end: float, place: float, colour: str) -> None:
    axes.annotate("", (end, place), (start, place), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0})
