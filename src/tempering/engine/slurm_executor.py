"""Runs units in Slurm jobs, on a file system that all nodes share.

Each job runs a batch of units, so that imports and models are loaded once for many, and tells of them in its folder below the run
directory, where the driver reads and commits them. Jobs outlive a driver that is killed: what they have finished by then is taken up by
the next one, which gives them up. Submitit hands a job over as a pickle in that folder, so whoever may write to the run directory may
run programs as the user; nothing of ours reads a pickle back.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tempering.engine.channel import AGAIN
from tempering.engine.executor import TRIES, Assignment, Finished, Watcher, lost
from tempering.engine.executors import SlurmSettings
from tempering.engine.files import UNREADABLE, replace_file
from tempering.engine.messages import heard
from tempering.engine.recorded import quarantined
from tempering.engine.shipping import pinned
from tempering.engine.slurm_job import UNITS, Listener, main
from tempering.engine.units import Plan, Unit
from tempering.errors import TemperingError, UnreadableMessage
from tempering.redaction import one_line

JOBS = "jobs"
"""Folder of the jobs in a run directory."""

MOST_JOBS = 32
"""Jobs in the queue at once, unless told."""

POLL_SECONDS = 0.5
"""How long the driver waits between two looks at what the jobs say."""


class SlurmExecutor:
    """Runs units in jobs that submitit hands to Slurm."""

    def __init__(self, settings: SlurmSettings, workers: int | None, together: int | None = None) -> None:
        """Choose what jobs ask for.

        Args:
            settings: of every job.
            workers: jobs at once.
            together: runs that a job trains in one pass at most; ``None`` takes as many as its memory holds where that pays.

        Raises:
            TemperingError: submitit is not installed.
        """
        try:
            import submitit
        except ImportError:
            problem = "the executor slurm needs the package submitit, which is not installed"
            raise TemperingError(problem, "pip install 'tempering[slurm]'") from None
        self._submitit, self._settings, self._most, self._together = submitit, settings, workers or MOST_JOBS, together

    def threads(self, plan: Plan) -> int:
        """The cores of a job."""
        return self._settings.cpus

    def run(self, assignment: Assignment) -> Generator[Finished, None, None]:
        """Run what is left."""
        from tempering.engine.companions import gathered  # with the attacks, which a light command does without

        most = gathered(assignment.agenda, assignment.targets, self._together)
        queue = _Queue(self._submitit, self._settings, self._most, most, assignment)
        try:
            queue.take_up()
            while queue.is_busy:
                yield from queue.fill()
                yield from queue.listen()
                time.sleep(POLL_SECONDS)
        finally:
            queue.end()

    def close(self) -> None:
        """Nothing is held beyond a run."""


@dataclass(eq=False)
class _Job:
    """One job, seen from the driver.

    Attributes:
        job: submitit's handle.
        folder: below the run directory.
        units: that it has yet to finish, by hash.
        listener: reads what it says.
        environment: what it computes with, once it has begun.
        begun: the units that it is at, by hash.
        worked: whether it has begun any.
    """

    job: Any
    folder: Path
    units: dict[str, Unit]
    listener: Listener
    environment: dict[str, Any] | None = None
    begun: dict[str, Unit] = field(default_factory=dict)
    worked: bool = False


@dataclass
class _Queue:
    """The jobs of a run, and the units that they have yet to run."""

    submitit: Any
    settings: SlurmSettings
    most: int
    together: int
    assignment: Assignment
    jobs: list[_Job] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    found: dict[str, Finished] = field(default_factory=dict)
    held: Unit | None = None
    unborn: int = 0

    def __post_init__(self) -> None:
        """Look up what is used throughout."""
        self.agenda, self.watcher = self.assignment.agenda, self.assignment.watcher
        self.folder = self.assignment.directory.resolve() / JOBS

    @property
    def is_busy(self) -> bool:
        """Whether anything is left or under way."""
        return bool(self.agenda) or bool(self.jobs) or self.held is not None

    def take_up(self) -> None:
        """Read what jobs of an earlier driver have finished, and it did not live to commit. They are given up, whatever they are at.

        A folder in which a line is not what was written is put aside. What stands before that line is sound and counts; the rest is
        computed anew.

        Raises:
            OSError: a folder cannot be read just now; another try may.
        """
        pending = {unit.hash: unit for unit in self.agenda}
        for folder in sorted(path for path in self.folder.glob("*") if path.is_dir()) if self.folder.is_dir() else ():
            (folder / UNITS).unlink(missing_ok=True)
            try:
                self._take_up(folder, pending)
            except (UnreadableMessage, OSError) as error:
                if isinstance(error, OSError) and error.errno not in UNREADABLE:
                    raise
                aside = quarantined(self.folder.parent, folder)
                problem = error.strerror if isinstance(error, OSError) else str(error).partition(";")[0]
                self.watcher.warned(f"the Slurm job {folder.name} was damaged ({problem}); it was moved to {aside}, and is computed anew")
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def _take_up(self, folder: Path, pending: dict[str, Unit]) -> None:
        environment = None
        for message in Listener(folder).messages():
            environment = message.get("environment", environment)
            unit = pending.get(_unit_of(message))
            if message.get("kind") == "result" and unit is not None and (result := heard(message, unit, Watcher())) is not None:
                self.found[unit.hash] = Finished(unit, result, environment)

    def fill(self) -> Iterator[Finished]:
        """Hand over jobs as long as there are units that wait for nothing, and room in the queue; what was found finished is so at once."""
        while len(self.jobs) < self.most:
            groups: list[list[Unit]] = []
            yield from self._collect(groups)
            if not groups:
                return
            self._submit(groups)

    def listen(self) -> Iterator[Finished]:
        """Hear what the jobs have said, and look after those that have ended."""
        for job in list(self.jobs):
            yield from self._hear(job)
            if not job.units:
                self._forget(job)
            elif job.job.done():
                yield from self._hear(job)  # what it said since
                yield from self._bury(job)

    def end(self) -> None:
        """Take every job out of the queue, or end it."""
        for job in list(self.jobs):
            job.job.cancel(check=False)
            self._forget(job)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _collect(self, groups: list[list[Unit]]) -> Iterator[Finished]:
        """Put the next units of one job into groups that are run together; a training goes alone, since others wait for it."""
        while (room := self.settings.units - sum(map(len, groups))) > 0:
            units = [self.held] if self.held is not None else self.agenda.take_together(min(self.together, room))
            self.held = None
            group = []
            for unit in units:
                if (found := self.found.pop(unit.hash, None)) is not None:
                    self.agenda.finished(unit, found.result)
                    yield found
                else:
                    group.append(unit)
            training = bool(group) and group[0].work.kind == "harden"
            if training and groups:
                self.held = group[0]
            elif group:
                groups.append(group)
            if training or not units:
                return

    def _submit(self, groups: list[list[Unit]]) -> None:
        folder = self.folder / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        described = [[pinned(unit).as_json() for unit in group] for group in groups]
        orders = {"threads": self.assignment.threads, "models": str(self.assignment.models.resolve()), "groups": described}
        replace_file(folder / UNITS, json.dumps(orders).encode())
        try:
            executor = self.submitit.AutoExecutor(folder=folder / "log", cluster=self.settings.cluster)
            executor.update_parameters(**_parameters(self.settings))
            job = executor.submit(main, str(folder))
        except Exception as error:  # sbatch is not there, or refuses what is asked for
            shutil.rmtree(folder, ignore_errors=True)
            problem = f"cannot hand a job to Slurm: {one_line(str(error)) or type(error).__name__}"
            raise TemperingError(problem, "see what --slurm asks for, and that sbatch runs on this machine") from error
        self.jobs.append(_Job(job, folder, {unit.hash: unit for group in groups for unit in group}, Listener(folder)))

    def _hear(self, job: _Job) -> Iterator[Finished]:
        for message in job.listener.messages():
            unit = job.units.get(_unit_of(message))
            if message.get("kind") == "ready":
                job.environment = message.get("environment")
            elif unit is None:
                heard(message, next(iter(job.units.values())), self.watcher)  # an error, and nobody's
            else:
                job.begun[unit.hash], job.worked, self.unborn = unit, True, 0
                if (result := heard(message, unit, self.watcher)) is not None:
                    del job.begun[unit.hash], job.units[unit.hash]
                    self.agenda.finished(unit, result)
                    yield Finished(unit, result, job.environment)

    def _bury(self, job: _Job) -> Iterator[Finished]:
        """A job has ended before its units have: try those that it was at once more, and the others as if nothing had been."""
        words = _last_words(job.job)
        self._forget(job)
        if not job.worked:
            self.unborn += 1
            if self.unborn >= TRIES:
                raise TemperingError(f"Slurm jobs end before they begin: {words}", "see that tempering is installed on the nodes")
        for unit in sorted(job.units.values(), key=lambda unit: unit.hash in job.begun):  # those last of all
            self.deaths[unit.hash] += len(job.begun) == 1 and unit.hash in job.begun  # of several, each is tried alone before it is blamed
            if self.deaths[unit.hash] < TRIES:
                self.agenda.put_back(unit)
            else:
                result = lost("in a Slurm job died", f": {words}")
                self.agenda.finished(unit, result)
                yield Finished(unit, result)

    def _forget(self, job: _Job) -> None:
        self.jobs.remove(job)
        shutil.rmtree(job.folder, ignore_errors=True)


def _unit_of(message: dict[str, Any]) -> str:
    """The hash of the unit that a line is about; empty where it is about none."""
    unit = message.get("unit")
    if not isinstance(unit, str):
        raise UnreadableMessage("a line of a Slurm job names no unit", AGAIN)
    return unit


def _parameters(settings: SlurmSettings) -> dict[str, Any]:
    """The settings as submitit calls them."""
    asked = {
        "name": "tempering",
        "timeout_min": settings.time,
        "gpus_per_node": settings.gpus,
        "cpus_per_task": settings.cpus,
        "mem_gb": settings.memory,
        "slurm_partition": settings.partition,
        "slurm_account": settings.account,
    }
    return {name: value for name, value in asked.items() if value is not None and not (name == "gpus_per_node" and value == 0)}


def _last_words(job: Any) -> str:
    """How a job ended, and the last line it printed."""
    try:
        printed = (job.stderr() or "").strip().splitlines()
    except OSError:
        printed = []
    return one_line(": ".join([str(job.state).lower(), *printed[-1:]]))
