"""After a power cut, whatever the disk has kept of what was not flushed, a run goes on, and what it had said was done is done."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path

from tempering.engine.defended import MODELS, damage_of, is_trained
from tempering.engine.events import Event
from tempering.engine.plan import make_plan
from tempering.engine.store import RunStore
from tempering.engine.units import Plan
from tempering.errors import TemperingError
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import run
from torture.promises._disk import Disk, follow
from torture.promises._faults import compared
from torture.promises._operations import Operation

RUN = Path("runs/one")
"""Where the run is on the disk; the folder above it is made by the run too."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    looked, resumed = (4, 1.0) if long else (1, 0.04)
    _toy.prepare(folder)
    end = run(cut, str(folder), looked, resumed, patience=3600.0)
    if end.code != 0:
        raise RuntimeError(f"ended with {end.code} {end.said}")
    for name, kept in (("looked at", True), ("gone on from", True)):
        tally.count(kept, trials=end.result[name])
        tally.note(f"disks {name}", end.result[name])
    for failure in end.result["failures"]:
        tally.count(False, failure, trials=0)
        tally.failures += 1


def cut(folder: str, looked: int, resumed: float) -> dict[str, object]:
    """Compute once and cut the power before every operation: look at so many disks each time, and resume from a share of them."""
    root = Path(folder)
    cuts: list[tuple[Disk, Operation, frozenset[str]]] = []
    finished: set[str] = set()
    _in_child(root, cuts, finished)
    reference = _toy.rows(root / "disk" / RUN)
    plan = make_plan(_toy.STUDIES["whole"](root))
    result = {"looked at": 0, "gone on from": 0}
    failures = []
    for number, (disk, operation, done) in enumerate(cuts):
        for seed in range(looked):
            chance = random.Random(f"{number} {seed}")
            place = root / "cut"
            disk.after_a_cut(chance, place)
            result["looked at"] += 1
            problem = _looked_at(place / RUN, plan, set(done))
            if not problem and chance.random() < resumed / looked:
                result["gone on from"] += 1
                problem = _gone_on_from(root, place / RUN, set(done), reference)
            if problem:
                failures.append(f"power cut before {operation}, disk {number} {seed}: {problem}")
            shutil.rmtree(place)
    return {**result, "failures": failures}


def _in_child(root: Path, cuts: list[tuple[Disk, Operation, frozenset[str]]], finished: set[str]) -> None:
    """Compute, and keep the disk as it was before every operation."""
    (root / "disk").mkdir()
    follow(root / "disk", lambda disk, operation: cuts.append((copy.deepcopy(disk), operation, frozenset(finished))))

    def on_event(event: Event) -> None:
        if event.kind == "unit_finished":
            finished.add(event.unit)

    _toy.compute(str(root), "whole", str(root / "disk" / RUN), on_event=on_event)


def _looked_at(directory: Path, plan: Plan, done: set[str]) -> str:
    """What is wrong with a run directory, as far as it can be seen without computing."""
    warnings: list[str] = []
    store = RunStore(directory, warn=warnings.append)
    try:
        with store.driving(plan):
            standing = {unit.hash for unit in plan.units if store.is_done(unit.hash)}
            models = directory / MODELS
            for unit in plan.units:
                if unit.work.kind == "harden" and unit.hash in done:
                    if not is_trained(unit, models):
                        return f"the model of a training that was done, {unit.label}, is gone"
                    if damage := damage_of(unit, models):
                        return damage
    except TemperingError as problem:
        return f"refused: {problem}"
    if lost := done - standing:
        return f"unit {sorted(lost)[0][:12]} was done and is lost"
    return f"damaged: {warnings[0]}" if warnings else ""


def _gone_on_from(root: Path, directory: Path, done: set[str], reference: dict[str, str]) -> str:
    """What is wrong with a run after it was resumed."""
    begun: set[str] = set()

    def on_event(event: Event) -> None:
        if event.kind == "unit_started":
            begun.add(event.unit)

    try:
        _toy.compute(str(root), "whole", str(directory), on_event=on_event)
    except Exception as problem:
        return f"resumed, it ends with {type(problem).__name__}: {problem}"
    if again := begun & done:
        return f"unit {sorted(again)[0][:12]} was done and is computed anew"
    return compared(directory, reference)


PROMISE = Promise(
    name="power-cut",
    group="Nothing lost",
    sentence=(
        "After a power cut before any operation, whichever of the unflushed writes and renames reached the disk, "
        "what the run had reported as done is done, and it goes on to the same tables."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/store.py",
            """            self.reached("in place")
            flush_directory(place.parent)
""",
            """            self.reached("in place")
""",
            "the folder of units is not flushed after a result was put into it",
        ),
        Mutation(
            "engine/files.py",
            """            view = view[os.write(handle, view) :]
        os.fsync(handle)
""",
            """            view = view[os.write(handle, view) :]
""",
            "results are not flushed before they are put in place",
        ),
        Mutation(
            "engine/files.py",
            """    for made in reversed(missing):
        flush_directory(made.parent)
""",
            "",
            "a new run directory's own name is not flushed",
        ),
    ),
)
