"""Follows a run for the trackers: each has a thread and a queue of its own, so that none can slow, stop or change the run."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, cast

from tempering.engine.events import Event
from tempering.redaction import anonymous
from tempering.trackers._contract import Ending, Facts, Tracker
from tempering.trackers._telling import Followed, probe_values, training_values

Watcher = Callable[[Event], None]

_PATIENCE = 120.0
"""Seconds that trackers are waited for when a run is over."""

_WAITING = 100_000
"""Messages that may wait for a tracker that does not keep up; those after them are left out, and it is told."""

_MEASURED = {"probe": probe_values, "training": training_values}
_COUNTED = ("planned", "unit_finished", "unit_failed", "unit_reused", "left_out", "finished")


class Following:
    """Tells trackers what happens. Use it as a context manager around the run, and hand :attr:`on_event` to the engine."""

    def __init__(
        self, trackers: Sequence[Tracker], followed: Followed, on_event: Watcher | None = None, *, patience: float = _PATIENCE
    ) -> None:
        """Prepare; nothing is started before the engine has planned, so that the run directory is there.

        Args:
            trackers: from :func:`tempering.trackers.chosen`.
            followed: what is followed, and where trackers may keep files.
            on_event: is told everything first, and the trackers' own warnings.
            patience: seconds that they are waited for at the end.
        """
        self._tell = on_event or (lambda event: None)
        self._patience = patience
        self._followed = followed
        self._lines = [_Line(tracker) for tracker in trackers]
        self._failed = self._messages = 0
        self._ending: Ending = "finished"
        self._stdout: TextIO | None = None

    def __enter__(self) -> Self:
        """Keep what trackers print off standard output, which belongs to results."""
        if self._lines:
            self._stdout = sys.stdout
            sys.stdout = cast(TextIO, _WithoutTrackers(self._stdout, self._lines))
        return self

    def on_event(self, event: Event) -> None:
        """Tell the user, then the trackers."""
        self._tell(event)
        if not self._lines:
            return
        if event.kind == "planned":
            for line in self._lines:
                line.start(self._followed.facts, self._followed.folder)
        if event.kind in _MEASURED and (values := _MEASURED[event.kind](event)):
            name = self._followed.names.get(event.unit, event.unit[:12])
            self._each(lambda tracker: tracker.probe(name, event.steps_done, values))
        self._failed += event.kind == "unit_failed"
        if event.kind in _COUNTED:
            counts = {"done": float(event.done), "total": float(event.total), "failed": float(self._failed)}
            number, self._messages = self._messages, self._messages + 1
            self._each(lambda tracker: tracker.progress(number, counts))
        self._pass_on()

    def results(self, values: Mapping[str, float]) -> None:
        """Tell the trackers what came of it: the prices of a run, the measurements of a card."""
        if values:
            self._each(lambda tracker: tracker.results(values))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let the trackers finish, and wait for them, though not for ever; after Ctrl-C only for a moment."""
        ending: Ending = "finished" if kind is None else "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._each(lambda tracker: tracker.finish(ending))
        for line in self._lines:
            line.put(None)
        left = self._patience if ending != "interrupted" else min(self._patience, 10.0)
        for line in self._lines:
            if not line.join(left):
                line.notes.put(Event("warning", message=f"{line.name} has not sent everything in time; the run is complete without it"))
        self._pass_on()
        if self._stdout is not None and not any(line.is_alive() for line in self._lines):
            sys.stdout = self._stdout

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for line in self._lines:
            line.put(do)

    def _pass_on(self) -> None:
        """What trackers have to say is said by the run's own thread."""
        for line in self._lines:
            while not line.notes.empty():
                self._tell(line.notes.get_nowait())


class _Line:
    """The thread and the queue of one tracker. Its first failure is told in one line and ends it."""

    def __init__(self, tracker: Tracker) -> None:
        """Start nothing yet."""
        self.name = type(tracker).__module__.rpartition(".")[2]
        self.notes: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._tracker = tracker
        self._todo: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._started = self._broken = False

    @property
    def thread(self) -> threading.Thread | None:
        """What the tracker is called from."""
        return self._thread

    def start(self, facts: Facts, folder: Path) -> None:
        """Start the thread, and the tracker in it."""
        self._thread = threading.Thread(target=self._work, args=(facts, folder), name=f"tracker-{self.name}", daemon=True)
        self._thread.start()

    def put(self, do: Callable[[Tracker], None] | None) -> None:
        """Have something done, when its turn comes; nothing is before the start or after a failure. ``None`` ends the thread."""
        if self._thread is None or self._broken:
            return
        try:
            self._todo.put_nowait(do)
        except queue.Full:
            self._fail("it does not keep up")

    def join(self, seconds: float) -> bool:
        """Wait for the thread; whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.is_alive()

    def is_alive(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def _work(self, facts: Facts, folder: Path) -> None:
        try:
            if line := self._tracker.start(facts, folder):
                self.notes.put(Event("note", message=line))
            while not self._broken and (do := self._todo.get()) is not None:
                do(self._tracker)
        except BaseException as error:  # a library may raise what it likes, SystemExit among it
            self._fail(_first_line(error))

    def _fail(self, why: str) -> None:
        if not self._broken:
            self._broken = True
            self.notes.put(Event("warning", message=f"{self.name} is told nothing more of this run: {why}"))


class _WithoutTrackers:
    """Standard output, as long as it is not a tracker's thread that writes."""

    def __init__(self, stream: TextIO, lines: Sequence[_Line]) -> None:
        """Keep the stream."""
        self._stream, self._lines = stream, lines

    def write(self, text: str) -> int:
        """Write, or leave it."""
        if threading.current_thread() in [line.thread for line in self._lines]:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return anonymous(lines[0])[:300] if lines else type(error).__name__
