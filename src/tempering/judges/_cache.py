"""What a judge said before, by content, on disk: for the owner alone, and never a text.

A line is the SHA-256 of the judge's identity, the prompt and the response, with the verdict and the score. Every process writes a file
of its own and reads those of all at its start, so nothing is locked, and a shared file system will do; of a killed process the last line
may be torn, and is passed over. A disk that is full costs the memory of what was judged and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import stat
from pathlib import Path
from typing import Any

from tempering.canonical import canonical_hash
from tempering.errors import StoreProblem
from tempering.judges._contract import Opinion
from tempering.judges._judging import Verdict
from tempering.organisms.catalogue import cache_directory

_log = logging.getLogger(__name__)

_LINE = 512
"""Bytes that a line may have; ours have about 110."""
_LARGEST = 256 << 20
"""Bytes of one file that are read."""


class Remembered:
    """What one judge said. Names and content are hashes; nothing is read or written before it is first asked for."""

    def __init__(self, identity: dict[str, Any]) -> None:
        """Name the judge."""
        self._name = canonical_hash(identity)
        self._folder = cache_directory() / "judges" / self._name[:32]
        self._known: dict[str, Opinion] | None = None
        self._handle: int | None = None
        self._broken = False

    def key(self, prompt: str, response: str) -> str:
        """What this response to this prompt is remembered by."""
        digest = hashlib.sha256(self._name.encode())
        for text in (prompt, response):
            content = text.encode("utf-8", "surrogatepass")
            digest.update(f"{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def get(self, key: str) -> Opinion | None:
        """What was said then; ``None`` where nothing was."""
        if self._known is None:
            self._known = self._read()
        return self._known.get(key)

    def put(self, key: str, opinion: Opinion) -> None:
        """Remember, at once and for good, if the disk allows it."""
        if self._known is None:
            self._known = self._read()
        self._known[key] = opinion
        if self._broken:
            return
        line = json.dumps({"key": key, "verdict": str(opinion.verdict), "score": opinion.score}) + "\n"
        try:
            if self._handle is None:
                self._handle = self._opened()
            os.write(self._handle, line.encode())
        except OSError as error:
            self._broken = True
            _log.warning("warning: what judges say is not remembered on disk: %s: %s", self._folder, error.strerror)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _opened(self) -> int:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_own()
        name = f"{os.getpid()}-{os.urandom(6).hex()}.jsonl"
        return os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _read(self) -> dict[str, Opinion]:
        if not self._folder.is_dir():
            return {}
        self._check_own()
        known: dict[str, Opinion] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in _lines(path):
                if (entry := _entry(line)) is not None:
                    known[entry[0]] = entry[1]
        return known

    def _check_own(self) -> None:
        """Refuse verdicts that somebody else may have put there.

        Raises:
            StoreProblem: the folder, or the one above it, is not the user's alone.
        """
        for folder in (self._folder.parent, self._folder):
            seen = folder.lstat()
            if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
                raise StoreProblem(
                    f"what judges said is not read from {folder}: it is not your own folder", "delete it, or set TEMPERING_CACHE"
                )
            if seen.st_mode & 0o077:
                folder.chmod(0o700)


def _lines(path: Path) -> list[bytes]:
    """Lines of a regular file of the user's own; none of any other."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(handle, "rb") as file:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid():
            return []
        return file.read(_LARGEST).split(b"\n")


def _entry(line: bytes) -> tuple[str, Opinion] | None:
    """A line read; ``None`` where it is torn or none of ours."""
    if not line or len(line) > _LINE:
        return None
    try:
        found = json.loads(line)
        key, verdict, score = found["key"], Verdict(found["verdict"]), float(found["score"])
    except (ValueError, KeyError, TypeError):
        return None
    return (key, Opinion(verdict, score)) if isinstance(key, str) and math.isfinite(score) and 0 <= score <= 1 else None
