"""Which defences differ from each other: a square of ratios, marked where chance does not explain them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tempering.report.drawing import Canvas
from tempering.report.formatting import NOTHING, times
from tempering.report.section_words import CHANCE, shortened, titled
from tempering.report.style import ATTACK_COLOURS, GRID, INK, MUTED, SURFACE, THRESHOLD

MOST_WITH_NUMBERS = 6
"""Up to so many sides, a cell has its number and interval in it."""
_DEARER, _CHEAPER = ATTACK_COLOURS[0][0], THRESHOLD
_FULL = 2.0
"""Decades at which a cell has its full colour."""
_STRONGEST, _FAINTEST = 0.72, 0.05
_LEAST_WIDTH = 4.2
"""Inches that the key needs."""


@dataclass(frozen=True)
class Difference:
    """How many times dearer one side is than another.

    Attributes:
        ratio: of their restricted geometric means; NaN where there is none.
        low: low end of its 95 % interval.
        high: high end.
        p_value: of the log-rank test.
    """

    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan

    @property
    def sure(self) -> bool:
        """Whether chance explains it in no more than one of twenty cases."""
        return self.p_value <= CHANCE

    @property
    def turned(self) -> Difference:
        """The same seen from the other side."""
        return Difference(_inverse(self.ratio), _inverse(self.high), _inverse(self.low), self.p_value)

    @property
    def interval(self) -> str:
        """Its interval: "6.1 – 12×", or nothing."""
        if math.isnan(self.low) or math.isnan(self.high):
            return ""
        return f"{times(self.low).removesuffix('×')} – {times(self.high)}" if math.isfinite(self.high) else f"from {times(self.low)}"


def _inverse(value: float) -> float:
    return math.inf if value == 0 else 1 / value


Differences = Mapping[tuple[str, str], Difference]
"""Of the first side to the second."""


def size(sides: Sequence[str]) -> tuple[float, float]:
    """Width and height of the square with its names, in inches."""
    cell = _cell(sides)
    return max(_room(sides) + cell[0] * len(sides) + 0.1, _LEAST_WIDTH), 0.3 + cell[1] * len(sides) + 0.55


def _cell(sides: Sequence[str]) -> tuple[float, float]:
    return (0.62, 0.5) if len(sides) <= MOST_WITH_NUMBERS else (max(0.165, 3.1 / len(sides)), max(0.19, 2.6 / len(sides)))


def _room(sides: Sequence[str]) -> float:
    """For the names, in inches."""
    return 0.2 + 0.073 * max(len(_label(place, side)) for place, side in enumerate(sides))


def _label(place: int, side: str) -> str:
    return f"{shortened(titled(side), 18)}  {place + 1}"


def draw_differences(canvas: Canvas, *, sides: Sequence[str], differences: Differences) -> None:
    """The square: the row's side against the column's.

    Args:
        canvas: to draw on.
        sides: the defences and the control, dearest first; at least two.
        differences: of each to each.
    """
    axes = canvas.subplots()
    width, height = size(sides)
    cell, room = _cell(sides), _room(sides)
    axes.set_position((room / width, 0.55 / height, cell[0] * len(sides) / width, cell[1] * len(sides) / height))
    axes.set(xlim=(0, len(sides)), ylim=(len(sides), 0))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    places = [place + 0.5 for place in range(len(sides))]
    axes.set_yticks(places, [_label(place, side) for place, side in enumerate(sides)], fontsize=8.5)
    axes.set_xticks(places, [str(place + 1) for place in range(len(sides))], fontsize=7.5)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, pad=2)
    for row, side in enumerate(sides):
        for column, other in enumerate(sides):
            _draw_cell(axes, row, column, differences.get((side, other)), len(sides))
    _key(axes, cell[1] * len(sides), cell[0] * len(sides), room)


def _draw_cell(axes: Axes, row: int, column: int, found: Difference | None, count: int) -> None:
    shape: dict[str, Any] = {"edgecolor": SURFACE, "linewidth": 0.8, "zorder": 2}
    if row == column:
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=GRID, **shape))
        return
    centre = (column + 0.5, row + 0.5)
    if found is None or math.isnan(found.ratio):
        axes.text(*centre, NOTHING, ha="center", va="center", fontsize=7, color=MUTED)
    else:
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour(found.ratio), alpha=strength(found.ratio), **shape))
    if found is None:
        return
    if count > MOST_WITH_NUMBERS:
        if found.sure:
            axes.plot(*centre, marker=_sign(found.ratio), markersize=min(4.5, 60 / count), color=INK, markeredgewidth=0, zorder=4)
    elif not math.isnan(found.ratio):
        sign = {"^": " ▲", "v": " ▼", "o": " ●"}[_sign(found.ratio)] if found.sure else ""
        axes.text(centre[0], row + 0.3, times(found.ratio) + sign, ha="center", va="center", fontsize=7.5, color=INK, zorder=4)
        low, _, high = found.interval.partition(" – ")
        axes.text(centre[0], row + 0.7, f"{low} –\n{high}" if high else low, ha="center", va="center", fontsize=6, color=INK, zorder=4)


def colour(ratio: float) -> str:
    """Blue where the row is dearer, red where it is cheaper."""
    return _DEARER if ratio >= 1 else _CHEAPER


def strength(ratio: float) -> float:
    """How strong the colour is: none at 1×, full from a hundred times on."""
    decades = abs(math.log10(ratio)) if 0 < ratio < math.inf else _FULL
    return max(_FAINTEST, _STRONGEST * min(decades / _FULL, 1.0))


def _sign(ratio: float) -> str:
    return "o" if math.isnan(ratio) or ratio == 1 else "^" if ratio > 1 else "v"


def _key(axes: Axes, tall: float, wide: float, room: float) -> None:
    """What the colours and signs say, under the square, from the left edge of the panel."""
    steps = (0.01, 0.1, 1.0, 10.0, 100.0)
    words = ("≤ 0.01×", "0.1×", "1×", "10×", "≥ 100×")
    start, width = (0.05 - room) / wide, 0.66 / wide
    for place, (ratio, word) in enumerate(zip(steps, words, strict=True)):
        corner = (start + place * width, -0.2 / tall)
        patch = Rectangle(
            corner, width, 0.12 / tall, facecolor=colour(ratio), alpha=strength(ratio), transform=axes.transAxes, clip_on=False
        )
        axes.add_patch(patch)
        _say(axes, corner[0] + width / 2, -0.3 / tall, word, "center")
    _say(axes, start, -0.45 / tall, "price of the row over the column's;  ▲ dearer, ▼ cheaper beyond chance", "left")


def _say(axes: Axes, x: float, y: float, words: str, side: Literal["left", "center"]) -> None:
    axes.text(x, y, words, transform=axes.transAxes, ha=side, va="center", fontsize=7.5, color=INK)
