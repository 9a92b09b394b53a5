"""Executes a plan: what is done already is reused, the rest is computed, everything ends in the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tempering.engine.agenda import Agenda, needs_model_of
from tempering.engine.defended import MODELS, is_trained
from tempering.engine.environment import describe_environment, usable_cores
from tempering.engine.events import Event, EventKind
from tempering.engine.local import Watcher, run_here, run_in_processes, usable_workers
from tempering.engine.placement import ONE_DEVICE, Placement, refuse_what_cannot_be_divided
from tempering.engine.results import Tables
from tempering.engine.store import RunStore
from tempering.engine.units import Estimate, Plan, Unit, Work
from tempering.errors import InvalidStudy

OnEvent = Callable[[Event], None]


def execute(
    plan: Plan,
    directory: Path | str,
    *,
    workers: int | None = None,
    on_event: OnEvent | None = None,
    placement: Placement = ONE_DEVICE,
) -> Tables:
    """Compute what the run directory does not hold yet, and read everything back.

    Ctrl-C or a kill at any moment loses the units in flight and nothing else; calling this again goes on from there.

    Args:
        plan: from :func:`tempering.engine.plan.make_plan`.
        directory: the run directory; made where there is none.
        workers: worker processes; ``None`` takes as many as cores, units and memory allow, 0 computes in this process.
        on_event: told everything that happens.
        placement: how one unit is laid out; decides no result.

    Returns:
        The tables, in the order of the plan.

    Raises:
        InvalidStudy: a unit cannot be laid out so.
        StoreProblem: the directory cannot be written, is held by another process, or belongs to another study.
        TemperingError: a model or the data cannot be loaded, or is no longer what was planned.
    """
    store = RunStore(directory)
    if on_event is not None:
        tell = on_event
        store.warn = lambda message: tell(Event("warning", message=message))
    return drive(plan, store, workers=workers, on_event=on_event, placement=placement)


def drive(
    plan: Plan, store: RunStore, *, workers: int | None = None, on_event: OnEvent | None = None, placement: Placement = ONE_DEVICE
) -> Tables:
    """:func:`execute`, on a store that is open already."""
    if placement.devices > 1:
        refuse_what_cannot_be_divided(plan.units)
        if workers == 0:
            raise InvalidStudy("--workers 0 is this process alone, and --devices asks for several", "leave one of them out")
    most = usable_workers(len(plan.units), plan.targets, placement)
    with store.driving(plan, threads=max(1, usable_cores() // (most * placement.devices))) as threads:
        environment = store.record_environment({**describe_environment(), "threads": threads})
        progress = _Progress(plan, on_event or (lambda event: None))
        progress.tell("planned")
        models = store.directory / MODELS
        agenda = _left(plan, store, models, progress)
        watcher = Watcher(lambda unit: progress.tell("unit_started", unit), progress.probed, progress.searched, progress.trained)
        here = workers == 0
        with closing(
            run_here(agenda, watcher, threads, models, placement)
            if here
            else run_in_processes(agenda, watcher, threads, workers or most, models, placement)
        ) as results:
            for unit, result in results:
                store.commit(unit, result, environment)
                failed = result.status == "failed"
                message = f"no direction: {result.error}" if result.status == "no_direction" else result.error
                progress.finished("unit_failed" if failed else "unit_finished", unit, message=message)
                if failed and unit.work.kind == "harden":
                    progress.left_out(unit)
        tables = store.tables(plan)
        progress.tell("finished")
        return tables


def _left(plan: Plan, store: RunStore, models: Path, progress: _Progress) -> Agenda:
    """What has yet to be run. A hardening whose model is gone is done anew where some unit still needs that model."""
    statuses = {unit.hash: store.status(unit.hash) for unit in plan.units}
    needed = {unit.defended for unit in plan.units if unit.work.kind != "harden" and statuses[unit.hash] is None}
    hardened, lost = set(), []
    for unit in plan.units:
        is_hardening, status = unit.work.kind == "harden", statuses[unit.hash]
        if is_hardening and status == "completed" and unit.defended in needed and not is_trained(unit, models):
            store.put_aside(unit.hash, "its model is gone")
            statuses[unit.hash] = status = None
        if status is None:
            continue
        progress.finished("unit_reused", unit)
        if is_hardening and status == "completed":
            hardened.add(unit.defended)
        elif is_hardening:
            lost.append(unit)
            progress.left_out(unit)
    pending = [unit for unit in plan.units if statuses[unit.hash] is None and not any(needs_model_of(unit, other) for other in lost)]
    return Agenda(pending, hardened=hardened)


@dataclass
class _Progress:
    """Counts units and turns what happens to them into events."""

    plan: Plan
    on_event: OnEvent
    done: int = 0

    def __post_init__(self) -> None:
        """Look up once what every unit is expected to take."""
        self.total = len(self.plan.units)
        self.several = len(self.plan.targets) > 1
        trials: dict[str, set[str]] = {}
        for entry in self.plan.estimates:
            if entry.kind == "attack":
                trials.setdefault(entry.attack, set()).add(entry.trial)
        self.ambiguous = {attack for attack, found in trials.items() if len(found) > 1}
        self.steps = {_key(entry): int(entry.spend["steps"]) for entry in self.plan.estimates}

    def tell(
        self,
        kind: EventKind,
        unit: Unit | None = None,
        *,
        message: str = "",
        measurements: dict[str, float] | None = None,
        steps_done: int = 0,
        steps_total: int = 0,
        trials_done: int = 0,
    ) -> None:
        """Send one event."""
        search = unit.work.search if unit else None
        self.on_event(
            Event(
                kind,
                unit=unit.hash if unit else "",
                label=self._label(unit) if unit else "",
                total=self.total,
                done=self.done,
                measurements=measurements or {},
                steps_done=steps_done,
                steps_total=steps_total or (self.steps.get(_key_of(unit.work), 0) if unit else 0),
                trials_done=trials_done,
                trials_total=search.settings.trials if search else 0,
                message=message,
            )
        )

    def searched(self, unit: Unit, number: int, outcome: str) -> None:
        """A trial of a unit's search is over."""
        self.tell("trial", unit, message=outcome, trials_done=number + 1)

    def probed(self, unit: Unit, spend: dict[str, float], measurements: dict[str, float]) -> None:
        """A probe is done."""
        self.tell("probe", unit, measurements=measurements, steps_done=int(spend["steps"]))

    def trained(self, unit: Unit, done: int, total: int, warning: str) -> None:
        """The training of a defence goes on, or has mended itself."""
        if warning:
            self.tell("warning", message=warning)
        else:
            self.tell("training", unit, steps_done=done, steps_total=total)

    def finished(self, kind: EventKind, unit: Unit, message: str = "") -> None:
        """A unit has its result."""
        self.done += 1
        self.tell(kind, unit, message=message)

    def left_out(self, hardening: Unit) -> None:
        """A model could not be hardened: what was to be done to it is not, and counts neither way."""
        lost = sum(needs_model_of(unit, hardening) for unit in self.plan.units)
        self.done += lost
        if lost:
            runs = "1 run" if lost == 1 else f"{lost} runs"
            self.tell("left_out", hardening, message=f"{runs} against that model left out")

    def _label(self, unit: Unit) -> str:
        trial = f" ({unit.work.trial[:6]})" if unit.work.attack_name in self.ambiguous else ""
        return f"{unit.work.model.reference}: {unit.label}{trial}" if self.several else f"{unit.label}{trial}"


def _key(estimate: Estimate) -> tuple[str, str, str, str]:
    return estimate.kind, estimate.model, estimate.defense, estimate.trial


def _key_of(work: Work) -> tuple[str, str, str, str]:
    return work.kind, work.model.reference, work.defense_name, work.trial
