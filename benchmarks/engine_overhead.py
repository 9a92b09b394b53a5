"""What the engine itself adds to a unit: seconds of units that do next to nothing, less those of the same work by hand.

    python benchmarks/engine_overhead.py [--turns N]        a few minutes

A unit of this study is an attack that changes nothing and is probed once, with one prompt a role and one token. By hand that is a loop
over the same attack and the same evaluators, on a model that is loaded. Through the engine each unit is taken from the agenda, run, told
of, written and committed with every wait for the disk; once in this process, once in a worker process of its own. Engine and loop take
turns; seconds are of the wall, since most of a commit is waiting. What is done once a run (loading, starting workers, reading the
tables back) is left out: ``plan-growth`` has how the latter grows. The ratio is 50 ms by what the engine adds to a unit.
Written to benchmarks/results/engine-overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import median_interval, result, take_turns, write_result

from tempering import consent, registry
from tempering.attacks._contract import Attack, Checkpoint
from tempering.data.records import AttackerView
from tempering.engine.events import Event
from tempering.engine.plan import make_plan
from tempering.engine.run import execute
from tempering.engine.units import Plan
from tempering.engine.worker import reproducible
from tempering.evaluators import Subject, examine
from tempering.models import Target, load
from tempering.organisms import world_dataset
from tempering.settings import Settings
from tempering.study import Budget, MethodChoice, ProbeSettings, Study
from tempering.threat_model import Need
from tempering.training import Meter, Spend

MODEL = "organism:tiny"
ALLOWED = 0.050
UNITS = 40
TURNS = 9
PROBES = ProbeSettings(prompts=1, max_new_tokens=1, evaluators=("harm", "utility"))


class Idle(Attack):
    """Change nothing.

    Source: none; for this benchmark.
    """

    class Config(Settings):
        """It has no settings."""

    source: ClassVar[str] = "for a benchmark"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS})
    family: ClassVar[str] = "weight surgery"

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Show the target as it is."""
        yield Checkpoint(target.model, meter.spend())

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Nothing."""
        return Spend()


def plan_of(units: int) -> Plan:
    """So many seeds of the attack that does nothing."""
    name = f"{Path(__file__).resolve()}:Idle"
    with consent.code_allowed(True):  # it is this file
        return make_plan(
            Study(models=(MODEL,), attacks=(MethodChoice(name=name, label="idle"),), seeds=units, budget=Budget(steps=1), probes=PROBES)
        )


def by_engine(plan: Plan, workers: int) -> float:
    """Seconds a unit: from the end of the first to the end of the last."""
    ends: list[float] = []

    def note(event: Event) -> None:
        if event.kind == "unit_finished":
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, consent.code_allowed(True):
        execute(plan, Path(folder) / "run", workers=workers, on_event=note)
    return (ends[-1] - ends[1]) / (len(ends) - 2)


class ByHand:
    """The same attack and probe in a loop."""

    def __init__(self) -> None:
        """Load what the loop needs."""
        division = world_dataset("tiny").divide(0)
        self.target = load(MODEL)
        self.view, self.evaluated = division.attacker_view(), division.evaluator_view().limited(PROBES.prompts)
        self.evaluators = [registry.create("evaluators", choice.name, choice.config) for choice in PROBES.evaluators]

    def run(self, units: int) -> float:
        """Seconds a unit."""
        started = time.perf_counter()
        with reproducible(1):
            for seed in range(units):
                for checkpoint in Idle(Idle.Config()).run(self.target, self.view, Meter(), budget=Budget(steps=1), seed=seed):
                    subject = Subject(checkpoint.model, self.target.chat, self.evaluated, PROBES)
                    assert examine(subject, self.evaluators)
        return (time.perf_counter() - started) / units


def compare(plan: Plan, hand: ByHand, workers: int, turns: int) -> dict[str, Any]:
    """The result with so many worker processes."""
    pairs = list(take_turns(partial(by_engine, plan, workers), partial(hand.run, len(plan.units)), turns))
    added = [engine - loop for engine, loop in pairs]
    where = f"in {workers} worker process of its own" if workers else "in the process of the driver"
    return result(
        f"engine-overhead: {where}",
        median_interval([ALLOWED / max(value, 1e-6) for value in added]),
        goal=1.0,
        ours=statistics.median(added) * 1e3,
        theirs=ALLOWED * 1e3,
        command=f"python benchmarks/engine_overhead.py --turns {turns} --units {len(plan.units) - 1}",
        note=f"milliseconds that the engine adds to a unit, against the 50 allowed; the unit itself takes "
        f"{statistics.median(loop for _, loop in pairs) * 1e3:.3g} ms by hand; {turns} turns of {len(plan.units)} units",
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--units", type=int, default=UNITS)
    arguments = parser.parse_args()
    plan, hand = plan_of(arguments.units), ByHand()
    hand.run(2)
    write_result("engine-overhead", *(compare(plan, hand, workers, arguments.turns) for workers in (0, 1)))


if __name__ == "__main__":
    main()
