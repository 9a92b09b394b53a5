"""Killed before any operation on any file, a run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

from tempering.engine.files import sealed
from tempering.engine.store import RunStore
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import run
from torture.promises._faults import chains, compared, spread, undisturbed

SPENT = 1000.0
"""Seconds on the device."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    found, _ = undisturbed(folder, "whole")
    chosen = found if long else spread(found, 15)
    chains(folder, "whole", "kill", chosen, tally, lambda end: end.code == -9)
    tally.note("operations on files of an undisturbed run", len(found))
    problem = _goes_on_counting(folder)
    tally.count(not problem, f"a training that had spent {SPENT:.0f} s and was killed: {problem}")


def _goes_on_counting(folder: Path) -> str:
    """What is wrong with the meter of a training that is killed after it has spent so long; ``""`` where it goes on from there.

    A toy's training is over in a second, in which a meter that begins anew would hardly be seen: so the snapshot that the killed one
    leaves is made to say that it was long at work.
    """
    directory = folder / "long-at-work"
    if (end := run(_toy.killed_in_training, str(folder), str(directory))).code != -9:
        return f"it ended with {end.code} {end.said} before it was killed"
    if not _toy.snapshots(directory):
        return "it left no snapshot"
    for snapshot in _toy.snapshots(directory):
        path = snapshot / "record.json"
        content = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "seal"}
        spend = content["record"]["hardening"]["spend"]
        if not spend["device_seconds"] > 0:
            return f"its snapshot says that it has spent {spend['device_seconds']} s"
        spend["device_seconds"] += SPENT
        path.write_bytes(sealed(content))
    before = _toy.spent(directory)
    if (end := run(_toy.compute, str(folder), "whole", str(directory))).code != 0:
        return f"resumed, it ended with {end.code} {end.said}"
    if problem := _toy.fallen(before, _toy.spent(directory)) or compared(directory, _toy.rows(folder / "undisturbed")):
        return problem
    units = RunStore(directory).tables().units
    longest = float(units.loc[units["kind"] == "harden", "device_seconds"].max())
    return "" if longest >= SPENT else f"the table has {longest:.1f} s"


PROMISE = Promise(
    name="killed-at-every-operation",
    group="Nothing lost",
    sentence=(
        "Killed (SIGKILL) before any operation on any file (plan, environments, units, models, trainings) and resumed, "
        "a run yields the same tables, repeats at most what was in flight, and no meter begins anew."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/store.py",
            """                write_plan(self.directory, plan, threads)  # before anything else: a directory without it belongs to nobody
                make_directory(self.directory / "units")
""",
            """                make_directory(self.directory / "units")
                write_plan(self.directory, plan, threads)
""",
            "the folder of units is made before the plan, as it once was: killed in between, the directory is taken for a stranger's",
        ),
        Mutation(
            "engine/store.py",
            """                aside.rename(place)
""",
            """                shutil.copytree(aside, place)
                shutil.rmtree(aside)
""",
            "a result is copied into place and not renamed",
        ),
        Mutation(
            "training/meter.py",
            """        return {**self.spend().as_row(), "examples": sorted(self._seen)}
""",
            """        return {**self.spend().as_row(), "device_seconds": 0.0, "examples": sorted(self._seen)}
""",
            "the seconds that a training has spent are not in its snapshots",
        ),
        Mutation(
            "training/hardening.py",
            """        self.step, self.meter = record["step"], Meter.restored(record["spend"])
""",
            """        self.step, self.meter = record["step"], Meter()
""",
            "the meter of a resumed training begins anew",
        ),
    ),
)
