"""A folder of files for others, put in place whole: somebody who looks sees the old one or the new one, never half of either.

Where an earlier one is replaced it is moved away first, since no portable call exchanges two folders: for an instant nothing stands
there. A process that is killed in it leaves the earlier folder beside, under a hidden name, and the next export puts it back before
anything else.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tempering.engine.files import TEMPORARY, flush_directory, write_durably
from tempering.errors import StoreProblem

BEFORE = ".before"
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
        place.parent.mkdir(parents=True, exist_ok=True)
        _tidy(place)
        if place.exists() and not place.is_dir():
            raise StoreProblem(f"{out} is a file", REMEDY)
        standing = {path.name for path in place.iterdir()} if place.is_dir() else set()
        if strangers := sorted(standing - set(earlier or ())):
            raise StoreProblem(f"{out} holds something else ({strangers[0]})", f"{REMEDY}, or move that away")
        aside, before = (place.with_name(f".{place.name}.{os.getpid()}{ending}{TEMPORARY}") for ending in ("", BEFORE))
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


def _tidy(place: Path) -> None:
    """Put back what a killed process had moved away from the place, and remove what it had not yet put there."""
    of_place = re.compile(re.escape(f".{place.name}.") + rf"(\d+)({re.escape(BEFORE)})?{re.escape(TEMPORARY)}")
    for path in sorted(place.parent.iterdir()):
        found = of_place.fullmatch(path.name)
        if found is None or _is_alive(int(found[1])):
            continue
        if found[2] and not place.exists():
            path.rename(place)
            flush_directory(place.parent)
        else:
            shutil.rmtree(path)


def _is_alive(process: int) -> bool:
    """Whether a process of that number runs here, ourselves excepted: whatever bears our number is of an earlier one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


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
