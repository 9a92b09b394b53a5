"""The folder in which a training keeps what it needs to go on after it was killed.

Layout::

    <directory>.training/.lock
    <directory>.training/00000040/tensors.safetensors   weights, optimiser, last good weights
    <directory>.training/00000040/record.json           where it stands, the job's hash, SHA-256 of the tensors, a seal

A generation is named by the number of optimizer steps done. It is written under a hidden name, flushed, and put in place by one
rename; the two latest are kept, so that one that turns out damaged costs a few seconds of training and not the whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempering.engine.files import TEMPORARY, UNREADABLE, Damaged, flush_directory, make_directory, sealed, unsealed, write_durably
from tempering.errors import StoreProblem
from tempering.models.saving import number_of, why_not_written
from tempering.partial import sweep

TENSORS = "tensors.safetensors"
RECORD = "record.json"
KEPT = 2
"""Generations that are kept."""

PASSING = (errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT)
"""What the system says when the same may well work a moment later."""

SHARE = 0.05
"""Of the time of a training, at most so much goes into snapshots."""

STAGES = ("begun", "tensors written", "record written", "in place", "older ones gone")
"""The moments of a snapshot that :attr:`TrainingFolder.reached` is told of, in order."""


class TrainingFolder:
    """Snapshots of one training beside the directory that its model will stand in.

    Attributes:
        directory: of the model.
        path: of the snapshots.
        job: hash of the job.
        warn: told, in one line, what was found damaged.
        reached: told of every moment in :data:`STAGES`; crash tests end the process there.
    """

    def __init__(
        self, directory: Path, job: str, warn: Callable[[str], None], reached: Callable[[str], None] = lambda moment: None
    ) -> None:
        """Name the folder; nothing is read or made yet."""
        self.directory = directory
        self.path = directory.with_name(f"{directory.name}.training")
        self.job = job
        self.warn = warn
        self.reached = reached
        self._removed = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for one training, making it where there is none; gone afterwards if there is nothing in it to go on from.

        Raises:
            StoreProblem: another process holds it, or it cannot be written.
        """
        with self._explained():
            make_directory(self.path)
            lock = self._lock()
            self._sweep()
        try:
            yield
        finally:
            if not self._removed and not self._generations() and not any(self.path.glob("damaged-*")):
                shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)

    def write(self, tensors: dict[str, Tensor], record: dict[str, Any], steps: int) -> None:
        """Keep a snapshot, and drop all but the latest two.

        Args:
            tensors: on any device; shared memory is written out for each.
            record: JSON values.
            steps: optimizer steps done, all stages counted.

        Raises:
            StoreProblem: the disk is full or not writable; older snapshots still stand.
        """
        place = self.path / f"{steps:08d}"
        aside = self.path / f".{place.name}{TEMPORARY}"
        with self._explained():
            try:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
                self.reached("begun")
                _save(tensors, aside / TENSORS)
                self.reached("tensors written")
                content = {"job": self.job, "tensors": file_sha256(aside / TENSORS), "record": record}
                write_durably(aside / RECORD, sealed(content))
                flush_directory(aside)
                self.reached("record written")
                if place.exists():  # a damaged one of the same step
                    shutil.rmtree(place)
                aside.rename(place)
                flush_directory(self.path)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            self.reached("in place")
            for older in self._generations()[:-KEPT]:
                shutil.rmtree(older, ignore_errors=True)
            self.reached("older ones gone")

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The latest snapshot that is as it was written, tensors on the CPU; ``None`` where there is none.

        Damaged ones are put aside, and stay there until the training has ended.

        Raises:
            StoreProblem: the folder holds another job's training, or one cannot be read just now, which says nothing of what it holds.
        """
        with self._explained():
            for place in reversed(self._generations()):
                try:
                    return self._read(place)
                except Damaged as problem:
                    aside = self._put_aside(place)
                    self.warn(f"the snapshot {place.name} was damaged ({problem}); it was moved to {aside}; going on from the one before")
        return None

    def remove(self) -> None:
        """Remove the folder with everything in it; from then on it may be another process's."""
        self._removed = True
        shutil.rmtree(self.path, ignore_errors=True)

    def clear(self) -> None:
        """Remove what a process that was killed at the very end has left, if it is this job's and nobody holds it."""
        try:
            with self.held():
                self.latest()
                self.remove()
        except StoreProblem:
            return

    def _read(self, place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        try:
            content = unsealed((place / RECORD).read_bytes())
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            raise Damaged(f"{RECORD}: {error.strerror}") from error
        if content["job"] != self.job:
            raise StoreProblem(
                f"{self.path} holds the interrupted training of another model, defence, data, seed or setting",
                "give the same ones again, remove that folder, or choose another --out",
            )
        try:
            if file_sha256(place / TENSORS) != content["tensors"]:
                raise Damaged(f"{TENSORS} has changed since it was written")
            return load_file(place / TENSORS), content["record"]
        except (OSError, SafetensorError) as error:
            number = number_of(error)
            if number is not None and number not in UNREADABLE:
                raise
            raise Damaged(f"{TENSORS}: {error}") from error

    def _generations(self) -> list[Path]:
        return sorted(path for path in self.path.glob("[0-9]*") if path.is_dir())

    def _put_aside(self, place: Path) -> Path:
        """Move a damaged snapshot to a name that is not one; where it lies now."""
        names = (place.with_name(f"damaged-{place.name}-{number}") for number in count())
        aside = next(path for path in names if not path.exists())
        place.rename(aside)
        flush_directory(self.path)
        return aside

    def _lock(self) -> int:
        """Take the lock; whoever holds it may just be removing the folder."""
        while True:
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException as error:
                os.close(handle)
                if isinstance(error, BlockingIOError):
                    raise StoreProblem(
                        f"another process is training into {self.directory}", "wait until it ends, or choose another --out"
                    ) from None
                raise
            if os.fstat(handle).st_nlink:
                return handle
            os.close(handle)
            self.path.mkdir(parents=True, exist_ok=True)

    def _sweep(self) -> None:
        """Remove what killed processes left half written; the lock says that no living one is at work."""
        for path in self.path.glob(f".*{TEMPORARY}"):
            shutil.rmtree(path, ignore_errors=True)
        sweep(self.directory.parent, self.directory.name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the system says into the one line that a user can act on."""
        try:
            yield
        except Exception as error:
            again, reason = "then give the same command again", why_not_written(error)
            if reason is None:
                raise
            if reason in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)):
                raise StoreProblem(f"no space left for the training in {self.path}", f"free some, {again}") from error
            if number_of(error) in PASSING:
                raise StoreProblem(
                    f"the training folder {self.path} cannot be used just now: {reason}", "give the same command again"
                ) from error
            remedy = f"make it writable, {again}, or choose another --out"
            raise StoreProblem(f"the training folder {self.path} cannot be used: {reason}", remedy) from error


class Pace:
    """When the next snapshot is due: so many seconds after the last one, and never so often that it slows the training."""

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to wait.

        Args:
            every: least seconds between two; 0 makes one due after every step.
            clock: seconds.
        """
        self._every = every
        self._clock = clock
        self._last = clock()
        self._took = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time."""
        if self._every == 0:
            return True
        return self._clock() - self._last >= max(self._every, self._took / SHARE)

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Around a snapshot."""
        begun = self._clock()
        yield
        self._last = self._clock()
        self._took = self._last - begun


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as sixty-four hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors and wait until the disk has them."""
    seen: set[int] = set()
    storable: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        storable[name] = value.clone() if place in seen else value
        seen.add(place)
    save_file(storable, path)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
