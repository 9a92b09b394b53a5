"""Progress of one training, in a terminal and without one."""

from __future__ import annotations

import io

from tempering.engine.events import Event
from tempering.report.training_progress import TrainingDisplay


def step(done: int, label: str = "refuse", message: str = "", **measurements: float) -> Event:
    return Event("training", label=label, steps_done=done, steps_total=40, measurements=measurements, message=message)


def test_plain_lines_are_few_and_say_how_far_it_is() -> None:
    stream, now = io.StringIO(), [0.0]
    with TrainingDisplay("hardening x", stream, clock=lambda: now[0]) as display:
        assert stream.getvalue() == "hardening x ...\n"
        for done in range(1, 21):
            now[0] = float(done)
            display.on_event(step(done, loss=1 / done, **({"utility_kept": 0.99} if done > 15 else {})))
        display.on_event(step(20, message="refuse: ran all its steps"))
        now[0] = 21.0
        display.on_event(step(21, label="second", loss=0.5))
        display.on_event(Event("warning", message="a snapshot is damaged"))
        display.on_event(Event("preparing", message="measuring"))
    assert stream.getvalue().splitlines()[1:] == [
        "refuse: 11/40 steps, loss 0.091, about 29 s left",
        "refuse: ran all its steps",
        "second: 21/40 steps, loss 0.50, about 19 s left",
        "warning: a snapshot is damaged",
        "measuring",
    ]


def test_a_terminal_shows_a_bar_and_takes_names_as_text() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    with TrainingDisplay("hardening [bold]x", stream, live=True) as display:
        display.on_event(step(10, label="[red]refuse", loss=0.5, utility_kept=0.98))
        display._bar.refresh()  # type: ignore[union-attr]
        shown = stream.getvalue()
    assert "[red]refuse" in shown
    assert "10/40 steps, loss 0.50, utility 98 % of before" in shown
