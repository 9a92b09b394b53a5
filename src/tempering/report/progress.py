"""Progress of a run: one live display in a terminal, plain lines elsewhere, always on standard error.

Standard output belongs to results. Every line of progress goes to standard error, also under ``--json``, so that a redirected
result is never mixed with it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tempering.report.console import PlainConsole
from tempering.report.formatting import duration

if TYPE_CHECKING:
    from tempering.engine.events import Event

_SHOWN = ("harm", "novel", "utility", "refusal")
"""What a running attack's line shows of its latest probe."""

_URGENT = ("unit_failed", "left_out", "warning")
"""What is said whatever else is not."""

_ROWS = 8
"""Running units shown at once; the rest are counted in a line."""


@dataclass
class _Running:
    """A unit at work."""

    label: str
    steps_done: int = 0
    steps_total: int = 0
    trials_done: int = 0
    trials_total: int = 0
    searching: bool = False
    measurements: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """How much is done, each trial of a search and the run with what it chose counted alike."""
        own = min(self.steps_done / self.steps_total, 1.0) if self.steps_total else 0.0
        return (self.trials_done + own) / (self.trials_total + 1)

    @property
    def place(self) -> str:
        """Where it is, in words: in its search, or in its run."""
        if self.searching:
            return f"search {self.trials_done}/{self.trials_total}"
        return f"{self.steps_done}/{self.steps_total} steps" if self.steps_total else ""


class Display:
    """Shows a run's events to whoever waits for it.

    Use it as a context manager and hand :meth:`on_event` to the engine. Entering writes the first line at once.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        enabled: bool = True,
        live: bool | None = None,
        total: int = 0,
        title: str = "Preparing",
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        """Choose how to show.

        Args:
            stream: where to; standard error unless told.
            enabled: whether to show anything at all.
            quiet: show nothing but warnings and failures.
            verbose: say every probe in a line of its own.
            live: one display that redraws itself; ``None`` asks whether the stream is a terminal.
            total: units of the run, where they are known before the first event.
            title: what is going on until the first event.
            clock: seconds, for the time estimate.
        """
        self._console = PlainConsole(file=stream or sys.stderr, stderr=stream is None, highlight=False, soft_wrap=live is False)
        self._enabled, self._quiet, self._verbose = enabled, quiet, verbose
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal if live is None else live
        self._total, self._done, self._reused, self._failed, self._left_out = total, 0, 0, 0, 0
        self._title = title
        self._running: dict[str, _Running] = {}
        self._clock = clock
        self._started = clock()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Write the first line, or open the live display."""
        self._started = self._clock()
        if not self._enabled or self._quiet:
            return self
        if self._is_live:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=5,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=True,
            )
            self._live.start()
        else:
            self._line(f"{self._title} ...")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the live display; what was finished by then stays in one line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._enabled and self._total and not self._quiet:
            self._line(self._closing(interrupted=kind is not None))

    def on_event(self, event: Event) -> None:
        """Take in one event of the engine."""
        before = self._done
        self._total = event.total or self._total
        self._done = max(self._done, event.done)
        line = self._take(event, before)
        if self._verbose and event.kind == "probe":
            line = f"{self._place()} {event.label} at {event.steps_done} steps: {_measured(event.measurements) or 'nothing measured'}"
        if not self._enabled or line is None or (self._quiet and event.kind not in _URGENT):
            return
        if self._live is None or self._verbose or event.kind in (*_URGENT, "note"):
            self._line(line)

    @property
    def seconds_left(self) -> float:
        """Estimate from the pace so far, units that took no time left out; NaN while there is too little to go by."""
        free = self._reused + self._left_out
        ours = self._total - free
        finished = self._done - free + sum(unit.share for unit in self._running.values())
        if ours <= 0 or finished < 0.02 * ours or finished <= 0:
            return float("nan")
        return (self._clock() - self._started) * max(ours - finished, 0) / finished

    def _take(self, event: Event, before: int) -> str | None:
        """Update the state; the plain line for this event, or ``None`` where it deserves none. So many units were done before it."""
        match event.kind:
            case "preparing":
                self._title = event.message
                return event.message
            case "planned":
                self._started = self._clock()
                already = f", {event.done} of them already done" if event.done else ""
                return f"{_runs(self._total)} planned{already}"
            case "unit_started":
                self._running[event.unit] = _Running(event.label, 0, event.steps_total, 0, event.trials_total, event.trials_total > 0)
                return f"{self._place()} started {event.label}"
            case "trial":
                unit = self._running.setdefault(event.unit, _Running(event.label))
                unit.trials_done, unit.trials_total, unit.searching = event.trials_done, event.trials_total, True
                return None
            case "training":
                unit = self._running.setdefault(event.unit, _Running(event.label))
                unit.steps_done, unit.steps_total = event.steps_done, event.steps_total
                return None
            case "probe":
                unit = self._running.setdefault(event.unit, _Running(event.label))
                if event.steps_done or not unit.trials_total:  # the untouched model is probed before the search
                    unit.trials_done, unit.searching = unit.trials_total, False
                unit.steps_done, unit.steps_total = event.steps_done, event.steps_total or unit.steps_total
                unit.measurements = event.measurements
                return None
            case "unit_finished":
                latest = self._running.pop(event.unit, _Running(event.label))
                found = event.message or _measured(event.measurements or latest.measurements)
                return f"{self._place()} {event.label}: {found or 'done'}{self._left()}"
            case "unit_failed":
                self._running.pop(event.unit, None)
                self._failed += 1
                return f"{self._place()} {event.label} failed: {event.message or 'no reason given'}"
            case "unit_reused":
                self._reused += 1
                return f"{self._place()} {event.label}: reused"
            case "left_out":
                self._left_out += event.done - before
                return f"{self._place()} {event.message}: {event.label} failed"
            case "note":
                return event.message
            case "warning":
                return f"warning: {event.message}"
            case _:
                self._running.clear()
                return None

    def _place(self) -> str:
        return f"[{self._done:>{len(str(self._total))}}/{self._total}]"

    def _left(self) -> str:
        left = self.seconds_left
        return f"  (about {duration(left)} left)" if left == left and left >= 1 else ""

    def _closing(self, *, interrupted: bool) -> str:
        parts = [f"{self._done} of {_runs(self._total)} done in {duration(self._clock() - self._started)}"]
        if self._reused:
            parts.append(f"{self._reused} reused")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._left_out:
            parts.append(f"{self._left_out} left out")
        return ", ".join(parts) + (", stopped early" if interrupted else "")

    def _line(self, text: str) -> None:
        self._console.print(Text(" ".join(text.splitlines())), soft_wrap=self._live is None)

    def _render(self) -> RenderableType:
        elapsed = self._clock() - self._started
        if not self._total:
            return Spinner("dots", Text(f"{self._title} ... {duration(elapsed)}"))
        parts = [f"{self._done} of {_runs(self._total)}", f"{max(self._total - self._done, 0)} left"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        parts.append(duration(elapsed))
        left = self.seconds_left
        if self._done < self._total:
            parts.append(f"about {duration(left)} left" if left == left else "estimating")
        head = Table.grid(padding=(0, 1), expand=False)
        finished = self._done + sum(unit.share for unit in self._running.values())
        head.add_row(ProgressBar(total=self._total, completed=min(finished, self._total), width=24), Text(" · ".join(parts)))
        return Group(head, self._units())

    def _units(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for unit in list(self._running.values())[:_ROWS]:
            name = Text(f"  {unit.label}", overflow="ellipsis", no_wrap=True)
            table.add_row(name, Text(unit.place, style="dim"), Text(_measured(unit.measurements)))
        if not self._running:
            waiting = "starting workers" if self._done < self._total else "writing the report"
            table.add_row(Spinner("dots", Text(waiting, style="dim")))
        hidden = len(self._running) - _ROWS
        if hidden > 0:
            table.add_row(Text(f"  and {hidden} more", style="dim"))
        return table


def _runs(number: int) -> str:
    return f"{number} {'run' if number == 1 else 'runs'}"


def _measured(measurements: dict[str, float]) -> str:
    """The latest probe in a few words: "harm 0.98, utility 0.99"."""
    known = [(name, measurements[name]) for name in _SHOWN if name in measurements and measurements[name] == measurements[name]]
    return ", ".join(f"{name} {value:.2f}" for name, value in known)
