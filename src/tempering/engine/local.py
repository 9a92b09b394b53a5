"""Runs units on this machine: in worker processes, or in this one.

Workers are plain child processes that talk over a socket each. A pool of the standard library would do for work that
behaves; here a worker may be killed for want of memory, and then it must be known which unit it had, no lock may be left
held, and the other workers must go on. Nor is the user's script imported anew in every worker.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

from tempering.engine.agenda import Agenda
from tempering.engine.channel import Channel
from tempering.engine.environment import available_memory, usable_cores
from tempering.engine.executor import TRIES, Assignment, Finished, Watcher, lost
from tempering.engine.followers import Seat
from tempering.engine.messages import Message, heard, rebuilt, run_units
from tempering.engine.placement import NOTHING, ONE_DEVICE, Placement, environment_of_group, groups_that_fit, refuse_what_cannot_be_divided
from tempering.engine.results import UnitResult
from tempering.engine.units import Plan, PlannedTarget, Unit
from tempering.errors import InvalidStudy, TemperingError
from tempering.redaction import one_line

PROCESS_BYTES = 3 * 2**29
"""Memory of a worker beside the model: interpreter, libraries, activations of a probe (1.5 GiB)."""

TRAINING_BYTES = 16
"""Bytes a weight that is trained takes in float32: the weight, its gradient and two moments of AdamW."""

EXIT_SECONDS = 10.0
"""How long a worker that has closed its connection may take to end."""


class LocalExecutor:
    """Runs units in worker processes of this machine, or in this very process."""

    def __init__(self, workers: int | None = None, together: int | None = None, placement: Placement = ONE_DEVICE) -> None:
        """Choose where.

        Args:
            workers: worker processes; ``None`` takes as many as cores, units and memory allow, 0 computes in this process.
            together: runs that a worker trains in one pass at most; ``None`` takes as many as there are where that pays.
            placement: how one unit is laid out. Over several devices a worker is a group of processes, of which the first reports. What is
                to be kept is kept of runs that are trained one by one.
        """
        self._workers = workers
        self._together = together if placement.devices == 1 and placement.keeping == NOTHING else 1
        self._placement = placement
        self._usable = 1

    def threads(self, plan: Plan) -> int:
        """The cores of this machine, divided among as many processes as there should be."""
        if self._placement.devices > 1:
            refuse_what_cannot_be_divided(plan.units)
            if self._workers == 0:
                raise InvalidStudy("--workers 0 is this process alone, and --devices asks for several", "leave one of them out")
        self._usable = usable_workers(len(plan.units), plan.targets, self._placement)
        return max(1, usable_cores() // (self._usable * self._placement.devices))

    def run(self, assignment: Assignment) -> Generator[Finished, None, None]:
        """Run what is left."""
        from tempering.engine.companions import gathered  # with the attacks, which a light command does without

        most = gathered(assignment.agenda, assignment.targets, self._together)
        if self._workers == 0:
            return run_here(assignment, most, self._placement)
        return run_in_processes(assignment, self._workers or self._usable, most, self._placement)

    def close(self) -> None:
        """Nothing is held beyond a run."""


def memory_of_worker(targets: Iterable[PlannedTarget]) -> int:
    """Bytes that a worker takes: its process, and the largest of the models with what training that adds.

    A worker holds the target and, while it fine-tunes every weight, a float32 copy with gradient and optimiser state:
    weights' bytes + 16 bytes a parameter, and 1.5 GiB for the process. Training a defence may take more, and judges with weights of their
    own are held beside it.
    """
    added = [
        target.weight_bytes + max(TRAINING_BYTES * target.parameters, target.hardening_bytes) + target.judging_bytes for target in targets
    ]
    return PROCESS_BYTES + max(added, default=0)


def usable_workers(units: int, targets: Iterable[PlannedTarget], placement: Placement = ONE_DEVICE) -> int:
    """How many workers there should be: one a core, no more than units, and only as many as fit into memory.

    A worker over several devices is as many processes, each with its share of the weights and of what their training takes. Of
    accelerators it has its own.

    Args:
        units: units to run.
        targets: the models they attack; the largest decides.
        placement: how one unit is laid out.

    Raises:
        InvalidStudy: there are too few accelerators for one unit.
    """
    targets = list(targets)
    if placement.devices > 1:
        return max(1, min(usable_cores() // placement.devices, units, _fitting_groups(targets, placement)))
    memory = _accelerator_memory() if any(target.device == "cuda" for target in targets) else available_memory()
    fitting = memory // memory_of_worker(targets) if memory else 1
    return max(1, min(usable_cores(), units, fitting))


def _fitting_groups(targets: list[PlannedTarget], placement: Placement) -> int:
    if any(target.device == "cuda" for target in targets):
        return groups_that_fit(placement)
    most = max((target.weight_bytes + TRAINING_BYTES * target.parameters + target.judging_bytes for target in targets), default=0)
    return available_memory() // (PROCESS_BYTES * placement.devices + most)


def run_here(assignment: Assignment, most: int = 1, placement: Placement = ONE_DEVICE) -> Generator[Finished, None, None]:
    """Run units in this process, at most so many together."""
    from tempering.engine.worker import Worker, reproducible  # imports seconds' worth of libraries
    from tempering.judges._panel import let_go

    agenda, watcher = assignment.agenda, assignment.watcher
    worker = Worker(assignment.models, checkpointing=placement.checkpointing, keeping=placement.keeping)
    try:
        with reproducible(assignment.threads):
            while units := agenda.take_together(most):

                def hear(message: Message, units: list[Unit] = units) -> None:
                    heard(message, units[message["of"]], watcher)

                for place, result in run_units(worker, units, hear):
                    agenda.finished(units[place], result)
                    yield Finished(units[place], result)
    finally:
        let_go()  # a notebook goes on without the judges' models


def run_in_processes(
    assignment: Assignment, workers: int, most: int = 1, placement: Placement = ONE_DEVICE
) -> Generator[Finished, None, None]:
    """Run units in worker processes and yield each as it finishes.

    A unit whose worker is killed is tried once more, last of all, and then counts as failed. A worker for whom everything that is left
    has to wait sits idle until another has finished. Closing the generator ends the workers at once; they hold nothing that matters.

    Args:
        assignment: what to run.
        workers: how many processes.
        most: units that one of them runs together.
        placement: how one unit is laid out.

    Raises:
        TemperingError: what a worker raised outside of an attack, or that a worker cannot be started.
    """
    pool = _Pool(assignment.agenda, assignment.watcher, assignment.threads, assignment.models, workers, most, placement)
    try:
        for _ in range(min(workers, len(assignment.agenda))):
            pool.start_worker()
        while pool.workers:
            yield from pool.wait()
    finally:
        pool.end()


@dataclass
class _Process:
    """One worker process, seen from the driver.

    Attributes:
        slot: its place among the workers that are there, by which it gets its accelerators.
        units: what it has yet to finish, by the places in which it was given them.
    """

    process: subprocess.Popen[bytes]
    channel: Channel
    log: IO[bytes]
    slot: int
    units: dict[int, Unit] = field(default_factory=dict)
    ready: bool = False

    def last_words(self) -> str:
        """The last line it printed."""
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - 4096))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return one_line(lines[-1]) if lines else ""


@dataclass
class _Pool:
    """The workers, and the units they have yet to run."""

    agenda: Agenda
    watcher: Watcher
    threads: int
    models: Path
    sharing: int
    most: int
    placement: Placement = ONE_DEVICE
    workers: dict[int, _Process] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    meetings: tempfile.TemporaryDirectory[str] | None = None
    started: int = 0

    def start_worker(self) -> None:
        """Start a process and give it what is next, which it will find when its imports are done."""
        ours, theirs = socket.socketpair()
        log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        taken = {worker.slot for worker in self.workers.values()}
        slot = next(number for number in count() if number not in taken)
        seat = self._first_seat().as_text()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tempering.engine.service", str(theirs.fileno()), str(self.threads), str(self.models), seat],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_environment(), **environment_of_group(slot, self.placement)},
                process_group=0,  # so that Ctrl-C reaches the driver alone
            )
        worker = _Process(process, Channel(ours), log, slot)
        self.workers[process.pid] = worker
        self.selector.register(worker.channel, selectors.EVENT_READ, worker)
        self._give_next(worker)

    def _first_seat(self) -> Seat:
        """The place of a worker; where it is the first of several ranks, with a place to meet that no group has used before."""
        if self.placement.devices == 1:
            keeping = self.placement.keeping
            return Seat(checkpointing=self.placement.checkpointing, keep_weights=keeping.weights, keep_completions=keeping.completions)
        if self.meetings is None:
            self.meetings = tempfile.TemporaryDirectory(prefix="tempering-")
        self.started += 1
        return Seat(0, self.placement.devices, str(Path(self.meetings.name) / str(self.started)), self.placement.checkpointing)

    def wait(self) -> Iterator[Finished]:
        """Wait until some worker says something, and yield the units that have finished."""
        for key, _ in self.selector.select():
            worker: _Process = key.data
            if self.workers.get(worker.process.pid) is not worker:
                continue  # sent home while this batch was read
            messages = worker.channel.receive()
            if messages is None:
                yield from self._bury(worker)
                continue
            for message in messages:
                yield from self._hear(worker, message)

    def end(self) -> None:
        """Kill every worker and wait until it is gone."""
        for worker in list(self.workers.values()):
            self._dismiss(worker)
        self.selector.close()
        if self.meetings is not None:
            self.meetings.cleanup()

    def _hear(self, worker: _Process, message: dict[str, Any]) -> Iterator[Finished]:
        if message["kind"] == "ready":
            worker.ready = True
            return
        if message["kind"] == "error":
            raise rebuilt(message)
        unit = worker.units.get(message["of"])
        if unit is not None and (result := heard(message, unit, self.watcher)) is not None:
            del worker.units[message["of"]]
            if message["last"]:
                self._dismiss(worker)
            self._finished(unit, result)
            yield Finished(unit, result)
            if message["last"] and self.agenda:
                self.start_worker()

    def _finished(self, unit: Unit, result: UnitResult) -> None:
        """Take in a result and give work to everyone who has none, since others may have waited for it."""
        self.agenda.finished(unit, result)
        for worker in [worker for worker in self.workers.values() if not worker.units]:
            self._give_next(worker)

    def _give_next(self, worker: _Process) -> None:
        """Give a worker what is next, or send it home where nothing is left; it sits idle where all that is left waits for others."""
        worker.units = dict(enumerate(self.agenda.take_together(self.most, self.sharing)))
        if worker.units:
            with suppress(OSError):  # a dead worker is noticed when its channel is read
                worker.channel.send({"units": [unit.as_json() for unit in worker.units.values()]})
        elif not self.agenda:
            self._dismiss(worker)

    def _dismiss(self, worker: _Process) -> None:
        self.workers.pop(worker.process.pid)
        self.selector.unregister(worker.channel)
        worker.process.kill()
        worker.process.wait()
        worker.channel.close()
        worker.log.close()

    def _bury(self, worker: _Process) -> Iterator[Finished]:
        """A worker is gone without a word: try its units once more, each alone, in a new one."""
        try:
            code = worker.process.wait(timeout=EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        words, units = worker.last_words(), list(worker.units.values())
        self._dismiss(worker)
        if code >= 0 and not worker.ready:
            raise TemperingError(f"a worker process could not start: {words or code}", "see that tempering is installed whole")
        for unit in units:
            self.deaths[unit.hash] += len(units) == 1  # of several, each is tried alone before it is blamed
            if self.deaths[unit.hash] < TRIES:
                self.agenda.put_back(unit)
            else:
                result = _failed(code, words)
                self._finished(unit, result)
                yield Finished(unit, result)
        if self.agenda:
            self.start_worker()


def _failed(code: int, words: str) -> UnitResult:
    """The result of a unit whose worker process died of it."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    cause = "; out of memory is the usual cause" if code == -9 else f": {words}" if words else ""
    return lost(f"process {how}", cause)


def _environment() -> dict[str, str]:
    """The driver's environment, with its module path, and with what CUDA needs to be deterministic."""
    paths = [path or str(Path.cwd()) for path in sys.path]
    return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _accelerator_memory() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else 0
