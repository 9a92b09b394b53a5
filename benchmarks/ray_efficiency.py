"""Efficiency of the Ray executor: two workers against one where there are two cores, and by simulation beyond.

    python benchmarks/ray_efficiency.py            some minutes on two cores

**Measured.** One study of ``full_finetune`` on ``organism:tiny`` runs on a real local cluster of two nodes with a core each, with one
worker and with two, in turns. A run's time is that from the first start of a unit to the last result, so that the start of
interpreters, which a long study does not feel, is left out. Efficiency is seconds with one worker by twice those with two. What the
machine itself gives up, because its two cores share memory and other programs, is no fault of the executor's; so the share of workers'
time that was spent in units (``busy``) stands beside it.

**Simulated.** A driver is one queue: for each unit it takes a result in, commits it and sends the next unit, one after the other. That
time is measured here as what the driver does outside of waiting, a unit; the rest of the gap between two units of one worker is
latency that workers have each for themselves. With those two and with the measured seconds of units, drawn anew, the same queue is run
in virtual time for more workers than there are here, forty units to each. Nodes that die, and models that are sent, are in none of it.

Written to benchmarks/results/ray.json.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _results import median_interval, result, take_turns, write_result

from tempering.engine.events import Event
from tempering.engine.executors import ExecutorChoice
from tempering.engine.plan import make_plan
from tempering.engine.run import execute
from tempering.engine.units import Plan
from tempering.model_choice import ModelChoice
from tempering.study import Budget, MethodChoice, ProbeSettings, Study
from torture.ray_nodes import ray_cluster

GOAL = 0.9
COMMAND = "python benchmarks/ray_efficiency.py"
WORKERS = (2, 8, 32, 128, 512)
UNITS_PER_WORKER = 40


@dataclass
class Run:
    """What one run showed.

    Attributes:
        seconds: from the first start of a unit to the last result.
        units: seconds of each unit, as its worker clocked them.
        driver: seconds a unit that the driver was not waiting.
    """

    seconds: float
    units: list[float]
    driver: float


def plan_of(units: int) -> Plan:
    """A study of so many short fine-tunings."""
    return make_plan(
        Study(
            models=(ModelChoice(reference="organism:tiny", device="cpu"),),
            attacks=(MethodChoice(name="full_finetune", config={"steps": 20}),),
            seeds=units,
            budget=Budget(steps=20),
            probes=ProbeSettings(prompts=24),
        )
    )


def measure(plan: Plan, address: str, workers: int) -> Run:
    """Run the plan once, in a directory of its own."""
    import ray

    starts: list[float] = []
    ends: list[float] = []
    waited, wait = 0.0, ray.wait

    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal waited
        began = time.perf_counter()
        try:
            return wait(*arguments, **options)
        finally:
            waited += (time.perf_counter() - began) if starts and len(ends) != len(plan.units) else 0.0

    def on_event(event: Event) -> None:
        if event.kind == "unit_started":
            starts.append(time.perf_counter())
        elif event.kind == "unit_finished":
            ends.append(time.perf_counter())

    folder = Path(tempfile.mkdtemp())
    ray.wait = watched
    try:
        tables = execute(plan, folder / "run", workers=workers, executor=ExecutorChoice.of("ray", address), on_event=on_event)
    finally:
        ray.wait = wait
        shutil.rmtree(folder, ignore_errors=True)
    seconds = ends[-1] - starts[0]
    return Run(seconds, [float(value) for value in tables.units["wall_s"]], max(seconds - waited, 0.0) / len(ends))


def simulate(unit_seconds: list[float], driver: float, latency: float, workers: int, seed: int = 0) -> float:
    """Efficiency of so many workers: the work done by the worker-seconds that it took.

    Args:
        unit_seconds: measured; each unit's are drawn from these.
        driver: seconds that the one driver spends on each unit.
        latency: seconds that a worker is idle between two units besides, on its own.
        workers: how many.
        seed: of the draws.
    """
    drawn = random.Random(seed)
    left, free, work, last = workers * UNITS_PER_WORKER, 0.0, 0.0, 0.0
    due = [(0.0, worker) for worker in range(workers)]
    while due:
        finished, worker = heapq.heappop(due)
        last = max(last, finished)
        free = max(free, finished) + driver
        if left:
            left -= 1
            seconds = drawn.choice(unit_seconds)
            work += seconds
            heapq.heappush(due, (free + latency + seconds, worker))
    return work / (workers * max(last, free))


def main() -> None:
    """Measure, simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--units", type=int, default=15, help="beside the reference; odd, so that two workers share them evenly")
    arguments = parser.parse_args()
    command = f"{COMMAND} --turns {arguments.turns} --units {arguments.units}"
    torch.set_num_threads(1)
    plan = plan_of(arguments.units)
    runs: dict[int, list[Run]] = {1: [], 2: []}

    with ray_cluster(1, 1) as cluster:

        def seconds(workers: int) -> float:
            runs[workers].append(measure(plan, cluster.address, workers))
            return runs[workers][-1].seconds

        pairs = list(take_turns(lambda: seconds(2), lambda: seconds(1), arguments.turns))
    write_result("ray", *({**case, "command": command} for case in (measured(pairs, runs), *simulated(runs))))


def measured(pairs: list[tuple[float, float]], runs: dict[int, list[Run]]) -> dict[str, Any]:
    """The case of two workers against one."""
    busy = {workers: statistics.median(sum(run.units) / (workers * run.seconds) for run in done) for workers, done in runs.items()}
    note = (
        f"seconds of {len(runs[1][0].units)} units of full_finetune (20 steps) on organism:tiny, by twice those of two workers; "
        f"{len(pairs)} turns; whole units allow two workers {_evenly(len(runs[1][0].units)):.2f} at most; "
        f"workers' time spent in units: {busy[1]:.1%} of one worker's, {busy[2]:.1%} of two's. "
        "A miss with both shares near one is the machine's: two busy cores slow each other, and other programs ran"
    )
    return result(
        "ray: two workers against one",
        median_interval([one / (2 * two) for two, one in pairs]),
        goal=GOAL,
        ours=statistics.median(2 * two for two, _ in pairs),
        theirs=statistics.median(one for _, one in pairs),
        command=COMMAND,
        note=note,
        busy={str(workers): round(share, 4) for workers, share in busy.items()},
    )


def _evenly(units: int) -> float:
    """Efficiency of two workers that share equal units as well as whole units can be shared."""
    return units / (2 * ((units + 1) // 2))


def simulated(runs: dict[int, list[Run]]) -> list[dict[str, Any]]:
    """The cases of more workers than there are cores, from what one worker showed."""
    units = [value for run in runs[1] for value in run.units]
    driver = statistics.median(run.driver for run in runs[1])
    gap = statistics.median((run.seconds - sum(run.units)) / len(run.units) for run in runs[1])
    latency = max(gap - driver, 0.0)
    cases = []
    for workers in WORKERS:
        shares = [simulate(units, driver, latency, workers, seed) for seed in range(9)]
        work = statistics.mean(units) * UNITS_PER_WORKER
        note = (
            f"simulated: {UNITS_PER_WORKER} units a worker of {statistics.mean(units):.2f} s each (measured), one driver of "
            f"{1000 * driver:.1f} ms a unit and {1000 * latency:.1f} ms of latency (measured); busy share of workers' time. "
            f"The driver is full at {statistics.mean(units) / driver:.0f} workers with units as short as these"
        )
        case = result(
            f"ray: {workers} workers, simulated",
            median_interval(shares),
            goal=GOAL,
            ours=work / statistics.median(shares),
            theirs=work,
            command=COMMAND,
            note=note,
        )
        cases.append(case)
    return cases


if __name__ == "__main__":
    main()
