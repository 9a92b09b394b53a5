"""The picture of two resistances: what the cheapest attack of one kind costs against what that of another kind does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from tempering.report.drawing import Canvas
from tempering.report.labels import Box, place_labels
from tempering.report.price_scale import PriceScale
from tempering.report.section_words import shortened
from tempering.report.style import INK, MUTED, SURFACE, Look

PANEL = (3.9, 3.7)
"""Width and height of a panel in inches."""
_FRAME = (0.185, 0.13, 0.795, 0.79)
"""Left, bottom, width and height of its axes, as shares of that; fixed, so that names can be placed before anything is drawn."""
_FONT = 7.5
_REACH = 11.0
"""Points from a mark that held to the tip of its arrow."""


@dataclass(frozen=True)
class Known:
    """Between which two spends one kind of attack broke a model.

    Attributes:
        lower: it had not been broken by then.
        upper: it had been by then; infinite where it held.
    """

    lower: float
    upper: float

    @property
    def held(self) -> bool:
        """Whether it was never seen broken."""
        return math.isinf(self.upper)

    @property
    def shown(self) -> float:
        """Where its mark stands: at the spend that saw it broken, or at the bound."""
        return self.lower if self.held else self.upper


@dataclass(frozen=True)
class Point:
    """One defence in one seed.

    Attributes:
        defense: its title.
        first: against the kind of attack on the horizontal axis.
        second: against the other.
    """

    defense: str
    first: Known
    second: Known


def draw_points(canvas: Canvas, *, points: Sequence[Point], looks: dict[str, Look], axes_of: tuple[str, str]) -> None:
    """One panel.

    Args:
        canvas: to draw on.
        points: what it shows; at least one.
        looks: of the defences, where they are told apart by their marks; of others only the extremes are named.
        axes_of: the two kinds of attack.
    """
    axes = canvas.subplots()
    axes.set_position(_FRAME)
    across = PriceScale.of(value for point in points for value in (point.first.shown, point.first.lower or math.nan))
    up = PriceScale.of(value for point in points for value in (point.second.shown, point.second.lower or math.nan))
    across.dress(axes, "x")
    up.dress(axes, "y")
    axes.set_xlabel(f"{axes_of[0]}: FLOPs to break", fontsize=8.5)
    axes.set_ylabel(f"{axes_of[1]}: FLOPs to break", fontsize=8.5)
    for point in points:
        _mark(axes, point, across, up, looks.get(point.defense))
    if not looks:
        _name(axes, points, across, up)


def _mark(axes: Axes, point: Point, across: PriceScale, up: PriceScale, look: Look | None) -> None:
    x, y = across.place(point.first.shown), up.place(point.second.shown)
    colour, marker = (look.colour, look.marker) if look else (MUTED, "o")
    thin: dict[str, Any] = {"color": colour, "linewidth": 1.1, "alpha": 0.4, "zorder": 2, "solid_capstyle": "butt"}
    if not point.first.held:
        axes.plot([across.place(point.first.lower), x], [y, y], **thin)
    if not point.second.held:
        axes.plot([x, x], [up.place(point.second.lower), y], **thin)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    for held, tip in ((point.first.held, (_REACH, 0)), (point.second.held, (0, _REACH))):
        if held:
            axes.annotate("", (x, y), xytext=tip, textcoords="offset points", arrowprops={**arrow, "arrowstyle": "<|-"}, zorder=3)
    hollow = point.first.held or point.second.held
    face, edge = (SURFACE, colour) if hollow else (colour, SURFACE)
    axes.plot(
        x, y, marker=marker, markersize=6, markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.3 if hollow else 0.8, zorder=4
    )


# Names of the extremes


def extremes(points: Sequence[Point]) -> list[Point]:
    """Those worth a name where many are drawn: dearest to either kind, cheapest to both, and furthest from the common order."""
    first, second = ([_height(known) for known in side] for side in zip(*((point.first, point.second) for point in points), strict=True))
    ranks = [[sum(other < value for other in side) for value in side] for side in (first, second)]
    order = range(len(points))
    wanted = [
        max(order, key=lambda place: (ranks[0][place] + ranks[1][place], -place)),
        max(order, key=lambda place: (ranks[0][place] - ranks[1][place], -place)),
        max(order, key=lambda place: (ranks[1][place] - ranks[0][place], -place)),
        max(order, key=lambda place: (ranks[1][place], ranks[0][place], -place)),
        min(order, key=lambda place: (ranks[0][place] + ranks[1][place], place)),
    ]
    found = {points[place].defense: points[place] for place in reversed(wanted)}
    return list(found.values())


def _height(known: Known) -> tuple[bool, float]:
    return known.held, known.shown


def _name(axes: Axes, points: Sequence[Point], across: PriceScale, up: PriceScale) -> None:
    """The extremes' names, clear of all marks and of each other."""
    size = (PANEL[0] * _FRAME[2] * 72, PANEL[1] * _FRAME[3] * 72)

    def share(value: float, scale: PriceScale) -> float:
        low, high = (math.log(end) for end in scale.limits)
        return (math.log(scale.place(value)) - low) / (high - low)

    def place(point: Point) -> tuple[float, float]:
        return size[0] * share(point.first.shown, across), size[1] * share(point.second.shown, up)

    named = extremes(points)
    names = [shortened(point.defense, 24) for point in named]
    others = [box for point in points for box in _boxes(point, place(point))]
    spots = [place(point) for point in named]
    for point, name, (x, y), label in zip(named, names, spots, place_labels(names, spots, size, size=_FONT, obstacles=others), strict=True):
        lead = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            name,
            (across.place(point.first.shown), up.place(point.second.shown)),
            xytext=(label.x - x, label.y - y),
            textcoords="offset points",
            ha=label.side,
            va="center",
            fontsize=_FONT,
            color=INK,
            arrowprops=lead if label.led else None,
            annotation_clip=False,
            zorder=6,
        )


def _boxes(point: Point, place: tuple[float, float]) -> list[Box]:
    """What a mark and its arrows cover, in points."""
    x, y = place
    found = [(x - 4, y - 4, x + 4, y + 4)]
    found += [(x, y - 3, x + _REACH + 2, y + 3)] if point.first.held else []
    return found + ([(x - 3, y, x + 3, y + _REACH + 2)] if point.second.held else [])
