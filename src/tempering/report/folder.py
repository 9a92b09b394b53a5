"""A folder of files for others, put in place whole: somebody who looks sees the old one or the new one, never half of either."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tempering.engine.files import TEMPORARY, flush_directory, write_durably
from tempering.errors import StoreProblem

REMEDY = "choose another --out"


def write_folder(out: Path, files: Mapping[str, bytes], *, earlier: Collection[str] | None) -> list[Path]:
    """Write files to a folder of their own, in the place of an earlier one.

    Everything is written beside the folder first, and then put in its place by renaming.

    Args:
        out: where it shall stand; its parents are made.
        files: contents by name.
        earlier: names of the files of ours that stand there already and may be replaced; ``None`` where nothing of ours does.

    Returns:
        The files, in the order given.

    Raises:
        StoreProblem: something else stands there, or it cannot be written to.
    """
    with explained_out(out):
        place = out.resolve()  # so that a link stays one, and what it leads to is replaced
        if place.exists() and not place.is_dir():
            raise StoreProblem(f"{out} is a file", REMEDY)
        standing = {path.name for path in place.iterdir()} if place.is_dir() else set()
        if strangers := sorted(standing - set(earlier or ())):
            raise StoreProblem(f"{out} holds something else ({strangers[0]})", f"{REMEDY}, or move that away")
        place.parent.mkdir(parents=True, exist_ok=True)
        aside, before = (place.with_name(f".{place.name}.{os.getpid()}{ending}{TEMPORARY}") for ending in ("", ".before"))
        try:
            aside.mkdir()
            for name, content in files.items():
                write_durably(aside / name, content)
            flush_directory(aside)
            _swap(aside, place, before)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        flush_directory(place.parent)
    return [out / name for name in files]


def _swap(aside: Path, place: Path, before: Path) -> None:
    """Put one folder in the place of another, or of none; what stood there comes back if that fails."""
    if not place.exists():
        aside.rename(place)
        return
    place.rename(before)
    try:
        aside.rename(place)
    except BaseException:
        before.rename(place)
        raise
    shutil.rmtree(before)


@contextmanager
def explained_out(out: Path) -> Iterator[None]:
    """Turn what the system says about a folder that somebody named into the one line that they can act on.

    Raises:
        StoreProblem: in place of any :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        raise StoreProblem(f"cannot write to {out}: {error.strerror or error}", REMEDY) from error
