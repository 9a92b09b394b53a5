"""What a figure is made of: panels, which the page shows one by one and the PNG side by side.

pyplot is not used, so no state outlives a drawing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tempering.engine.files import replace_file
from tempering.report.style import INK, SETTINGS, Look, inline_svg

Canvas = Any
"""A matplotlib Figure or SubFigure: both carry axes."""

_DOTS_PER_INCH = 200
_MOST_IN_A_ROW = 4


@dataclass(frozen=True)
class Panel:
    """One small drawing.

    Attributes:
        name: letters, digits and hyphens; unique in the page.
        alt: what it shows, for readers who cannot see it.
        size: width and height in inches.
        draw: puts it on a canvas.
        currency: what its spend axis counts, where the reader may choose by it; "" for a panel that is always shown.
        extra: in the page alone, and there only once its currency is chosen.
    """

    name: str
    alt: str
    size: tuple[float, float]
    draw: Callable[[Canvas], None]
    currency: str = ""
    extra: bool = False

    def svg(self) -> str:
        """The panel as an SVG element for the page."""
        with mpl.rc_context(SETTINGS):
            figure = Figure(figsize=self.size)
            self.draw(figure)
            return inline_svg(figure, self.name, self.alt)


@dataclass(frozen=True)
class Drawing:
    """A row of panels under one title.

    Attributes:
        name: file stem and identifier.
        title: what it is about.
        sentence: what it shows, in one plain sentence.
        panels: left to right.
        legend: the attacks it shows.
        wide: whether a single panel takes more than the usual width of the page.
        group: the model and defence it is about, where the page shows it with them.
    """

    name: str
    title: str
    sentence: str
    panels: tuple[Panel, ...]
    legend: dict[str, Look]
    wide: bool = False
    group: tuple[str, str] | None = None

    @property
    def alt(self) -> str:
        """What the whole drawing shows."""
        return f"{self.title}. {self.sentence}"

    @property
    def shown(self) -> tuple[Panel, ...]:
        """The panels that need no choosing."""
        return tuple(panel for panel in self.panels if not panel.extra)

    @property
    def _in_a_row(self) -> int:
        """Panels side by side: all up to four, else about as many in each row."""
        number = len(self.shown)
        return number if number <= _MOST_IN_A_ROW else math.ceil(number / math.ceil(number / _MOST_IN_A_ROW))

    def png(self) -> bytes:
        """The panels side by side on white, at most four in a row, at twice the size of a screen's pixels."""
        with mpl.rc_context(SETTINGS):
            rows = [self.shown[start : start + self._in_a_row] for start in range(0, len(self.shown), self._in_a_row)]
            width = max(sum(panel.size[0] for panel in row) for row in rows)
            heights = [max(panel.size[1] for panel in row) for row in rows]
            heading = 0.75 if self.legend else 0.42
            figure = Figure(figsize=(width, sum(heights) + heading))
            FigureCanvasAgg(figure)
            top, *bodies = _cells(figure, 1 + len(rows), 1, height_ratios=(heading, *heights))
            _heading(top, self.title, self.legend)
            for body, row in zip(bodies, rows, strict=True):
                empty = width - sum(panel.size[0] for panel in row)
                cells = _cells(
                    body, 1, len(row) + (empty > 0), width_ratios=[*(panel.size[0] for panel in row), *([empty] if empty > 0 else [])]
                )
                for cell, panel in zip(cells, row, strict=False):
                    panel.draw(cell)
            buffer = io.BytesIO()
            figure.savefig(
                buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Title": self.title, "Description": self.alt, "Software": None}
            )
            return buffer.getvalue()


def pngs(drawings: Sequence[Drawing]) -> dict[str, bytes]:
    """Each drawing as a picture, by the name of its file; those about one group of a comparison are in the page alone."""
    return {f"{drawing.name}.png": drawing.png() for drawing in drawings if drawing.group is None}


def write_pngs(pictures: Mapping[str, bytes], directory: Path) -> list[Path]:
    """Write what :func:`pngs` made to ``directory``, each atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        replace_file(directory / name, picture)
    return [directory / name for name in pictures]


def _legend_handles(legend: dict[str, Look]) -> list[Line2D]:
    """What a matplotlib legend needs to name the attacks."""
    return [Line2D([], [], color=look.colour, marker=look.marker, markersize=5, linewidth=1.6, label=name) for name, look in legend.items()]


def _cells(canvas: Canvas, rows: int, columns: int, **ratios: Sequence[float]) -> list[Canvas]:
    """Subfigures in reading order; matplotlib hands a single one over bare."""
    return list(np.ravel(canvas.subfigures(rows, columns, **ratios)))


def _heading(canvas: Canvas, title: str, legend: dict[str, Look]) -> None:
    canvas.text(0.012, 0.82 if legend else 0.6, title, fontsize=11.5, fontweight="bold", color=INK, va="center")
    if legend:
        canvas.legend(
            handles=_legend_handles(legend),
            loc="center left",
            bbox_to_anchor=(0.004, 0.3),
            ncols=min(len(legend), 5),
            frameon=False,
            fontsize=8.5,
        )
