"""The price of a break over the size of the model: what was measured, the line through it, and where it would go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from tempering.report.drawing import Canvas
from tempering.report.formatting import tokens
from tempering.report.price_scale import PriceScale
from tempering.report.section_words import shortened
from tempering.report.style import ATTACK_COLOURS, INK, MUTED, SURFACE

PANEL = (3.9, 3.1)
"""Width and height of a panel in inches."""
_COLOUR = ATTACK_COLOURS[0][0]
_BEYOND = ATTACK_COLOURS[1][0]
_DECADES = 3.0
"""How far beyond prices and line a band is drawn; it may go on for ever."""


@dataclass(frozen=True)
class Measured:
    """The median price of one model.

    Attributes:
        model: its reference.
        parameters: of it.
        lower: the median lies above.
        upper: and not above; infinite where it is beyond the budget.
        seeds: runs it is the median of.
    """

    model: str
    parameters: float
    lower: float
    upper: float
    seeds: int

    @property
    def held(self) -> bool:
        """Whether less than half of the seeds broke."""
        return math.isinf(self.upper)


@dataclass(frozen=True)
class Foretold:
    """What the line says of one size.

    Attributes:
        parameters: of such a model.
        price: that the line says.
        low: lower end of the 95 % prediction interval.
        high: upper end.
        extrapolated: no model of this size was measured.
        decades: beyond those that were.
    """

    parameters: float
    price: float
    low: float
    high: float
    extrapolated: bool
    decades: float


@dataclass(frozen=True)
class Ladder:
    """Models of several sizes behind one defence, and the line through their prices.

    Attributes:
        title: over the panel.
        models: by size.
        curve: by size; without prices where there is no line.
        reason: why there is none; "" where there is one.
    """

    title: str
    models: tuple[Measured, ...]
    curve: tuple[Foretold, ...]
    reason: str = ""


def sized(parameters: float) -> str:
    """A size as models are named: "7B", "1.2M"."""
    return tokens(parameters).replace(".0", "")


def draw_ladder(canvas: Canvas, *, ladder: Ladder, ladders: Sequence[Ladder]) -> None:
    """One panel.

    Args:
        canvas: to draw on.
        ladder: what it shows.
        ladders: all that stand beside it, whose axes it shares.
    """
    axes = canvas.subplots()
    sizes, prices = _scales(ladders)
    sizes.dress(axes, "x", sized)
    prices.dress(axes, "y")
    axes.set_title(shortened(ladder.title, 40), fontsize=9)
    axes.set_xlabel("parameters of the model")
    axes.set_ylabel("FLOPs at the median break")
    if ladder.reason:
        axes.annotate(ladder.reason, (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=8, color=MUTED, annotation_clip=False)
    else:
        _draw_line(axes, ladder, prices)
    for model in ladder.models:
        _draw_model(axes, model, prices)


def _scales(ladders: Sequence[Ladder]) -> tuple[PriceScale, PriceScale]:
    """Of sizes and of prices; the ends of bands count only so far."""
    sizes = PriceScale.of(
        [place.parameters for ladder in ladders for place in ladder.curve]
        + [model.parameters for ladder in ladders for model in ladder.models]
    )
    ends = [end for ladder in ladders for model in ladder.models for end in (model.upper, model.lower or math.nan)]
    ends += [foretold.price for ladder in ladders for foretold in ladder.curve]
    whole = PriceScale.of(ends)
    bands = [
        end for ladder in ladders for foretold in ladder.curve for end in (foretold.low, foretold.high) if not math.isnan(foretold.price)
    ]
    floor, roof = whole.low / 10**_DECADES, whole.high * 10**_DECADES
    return sizes, PriceScale.of([*ends, *(min(max(end, floor), roof) for end in bands if not math.isnan(end))])


def _draw_model(axes: Axes, model: Measured, prices: PriceScale) -> None:
    x, top = model.parameters, prices.place(model.lower if model.held else model.upper)
    if model.held:
        axes.annotate(
            "",
            (x, top),
            xytext=(0, 14),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<|-", "color": INK, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8},
        )
    else:
        axes.plot([x, x], [prices.place(model.lower) if model.lower > 0 else axes.get_ylim()[0], top], color=INK, linewidth=1.4, alpha=0.55)
    face = SURFACE if model.held else INK
    axes.plot(x, top, marker="o", markersize=5.5, markerfacecolor=face, markeredgecolor=INK if model.held else SURFACE, zorder=5)


def _draw_line(axes: Axes, ladder: Ladder, prices: PriceScale) -> None:
    """Line and band, the part without models dashed and in another colour."""
    inside = [place for place in ladder.curve if not place.extrapolated]
    above = [place for place in ladder.curve if place.parameters >= inside[-1].parameters] if inside else []
    below = [place for place in ladder.curve if place.parameters <= inside[0].parameters] if inside else []
    for part, dashed in ((inside, False), (above, True), (below, True)):
        if len(part) > 1:
            _draw_part(axes, part, prices, dashed)
    for place in ladder.curve:
        if place.extrapolated:
            _draw_asked(axes, place, prices)
    beyond = [part for part in (above, below) if len(part) > 1]
    for part in beyond:
        edge = part[0].parameters if part is above else part[-1].parameters
        axes.axvline(edge, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        right = part is above
        axes.annotate(
            "extrapolated →" if right else "← extrapolated",
            (edge, 0.015),
            xycoords=("data", "axes fraction"),
            xytext=(4 if right else -4, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom",
            fontsize=8,
            color=INK,
        )


def _draw_part(axes: Axes, part: Sequence[Foretold], prices: PriceScale, dashed: bool) -> None:
    """Between the sizes that are told the band is drawn straight, which is wider than the curve it stands for."""
    x = np.array([place.parameters for place in part])
    low, middle, high = (
        np.array([prices.place(value) for value in side]) for side in zip(*((p.low, p.price, p.high) for p in part), strict=True)
    )
    colour = _BEYOND if dashed else _COLOUR
    axes.fill_between(x, low, high, color=colour, alpha=0.13 if dashed else 0.2, linewidth=0, zorder=1.5)
    axes.plot(x, middle, color=colour, linewidth=1.6, linestyle=(0, (4, 3)) if dashed else "-", zorder=3)


def _draw_asked(axes: Axes, place: Foretold, prices: PriceScale) -> None:
    low, middle, high = (prices.place(value) for value in (place.low, place.price, place.high))
    axes.plot([place.parameters] * 2, [low, high], color=_BEYOND, linewidth=1.6, zorder=3.5)
    axes.plot(
        place.parameters,
        middle,
        marker="D",
        markersize=5.5,
        markerfacecolor=SURFACE,
        markeredgecolor=_BEYOND,
        markeredgewidth=1.4,
        zorder=5,
    )
    axes.annotate(
        sized(place.parameters),
        (place.parameters, middle),
        xytext=(-6, 6),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=INK,
        zorder=6,
    )
