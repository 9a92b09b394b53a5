"""Shows that a promise can be broken: puts a fault into a copy of the sources and lets the promise find it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from torture.promise import Mutation, Promise

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 900
MARK = "TEMPERING_TORTURE_MUTATION"
"""Variable of the environment by which every process that trying a mutation started can be found."""


class Unfit(Exception):
    """A mutation that tells nothing: it does not fit the sources any more, or trying the promise did not come to a verdict."""


def mutated_sources(mutation: Mutation, folder: Path) -> Path:
    """A copy of ``src`` with one fault in it.

    Args:
        mutation: the fault.
        folder: where the copy is made.

    Returns:
        The folder to put on the path.

    Raises:
        Unfit: the text to replace does not stand there exactly once.
    """
    copy = folder / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    file = copy / "tempering" / mutation.file
    if not file.is_file():
        raise Unfit(f"{mutation.file}: there is no such file")
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise Unfit(f"{mutation.file}: {mutation.old!r} stands there {text.count(mutation.old)} times, not once")
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return copy


def caught(promise: Promise, mutation: Mutation, folder: Path, patience: float = PATIENCE_S) -> bool:
    """Whether the short form of a promise fails on sources with the fault.

    A process that a signal ended, or that hangs, has found it too: the suite would not be green. Nothing that it started outlives it.

    Args:
        promise: what is tried.
        mutation: the fault.
        folder: where the copy of the sources is made.
        patience: seconds.

    Raises:
        Unfit: the fault does not fit, or the process ended by itself without figures, which may be anybody's fault.
    """
    sources = mutated_sources(mutation, folder)
    command = [sys.executable, "-m", "torture", "--short", "--only", promise.name, "--json"]
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as scratch:
        path = os.pathsep.join([str(sources), str(ROOT)])
        code, said, told = ended(command, {**os.environ, "PYTHONPATH": path, "TMPDIR": scratch}, patience)
    if code is None or code < 0:
        return True
    if code == 0:
        return False
    try:
        return bool(json.loads(said)["promises"][0]["failures"])
    except (ValueError, LookupError) as error:
        raise Unfit(f"trying {promise.name} ended with {code} and no figures: {' '.join(told.split())[-400:]}") from error


def ended(command: list[str], environment: dict[str, str], patience: float) -> tuple[int | None, str, str]:
    """How a command ended, ``None`` where it took too long, and what it wrote; whatever it started has ended with it."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        # into files: a pipe would be held open by whoever outlives the command, and reading it would never end
        process = subprocess.Popen(
            command, cwd=ROOT, env={**environment, MARK: mark}, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            code: int | None = process.wait(patience)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGKILL)  # with those whose environment was emptied
        finally:
            _end(mark)
            process.wait()
        out.seek(0)
        err.seek(0)
        return code, out.read().decode("utf-8", "replace"), err.read().decode("utf-8", "replace")


def _end(mark: str, limit: float = 30.0) -> None:
    """Kill every process that carries a mark, those in sessions of their own too, until two looks find none.

    One look is not enough: while a process is replaced by another (``exec``), it shows no environment for a moment.
    """
    until, empty = time.monotonic() + limit, 0
    while empty < 2 and time.monotonic() < until:
        alive = _marked(mark)
        empty = 0 if alive else empty + 1
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _marked(mark: str) -> list[int]:
    """Processes that carry a mark; one that has ended and was not waited for shows no environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
    return found
