"""Progress of one training: a bar in a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from tempering.report.console import PlainConsole
from tempering.report.formatting import duration, share, significant

if TYPE_CHECKING:
    from tempering.engine.events import Event

_EVERY = 10.0
"""Seconds between two plain lines of the same stage."""


class TrainingDisplay:
    """Shows a training's events to whoever waits for it; used as :class:`tempering.report.progress.Display` is."""

    def __init__(
        self,
        title: str,
        stream: TextIO | None = None,
        *,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
    ) -> None:
        """Choose how to show.

        Args:
            title: what is going on until the first event.
            stream: where to; standard error unless told.
            live: a bar that redraws itself; ``None`` asks whether the stream is a terminal.
            clock: seconds, for the time estimate.
            quiet: say nothing but warnings.
        """
        self._quiet = quiet
        self._console = PlainConsole(file=stream or sys.stderr, stderr=stream is None, highlight=False, soft_wrap=live is False)
        is_live = not quiet and (self._console.is_terminal and not self._console.is_dumb_terminal if live is None else live)
        described, words = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[words]"))
        columns = (SpinnerColumn(), described, BarColumn(24), words)
        self._bar = Progress(*columns, console=self._console, transient=True, redirect_stdout=False) if is_live else None
        self._task = self._bar.add_task(title, total=None, words="") if self._bar else None
        self._title = title
        self._clock = clock
        self._begun: tuple[float, int] | None = None
        self._said: tuple[str, float] = ("", 0.0)

    def __enter__(self) -> Self:
        """Write the first line, or open the bar."""
        if self._bar is not None:
            self._bar.start()
        else:
            self._line(f"{self._title} ...")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()

    def on_event(self, event: Event) -> None:
        """Take in one event of a training."""
        if event.kind == "warning":
            self._line(f"warning: {event.message}", urgent=True)
        elif event.kind == "training":
            self._training(event)
        elif event.message:
            self._line(event.message)

    def _training(self, event: Event) -> None:
        now = self._clock()
        if self._begun is None:
            self._begun, self._said = (now, event.steps_done), (event.label, now)
        words = self._words(event, now)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=event.label, total=event.steps_total, completed=event.steps_done, words=words)
        if event.message:
            self._line(event.message)
        elif self._bar is None and (self._said[0] != event.label or now - self._said[1] >= _EVERY):
            self._line(f"{event.label}: {words}")
            self._said = event.label, now

    def _words(self, event: Event, now: float) -> str:
        """How far it is: "40/200 steps, loss 0.12, utility 99 % of before, about 30 s left"."""
        parts = [f"{event.steps_done}/{event.steps_total} steps"]
        if "loss" in event.measurements:
            parts.append(f"loss {significant(event.measurements['loss'])}")
        if "utility_kept" in event.measurements:
            parts.append(f"utility {share(event.measurements['utility_kept'])} of before")
        assert self._begun is not None
        done = event.steps_done - self._begun[1]
        if done >= 3 and event.steps_done < event.steps_total:
            parts.append(f"about {duration((now - self._begun[0]) / done * (event.steps_total - event.steps_done))} left")
        return ", ".join(parts)

    def _line(self, text: str, *, urgent: bool = False) -> None:
        if self._quiet and not urgent:
            return
        self._console.print(Text(" ".join(text.splitlines())), soft_wrap=self._bar is None)
