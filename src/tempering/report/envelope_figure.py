"""The picture of the attacker's envelope: one line a defence, up as more harm is demanded or less utility given up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tempering.report.drawing import Canvas, Panel
from tempering.report.envelope_view import UNDEFENDED, Point, View
from tempering.report.formatting import flops, share
from tempering.report.style import INK, MUTED, SURFACE, THRESHOLD, Look, looks

_SIZE = (3.9, 3.1)
_OTHERS = "other defences"
Lines = dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class PlainLook(Look):
    """A look that is no attack's: ink or muted."""

    name: str = "ink"

    @property
    def variable(self) -> str:
        """Its CSS colour."""
        return f"var(--{self.name})"


@dataclass(frozen=True)
class Walk:
    """What goes from left to right.

    Attributes:
        name: part of the panel's name.
        label: of the axis.
        title: what alt texts call it.
        lines: a view's points along it.
        at: where on it a point lies.
        own: the study's own threshold on it.
    """

    name: str
    label: str
    title: str
    lines: Callable[[View], Lines]
    at: Callable[[Point], float]
    own: Callable[[View], float]


HARM = Walk(
    "harm",
    "share of the withheld harm demanded, τ",
    "harm demanded",
    lambda view: view.by_harm,
    lambda point: point.tau,
    lambda view: view.tau,
)
LOSS = Walk(
    "loss",
    "utility the attacker will lose, ε (not to scale)",
    "utility lost at most",
    lambda view: view.by_loss,
    lambda point: point.epsilon,
    lambda view: view.epsilon,
)


def legend(names: Sequence[str], others: bool) -> dict[str, Look]:
    """How lines are drawn: the undefended model in ink, each of these defences in a colour, the others muted."""
    found: dict[str, Look] = {UNDEFENDED: PlainLook(0, INK, "D", "◆", "ink")}
    # The diamond is the undefended model's alone.
    coloured = {name: look if look.marker != "D" else replace(look, marker="p", glyph="⬟") for name, look in looks(names).items()}
    found |= coloured
    return found | ({_OTHERS: PlainLook(0, MUTED, "", "–", "muted")} if others else {})


def envelope_panel(view: View, walk: Walk, look: dict[str, Look], name: str, ends: tuple[float, float]) -> Panel:
    """One threat model's lines.

    Args:
        view: of one model under one threat model.
        walk: what goes from left to right.
        look: of the lines, by :func:`legend`.
        name: of the panel.
        ends: least and greatest price that the axis must hold, the same for panels side by side.
    """
    words = " ".join(
        f"{defense}: {', '.join(f'{share(walk.at(point))}: {point}' for point in points)}." for defense, points in walk.lines(view).items()
    )
    return Panel(
        name=name,
        alt=f"{view.title}: cheapest price of a break in FLOPs, by {walk.title}, one line a defence. {words}",
        size=_SIZE,
        draw=partial(_draw, view=view, walk=walk, look=look, ends=ends),
    )


def price_ends(lines: Sequence[Lines]) -> tuple[float, float]:
    """The least and the greatest price, bound or end of an interval that pictures of these lines show."""
    values = [
        value
        for each in lines
        for points in each.values()
        for point in points
        if point.told
        for value in (point.place, point.price.low, point.price.high)
        if math.isfinite(value) and value > 0
    ]
    return (min(values), max(values)) if values else (1e9, 1e12)


def _draw(canvas: Canvas, *, view: View, walk: Walk, look: dict[str, Look], ends: tuple[float, float]) -> None:
    axes = canvas.subplots()
    lines = walk.lines(view)
    steps = sorted({walk.at(point) for points in lines.values() for point in points})
    places = {step: float(number) for number, step in enumerate(steps)} if walk is LOSS else {step: step for step in steps}
    _price_axis(axes, *ends)
    _threshold_axis(axes, walk, places, walk.own(view))
    for name, points in lines.items():
        where = [places[walk.at(point)] for point in points]
        if name not in look:
            _line(axes, where, points, look[_OTHERS], muted=True)
    drawn = [name for name in look if name in lines]
    aside = 0.014 * (max(places.values()) - min(places.values()))  # bars stand side by side, or they would hide each other
    for number, name in reversed(list(enumerate(drawn))):
        where = [places[walk.at(point)] for point in lines[name]]
        _line(axes, where, lines[name], look[name], muted=False)
        _interval(axes, places[walk.own(view)] + aside * (number - (len(drawn) - 1) / 2), view.at(name), look[name])
    if not any(point.told for points in lines.values() for point in points):
        axes.text(0.5, 0.5, "no price and no bound is known", transform=axes.transAxes, ha="center", color=MUTED, fontsize=8.5)
    axes.set_title(view.title)


def _price_axis(axes: Axes, low: float, high: float) -> None:
    room = max((high / low) ** 0.07, 1.3)
    axes.set_yscale("log")
    axes.set_ylim(low / room, high * room**2)  # arrows need room above
    decades = range(math.floor(math.log10(low / room)), math.ceil(math.log10(high * room**2)) + 1)
    digits = (1,) if high / low > 100 else (1, 3) if high / low > 8 else (1, 2, 5)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low / room <= tick <= high * room**2]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: flops(value).replace(".0 ", " ")))


def _threshold_axis(axes: Axes, walk: Walk, places: dict[float, float], own: float) -> None:
    first, last = min(places.values()), max(places.values())
    margin = 0.04 * (last - first or 1.0)
    axes.set_xlim(first - margin, last + margin)
    shown = {place: step for step, place in places.items() if walk is LOSS or round(step * 10) % 2 == 1 or step == own}
    axes.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: next((f"{100 * s:.3g} %" for p, s in shown.items() if abs(p - value) < 1e-9), ""))
    )
    axes.set_xlabel(walk.label)
    axes.axvline(places[own], color=THRESHOLD, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _line(axes: Axes, where: Sequence[float], points: Sequence[Point], look: Look, *, muted: bool) -> None:
    """Known prices joined; bounds hollow, with an arrow up, joined to nothing."""
    bottom = axes.get_ylim()[0]  # what is free stands at the edge of a log axis
    known = [max(point.place, bottom) if point.status == "known" else math.nan for point in points]
    style: dict[str, Any] = {"color": look.colour, "zorder": 2 if muted else 4}
    axes.plot(where, known, linewidth=0.8 if muted else 1.7, alpha=0.4 if muted else 1, **style)
    if not muted:
        axes.plot(where, known, marker=look.marker, markersize=5, markeredgecolor=SURFACE, markeredgewidth=0.7, linestyle="none", **style)
    for x, point in zip(where, points, strict=True):
        if point.status == "beyond":
            _bound(axes, x, point.place, look, muted=muted)


def _bound(axes: Axes, x: float, y: float, look: Look, *, muted: bool) -> None:
    low, high = axes.get_ylim()
    arrow = {"arrowstyle": "-|>", "color": look.colour, "linewidth": 0.8 if muted else 1.2, "alpha": 0.4 if muted else 1.0, "shrinkA": 2}
    axes.annotate("", (x, y * (high / low) ** 0.07), (x, y), arrowprops=arrow, zorder=2 if muted else 4)
    face: dict[str, Any] = {"markerfacecolor": SURFACE, "markeredgecolor": look.colour, "linestyle": "none"}
    if muted:
        axes.plot(x, y, marker="o", markersize=3, markeredgewidth=0.7, alpha=0.6, zorder=2, **face)
    else:
        axes.plot(x, y, marker=look.marker, markersize=5, markeredgewidth=1.2, zorder=5, **face)


def _interval(axes: Axes, x: float, point: Point, look: Look) -> None:
    """The interval of the price at the study's own thresholds."""
    if point.status != "known":
        return
    bottom, top = axes.get_ylim()
    high = point.price.high if math.isfinite(point.price.high) else top
    axes.plot([x, x], [max(point.price.low, bottom), high], color=look.colour, linewidth=2.6, alpha=0.45, solid_capstyle="butt", zorder=3)
