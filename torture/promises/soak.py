"""A run of many thousands of units takes no more memory, no more open files and no more time for the last unit than for the first."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import theilslopes

from tempering.engine.events import Event
from tempering.engine.plan import make_plan
from tempering.engine.run import drive
from tempering.engine.store import RunStore
from tempering.study import Budget, ProbeSettings
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import offspring, run

WINDOW = 20
"""Units after which memory, files and time are looked at."""

WARM_UP = 0.2
"""Share of the run that is left out: allocators and caches are filling."""

MORE_MEMORY = 0.02
MORE_TIME = 0.15
"""Shares of the median that the slope may add over the run."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    _toy.prepare(folder)
    for units, workers in ((5000, 0), (2000, 2)) if long else ((300, 0),):
        _watched(units, workers, long, folder, tally)
    tally.note("a trial is", "a unit")


def _watched(units: int, workers: int, long: bool, folder: Path, tally: Tally) -> None:
    end = run(soaked, str(folder), units, workers, patience=6 * 3600.0)
    if end.code != 0:
        raise RuntimeError(f"with {workers} workers, ended with {end.code} {end.said}")
    looks = np.array(end.result["looks"])
    looks = looks[int(WARM_UP * len(looks)) :]
    tally.count(end.result["completed"] == end.result["units"], "units are missing or failed", trials=int(end.result["units"]))
    who = f" of a driver with {workers} workers" if workers else ""
    watched = [(0, f"resident MiB{who}", MORE_MEMORY), (1, f"open files{who}", 0.0)]
    if long and not workers:  # the time of a few hundred units is that of whatever else the machine does
        watched.append((2, "CPU milliseconds a unit", MORE_TIME))
    if workers:
        watched += [(3, "resident MiB of the workers", MORE_MEMORY), (4, "open files of the workers", 0.0)]
    for column, name, allowed in watched:
        values = looks[:, column]
        slope, _, low, _ = theilslopes(values, np.linspace(0, 1, len(values)), 0.99)
        fifth = max(1, len(values) // 5)
        first, last = float(np.median(values[:fifth])), float(np.median(values[-fifth:]))
        grows = slope > allowed * float(np.median(values)) and low > 0
        tally.count(not grows, f"{name} grow from {first:.1f} to {last:.1f} over the run", trials=0)
        tally.failures += int(grows)
        tally.note(f"{name}, first fifth after warm-up and last", f"{first:.1f} and {last:.1f}")


def soaked(folder: str, units: int, workers: int = 0) -> dict[str, object]:
    """Compute so many attacks, in this process or in workers, and look at it and at them after every window of attacks."""
    from support.toy_study import toy_study

    torch.set_num_threads(1)
    root = Path(folder)
    study = toy_study(
        root,
        {"steps": 1},
        seeds=units,
        budget=Budget(steps=1),
        probes=ProbeSettings(prompts=1, max_new_tokens=1, evaluators=("harm", "utility")),
    )
    looks: list[tuple[float, ...]] = []
    seen, began = 0, time.process_time()

    def on_event(event: Event) -> None:
        nonlocal seen, began
        if event.kind != "unit_finished":
            return
        seen += 1
        if seen % WINDOW == 0:
            gc.collect()
            now = time.process_time()
            below = [pid for pid in offspring(os.getpid()) if workers]
            of_workers = sum(map(_resident_mib, below)), sum(map(_open_files, below))
            looks.append((_resident_mib(os.getpid()), _open_files(os.getpid()), 1000 * (now - began) / WINDOW, *of_workers))
            began = time.process_time()

    tables = drive(make_plan(study), RunStore(root / f"run-{workers}"), workers=workers, on_event=on_event)
    return {"looks": looks, "units": units + 1, "completed": int((tables.units["status"] == "completed").sum())}


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


PROMISE = Promise(
    name="soak",
    group="Long runs",
    sentence=(
        "A run of thousands of units has flat memory, flat open files and flat time for each unit; so have a driver with workers, but for "
        "time, and the workers."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/files.py",
            """            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
""",
            """            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        pass
""",
            "a written file is not closed",
        ),
        Mutation(
            "engine/run.py",
            """    unit, result = done.unit, replace(done.result, error=one_line(done.result.error))  # of a worker elsewhere, or of none
""",
            """    unit, result = done.unit, replace(done.result, error=one_line(done.result.error))
    progress.__dict__.setdefault("all", []).append(bytearray(2**17))
""",
            "something of every unit is kept in memory",
        ),
    ),
)
