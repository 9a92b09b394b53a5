"""The worker on a Ray node: an actor that holds a :class:`tempering.engine.worker.Worker`, and what its node was sent.

Units, messages and results are dictionaries of JSON values; files travel as bytes. Ray itself packs them with cloudpickle, so whoever
can reach a Ray cluster's ports can run programs on its nodes: a cluster is for one's own network only.
"""

from __future__ import annotations

import fcntl
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PREFIX = "tempering-ray-"
"""How the folders of runs on a node begin, in the system's temporary directory."""

ENDING_SECONDS = 10.0
"""How long workers that were told to end may take for it."""

WAITING = 4
"""Messages, files' pieces among them, that units may be ahead of what Ray has taken."""


Content = dict[str, dict[str, list[Any]]]
"""Ray's references to the pieces of every file of every parcel, by the parcel's digest and the file's name."""


class RayWorker:
    """Runs the units of one run that it is given, one after the other or together, on one node."""

    def __init__(self, run: str, threads: int) -> None:
        """Make room on the node. Libraries are imported here: they take seconds, while the driver prepares the first unit.

        Args:
            run: names the driver's run, among all runs on the node.
            threads: for a unit to compute with.
        """
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        from tempering import consent
        from tempering.engine.shipping import Shelf
        from tempering.engine.worker import Worker
        from tempering.redaction import guard_streams

        guard_streams()  # what is printed here, Ray shows at the driver and keeps in the node's logs
        consent.allow_code()  # the driver has asked, and sends nothing else
        sweep(Path(tempfile.gettempdir()))
        self._shelf = Shelf(folder_of(run))
        self._in_use = hold(self._shelf.folder)
        self._worker = Worker(self._shelf.models)
        self._threads = threads

    def greet(self) -> dict[str, Any]:
        """What this worker is: its ``environment``, and the version of the ``code`` that computes results."""
        from tempering.engine.environment import describe_environment
        from tempering.engine.units import CODE_VERSION

        return {"environment": describe_environment(), "code": CODE_VERSION}

    def run(self, units: list[dict[str, Any]], parcels: list[dict[str, Any]], content: Content) -> Iterator[dict[str, Any]]:
        """Run units, and say how it goes in the words of :mod:`tempering.engine.messages`; a model that one hardens goes before its result.

        Args:
            units: what to run, of one kind, or a single one.
            parcels: what they need.
            content: what is in them.
        """
        outbox: queue.Queue[dict[str, Any]] = queue.Queue(WAITING)
        threading.Thread(target=self._run, args=(units, parcels, content, outbox), daemon=True).start()
        left = len(units)
        while left:
            message = outbox.get()
            yield message
            left = 0 if message["kind"] == "error" else left - (message["kind"] == "result")

    def _run(
        self,
        units: list[dict[str, Any]],
        parcels: list[dict[str, Any]],
        content: Content,
        outbox: queue.Queue[dict[str, Any]],
    ) -> None:
        from tempering.engine.messages import error_message, result_message, run_units
        from tempering.engine.units import Unit
        from tempering.engine.worker import reproducible

        try:
            self._fetch(parcels, content)
            described = [Unit.from_json(unit) for unit in units]
            with reproducible(self._threads):
                for place, result in run_units(self._worker, described, outbox.put):
                    if described[place].work.kind == "harden" and result.status == "completed":
                        for message in self._made(described[place]):
                            outbox.put(message)
                    outbox.put({**result_message(result), "of": place})
        except Exception as error:
            outbox.put(error_message(error))

    def _fetch(self, parcels: list[dict[str, Any]], content: Content) -> None:
        """Bring to this node what is not there yet, and say where it lies."""
        import ray

        from tempering.engine.shipping import DEFENDED, Parcel
        from tempering.relocation import relocate

        for values in parcels:
            parcel = Parcel.from_json(values)
            sent = content[parcel.digest]

            def pieces(file: str, sent: dict[str, list[Any]] = sent) -> Iterable[bytes]:
                return (ray.get(reference) for reference in sent[file])

            place = self._shelf.put(parcel, pieces)
            if not parcel.key.startswith(DEFENDED):
                relocate({parcel.key: place})

    def _made(self, unit: Any) -> Iterator[dict[str, Any]]:
        """The defended model that a unit has trained."""
        from tempering.engine.defended import place_of
        from tempering.engine.shipping import DEFENDED, packed

        place = place_of(unit, self._shelf.models)
        parcel = packed(DEFENDED + place.name, place, name=place.name)
        yield {"kind": "model", "parcel": parcel.as_json()}
        for file in parcel.files:
            for piece in parcel.pieces(file):
                yield {"kind": "piece", "file": file, "content": piece}


def folder_of(run: str) -> Path:
    """Where this node keeps what a run brings. Nodes of a test are processes of one machine, so its name has the node's."""
    import ray

    return Path(tempfile.gettempdir()) / f"{PREFIX}{run}-{ray.get_runtime_context().get_node_id()[:16]}"


def clear(run: str) -> None:
    """Remove what a run brought to this node and made of it; the run is over, and its workers are told to end."""
    folder = folder_of(run)
    with suppress(OSError):
        handle = os.open(folder / ".in-use", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _wait_until_unused(handle)
        finally:
            os.close(handle)
    shutil.rmtree(folder, ignore_errors=True)


def _wait_until_unused(handle: int) -> None:
    """Wait for the workers to be gone, though not forever: one that is still writing would put back what is removed."""
    end = time.monotonic() + ENDING_SECONDS
    while time.monotonic() < end:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.05)


def hold(folder: Path) -> int:
    """Say that a folder is in use until this process ends.

    Returns:
        The descriptor that says so.
    """
    handle = os.open(folder / ".in-use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def sweep(root: Path) -> None:
    """Remove the folders of runs that nobody is at any more; a driver that was killed could not."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError):
            handle = os.open(folder / ".in-use", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
