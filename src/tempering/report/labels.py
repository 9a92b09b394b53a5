"""Names beside points: each as near to its point as it can be without lying on another name or point.

A small search, since the drawing library has none: every name tries places around its point, nearest first, and takes the one that overlaps
least with what is there already. The same points always give the same places.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in points."""

_WIDTH = 0.6
"""Width of a character, as a share of the font's size."""
_RADII = (9.0, 18.0, 28.0, 40.0, 54.0, 70.0, 88.0, 108.0)
_ANGLES = tuple(math.radians(degrees) for degrees in (0, 180, 30, -30, 60, -60, 90, -90, 120, -120, 150, -150))
_FAR = 12.0
"""From this distance on, a line leads from the name to its point."""
_MOST_COVERED = 0.12
"""Share of a name's area that may lie on something where it may also be left out."""


@dataclass(frozen=True)
class Label:
    """Where a name goes.

    Attributes:
        x: of the end of the name that is nearer to its point, in points.
        y: of its middle.
        side: ``left`` where the name begins there, ``right`` where it ends there, ``center``.
        led: whether a line should lead to the point.
    """

    x: float
    y: float
    side: str
    led: bool


def place_labels(
    names: Sequence[str], points: Sequence[tuple[float, float]], room: tuple[float, float], *, size: float, obstacles: Sequence[Box] = ()
) -> list[Label]:
    """A place for every name.

    Args:
        names: what to write, in the order in which they choose.
        points: where each belongs, in points from the lower left.
        room: width and height of the drawing, in points.
        size: of the font, in points.
        obstacles: what should stay free besides the points, in points.
    """
    return [label for label in _placed(names, points, room, size, obstacles, math.inf) if label is not None]


def place_free_labels(
    names: Sequence[str], points: Sequence[tuple[float, float]], room: tuple[float, float], *, size: float, obstacles: Sequence[Box] = ()
) -> list[Label | None]:
    """A place for every name that finds a free one, and ``None`` for the others.

    Args:
        names: as of :func:`place_labels`; likewise the rest.
        points: where each belongs.
        room: width and height of the drawing.
        size: of the font.
        obstacles: what should stay free besides the points.
    """
    return _placed(names, points, room, size, obstacles, _MOST_COVERED)


def _placed(
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    room: tuple[float, float],
    size: float,
    obstacles: Sequence[Box],
    most: float,
) -> list[Label | None]:
    taken: list[Box] = [*obstacles, *((x - 4, y - 4, x + 4, y + 4) for x, y in points)]
    labels: list[Label | None] = []
    for name, (x, y) in zip(names, points, strict=True):
        places = ((_cost(_box(label, name, size), taken, room), radius, label) for radius, label in _around(x, y))
        cost, _, best = min(places, key=lambda place: place[0] + place[1] / 400)
        labels.append(best if cost <= most else None)
        if cost <= most:
            taken.append(_box(best, name, size))
    return labels


def _around(x: float, y: float) -> list[tuple[float, Label]]:
    places = []
    for radius, angle in itertools.product(_RADII, _ANGLES):
        across = math.cos(angle)
        side = "left" if across > 0.2 else "right" if across < -0.2 else "center"
        places.append((radius, Label(x + radius * across, y + radius * math.sin(angle), side, radius > _FAR)))
    return places


def _box(label: Label, name: str, size: float) -> Box:
    width, half = _WIDTH * size * len(name), 0.62 * size
    left = {"left": label.x, "right": label.x - width, "center": label.x - width / 2}[label.side]
    return left, label.y - half, left + width, label.y + half


def _cost(box: Box, taken: Sequence[Box], room: tuple[float, float]) -> float:
    """Overlap as a share of the name's own area, and more where it leaves the drawing."""
    own = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_overlap(box, other) for other in taken) / own + 3 * (1 - _overlap(box, (0.0, 0.0, *room)) / own)


def _overlap(one: Box, other: Box) -> float:
    return max(0.0, min(one[2], other[2]) - max(one[0], other[0])) * max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
