"""A clock that jumps decides nothing: neither the tables nor how long anything takes."""

from __future__ import annotations

import datetime
import os
import random
import time
from pathlib import Path

from tempering.engine.events import Event
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import run
from torture.promises._faults import compared
from torture.promises._operations import watch

JUMPS = (-86400.0 * 365 * 20, -3600.0, -1.0, 1.0, 3600.0, 86400.0 * 365 * 30)
"""Seconds: from twenty years back to thirty years ahead."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    _toy.prepare(folder)
    if (end := run(_toy.compute, str(folder), "whole", str(folder / "undisturbed"))).code != 0:
        raise RuntimeError(f"the undisturbed run ended with {end.code} {end.said}")
    reference = _toy.rows(folder / "undisturbed")
    jumps = 0
    for seed in range(40 if long else 2):
        directory = folder / f"run-{seed}"
        for part in range(3):  # two are interrupted, so that times that were written down are read again
            end = run(jumping, str(folder), str(directory), seed * 3 + part, part < 2)
            jumps += end.result or 0
            if end.code not in (0, 130):
                break
        problem = f"ended with {end.code} {end.said}" if end.code else compared(directory, reference)
        tally.count(not problem, f"seed {seed}: {problem}")
    tally.note("jumps", jumps)
    tally.note("a trial is", "a run, interrupted twice, and what came of it")


def jumping(folder: str, directory: str, seed: int, interrupted: bool) -> int:
    """Compute a study while the wall clock jumps after every tenth operation on a file, and so do the times of files; how often it did."""
    chance = random.Random(seed)
    offset, jumps, stop_at = 0.0, 0, chance.randrange(3, 8) if interrupted else 0
    told = time.time

    def jump(operation: object) -> None:
        nonlocal offset, jumps
        if chance.random() < 0.1:
            offset = chance.choice(JUMPS)
            jumps += 1
            for path in Path(directory).rglob("*"):
                if path.is_file() and chance.random() < 0.2:
                    os.utime(path, (told() + offset, told() + offset))

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(told() + offset, tz)

    time.time = lambda: told() + offset
    time.time_ns = lambda: int((told() + offset) * 1e9)
    datetime.datetime = Jumping  # type: ignore[misc]
    watch(Path(directory), after=jump)
    seen = 0

    def on_event(event: Event) -> None:
        nonlocal seen
        seen += event.kind in ("probe", "training")
        if stop_at and seen == stop_at:
            raise KeyboardInterrupt

    try:
        _toy.compute(folder, "whole", directory, on_event=on_event)
    except KeyboardInterrupt:
        return jumps
    return jumps


PROMISE = Promise(
    name="clock-jumps",
    group="Nothing lost",
    sentence=(
        "A wall clock and times of files that jump back and years ahead while a run computes, is interrupted and resumed, change no table, "
        "make no duration negative, and keep nothing waiting."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "training/meter.py",
            """        self._started = time.perf_counter()
""",
            """        self._started = time.time()
""",
            "the meter takes the beginning of its time from the wall clock",
        ),
        Mutation(
            "engine/worker.py",
            """        started = time.perf_counter()
""",
            """        started = time.time()
""",
            "a unit's time begins by the wall clock",
        ),
    ),
)
