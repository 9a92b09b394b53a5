"""How time and peak memory grow: with units and probes of a plan, with adversaries that are trained at once, and with the model's size.

    python benchmarks/plan_growth.py [--units 1000 10000 100000] [--comparison 1000 10000 30000]      twenty minutes

A plan is made, stored, taken up, resumed and read back. Two shapes of study on ``organism:tiny``. *grid*: as many attacks as units, one
seed, so that units share as little as they can. *comparison*: ten attacks on the model and behind 24 defences, with as many seeds as it
takes; every attack waits for its model. A third curve has 1,000 units of a grid with 3, 30 and 300 probes each. Each point is measured
in a process of its own:

- *plan*: the study is made into units;
- *store*: the run directory is made and the plan written;
- *agenda*: every unit is taken and finished in turn;
- *resume*: all but 16 units are finished: the directory is checked, every result proved, and what is left is at hand;
- *tables*: every result read back.

Finished units are made up and written by the store itself, without waiting for the disk, which is no matter of growth: that is in
``engine-overhead``. Seconds are of the processor, since the machine may be shared. The ratio is what linear growth of everything together
from the second largest size would give, by what the largest took; 1 is linear, and the goal of 0.67 leaves a factor of 1.5 for caches that
no longer fit. ``curves`` has every phase, with the exponent that a straight line through the logarithms gives. The growth of training
with adversaries and with the model's size is measured by ``training_growth.py``, whose cases stand beside.
Written to benchmarks/results/plan-growth.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import exponent, figure, median_interval, result, write_result
from training_growth import training_cases

from tempering.engine.agenda import Agenda
from tempering.engine.plan import make_plan
from tempering.engine.results import NO_SPEND, Probe, UnitResult
from tempering.engine.run import _left, _Progress
from tempering.engine.store import RunStore
from tempering.engine.units import Plan
from tempering.study import Budget, MethodChoice, ProbeSettings, Study

GOAL = 0.67
UNITS = (1_000, 10_000, 100_000)
COMPARISON = (1_000, 10_000, 30_000)
PROBES = (3, 30, 300)
LEFT = 16
PHASES = ("plan", "store", "agenda", "resume", "tables")


def study(shape: str, units: int) -> Study:
    """A study of about so many units."""
    ten, defences = 10, 24
    attacks = units if shape == "grid" else ten
    choices = tuple(
        MethodChoice(name="full_finetune", config={"training": {"learning_rate": 1e-5 * (1 + place / units)}}, label=f"rate {place}")
        for place in range(attacks)
    )
    hardenings = tuple(
        MethodChoice(name="refusal_sft", config={"training": {"learning_rate": 1e-5 * (1 + place)}}, label=f"defence {place}")
        for place in range(defences)
    )
    return Study(
        models=("organism:tiny",),
        attacks=choices,
        defenses=() if shape == "grid" else hardenings,
        seeds=1 if shape == "grid" else max(1, units // ((defences + 1) * ten + defences)),
        budget=Budget(steps=8),
        probes=ProbeSettings(prompts=4),
        trainability=None,
    )


def finished(probes: int) -> UnitResult:
    """A result as a fine-tuning attack leaves it."""
    measured = {"harm": 0.5, "refusal": 0.25, "utility": 0.75, "coherence": 1.0}
    rows = [Probe(number, {**NO_SPEND, "steps": number, "flops": 1e9 * number}, measured, {"loss": 0.5}) for number in range(probes)]
    return UnitResult("completed", "", rows, rows[-1].spend, 1.5)


def measure(shape: str, units: int, probes: int) -> dict[str, Any]:
    """Seconds of every phase, and the peak memory above what the imports take, in this process."""
    seconds: dict[str, float] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()

    def lap(name: str) -> None:
        nonlocal started
        now = time.process_time()
        seconds[name], started = now - started, now

    asked = study(shape, units)
    started = time.process_time()
    plan = make_plan(asked)
    lap("plan")
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "run")
        with store.driving(plan):
            lap("store")
            empty_agenda(plan, finished(1))
            lap("agenda")
            fill(store, plan, finished(probes))
        started = time.process_time()
        with RunStore(store.directory).driving(plan):
            left = _left(attacks_of(plan), store, store.directory / "models", _Progress(plan, lambda event: None))
            assert len(left) == LEFT
            lap("resume")
            rows = len(store.tables(plan).trajectories)
            lap("tables")
    assert rows == probes * (len(plan.units) - LEFT)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"units": len(plan.units), "probes": probes, "seconds": {name: figure(value) for name, value in seconds.items()}, "bytes": peak}


def empty_agenda(plan: Plan, done: UnitResult) -> None:
    """Take every unit, as one worker would."""
    agenda = Agenda(plan.units)
    while (unit := agenda.take()) is not None:
        agenda.finished(unit, done)
    assert not agenda


def attacks_of(plan: Plan) -> Plan:
    """The plan without trainings: resuming one looks whether its model is there, and no model is here."""
    return replace(plan, units=tuple(unit for unit in plan.units if unit.work.kind != "harden"))


def fill(store: RunStore, plan: Plan, done: UnitResult) -> None:
    """Finish all units but the last, without waiting for the disk."""
    environment, wait = store.record_environment({}), os.fsync
    os.fsync = lambda fd: None
    try:
        for unit in plan.units[:-LEFT]:
            store.commit(unit, done, environment)
    finally:
        os.fsync = wait


def in_a_process_of_its_own(shape: str, units: int, probes: int) -> dict[str, Any]:
    """So that no earlier peak is counted."""
    command = [sys.executable, __file__, "--one", shape, str(units), str(probes)]
    point: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    print(f"{shape}, {point['units']} units, {probes} probes: {point['seconds']}, {point['bytes'] / 2**20:.0f} MiB", flush=True)
    return point


def curve(points: list[dict[str, Any]], size: str) -> dict[str, Any]:
    """The points with the exponent of every phase."""
    sizes = [point[size] for point in points]
    values = {name: [point["seconds"][name] for point in points] for name in PHASES}
    values |= {"together": [sum(point["seconds"].values()) for point in points], "memory": [point["bytes"] for point in points]}
    return {"points": points, "exponents": {name: figure(exponent(sizes, column)) for name, column in values.items()}}


def plan_case(units: dict[str, list[int]], probes: Sequence[int]) -> dict[str, Any]:
    """The result of plans.

    Args:
        units: sizes by the shape of the study, rising, at least two of each.
        probes: how many each of 1,000 units has, rising.
    """
    curves = {shape: curve([in_a_process_of_its_own(shape, size, probes[0]) for size in sizes], "units") for shape, sizes in units.items()}
    few = min(1_000, *(size for sizes in units.values() for size in sizes))
    curves[f"probes of {few:,} units"] = curve([in_a_process_of_its_own("grid", few, each) for each in probes], "probes")
    each = [per_unit(curves[shape]["points"][place]) for shape in units for place in (-1, -2)]
    ours, theirs = sum(each[::2]), sum(each[1::2])
    largest = curves["grid"]["points"][-1]
    phases = ", ".join(f"{name} {value:.3g} s" for name, value in largest["seconds"].items())
    flags = " ".join(f"--{flag} {' '.join(map(str, units[shape]))}" for flag, shape in (("units", "grid"), ("comparison", "comparison")))
    return result(
        "plan-growth: units",
        median_interval([theirs / ours, *(before / after for after, before in zip(each[::2], each[1::2], strict=True))]),
        goal=GOAL,
        ours=ours * 1e3,
        theirs=theirs * 1e3,
        command=f"python benchmarks/plan_growth.py {flags}",
        note=f"processor milliseconds a unit (all phases, both shapes together) in the largest plan, against the second largest; a grid of "
        f"{largest['units']:,} units took {phases}; sized down: the comparison's largest plan",
        curves=curves,
    )


def per_unit(point: dict[str, Any]) -> float:
    """Seconds of all phases for one unit."""
    return sum(float(value) for value in point["seconds"].values()) / int(point["units"])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=list(UNITS), help="sizes of the grid")
    parser.add_argument("--comparison", type=int, nargs="+", default=list(COMPARISON), help="sizes of the comparison of defences")
    parser.add_argument("--one", nargs=3, metavar=("SHAPE", "UNITS", "PROBES"), help="measure one point in this process, and print it")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), int(arguments.one[2]))))
        return
    plans = plan_case({"grid": arguments.units, "comparison": arguments.comparison}, PROBES)
    write_result("plan-growth", plans, *training_cases(plans["command"]))


if __name__ == "__main__":
    main()
