"""Killed at random moments, driver or worker, a run goes on where it was."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import Child, End, gone, offspring, run
from torture.promises._faults import compared

LOOK_S = 0.02


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    _toy.prepare(folder)
    references = {}
    for study in _toy.STUDIES:
        if (end := run(_toy.compute, str(folder), study, str(folder / study))).code != 0:
            raise RuntimeError(f"the undisturbed run ended with {end.code} {end.said}")
        references[study] = _toy.rows(folder / study)
    chance = random.Random(0)
    kills = {"drivers that compute themselves": 0, "drivers with workers": 0, "workers": 0}
    for number in range(10**6):
        if sum(kills.values()) >= (160 if long else 8):
            break
        study = chance.choice(list(references))
        alone = Chain(folder, study, folder / f"alone-{number}", 0, tally, kills)
        alone.go(references[study], lambda child: _kill_driver(child, chance), most=12)
    for number in range(20 if long else 0):
        pooled = Chain(folder, "small", folder / f"pooled-{number}", 2, tally, kills)
        pooled.go(references["small"], lambda child: _kill_worker_then_driver(child, chance), most=1)
    for name, count in kills.items():
        tally.note(f"{name} killed", count)


class Chain:
    """Runs into one directory, one after the other, of which each is killed, until one comes to its end."""

    def __init__(self, folder: Path, study: str, directory: Path, workers: int, tally: Tally, kills: dict[str, int], *more: Any) -> None:
        self.arguments = (str(folder), study, str(directory), workers, str(directory) + ".log", *more)
        self.directory, self.log = directory, Path(f"{directory}.log")
        self.tally, self.kills, self.who = tally, kills, "drivers with workers" if workers else "drivers that compute themselves"

    def go(self, reference: dict[str, str], kill: Callable[[Child], str], most: int = 10**6) -> str:
        """Kill so many drivers at most, then let one finish, and compare; what was wrong, ``""`` where nothing was."""
        failures = self.tally.failures
        for number in range(10**6):
            before, spent = _toy.standing(self.directory), _toy.spent(self.directory)
            self.log.write_text("", encoding="utf-8")
            child = Child(_toy.compute, *self.arguments)
            said = kill(child) if number < most else ""
            below = offspring(child.pid) if said else []
            if said:
                child.kill()
            end = child.end()
            self._count(end, said, before, below, _toy.fallen(spent, _toy.spent(self.directory)))
            if end.code != -9:
                break
        problem = f"ended with {end.code} {end.said}" if end.code else compared(self.directory, reference)
        if problem:
            self.tally.count(False, f"{self.arguments[1]} in {self.directory.name}, after {number} kills: {problem}")
        return problem or ("on the way to its end it went wrong" if self.tally.failures > failures else "")

    def _count(self, end: End, said: str, before: set[str], below: list[int], fallen: str) -> None:
        begun = self.log.read_text(encoding="utf-8").split()
        lost, repeated = before - _toy.standing(self.directory), before & set(begun)
        problem = fallen or ("" if gone(below) else "workers were left behind")
        problem = f"{len(lost)} units that were done were lost" if lost else problem
        problem = f"{len(repeated)} units that were done were computed anew" if repeated else problem
        workers = said.count("worker ")
        self.kills["workers"] += workers
        self.kills[self.who] += end.code == -9
        self.tally.count(not problem, f"{self.directory.name}, killed {said}: {problem}", trials=workers + (end.code == -9))
        if problem and end.code != -9:
            self.tally.count(False, f"{self.directory.name}: {problem}")


def _kill_driver(child: Child, chance: random.Random) -> str:
    """Let it compute a while, by its own clock, so that a busy machine does not matter; ``""`` where the child was faster."""
    seconds = chance.uniform(0.05, 1.0)
    while child.alive and _computed(child.pid) < seconds:
        time.sleep(LOOK_S)
    return f"after {seconds:.2f} CPU seconds" if child.alive else ""


def _computed(pid: int) -> float:
    """CPU seconds of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kill_worker_then_driver(child: Child, chance: random.Random) -> str:
    """Kill a worker when it has computed a while, let the other and its successor go on, and ask for the driver's end."""
    directory = Path(child.arguments[2])
    said = ""
    for units in sorted(chance.sample(range(1, 9), 2)):
        while len(_toy.standing(directory)) < units and child.alive:
            time.sleep(LOOK_S)
        workers = offspring(child.pid)
        if not child.alive or not workers:
            return ""
        if not said:
            chosen = chance.choice(workers)
            _kill(chosen)
            said = f"worker when {units} units were done"
    return f"{said}, driver when {units} were"


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


PROMISE = Promise(
    name="killed-at-random",
    group="Nothing lost",
    sentence=(
        "Killed (SIGKILL) at random moments, drivers and workers of this machine, and resumed, a run yields the same tables, what a unit "
        "spent is never counted anew, and no unit that was done is repeated."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/run.py",
            """    statuses = {unit.hash: store.status(unit.hash) for unit in plan.units}
""",
            """    statuses: dict[str, str | None] = dict.fromkeys(unit.hash for unit in plan.units)
""",
            "a resumed run does not look at what is done",
        ),
    ),
)
