"""What the files of a report were when they were written, so that whoever reads them again is not told something else.

A report is derived: it can be written anew from the units at any time. But tables and summary are also read as they stand, to be opened,
compared and exported, and a byte that has changed in them would change a number; in the page and the pictures it would do so
to whoever looks at them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tempering.engine.files import Damaged, replace_file, sealed, unsealed

CHECKSUMS = "checksums.json"
READ_BY_PROGRAMS = (".parquet", ".json")
TRIES = 5
PAUSE_S = 0.2
"""Between two tries, in which another process may be writing the report anew."""

Read = TypeVar("Read")


def write_checksums(directory: Path, contents: dict[str, bytes]) -> None:
    """Keep what files were written.

    Args:
        directory: the run's.
        contents: of the files, by their paths within it.
    """
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    replace_file(directory / CHECKSUMS, sealed({"files": files}))


def read_checked(directory: Path, names: Callable[[str], bool], read: Callable[[], Read]) -> Read:
    """Read files of a report, if they are as they were written. Reports of before, which have no checksums, are taken as they are.

    Files are read together: where another process puts a new report in place meanwhile, all are read again.

    Args:
        directory: the run's.
        names: which files will be read, by their paths within the directory.
        read: reads them.

    Raises:
        Damaged: a file has changed, or one that is read by programs is gone; or the checksums have.
        OSError: what ``read`` raises.
        ValueError: likewise.
    """
    for number in range(TRIES):
        try:
            before = _check(directory, names)
            found = read()
            if _check(directory, names) != before:
                raise Damaged(f"{CHECKSUMS} is not what it was a moment ago")
            return found
        except (Damaged, OSError, ValueError):
            if number == TRIES - 1 or not (directory / CHECKSUMS).exists():
                raise
        time.sleep(PAUSE_S)
    raise AssertionError


@contextmanager
def writing_alone(directory: Path) -> Iterator[None]:
    """Wait until no other process writes a report into a folder, and keep others waiting while the block runs.

    Two at once would each put some of their files in place, and the checksums would fit neither. The lock is on the folder itself, and goes
    with the process; file systems that know none of that kind go without.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check(directory: Path, names: Callable[[str], bool]) -> bytes:
    """Compare the files with their checksums, and return those as they stand there; nothing for a report of before."""
    try:
        stored = (directory / CHECKSUMS).read_bytes()
    except FileNotFoundError:
        return b""
    content: dict[str, Any] = unsealed(stored)
    _compare(directory, ((name, digest) for name, digest in content["files"].items() if names(name)))
    return stored


def _compare(directory: Path, expected: Iterable[tuple[str, str]]) -> None:
    for name, digest in expected:
        path = directory / name
        if not path.is_file() and not name.endswith(READ_BY_PROGRAMS):
            continue  # whoever put the page elsewhere, or threw the pictures away, has damaged nothing
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise Damaged(f"{name} is not as it was written")
