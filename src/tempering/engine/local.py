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
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any

from tempering import errors
from tempering.engine.agenda import Agenda
from tempering.engine.channel import Channel
from tempering.engine.environment import available_memory, usable_cores
from tempering.engine.followers import Seat
from tempering.engine.placement import ONE_DEVICE, Placement, environment_of_group, groups_that_fit
from tempering.engine.results import NO_SPEND, Probe, Trial, UnitResult, one_line
from tempering.engine.units import PlannedTarget, Unit
from tempering.errors import TemperingError

TRIES = 2
"""How often a unit is started before the death of its worker counts as its failure."""

PROCESS_BYTES = 3 * 2**29
"""Memory of a worker beside the model: interpreter, libraries, activations of a probe (1.5 GiB)."""

TRAINING_BYTES = 16
"""Bytes a weight that is trained takes in float32: the weight, its gradient and two moments of AdamW."""

EXIT_SECONDS = 10.0
"""How long a worker that has closed its connection may take to end."""

Finished = tuple[Unit, UnitResult]


@dataclass(frozen=True)
class Watcher:
    """Whom an executor tells how its units go.

    Attributes:
        started: a unit was given to a worker.
        probed: a unit's probe is done: its cumulative spend and its measurements.
        searched: a trial of a unit's search is over: its number, from 0, and its outcome on the attacker's own prompts.
        trained: the training of a defence goes on: optimizer steps done, steps in all, and a warning or ``""``.
    """

    started: Callable[[Unit], None] = lambda unit: None
    probed: Callable[[Unit, dict[str, float], dict[str, float]], None] = lambda unit, spend, measurements: None
    searched: Callable[[Unit, int, str], None] = lambda unit, number, outcome: None
    trained: Callable[[Unit, int, int, str], None] = lambda unit, done, total, warning: None


def usable_workers(units: int, targets: Iterable[PlannedTarget], placement: Placement = ONE_DEVICE) -> int:
    """How many workers there should be: one a core, no more than units, and only as many as fit into memory.

    A worker over several devices is as many processes, each with its share of the weights and of what their training takes. Of
    accelerators it has its own.

    A worker holds the target and, while it fine-tunes every weight, a float32 copy with gradient and optimiser state:
    weights' bytes + 16 bytes a parameter, and 1.5 GiB for the process. Training a defence may take more.

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
    trained = [max(TRAINING_BYTES * target.parameters, target.hardening_bytes) for target in targets]
    need = PROCESS_BYTES + max((target.weight_bytes + most for target, most in zip(targets, trained, strict=True)), default=0)
    memory = _accelerator_memory() if any(target.device == "cuda" for target in targets) else available_memory()
    fitting = memory // need if memory else 1
    return max(1, min(usable_cores(), units, fitting))


def _fitting_groups(targets: list[PlannedTarget], placement: Placement) -> int:
    if any(target.device == "cuda" for target in targets):
        return groups_that_fit(placement)
    most = max((target.weight_bytes + TRAINING_BYTES * target.parameters for target in targets), default=0)
    return available_memory() // (PROCESS_BYTES * placement.devices + most)


def run_here(
    agenda: Agenda, watcher: Watcher, threads: int, models: Path, placement: Placement = ONE_DEVICE
) -> Generator[Finished, None, None]:
    """Run units one after the other in this process.

    Args:
        agenda: what to run.
        watcher: told how they go.
        threads: to compute with.
        models: folder of the defended models.
        placement: how units are laid out; on one device only.
    """
    from tempering.engine.worker import Worker, reproducible  # imports seconds' worth of libraries

    worker = Worker(models, checkpointing=placement.checkpointing)
    with reproducible(threads):
        while (unit := agenda.take()) is not None:
            watcher.started(unit)

            def tell(probe: Probe, unit: Unit = unit) -> None:
                watcher.probed(unit, probe.spend, probe.measurements)

            def told(trial: Trial, unit: Unit = unit) -> None:
                watcher.searched(unit, trial.number, trial.outcome)

            result = worker.run(unit, tell, told, partial(watcher.trained, unit))
            agenda.finished(unit, result)
            yield unit, result


def run_in_processes(
    agenda: Agenda, watcher: Watcher, threads: int, workers: int, models: Path, placement: Placement = ONE_DEVICE
) -> Generator[Finished, None, None]:
    """Run units in worker processes and yield each as it finishes.

    A unit whose worker is killed is tried once more, last of all, and then counts as failed. A worker for whom everything that is left
    has to wait sits idle until another has finished. Closing the generator ends the workers at once; they hold nothing that matters.

    Args:
        agenda: what to run.
        watcher: told how they go.
        threads: for each worker to compute with.
        workers: how many processes.
        models: folder of the defended models.
        placement: how one unit is laid out. Over several devices a worker is a group of processes, of which the first reports.

    Raises:
        TemperingError: what a worker raised outside of an attack, or that a worker cannot be started.
    """
    pool = _Pool(agenda, watcher, threads, models, placement)
    try:
        for _ in range(min(workers, len(agenda))):
            pool.start_worker()
        while pool.workers:
            yield from pool.wait()
    finally:
        pool.end()


@dataclass
class _Process:
    """One worker process, seen from the driver."""

    process: subprocess.Popen[bytes]
    channel: Channel
    log: IO[bytes]
    slot: int
    unit: Unit | None = None
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
    placement: Placement = ONE_DEVICE
    workers: dict[int, _Process] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    meetings: tempfile.TemporaryDirectory[str] | None = None
    started: int = 0

    def start_worker(self) -> None:
        """Start a process and give it the next unit, which it will find when its imports are done."""
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
            return Seat(checkpointing=self.placement.checkpointing)
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
        unit = worker.unit
        if message["kind"] == "ready":
            worker.ready = True
        elif message["kind"] == "error":
            raise _rebuilt(message)
        elif unit is not None and message["kind"] == "started":
            self.watcher.started(unit)
        elif unit is not None and message["kind"] == "probe":
            self.watcher.probed(unit, message["spend"], message["measurements"])
        elif unit is not None and message["kind"] == "trial":
            self.watcher.searched(unit, message["number"], message["outcome"])
        elif unit is not None and message["kind"] == "training":
            self.watcher.trained(unit, message["done"], message["total"], message["warning"])
        elif unit is not None and message["kind"] == "result":
            result = UnitResult.from_json(message["result"])
            worker.unit = None
            if message["last"]:
                self._dismiss(worker)
            self._finished(unit, result)
            yield unit, result
            if message["last"] and self.agenda:
                self.start_worker()

    def _finished(self, unit: Unit, result: UnitResult) -> None:
        """Take in a result and give work to everyone who has none, since others may have waited for it."""
        self.agenda.finished(unit, result)
        for worker in [worker for worker in self.workers.values() if worker.unit is None]:
            self._give_next(worker)

    def _give_next(self, worker: _Process) -> None:
        """Give a worker the next unit, or send it home where none is left; it sits idle where all that are left wait for others."""
        worker.unit = self.agenda.take()
        if worker.unit is not None:
            with suppress(OSError):  # a dead worker is noticed when its channel is read
                worker.channel.send(worker.unit.as_json())
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
        """A worker is gone without a word: try its unit once more, in a new one."""
        try:
            code = worker.process.wait(timeout=EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        words, unit = worker.last_words(), worker.unit
        self._dismiss(worker)
        if code >= 0 and not worker.ready:
            raise TemperingError(f"a worker process could not start: {words or code}", "see that tempering is installed whole")
        if unit is not None:
            self.deaths[unit.hash] += 1
            if self.deaths[unit.hash] < TRIES:
                self.agenda.put_back(unit)
            else:
                result = _failed(code, words)
                self._finished(unit, result)
                yield unit, result
        if self.agenda:
            self.start_worker()


def _failed(code: int, words: str) -> UnitResult:
    """The result of a unit that nobody lived to report."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    cause = "; out of memory is the usual cause" if code == -9 else f": {words}" if words else ""
    return UnitResult("failed", f"the worker process {how}, {TRIES} times{cause}", [], dict(NO_SPEND), 0.0)


def _rebuilt(message: dict[str, Any]) -> Exception:
    """A worker's exception, in the driver: the user's errors as they were, defects with the worker's traceback."""
    kind = getattr(errors, message["type"], None)
    if isinstance(kind, type) and issubclass(kind, TemperingError):
        error = kind.__new__(kind)
        Exception.__init__(error, message["message"])
        return error
    return RuntimeError(f"a worker failed:\n{message['traceback']}")


def _environment() -> dict[str, str]:
    """The driver's environment, with its module path, and with what CUDA needs to be deterministic."""
    paths = [path or str(Path.cwd()) for path in sys.path]
    return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _accelerator_memory() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else 0
