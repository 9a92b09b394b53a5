"""The pictures of the defender's frontier: what each defence multiplies the price by, against each thing that it takes.

Up and to the left is better in all of them. Defences on the frontier are blue dots with their names; a dominated one is a small grey cross.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from tempering.report.axes import Spread
from tempering.report.defense_figures import DEARER, finite_ends, multiplier_axis
from tempering.report.drawing import Canvas, Panel
from tempering.report.formatting import share
from tempering.report.frontier_rows import FrontierRow, Taken, Tax
from tempering.report.labels import Box, place_free_labels
from tempering.report.style import INK, MUTED, SURFACE

_FEW_DOMINATED = 4
"""Up to so many dominated defences are named in the large drawing too."""
_LONGEST = 26
"""Characters of a name beside its dot; the rest is in the table."""
_NEAR = 30.0
"""Points from a mark to a name that is still easily found; in a small panel only the corners' names go further."""
_LEAST_SHARE = 0.02
"""So wide is an axis of shares at least, lest noise look like a tax."""
_ROOM = 1.6
"""Factor of room above the highest multiplier, where arrows end."""


@dataclass(frozen=True)
class _Size:
    """How large a panel is, and what fits.

    Attributes:
        inches: width and height.
        frame: left, bottom, width and height of the axes as shares of that; fixed, so that names can be placed before anything is drawn.
        font: of names, in points.
        dot: of a defence on the frontier, in points.
    """

    inches: tuple[float, float]
    frame: tuple[float, float, float, float]
    font: float
    dot: float


_LARGE = _Size((4.5, 4.1), (0.165, 0.125, 0.825, 0.855), 8.5, 7.5)
_SMALL = _Size((3.7, 3.1), (0.205, 0.16, 0.785, 0.82), 8.0, 6.5)


@dataclass(frozen=True)
class _Mark:
    """Where a defence lies in one panel, or the model without one.

    Attributes:
        x: how much of the tax it takes.
        y: its multiplier.
        up: from where to where its interval or arrow goes up.
        across: likewise across.
        name: what is written beside it.
        colour: of the line that leads to the name.
        corner: whether it is a corner of the stairs; these choose the places of their names first.
        named: whether it has a name.
    """

    x: float
    y: float
    up: tuple[float, float]
    across: tuple[float, float]
    name: str
    colour: str
    corner: bool
    named: bool


def tax_panel(rows: Sequence[FrontierRow], tax: Tax, name: str, *, large: bool = False) -> Panel:
    """Multiplier against one tax, one mark a defence.

    Args:
        rows: of one model, each with a multiplier that can be drawn.
        tax: that was measured for some of them.
        name: of the panel, unique in the page.
        large: with every interval, and with the names of dominated defences where they are few.
    """
    shown = [row for row in rows if row.taken[tax.key].told]
    words = " ".join(
        f"{row.defense}: {row.multiplier} at {row.taken[tax.key]}, {'dominated' if row.dominated else 'on the frontier'}." for row in shown
    )
    return Panel(
        name=name,
        alt=f"Multiplier of the best attacker's price against {tax.axis}, one mark a defence. {words}",
        size=(_LARGE if large else _SMALL).inches,
        draw=partial(_draw, rows=shown, tax=tax, large=large),
    )


def corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that none to the left, or level with them, tops, from left to right: the most that so much of the tax buys."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def _draw(canvas: Canvas, *, rows: Sequence[FrontierRow], tax: Tax, large: bool) -> None:
    axes, size = canvas.subplots(), _LARGE if large else _SMALL
    axes.set_position(size.frame)
    multiplier_axis(axes, "y", [1.0, *(value for row in rows for value in finite_ends(row.multiplier))], room=_ROOM)
    origin = _tax_axis(axes, tax, [row.taken[tax.key] for row in rows])
    axes.set_ylabel("times the undefended price")
    axes.set_xlabel(tax.axis)
    axes.axhline(1, color=MUTED, linewidth=1, zorder=1)
    exact = [row for row in rows if not row.dominated and not row.taken[tax.key].bound]
    stairs = corners([(origin, 1.0), *((_x(row.taken[tax.key], origin), row.multiplier.value) for row in exact)])
    axes.step(*zip(*stairs, strict=True), where="post", color=DEARER, linewidth=1.5, linestyle=(0, (0.8, 1.6)), zorder=2.5)
    for row in reversed(rows):  # the best last, and so on top
        _draw_defense(axes, row, row.taken[tax.key], _x(row.taken[tax.key], origin), size, bars=large or not row.dominated)
    axes.plot(origin, 1, marker="D", markersize=size.dot - 1, color=INK, markeredgecolor=SURFACE, markeredgewidth=0.9, zorder=5)
    few = large and sum(row.dominated for row in rows) <= _FEW_DOMINATED
    marks = [_Mark(origin, 1.0, (1.0, 1.0), axes.get_xlim(), "undefended", INK, corner=True, named=True)]
    marks += [_mark(axes, row, row.taken[tax.key], _x(row.taken[tax.key], origin), stairs, named=few or not row.dominated) for row in rows]
    _write_names(axes, marks, stairs, size, far=large)


def _x(taken: Taken, origin: float) -> float:
    """Where it lies; nothing at all has a place of its own on a logarithmic axis."""
    return taken.value if taken.value != 0 else origin


def _tax_axis(axes: Axes, tax: Tax, taken: Sequence[Taken]) -> float:
    """Scale, limits and ticks of the axis of one tax; returns where nothing of it lies."""
    values = [value for each in taken for value in (each.value, each.low, each.high) if math.isfinite(value)]
    if tax.ratio:
        multiplier_axis(axes, "x", [1.0, *(value for value in values if value > 0)], room=2.2)
        return 1.0
    if not tax.share:
        spread = Spread(pd.Series([0.0, *values]))
        spread.dress(axes, "flops")
        axes.set_xlim(axes.get_xlim()[0], axes.get_xlim()[1] * (spread.high / spread.zero) ** 0.2)  # names go to the right
        return float(spread.zero)
    low, high = min(0.0, *values), max(_LEAST_SHARE, *values)
    span = high - low
    axes.set_xlim(low - 0.05 * span, high + 0.25 * span)
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low - 0.05 * span <= tick <= high + 0.05 * span]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: share(value).replace("-", "−")))
    return 0.0


def _draw_defense(axes: Axes, row: FrontierRow, taken: Taken, x: float, size: _Size, *, bars: bool) -> None:
    """A dot with its intervals or, where it is dominated, a cross; an arrow where only a bound is known."""
    y, top, right = row.multiplier.value, axes.get_ylim()[1], axes.get_xlim()[1]
    colour = MUTED if row.dominated else DEARER
    line: dict[str, Any] = {"color": colour, "linewidth": 1.2, "alpha": 0.3 if row.dominated else 0.55, "zorder": 2}
    if bars and not row.multiplier.bound:
        axes.plot([x, x], _within(row.multiplier.low, row.multiplier.high, y, axes.get_ylim()[0]), **line)
    if bars and not taken.bound:
        axes.plot(_within(taken.low, taken.high, x, axes.get_xlim()[0]), [y, y], **line)
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.0 if row.dominated else 1.4, "shrinkA": 0, "mutation_scale": 9}
    if row.multiplier.bound or math.isinf(row.multiplier.high):
        axes.annotate("", (x, min(y * _ROOM, top)), (x, y), arrowprops=arrow, zorder=3)
    if taken.bound or math.isinf(taken.high):
        axes.annotate("", (right, y), (x, y), arrowprops=arrow, zorder=3)
    if row.dominated:
        axes.plot(x, y, marker="x", markersize=size.dot * 0.6, color=MUTED, markeredgewidth=1.1, zorder=3.5)
    else:
        axes.plot(x, y, marker="o", markersize=size.dot, color=DEARER, markeredgecolor=SURFACE, markeredgewidth=0.9, zorder=4)


def _within(low: float, high: float, value: float, edge: float) -> list[float]:
    """Both ends of a bar that stays on the axis; where an end is missing or infinite it stops at the value."""
    return [max(low, edge) if math.isfinite(low) else value, high if math.isfinite(high) else value]


# Names


def _mark(axes: Axes, row: FrontierRow, taken: Taken, x: float, stairs: Sequence[tuple[float, float]], *, named: bool) -> _Mark:
    y, ratio = row.multiplier.value, row.multiplier
    up = [y, y] if ratio.bound else _within(ratio.low, ratio.high, y, axes.get_ylim()[0])
    across = [x, x] if taken.bound else _within(taken.low, taken.high, x, axes.get_xlim()[0])
    return _Mark(
        x,
        y,
        (up[0], up[1] if math.isfinite(ratio.high) else y * _ROOM),
        (across[0], axes.get_xlim()[1] if taken.bound or math.isinf(taken.high) else across[1]),
        _short(row.defense),
        MUTED if row.dominated else DEARER,
        corner=(x, y) in stairs,
        named=named,
    )


def _short(name: str) -> str:
    """A name on one line, its end left out where it is long."""
    plain = " ".join(name.split())
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"


def _write_names(axes: Axes, marks: Sequence[_Mark], stairs: Sequence[tuple[float, float]], size: _Size, *, far: bool) -> None:
    """Names beside their marks, clear of marks, bars, stairs and each other; one that finds no free place is left to the table.

    Args:
        axes: with their limits set.
        marks: with and without a name.
        stairs: their corners.
        size: of the panel.
        far: whether a name that is no corner's may stand further away than :data:`_NEAR`.
    """
    scale = 72 / axes.figure.dpi

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return (across - axes.bbox.x0) * scale, (up - axes.bbox.y0) * scale

    def box(left: float, bottom: float, right: float, top: float, half: float) -> Box:
        (x, y), (to_x, to_y) = place(left, bottom), place(right, top)
        return x - half, y - half, to_x + half, to_y + half

    named = sorted((mark for mark in marks if mark.named), key=lambda mark: not mark.corner)
    spots = [place(mark.x, mark.y) for mark in named]
    obstacles = [box(mark.x, mark.up[0], mark.x, mark.up[1], 2.5) for mark in marks]
    obstacles += [box(mark.across[0], mark.y, mark.across[1], mark.y, 1.2) for mark in marks]
    for (x, y), (to_x, to_y) in itertools.pairwise(stairs):
        obstacles += [box(x, y, to_x, y, 1.2), box(to_x, y, to_x, to_y, 1.2)]
    room = (axes.bbox.width * scale, axes.bbox.height * scale)
    found = place_free_labels([mark.name for mark in named], spots, room, size=size.font, obstacles=obstacles)
    for mark, (across, up), label in zip(named, spots, found, strict=True):
        if label is None or (math.hypot(label.x - across, label.y - up) > _NEAR and not (far or mark.corner)):
            continue
        lead = {"arrowstyle": "-", "color": mark.colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            mark.name,
            (mark.x, mark.y),
            xytext=(label.x - across, label.y - up),
            textcoords="offset points",
            ha=label.side,
            va="center",
            fontsize=size.font,
            color=INK if mark.colour != MUTED else MUTED,
            arrowprops=lead if label.led else None,
            annotation_clip=False,
            zorder=6,
        )
