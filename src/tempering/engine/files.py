"""Files that are either whole or not there: written aside, flushed to the disk, and put in place by one rename."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tempering.canonical import canonical_hash
from tempering.errors import StoreProblem

MACHINE_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
"""What the system says when a disk or the machine is at fault, and not what was being computed."""

UNREADABLE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EIO)
"""What the system says of a file that is lost, as opposed to one that another try would read."""

TEMPORARY = ".tmp"
"""Ending of whatever is not yet in place. Its name starts with a dot too."""


KEPT = "kept"
"""Folder in a run directory for what an attack made, where that was asked for."""


class Damaged(Exception):
    """Files that are not what was written."""


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_directory(directory: Path) -> None:
    """Wait until the disk has the names in a directory."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path) -> None:
    """Make a directory and what is missing above it, and wait until the disk has their names."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        flush_directory(made.parent)
    if not missing:  # whoever made it may have been killed before that
        with suppress(PermissionError):  # what lies above may be none of ours
            flush_directory(directory.parent)


def flush_file(path: Path) -> None:
    """Wait until the disk has what a file holds."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place of whatever stands there, so that a reader sees the old one or the new one, whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        write_durably(aside, content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn what the system says about a run directory into the one line that a user can act on.

    Raises:
        StoreProblem: in place of any :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        again = f"then continue with: temper resume {directory}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreProblem(f"no space left for the run in {directory}", f"free some, {again}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreProblem(
                f"the run directory {directory} cannot be written to", "make it writable, or choose another with --out"
            ) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise StoreProblem(
                f"the run directory {directory}, or a part of it, is gone", f"put it back if it was moved, {again}"
            ) from error
        raise StoreProblem(f"the run directory {directory} cannot be used: {error.strerror or error}", again) from error


def sealed(content: dict[str, Any]) -> bytes:
    """JSON that carries the hash of its own content."""
    return json.dumps({**content, "seal": canonical_hash(content)}, allow_nan=False).encode()


def unsealed(content: bytes) -> dict[str, Any]:
    """Undo :func:`sealed`.

    Raises:
        Damaged: it is not what was sealed.
    """
    try:
        values = json.loads(content)
        seal = values.pop("seal")
        sound = seal == canonical_hash(values)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged("its description is cut off or unreadable") from error
    if not sound:
        raise Damaged("its description has changed since it was written")
    return dict(values)
