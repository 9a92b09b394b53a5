"""Where a file lies that a study names, on a machine that it was brought to.

A study names models, data and methods by paths of the machine it was planned on. Workers elsewhere are sent those files, and keep the
names: labels, messages and cards are the same wherever a unit is computed. Only what opens a file asks here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HUB = "hub:"
"""Before a hub id, which is no path even where a file has its name."""

_PLACES: dict[str, Path] = {}


def relocate(places: Mapping[str, Path]) -> None:
    """Say where files lie in this process from now on.

    Args:
        places: by reference, as the study writes it; that of a hub id begins with :data:`HUB`.
    """
    _PLACES.update(places)


def located(reference: str) -> Path | None:
    """Where what a study names lies on this machine; ``None`` where it was brought from nowhere."""
    return _PLACES.get(reference)


def forget() -> None:
    """Every file lies where its name says again."""
    _PLACES.clear()
