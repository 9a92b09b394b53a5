"""What every executor is: it takes what is left of a plan and yields units as they finish, wherever they were computed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tempering.engine.agenda import Agenda
from tempering.engine.defended import MODELS
from tempering.engine.results import NO_SPEND, UnitResult
from tempering.engine.units import Plan, PlannedTarget, Unit

TRIES = 2
"""How often a unit is started before the death of its worker counts as its failure."""


class Finished(NamedTuple):
    """A unit with its result.

    Attributes:
        unit: as it was taken from the agenda.
        result: what came of it.
        environment: what it was computed with, as :func:`tempering.engine.environment.describe_environment` tells it; ``None``: as the
            driver.
    """

    unit: Unit
    result: UnitResult
    environment: dict[str, Any] | None = None


@dataclass(frozen=True)
class Watcher:
    """Whom an executor tells how its units go.

    Attributes:
        started: a unit was given to a worker.
        probed: a unit's probe is done: its cumulative spend and its measurements.
        searched: a trial of a unit's search is over: its number, from 0, and its outcome on the attacker's own prompts.
        trained: the training of a defence goes on: optimizer steps done, steps in all, and a warning or ``""``.
        warned: something is amiss that no unit answers for, in one line.
    """

    started: Callable[[Unit], None] = lambda unit: None
    probed: Callable[[Unit, dict[str, float], dict[str, float]], None] = lambda unit, spend, measurements: None
    searched: Callable[[Unit, int, str], None] = lambda unit, number, outcome: None
    trained: Callable[[Unit, int, int, str], None] = lambda unit, done, total, warning: None
    warned: Callable[[str], None] = lambda message: None


@dataclass(frozen=True)
class Assignment:
    """What an executor is to run.

    Attributes:
        agenda: the units that are left.
        watcher: told how they go.
        threads: for a unit to compute with.
        directory: of the run.
        targets: the audited models, which say how much memory a worker takes.
    """

    agenda: Agenda
    watcher: Watcher
    threads: int
    directory: Path
    targets: tuple[PlannedTarget, ...] = ()

    @property
    def models(self) -> Path:
        """Folder of the defended models: what is in there, and nothing else, is there for every unit."""
        return self.directory / MODELS


class Executor(Protocol):
    """Runs units somewhere. The driver alone writes to the store."""

    def threads(self, plan: Plan) -> int:
        """Threads that a unit computes with, unless the run began with another number.

        Raises:
            TemperingError: there is nothing to compute with.
        """

    def run(self, assignment: Assignment) -> Generator[Finished, None, None]:
        """Run what is left, and yield each unit as it finishes. Closing the generator ends the workers.

        Raises:
            TemperingError: what a worker raised outside of an attack, or that no worker can be started.
        """

    def close(self) -> None:
        """Let go of whatever the executor holds."""


def lost(how: str, cause: str = "") -> UnitResult:
    """The result of a unit that nobody lived to report.

    Args:
        how: what became of its worker, as it goes on after "the worker".
        cause: what is known of why, as it ends the line.
    """
    return UnitResult("failed", f"the worker {how}, {TRIES} times{cause}", [], dict(NO_SPEND), 0.0)
