"""Executes a plan: what is done already is reused, the rest is computed, everything ends in the store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tempering.engine.agenda import Agenda, dependents
from tempering.engine.defended import MODELS, damage_of, is_trained, place_of, tidy
from tempering.engine.environment import describe_environment
from tempering.engine.events import Event, EventKind
from tempering.engine.executor import Assignment, Finished, Watcher
from tempering.engine.executors import LOCAL, ExecutorChoice, make_executor
from tempering.engine.files import KEPT, explained
from tempering.engine.results import Tables
from tempering.engine.store import RunStore
from tempering.engine.units import Estimate, Plan, Unit, Work
from tempering.redaction import one_line

OnEvent = Callable[[Event], None]


def execute(
    plan: Plan,
    directory: Path | str,
    *,
    workers: int | None = None,
    executor: ExecutorChoice = LOCAL,
    on_event: OnEvent | None = None,
) -> Tables:
    """Compute what the run directory does not hold yet, and read everything back.

    Ctrl-C or a kill at any moment loses the units in flight and nothing else; calling this again goes on from there.

    Args:
        plan: from :func:`tempering.engine.plan.make_plan`.
        directory: the run directory; made where there is none.
        workers: workers at work at once; ``None`` takes as many as cores, units and memory allow, 0 computes in this process.
        executor: where they are.
        on_event: told everything that happens.
        placement: how one unit is laid out; decides no result.

    Returns:
        The tables, in the order of the plan.

    Raises:
        InvalidStudy: a unit cannot be laid out so.
        StoreProblem: the directory cannot be written, is held by another process, or belongs to another study.
        TemperingError: a model or the data cannot be loaded, or is no longer what was planned; or there is nothing to compute with.
    """
    store = RunStore(directory)
    if on_event is not None:
        tell = on_event
        store.warn = lambda message: tell(Event("warning", message=message))
    return drive(plan, store, workers=workers, executor=executor, on_event=on_event)


def drive(
    plan: Plan, store: RunStore, *, workers: int | None = None, executor: ExecutorChoice = LOCAL, on_event: OnEvent | None = None
) -> Tables:
    """:func:`execute`, on a store that is open already."""
    with closing(make_executor(executor, workers)) as doing, store.driving(plan, threads=doing.threads(plan)) as threads:
        environments = _Environments(store, threads)
        progress = _Progress(plan, on_event or (lambda event: None))
        progress.tell("planned")
        if executor.keep_weights or executor.keep_completions:
            progress.tell("warning", message=f"what attacks make is kept in {store.directory / KEPT}; it is not for publication")
        with explained(store.directory):
            agenda = _left(plan, store, store.directory / MODELS, progress)
        assignment = Assignment(agenda, progress.watcher(), threads, store.directory, plan.targets)
        with closing(doing.run(assignment)) as finished:
            for done in finished:
                _keep(done, store, environments, progress)
        tables = store.tables(plan)
        progress.tell("finished")
        return tables


def _keep(done: Finished, store: RunStore, environments: _Environments, progress: _Progress) -> None:
    """Commit a result, and tell of it."""
    unit, result = done.unit, replace(done.result, error=one_line(done.result.error))  # of a worker elsewhere, or of none
    store.commit(unit, result, environments.digest(done.environment))
    failed = result.status == "failed"
    message = f"no direction: {result.error}" if result.status == "no_direction" else result.error
    progress.finished("unit_failed" if failed else "unit_finished", unit, message=message)
    if failed and unit.work.kind == "harden":
        progress.left_out(unit)


class _Environments:
    """What the results of this run are computed with, here and on other machines; each is kept once."""

    def __init__(self, store: RunStore, threads: int) -> None:
        """Keep what this process is."""
        self._store, self._threads = store, threads
        self._digests: dict[str, str] = {}
        self._here = self.digest(describe_environment())

    def digest(self, environment: dict[str, Any] | None) -> str:
        """What manifests name an environment by; ``None`` is this process's."""
        if environment is None:
            return self._here
        key = json.dumps(environment, sort_keys=True)
        if key not in self._digests:
            self._digests[key] = self._store.record_environment({**environment, "threads": self._threads})
        return self._digests[key]


def _left(plan: Plan, store: RunStore, models: Path, progress: _Progress) -> Agenda:
    """What has yet to be run. A hardening whose model is gone is done anew where some unit still needs that model."""
    statuses = {unit.hash: store.status(unit.hash) for unit in plan.units}
    needed = {unit.defended for unit in plan.units if unit.work.kind != "harden" and statuses[unit.hash] is None}
    hardened, lost = set(), set()
    for unit in plan.units:
        is_hardening, status = unit.work.kind == "harden", statuses[unit.hash]
        if is_hardening and (damage := damage_of(unit, models)) is not None:
            store.put_model_aside(place_of(unit, models), damage)
            needed.add(unit.defended)
        if is_hardening and status == "completed" and unit.defended in needed and not is_trained(unit, models):
            store.put_aside(unit.hash, "its model is gone")
            statuses[unit.hash] = status = None
        if status is None:
            continue
        progress.finished("unit_reused", unit)
        if is_hardening:
            tidy(unit, models)
        if is_hardening and status == "completed":
            hardened.add(unit.defended)
        elif is_hardening:
            lost.add(unit.defended)
            progress.left_out(unit)
    pending = [unit for unit in plan.units if statuses[unit.hash] is None and (unit.work.kind == "harden" or unit.defended not in lost)]
    return Agenda(pending, hardened=hardened)


@dataclass
class _Progress:
    """Counts units and turns what happens to them into events."""

    plan: Plan
    on_event: OnEvent
    done: int = 0
    dependents: Counter[str] | None = None

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
        spend: dict[str, float] | None = None,
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
                spend=spend or {},
                steps_done=steps_done,
                steps_total=steps_total or (self.steps.get(_key_of(unit.work), 0) if unit else 0),
                trials_done=trials_done,
                trials_total=search.settings.trials if search else 0,
                message=message,
            )
        )

    def watcher(self) -> Watcher:
        """What an executor tells of its units."""
        return Watcher(
            started=lambda unit: self.tell("unit_started", unit),
            probed=self.probed,
            searched=self.searched,
            trained=self.trained,
            warned=lambda message: self.tell("warning", message=message),
        )

    def searched(self, unit: Unit, number: int, outcome: str) -> None:
        """A trial of a unit's search is over."""
        self.tell("trial", unit, message=outcome, trials_done=number + 1)

    def probed(self, unit: Unit, spend: dict[str, float], measurements: dict[str, float]) -> None:
        """A probe is done."""
        self.tell("probe", unit, measurements=measurements, spend=dict(spend), steps_done=int(spend["steps"]))

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
        if self.dependents is None:
            self.dependents = dependents(self.plan.units)
        lost = self.dependents[hardening.defended]
        self.done += lost
        if lost:
            runs = "1 run" if lost == 1 else f"{lost} runs"
            self.tell("left_out", hardening, message=f"{runs} against that model left out")

    def _label(self, unit: Unit) -> str:
        trial = f" ({unit.work.trial[:6]})" if unit.work.attack_name in self.ambiguous else ""
        return f"{unit.work.model.title}: {unit.label}{trial}" if self.several else f"{unit.label}{trial}"


def _key(estimate: Estimate) -> tuple[str, str, str, str]:
    return estimate.kind, estimate.model, estimate.defense, estimate.trial


def _key_of(work: Work) -> tuple[str, str, str, str]:
    return work.kind, work.model.title, work.defense_name, work.trial
