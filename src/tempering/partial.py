"""Folders that are being written: what a killed process has left of them, and what it had moved away for them.

A directory is written aside, in ``.NAME.<letters>.partial``, and put in its place by a rename. One that it replaces is moved into that
folder first. A process that is killed between these two renames leaves nothing in the place, and the old directory in the folder.
"""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path

PARTIAL = ".partial"
"""Ending of a folder that is being written; its name starts with a dot too."""
REPLACED = "replaced"
"""Name, in such a folder, of what stood where the new one is to stand."""


def sweep(parent: Path, name: str | None = None) -> None:
    """Remove what killed processes left half written, and put back what they had moved away for it. Call it only while nobody writes.

    Args:
        parent: of the directories.
        name: of the one directory that is looked after; ``None`` looks after all.

    Raises:
        OSError: something cannot be put back or removed.
    """
    bring_back(parent, name)
    for outer in _left(parent, name):
        shutil.rmtree(outer)


def bring_back(parent: Path, name: str | None) -> None:
    """Put back what was moved away for a new directory that never came.

    Raises:
        OSError: it cannot be.
    """
    for outer in _left(parent, name):
        place = parent / outer.name[1:].removesuffix(PARTIAL).rpartition(".")[0]
        if os.path.lexists(outer / REPLACED) and not os.path.lexists(place):
            (outer / REPLACED).rename(place)
            sync(parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _left(parent: Path, name: str | None) -> list[Path]:
    return sorted(parent.glob(f".*{PARTIAL}" if name is None else f".{glob.escape(name)}.*{PARTIAL}"))
