"""The figures of a comparison of defences: what each does to the price and takes in utility, and to which family of attacks.

Colour says what the interval says: dearer than the undefended model, cheaper, or neither for sure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from tempering.report.defended import KEPT, DefenseRow, Times, defense_rows
from tempering.report.drawing import Canvas, Drawing, Panel
from tempering.report.formatting import share
from tempering.report.labels import place_labels
from tempering.report.style import ATTACK_COLOURS, INK, MUTED, SURFACE, THRESHOLD

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment

DEARER = ATTACK_COLOURS[0][0]
_ROW = 0.25
"""Inches of a row of dots."""
_CLOUD = (6.6, 4.4)
"""Width and height of the cloud in inches."""
_FRAME = (0.13, 0.115, 0.86, 0.865)
"""Left, bottom, width and height of its axes, as shares of that; fixed, so that names can be placed before anything is drawn."""
_FONT = 8.0
_BEST_PANEL = "Best attacker"


def draw_comparison(assessment: Assessment) -> list[Drawing]:
    """The figures of a comparison, for every model two; none where no multiplier is known.

    Args:
        assessment: what economics computed.
    """
    rows = defense_rows(assessment)
    models = list(dict.fromkeys(row.model for row in rows))
    drawings: list[Drawing] = []
    for index, model in enumerate(models):
        own = [row for row in rows if row.model == model]
        suffix, title = (f"-{index + 1}", f": {model}") if len(models) > 1 else ("", "")
        drawings += [drawing for drawing in (_cloud(own, suffix, title), _families(own, suffix, title)) if drawing is not None]
    return drawings


# Price against tax


def _cloud(rows: list[DefenseRow], suffix: str, title: str) -> Drawing | None:
    shown = [row for row in rows if row.best.told and row.best.value > 0 and math.isfinite(row.utility_kept.value)]
    if not shown:
        return None
    sentence = (
        f"How many times the best attacker pays, against the utility that is left: {_tally(shown)}. Bars are 95 % intervals, an arrow is a "
        f"lower bound, and a hollow dot refuses more than {share(1 - KEPT)} of borderline prompts."
    )
    words = " ".join(f"{row.defense}: {row.best} at {row.utility_kept} of utility." for row in shown)
    panel = Panel(
        name=f"defenses-tax{suffix}",
        alt=f"Multiplier of the best attacker's price against utility kept, one dot a defence. {words}",
        size=_CLOUD,
        draw=partial(_draw_cloud, rows=shown),
    )
    return Drawing(f"defenses-tax{suffix}", f"Price against tax{title}", sentence, (panel,), {}, wide=True)


def _tally(rows: Sequence[DefenseRow]) -> str:
    dearer = [row for row in rows if row.best.dearer]
    bar = f"at least {share(KEPT)} of utility and of borderline answers"
    if len(rows) == 1:
        return f"{rows[0].defense} {'raises' if dearer else 'does not raise'} the price beyond chance"
    if not dearer:
        return f"none of {len(rows)} defences raises the price beyond chance"
    kept = sum(row.affordable for row in dearer)
    return f"{len(dearer)} of {len(rows)} defences raise the price beyond chance, {kept or 'none'} of them leaving {bar}"


def _draw_cloud(canvas: Canvas, *, rows: list[DefenseRow]) -> None:
    axes = canvas.subplots()
    axes.set_position(_FRAME)
    _multiplier_axis(axes, "y", [1.0, *(value for row in rows for value in _ends(row.best))], room=1.6)
    lowest = min(KEPT, *(_finite(row.utility_kept.low, row.utility_kept.value) for row in rows))
    highest = max(1.0, *(_finite(row.utility_kept.high, row.utility_kept.value) for row in rows))
    span = highest - lowest
    axes.set_xlim(lowest - 0.05 * span, highest + 0.2 * span)  # most defences keep nearly everything; their names go to the right
    ticks = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if lowest - 0.05 * span <= tick <= highest + 1e-9]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: share(value)))
    axes.set_xlabel("utility kept, of the undefended model's")
    axes.set_ylabel("times the undefended price, best attacker")
    axes.axhline(1, color=MUTED, linewidth=1)
    axes.axvline(KEPT, color=THRESHOLD, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    top = axes.get_ylim()[1]
    for row in rows:
        _dot_in_cloud(axes, row, top)
    axes.plot(1, 1, marker="D", markersize=6.5, color=INK, markeredgecolor=SURFACE, markeredgewidth=0.9, zorder=5)
    points = [(1.0, 1.0, "undefended", INK), *((row.utility_kept.value, row.best.value, row.defense, _colour(row.best)) for row in rows)]
    floor = axes.get_ylim()[0]
    tall = [
        (row.utility_kept.value, max(row.best.low, floor), row.utility_kept.value, _finite(row.best.high, row.best.value * 1.6))
        for row in rows
    ]
    wide = [(_finite(row.utility_kept.low, 1), row.best.value, _finite(row.utility_kept.high, 1), row.best.value) for row in rows]
    left, right = axes.get_xlim()
    _label(axes, points, [*tall, *wide, (left, 1.0, right, 1.0)])


def _dot_in_cloud(axes: Axes, row: DefenseRow, top: float) -> None:
    x, y, colour = row.utility_kept.value, row.best.value, _colour(row.best)
    low, high = _finite(row.utility_kept.low, x), _finite(row.utility_kept.high, x)
    axes.plot([low, high], [y, y], color=colour, linewidth=1.2, alpha=0.55, zorder=2)
    if row.best.bound or math.isinf(row.best.high):
        axes.annotate("", (x, min(y * 1.6, top)), (x, y), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0})
    if not row.best.bound:
        bottom = max(row.best.low, axes.get_ylim()[0])
        axes.plot([x, x], [bottom, row.best.high if math.isfinite(row.best.high) else y], color=colour, linewidth=1.2, alpha=0.55, zorder=2)
    hollow = row.spoils_borderline
    face, edge = (SURFACE, colour) if hollow else (colour, SURFACE)
    axes.plot(x, y, marker="o", markersize=6, markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.3 if hollow else 0.9, zorder=4)


def _label(axes: Axes, points: Sequence[tuple[float, float, str, str]], bars: Sequence[tuple[float, float, float, float]]) -> None:
    """Names beside their dots, clear of dots, bars and each other.

    Args:
        axes: with their limits set.
        points: x, y, name and colour.
        bars: left, bottom, right and top of what else should stay free, in data coordinates.
    """
    size = (axes.bbox.width * 72 / axes.figure.dpi, axes.bbox.height * 72 / axes.figure.dpi)
    (left, right), (bottom, top) = axes.get_xlim(), np.log(axes.get_ylim())

    def place(x: float, y: float) -> tuple[float, float]:
        return size[0] * (x - left) / (right - left), size[1] * float((math.log(y) - bottom) / (top - bottom))

    spots = [place(x, y) for x, y, _, _ in points]
    obstacles = [(*(end - 1.5 for end in place(bar[0], bar[1])), *(end + 1.5 for end in place(bar[2], bar[3]))) for bar in bars]
    found = place_labels([name for _, _, name, _ in points], spots, size, size=_FONT, obstacles=obstacles)  # type: ignore[arg-type]
    for (x, y, name, colour), (across, up), label in zip(points, spots, found, strict=True):
        lead = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            name,
            (x, y),
            xytext=(label.x - across, label.y - up),
            textcoords="offset points",
            ha=label.side,
            va="center",
            fontsize=_FONT,
            color=INK,
            arrowprops=lead if label.led else None,
            annotation_clip=False,
            zorder=6,
        )


# Family by family


def _families(rows: list[DefenseRow], suffix: str, title: str) -> Drawing | None:
    names = sorted({name for row in rows for name in row.families})
    if not any(row.best.told for row in rows):
        return None
    sentence = (
        "How many times each family of attacks pays for its cheapest break: a dot is the ratio of medians, its bar the 95 % interval, an "
        "arrow a lower bound; the line at 1× is the undefended model, and grey is what chance might explain."
    )
    readers: list[tuple[str, Callable[[DefenseRow], Times]]] = [(_BEST_PANEL, lambda row: row.best)]
    readers += [(name, partial(_of_family, name=name)) for name in names]
    ends = [1.0, *(value for _, read in readers for row in rows for value in _ends(read(row)))]
    panels = tuple(
        Panel(
            name=f"defenses-families{suffix}-{number}-{_slug(name)}",
            alt=f"{name}: multiplier of the price, one row a defence. " + " ".join(f"{row.defense}: {read(row)}." for row in rows),
            size=(3.8, 0.85 + _ROW * len(rows)),
            draw=partial(_draw_family, rows=rows, read=read, name=name, ends=ends),
        )
        for number, (name, read) in enumerate(readers)
    )
    return Drawing(f"defenses-families{suffix}", f"Which attacks each defence makes dearer{title}", sentence, panels, {})


def _of_family(row: DefenseRow, name: str) -> Times:
    return row.families.get(name, Times())


def _draw_family(canvas: Canvas, *, rows: list[DefenseRow], read: Callable[[DefenseRow], Times], name: str, ends: list[float]) -> None:
    axes = canvas.subplots()
    _multiplier_axis(axes, "x", ends, room=1.7)
    axes.set_title(name[:1].upper() + name[1:])
    axes.axvline(1, color=MUTED, linewidth=1, zorder=1)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rows[round(value)].defense if 0 <= round(value) < len(rows) else ""))
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for place, row in enumerate(rows):
        _dot_in_row(axes, read(row), place)
    axes.set_xlabel("times the undefended price")


def _dot_in_row(axes: Axes, ratio: Times, place: int) -> None:
    left, right = axes.get_xlim()
    note: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(
        ratio.middle if ratio.told else ratio.reason,
        (1, place),
        color=INK if ratio.told else MUTED,
        fontsize=8,
        annotation_clip=False,
        **note,
    )
    if not ratio.told or ratio.value <= 0:
        return
    colour = _colour(ratio)
    if ratio.bound or math.isinf(ratio.high):
        axes.annotate(
            "", (right, place), (ratio.value, place), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0}
        )
    if not ratio.bound:
        high = ratio.high if math.isfinite(ratio.high) else ratio.value
        axes.plot([max(ratio.low, left), high], [place, place], color=colour, linewidth=3.4, alpha=0.45, solid_capstyle="round", zorder=2)
    axes.plot(
        ratio.value, place, marker="|" if ratio.bound else "o", markersize=7 if ratio.bound else 5.5, color=colour, zorder=4, **_edge(ratio)
    )


def _edge(ratio: Times) -> dict[str, Any]:
    return {"markeredgewidth": 2} if ratio.bound else {"markeredgecolor": SURFACE, "markeredgewidth": 0.8}


# Shared


def _colour(ratio: Times) -> str:
    return DEARER if ratio.dearer else THRESHOLD if ratio.cheaper else MUTED


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _ends(ratio: Times) -> list[float]:
    """What an axis has to make room for."""
    return [value for value in (ratio.value, ratio.low, ratio.high) if math.isfinite(value) and value > 0]


def _multiplier_axis(axes: Axes, direction: Literal["x", "y"], values: Iterable[float], room: float) -> None:
    """A logarithmic axis of ratios with a few round ticks, the one at 1× among them."""
    numbers = list(values)
    low, high = min(0.5, *numbers), max(2.0, *numbers)
    axes.set(**{f"{direction}scale": "log", f"{direction}lim": (low / room**0.6, high * room)})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high * room)) + 1)
    digits = (1,) if high / low > 300 else (1, 3) if high / low > 30 else (1, 2, 5)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low / room**0.6 <= tick <= high * room]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}×"))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "other"
