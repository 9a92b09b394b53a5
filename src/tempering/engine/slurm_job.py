"""What a Slurm job runs: groups of units, one group after the other, told of in a file of the run directory.

A job's folder holds ``units.json``, what it is to do, and ``messages.jsonl``, one message a line in the words of
:mod:`tempering.engine.messages`, each with the hash of its unit and one of its own content. A line counts when it ends; what a killed job
has told stands, and what the disk has changed since does not. A job whose ``units.json`` is gone has been given up, and stops before its
next group.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tempering.engine.channel import AGAIN, read_message
from tempering.errors import UnreadableMessage

UNITS = "units.json"
MESSAGES = "messages.jsonl"
SEAL = "sha256"
"""Field of a line that holds the hash of the others."""


def main(folder: str) -> None:
    """Run the units of a job, those of a group together where they can be.

    Args:
        folder: the job's.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    place = Path(folder)
    orders = json.loads((place / UNITS).read_bytes())
    from tempering import consent
    from tempering.engine.environment import describe_environment
    from tempering.engine.messages import error_message, result_message, run_units
    from tempering.engine.units import Unit
    from tempering.engine.worker import Worker, reproducible
    from tempering.redaction import guard_streams

    with (place / MESSAGES).open("ab", buffering=0) as file:

        def say(message: dict[str, Any], unit: str = "") -> None:
            file.write(line_of({"unit": unit, **message}))

        try:
            guard_streams()
            consent.allow_code()  # the driver has asked, and writes nothing else
            worker = Worker(Path(orders["models"]))
            with reproducible(orders["threads"]):
                say({"kind": "ready", "environment": describe_environment()})
                for group in orders["groups"]:
                    if not (place / UNITS).exists():
                        return
                    units = [Unit.from_json(values) for values in group]

                    def tell(message: dict[str, Any], units: list[Unit] = units) -> None:
                        say(message, units[message["of"]].hash)

                    for number, result in run_units(worker, units, tell):
                        say(result_message(result), units[number].hash)
        except Exception as error:
            say(error_message(error))  # the driver raises it; here nobody reads it


def line_of(message: dict[str, Any]) -> bytes:
    """A message as it stands in the file: one line, with the hash of what it holds."""
    message = json.loads(json.dumps(message))  # as it will be read: names that are numbers become texts
    return json.dumps({**message, SEAL: _hash(message)}).encode() + b"\n"


def _unsealed(message: dict[str, Any]) -> dict[str, Any]:
    """A message without its hash. A result is committed as it stands, so it has to have one."""
    seal = message.pop(SEAL, None)
    if (seal is not None or message.get("kind") == "result") and seal != _hash(message):
        raise UnreadableMessage("a line of a Slurm job is not as it was written", AGAIN)
    return message


def _hash(message: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(message, sort_keys=True).encode()).hexdigest()


class Listener:
    """Reads what a job says, as far as it has said it."""

    def __init__(self, folder: Path) -> None:
        """Begin at the beginning.

        Args:
            folder: the job's.
        """
        self._path = folder / MESSAGES
        self._read = 0

    def messages(self) -> Iterator[dict[str, Any]]:
        """What is new since the last time. The last line, where it has no end yet, is left for the next time.

        Raises:
            UnreadableMessage: a line is no message, or not the one that was written.
            OSError: the file cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:  # the job has not begun, or another machine's cache says so
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.split(b"\n")[:-1]:
            yield _unsealed(read_message(line))
