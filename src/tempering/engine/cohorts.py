"""Runs several units at once: fine-tuning attacks on one target, trained in one pass and asked in one pass.

What a unit leaves behind is what it leaves when it is run alone, to rounding: its runs' batches, seeds, budget and meter are its own
(:mod:`tempering.training.cohort`). Units that cannot be trained together after all are run one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from tempering import registry
from tempering.attacks._contract import FineTuningAttack
from tempering.engine.course import Course, Notify
from tempering.engine.driving import exceeds, explain, is_large, is_out_of_memory, randomness, release_memory, staying
from tempering.engine.environment import available_memory, usable_cores
from tempering.engine.machine import refuse_trouble
from tempering.engine.ready import Ready
from tempering.engine.results import NO_SPEND, Status, UnitResult
from tempering.engine.units import Unit
from tempering.engine.worker import Worker
from tempering.errors import JudgeUnavailable, StoreProblem
from tempering.evaluators._contract import Subject, examine
from tempering.evaluators._together import ask_together
from tempering.judges._panel import panel_of
from tempering.models import Target
from tempering.training import FineTuning, Spend
from tempering.training.cohort import Cohort, Look
from tempering.training.memory import versions_that_fit
from tempering.training.stacked import CannotStack

Finished = Iterator[tuple[Unit, UnitResult]]


@dataclass
class _Seat:
    """A unit in a cohort.

    Attributes:
        over: whether nothing more is to be seen of it.
    """

    unit: Unit
    course: Course
    ready: Ready
    declaration: FineTuning
    status: Status = "completed"
    error: str = ""
    over: bool = False
    last: Spend = field(default_factory=Spend)

    @classmethod
    def of(cls, worker: Worker, unit: Unit, notify: Notify) -> _Seat:
        """Load what the unit needs, and let its attack declare what it trains.

        Raises:
            CannotStack: it has nothing to declare.
        """
        ready, declaration = _declared(worker, unit)
        course = Course(notify)
        course.record(Spend(), ready.measurements, {})
        return cls(unit, course, ready, declaration)

    def may_be_seen(self, look: Look) -> bool:
        """Whether the run is to be examined: it is not lost, and within its budget."""
        spend = self.course.meter.spend()
        if look.error is not None:
            self.end("failed", explain(look.error))
        elif exceeds(spend, self.unit.work.budget):
            self.course.within = self.last
            self.over = True
        else:
            self.last = spend
        return not self.over

    def glances(self, look: Look) -> bool:
        """Whether a glance may do: as many prompts are asked for, and another look is sure to follow."""
        return self.unit.work.probes.glance is not None and look.step < self.declaration.probes[-1]

    def glance(self, look: Look) -> tuple[int, ...]:
        """Places of the hazard prompts of a glance: those of the unit run alone, and of all runs that stopped after as many steps."""
        return self.ready.glance(self.unit.work.probes, look.step)

    def record(self, look: Look, row: dict[str, float]) -> None:
        """Keep what was measured of the run, and see whether it goes on."""
        self.course.record(self.last, row, {"loss": look.loss})
        if self.ready.is_enough(self.unit.work, row):
            self.end("enough", "")
        self.over |= look.step >= self.declaration.steps

    def end(self, status: Status, error: str) -> None:
        """Go no further."""
        self.status, self.error, self.over = status, error, True

    def result(self, seconds: float) -> UnitResult:
        """What came of it."""
        spend = self.course.meter.spend() if self.course.within is None else self.course.within
        judging = panel_of(self.unit.work.probes.judges).take_costs() if self.unit.work.judges else {}  # of the cohort since the last left
        return UnitResult(self.status, self.error, self.course.probes, {**NO_SPEND, **spend.as_row()}, seconds, judging=judging)


def run_together(worker: Worker, units: Sequence[Unit], notify: Callable[[Unit], Notify]) -> Finished:
    """Run units of one :func:`tempering.engine.companions.kind_of`.

    Args:
        worker: what holds the target.
        units: at least one.
        notify: gives whom to tell of a unit's probes.

    Yields:
        Every unit with its result, as they end.
    """
    left, alone = _stackable(worker, units) if len(units) > 1 else ([], list(units))
    while left:
        size = _fitting(worker.ready(left[0][0]).target, [declaration for _, declaration in left])
        now, left = [unit for unit, _ in left[:size]], left[size:]
        if size == 1:
            alone += now
            continue
        try:
            yield from _as_cohort(worker, now, notify)
        except CannotStack:
            alone += now
    for unit in alone:
        yield unit, worker.run(unit, notify(unit))


def _declared(worker: Worker, unit: Unit) -> tuple[Ready, FineTuning]:
    """What a unit begins with, and what its attack declares.

    Raises:
        CannotStack: it has nothing to declare.
    """
    assert unit.work.attack is not None
    ready = worker.ready(unit)
    attack = registry.create("attacks", unit.work.attack.name, unit.work.attack.config)
    assert isinstance(attack, FineTuningAttack)
    view = ready.view.limited_to(attack.requires | attack.uses)
    try:
        with randomness(unit.seed), staying():
            return ready, attack.declare(ready.target, view, budget=unit.work.budget, seed=unit.seed)
    except Exception as error:
        raise CannotStack("an attack has nothing to declare") from error  # what that means is for the run of it alone to say


def _stackable(worker: Worker, units: Sequence[Unit]) -> tuple[list[tuple[Unit, FineTuning]], list[Unit]]:
    """Units with what they declare, and those that have nothing to declare, who do not keep the others from going together."""
    found: list[tuple[Unit, FineTuning]] = []
    others: list[Unit] = []
    for unit in units:
        try:
            found.append((unit, _declared(worker, unit)[1]))
        except CannotStack:
            others.append(unit)
    return found, others


def _fitting(target: Target, declarations: Sequence[FineTuning]) -> int:
    """How many of these runs fit into this worker's part of the memory."""
    if len(declarations) == 1:
        return 1
    if target.device.type == "cuda":
        free = int(torch.cuda.mem_get_info()[0])
    else:
        free = available_memory() * torch.get_num_threads() // usable_cores()
    return min(len(declarations), versions_that_fit(target, declarations, free // 2))


def _as_cohort(worker: Worker, units: Sequence[Unit], notify: Callable[[Unit], Notify]) -> Finished:
    """All units in one cohort; those that are left when memory runs out in smaller ones, when something breaks alone.

    Raises:
        CannotStack: before anything is trained.
    """
    started = time.perf_counter()
    left = dict(enumerate(_Seat.of(worker, unit, notify(unit)) for unit in units))
    target = left[0].ready.target
    large = is_large(target)
    cohort: Cohort | None = None
    remaining: list[Unit] = []
    size = 1
    try:
        with randomness(0):
            cohort = Cohort(target, [seat.declaration for seat in left.values()], [seat.course.meter for seat in left.values()])
            for looks in cohort.run():
                _look(cohort, looks, left)
                for run in [run for run, seat in left.items() if seat.over]:
                    cohort.leave(run)
                    yield left[run].unit, left.pop(run).result((time.perf_counter() - started) / len(units))
            for seat in left.values():  # whose last step is none of those at which they are looked at
                yield seat.unit, seat.result((time.perf_counter() - started) / len(units))
    except (CannotStack, JudgeUnavailable, StoreProblem):
        raise
    except Exception as error:
        worker.forget_model()  # something may have left hooks on it
        remaining = [seat.unit for seat in left.values()]
        size = -(-len(remaining) // 2) if is_out_of_memory(error) else 1
    del target, cohort  # before others take their room
    left = {}
    release_memory(large)
    for start in range(0, len(remaining), size):
        yield from run_together(worker, remaining[start : start + size], notify)


def _look(cohort: Cohort, looks: Sequence[Look], left: dict[int, _Seat]) -> None:
    """Examine the runs that stopped to be looked at: those that only a glance is due, and then in full those that it does not do for."""
    seen = [look for look in looks if left[look.run].may_be_seen(look)]
    glanced = [look for look in seen if left[look.run].glances(look)]
    rest = [look for look in seen if look not in glanced]
    for look, row in _rows(cohort, glanced, left, glance=True):
        enough = left[look.run].ready.at_a_glance(row, left[look.run].glance(look))
        if enough is None:
            rest.append(look)
        else:
            left[look.run].record(look, enough)
    for look, row in _rows(cohort, rest, left, glance=False):
        left[look.run].record(look, row)


def _rows(cohort: Cohort, looks: Sequence[Look], left: dict[int, _Seat], *, glance: bool) -> Iterator[tuple[Look, dict[str, float]]]:
    """Measure runs: all that put the prompts in the same way are asked together. One in which that fails ends, and has no row."""
    waiting = list(looks)
    while waiting:
        asking = left[waiting[0].run].declaration.asking
        alike = [look for look in waiting if left[look.run].declaration.asking == asking]
        waiting = [look for look in waiting if left[look.run].declaration.asking != asking]
        subjects = [_subject(cohort, left[look.run], look, glance=glance) for look in alike]
        if len(alike) > 1:
            with cohort.together([look.run for look in alike]) as model:
                ask_together(model, subjects)
        for look, subject in zip(alike, subjects, strict=True):
            if (row := _examined(cohort, left[look.run], look, subject)) is not None:
                yield look, row


def _subject(cohort: Cohort, seat: _Seat, look: Look, *, glance: bool) -> Subject:
    places = seat.glance(look) if glance else None
    return seat.ready.subject(cohort.show(look.run), seat.declaration.asking, seat.unit.work.probes, places)


def _examined(cohort: Cohort, seat: _Seat, look: Look, subject: Subject) -> dict[str, float] | None:
    """Measure one run; ``None`` where that ended it."""
    cohort.show(look.run)
    try:
        with randomness(seat.unit.seed), staying():
            return examine(subject, seat.ready.evaluators)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, JudgeUnavailable):
            raise
        refuse_trouble(error, f"go on with {seat.unit.work.attack_name}")
        seat.end("failed", explain(error))
        return None
