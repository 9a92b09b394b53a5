"""The one visual language of figures, page and terminal: colours, markers, and how drawings become part of the page.

Colours follow Okabe and Ito's palette for colour-blind readers (jfly.uni-koeln.de/color, 2008), darkened until each has a
contrast of at least 3 : 1 on white; markers repeat what the colours say. Drawings are made in the light colours. Inside the
page each colour is replaced by a CSS variable, so that the same drawing follows the reader's light or dark scheme.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

ATTACK_COLOURS = (
    ("#0065ad", "#6bb5ff"),
    ("#c94f00", "#ff9c5b"),
    ("#007a5e", "#46d0a6"),
    ("#a83f8f", "#eb9cd8"),
    ("#876800", "#e2c04a"),
    ("#2f86ad", "#a3def7"),
    ("#565d66", "#b9c0c9"),
    ("#8c1d2f", "#ff9aa6"),
)
"""Light and dark colour of each attack, in the order in which attacks appear; they come round again after the last."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">", "p")
"""Marker of each attack; eleven, so that colour and marker together repeat only after eighty-eight attacks."""

GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "⬢", "◀", "▶", "⬟")
"""The same markers as characters, for legends in text."""

INK, MUTED, GRID, SURFACE, THRESHOLD = "#1c2128", "#5a636e", "#dde1e6", "#fffffe", "#b3261e"
"""Text, secondary text, grid, background, and the lines that decide: τ and the utility floor."""

_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface", THRESHOLD: "threshold"}

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "text.usetex": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": SURFACE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": SURFACE,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "tempering",
}
"""matplotlib settings of every drawing; ``parse_math`` is off so that a "$" in a name stays a "$"."""


@dataclass(frozen=True)
class Look:
    """How one attack is drawn everywhere.

    Attributes:
        index: its place, from zero.
        colour: on light backgrounds.
        marker: matplotlib's name of the marker.
        glyph: the same marker as a character.
    """

    index: int
    colour: str
    marker: str
    glyph: str

    @property
    def variable(self) -> str:
        """Its CSS colour."""
        return f"var(--attack-{self.index % len(ATTACK_COLOURS)})"


def looks(attacks: Iterable[str]) -> dict[str, Look]:
    """A look for every attack, by order of first appearance."""
    return {
        name: Look(index, ATTACK_COLOURS[index % len(ATTACK_COLOURS)][0], MARKERS[index % len(MARKERS)], GLYPHS[index % len(GLYPHS)])
        for index, name in enumerate(dict.fromkeys(attacks))
    }


def css_colours() -> tuple[dict[str, str], dict[str, str]]:
    """The attacks' CSS variables for the light and for the dark scheme."""
    light = {f"--attack-{index}": pair[0] for index, pair in enumerate(ATTACK_COLOURS)}
    dark = {f"--attack-{index}": pair[1] for index, pair in enumerate(ATTACK_COLOURS)}
    return light, dark


_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """A drawing as an SVG element that can stand in a page beside others.

    Text stays text, escaped by the XML writer; identifiers get the drawing's name in front so that two drawings never share one;
    fixed colours become the page's CSS variables; the global style sheet that matplotlib writes is left out.

    Args:
        figure: the drawing.
        name: identifier of the drawing in the page: letters, digits and hyphens.
        alt: what a reader who cannot see it is told.

    Returns:
        An ``<svg>`` element without XML declaration.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())  # our own output, no entities
    _drop(root, f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")
    wanted = _referenced(root)
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in wanted:
            element.set("id", f"{name}-{identity}")
        link = element.attrib.pop(_LINK, None)
        if link is not None:
            element.set("href", f"#{name}-{link.removeprefix('#')}")
        for key, value in element.attrib.items():
            if "url(#" in value:
                element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
            elif key in ("d", "x", "y"):
                element.set(key, _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", value))
        if "style" in element.attrib:
            element.set("style", _with_variables(element.attrib["style"]))
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    root.attrib.update({"role": "img", "aria-label": alt, "class": "drawing", "width": f"{width:.0f}", "height": f"{height:.0f}"})
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _drop(root: ElementTree.Element, *tags: str) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)


def _referenced(root: ElementTree.Element) -> set[str]:
    found: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            found.update(_REFERENCE.findall(value))
            if key == _LINK:
                found.add(value.removeprefix("#"))
    return found


def _with_variables(style: str) -> str:
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var(--{variable})")
    for index, (light, _) in enumerate(ATTACK_COLOURS):
        style = style.replace(light, f"var(--attack-{index})")
    return style
