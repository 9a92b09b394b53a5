"""How runs end: the shares broken, ended otherwise and still standing as spend goes on, stacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from tempering.economics.survival import Floats
from tempering.report.axes import Spread
from tempering.report.drawing import Canvas, Panel
from tempering.report.formatting import flops, share
from tempering.report.rows import LABELS
from tempering.report.section_words import counted, shortened
from tempering.report.style import ATTACK_COLOURS, INK, MUTED, SURFACE, Look

STANDING = "still standing"
_COLOURS = {
    "broken": ATTACK_COLOURS[7][0],
    "destroyed": ATTACK_COLOURS[1][0],
    "no_direction": ATTACK_COLOURS[4][0],
    "failed": ATTACK_COLOURS[6][0],
    STANDING: ATTACK_COLOURS[0][0],
}
_GLYPHS = {"broken": ("s", "■"), "destroyed": ("s", "■"), "no_direction": ("s", "■"), "failed": ("s", "■"), STANDING: ("s", "■")}
_STRENGTH = {"broken": 0.8, STANDING: 0.22}
_SIZE = (3.5, 2.1)
_FRAME = (0.15, 0.205, 0.61, 0.68)
"""Left, bottom, width and height of the axes, as shares of that; the words stand at their right."""
_APART = 0.18
"""Least distance between two words at the right, as a share of the height."""
_SLIVER = 0.03
"""Width at which what happened at the very last look is still seen, as a share of the axis."""


@dataclass(frozen=True)
class Ends:
    """What became of the runs of one attack on one model behind one defence.

    Attributes:
        title: over the panel.
        counts: runs by outcome, "held" among them.
        spend: at which shares are known, ascending from 0, shape [n].
        shares: by outcome the share that came to it, and :data:`STANDING`, each of shape [n].
        watched: up to which spend every run was watched, or had come to an end.
        low: lower end of the share broken by then.
        high: upper end.
    """

    title: str
    counts: Mapping[str, int]
    spend: Floats
    shares: Mapping[str, Floats]
    watched: float
    low: float
    high: float

    @property
    def runs(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def broken(self) -> int:
        """Those that broke."""
        return self.counts.get("broken", 0)

    @property
    def words(self) -> str:
        """All of it: "3 of 5 runs broken, 2 held; by 3.1 GFLOP, up to which all were watched, a share of 15 – 95 % (95 % interval)"."""
        others = [f"{count} {LABELS[name]}" for name, count in self.counts.items() if count and name != "broken"]
        interval = f"a share of {share(self.low).removesuffix(' %')} – {share(self.high)} (95 % interval)"
        all_of_it = ", ".join((f"{self.broken} of {counted(self.runs, 'run')} broken", *others))
        return f"{all_of_it}; by {flops(self.watched)}, up to which all were watched, {interval}"


def ends(title: str, curve: pd.DataFrame, runs: pd.DataFrame) -> Ends:
    """What became of some runs.

    Args:
        title: over the panel.
        curve: their rows of the table of incidence, in FLOPs; at least one.
        runs: their rows of the table of breaks.
    """
    names = [name for name in LABELS if name != "held"]
    wide = curve.pivot_table(index="spend", columns="outcome", values="incidence", aggfunc="last").sort_index()
    shares = {name: wide[name].to_numpy(dtype=float) if name in wide else np.zeros(len(wide)) for name in names}
    standing = np.clip(1 - np.sum(list(shares.values()), axis=0), 0, 1)
    held = runs.loc[runs["outcome"] == "held", "flops_lower"]
    watched = min([*map(float, held), float(wide.index[-1])])
    # Beyond that the interval is that of runs at which nobody looked: it says less, not more.
    there = curve[(curve["outcome"] == "broken") & (curve["spend"] <= watched)].sort_values("spend").tail(1)
    low, high = (float(there[name].iloc[0]) if len(there) else math.nan for name in ("low", "high"))
    counts = runs["outcome"].value_counts()
    found = {name: int(counts.get(name, 0)) for name in LABELS}
    return Ends(title, found, wide.index.to_numpy(dtype=float), {**shares, STANDING: standing}, watched, low, high)


def legend(shown: Sequence[Ends]) -> dict[str, Look]:
    """The outcomes that occur, in the order in which they are stacked."""
    there = [name for name in _COLOURS if name in ("broken", STANDING) or any(each.counts.get(name, 0) for each in shown)]
    names = {name: STANDING if name == STANDING else LABELS[name] for name in there}
    indices = {name: next((index for index, pair in enumerate(ATTACK_COLOURS) if pair[0] == _COLOURS[name])) for name in there}
    return {names[name]: Look(indices[name], _COLOURS[name], *_GLYPHS[name]) for name in there}


def panels(prefix: str, shown: Sequence[Ends]) -> tuple[Panel, ...]:
    """One panel each, all on one axis of spend."""
    spread = Spread(pd.Series(np.concatenate([each.spend for each in shown]) if shown else [], dtype=float))
    return tuple(
        Panel(
            name=f"{prefix}-{number + 1}",
            alt=f"{each.title}: how its runs end as FLOPs are spent. {each.words}.",
            size=_SIZE,
            draw=partial(_draw, each=each, spread=spread),
        )
        for number, each in enumerate(shown)
    )


def _draw(canvas: Canvas, *, each: Ends, spread: Spread) -> None:
    axes = canvas.subplots()
    axes.set_position(_FRAME)
    spread.dress(axes, "flops")
    axes.set_title(shortened(each.title, 36), fontsize=9)
    axes.set_xlabel("FLOPs spent", fontsize=7.5, labelpad=1)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: share(value)))
    axes.grid(visible=False)
    places, right = spread.place(pd.Series(each.spend)), axes.get_xlim()[1]
    # Where every run has come to an end nothing changes any more; where one was stopped, nobody looked beyond.
    over = each.shares[STANDING][-1] < 1e-9
    left = axes.get_xlim()[0]
    edges = np.concatenate([[left], places[1:], [right if over else min(right, places[-1] * (right / left) ** _SLIVER)]])
    floor = np.zeros(len(places))
    for name, colour in _COLOURS.items():
        top = floor + each.shares[name]
        axes.stairs(top, edges, baseline=floor, fill=True, color=colour, alpha=_STRENGTH.get(name, 0.6), linewidth=0, zorder=2)
        floor = top
    if not over:
        axes.axvline(edges[-1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=3)
    _interval(axes, each, float(spread.place(pd.Series([each.watched]))[0]))
    _words(axes, each)


def _interval(axes: Axes, each: Ends, place: float) -> None:
    """The interval of the share broken, where all were still watched."""
    if math.isfinite(each.low) and math.isfinite(each.high):
        seen = float(each.shares["broken"][np.searchsorted(each.spend, each.watched, side="right") - 1])
        axes.plot([place, place], [each.low, each.high], color=INK, linewidth=1.6, solid_capstyle="butt", zorder=4)
        axes.plot(place, seen, marker="o", markersize=4, color=INK, markeredgecolor=SURFACE, markeredgewidth=0.8, zorder=5, clip_on=False)


def _words(axes: Axes, each: Ends) -> None:
    """What each layer is at the end, at its right, pushed apart where layers are thin."""
    names = [name for name in _COLOURS if each.shares[name][-1] > 1e-9]
    bottoms = np.concatenate([[0.0], np.cumsum([each.shares[name][-1] for name in names])])
    middles = [(bottoms[place] + bottoms[place + 1]) / 2 for place in range(len(names))]
    middles[-1:] = [min(middle, 1 - _APART / 2) for middle in middles[-1:]]
    for place in reversed(range(len(middles) - 1)):
        middles[place] = min(middles[place], middles[place + 1] - _APART)
    middles[:1] = [max(middle, _APART / 4) for middle in middles[:1]]
    for place in range(1, len(middles)):
        middles[place] = max(middles[place], middles[place - 1] + _APART)
    for name, middle in zip(names, middles, strict=True):
        what = STANDING if name == STANDING else LABELS[name]
        count = f"{each.counts.get('held' if name == STANDING else name, 0)} of {each.runs}"
        words = f"{count}\n{what}" if each.shares[name][-1] > 0.19 else what
        axes.annotate(
            words,
            (1, middle),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=INK,
            annotation_clip=False,
        )
