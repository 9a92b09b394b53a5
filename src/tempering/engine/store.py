"""The run directory: what a run has computed so far, safe against a kill at any moment.

Layout::

    OUT/plan.json                  the resolved study and its units, in order, under a seal
    OUT/study.json                 the study once more, for readers and for ``temper run``
    OUT/environments/<digest>.json what results were computed with
    OUT/units/<hash>/              one finished unit: probes.parquet, with a search trials.parquet, and manifest.json
    OUT/models/<hash>/             a defended model, as it is attacked; see tempering.engine.hardening
    OUT/kept/<hash>/               what an attack made, where that was asked for; see tempering.engine.keeping
    OUT/quarantine/                units and models that were damaged later; nothing reads them

A unit is done when its directory stands under its own name. It is written under a hidden name beside that, flushed,
the manifest with every file's hash last, and put in place by one rename. So a reader sees a unit whole or not at all, and
whoever resumes need only look which names are there and whether their hashes hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tempering.canonical import canonical_hash
from tempering.engine.files import (
    KEPT,
    TEMPORARY,
    UNREADABLE,
    Damaged,
    explained,
    flush_directory,
    make_directory,
    replace_file,
    sealed,
    write_durably,
)
from tempering.engine.manifest import check_manifest
from tempering.engine.recorded import (
    MANIFEST_SCHEMA,
    checked_schema,
    quarantined,
    recorded_environments,
    recorded_plan,
    recorded_study,
    recorded_threads,
    unsealed_manifest,
    write_plan,
)
from tempering.engine.results import SearchResult, Tables, UnitResult
from tempering.engine.tables import FinishedUnit, decode_probes, decode_trials, encode_probes, encode_trials, join_tables
from tempering.engine.units import Plan, Unit
from tempering.errors import StoreProblem
from tempering.partial import sweep
from tempering.study import Study

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PROBES = "probes.parquet"
TRIALS = "trials.parquet"

COMMIT_STAGES = ("directory made", "probes written", "manifest written", "directory flushed", "in place", "place flushed")
"""The moments of a commit that :attr:`RunStore.reached` is told of, in order."""


class RunStore:
    """One run directory.

    Reading needs no lock and changes nothing. Writing happens inside :meth:`driving`, by one process at a time.

    Attributes:
        directory: where it is.
        warn: told, in one line, what was found damaged.
        reached: told of every moment in :data:`COMMIT_STAGES`; crash tests end the process there.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        warn: Callable[[str], None] = _log.warning,
        reached: Callable[[str], None] = lambda moment: None,
    ) -> None:
        """Name the directory; nothing is read or made yet."""
        self.directory = Path(directory)
        self.warn = warn
        self.reached = reached

    @contextmanager
    def driving(self, plan: Plan, threads: int = 1) -> Iterator[int]:
        """Hold the directory for one run of a plan, making it where there is none.

        Args:
            plan: what will be computed.
            threads: threads a unit computes with. Sums depend on their number in the last digit, so a run that is resumed
                keeps the number it began with.

        Yields:
            The number of threads to compute with.

        Raises:
            StoreProblem: another process holds it, it belongs to another study, or it cannot be written.
        """
        with explained(self.directory):
            make_directory(self.directory)
            lock = self._lock()
        try:
            with explained(self.directory):
                recorded = self._check_belongs_to(plan)
                self._sweep()
                threads = recorded or threads
                write_plan(self.directory, plan, threads)  # before anything else: a directory without it belongs to nobody
                make_directory(self.directory / "units")
            yield threads
        finally:
            os.close(lock)

    def record_environment(self, environment: dict[str, Any]) -> str:
        """Keep what results are computed with.

        Returns:
            The digest that manifests name it by.
        """
        digest = canonical_hash(environment)[:12]
        with explained(self.directory):
            folder = self.directory / "environments"
            make_directory(folder)
            replace_file(folder / f"{digest}.json", json.dumps(environment, indent=2).encode())  # anew each time: the latest is the last
        return digest

    def environments(self) -> list[dict[str, Any]]:
        """Every environment that results of this run were computed with, the latest last. Damaged ones are left out, with a warning."""
        with explained(self.directory):
            return recorded_environments(self.directory, self.warn)

    def commit(self, unit: Unit, result: UnitResult, environment: str) -> None:
        """Put the result of a unit into place, whole or not at all.

        Args:
            unit: what was computed.
            result: what came of it.
            environment: from :meth:`record_environment`.

        Raises:
            StoreProblem: the disk is full, or the directory gone or read-only. Everything committed before still stands.
        """
        place = self._place(unit.hash)
        aside = place.with_name(f".{unit.hash}.{os.getpid()}{TEMPORARY}")
        files = {PROBES: encode_probes(result.probes)}
        if result.search is not None:
            files[TRIALS] = encode_trials(result.search.trials)
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "unit": {"hash": unit.hash, **unit.as_json()},
            "status": result.status,
            "error": result.error,
            "files": {name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()},
            "spend": result.spend,
            "search": _search_in_short(result.search),
            **({"judging": result.judging} if result.judging else {}),
            "wall_s": result.wall_s,
            "environment": environment,
        }
        with explained(self.directory):
            try:
                aside.mkdir()
                self.reached("directory made")
                for name, content in files.items():
                    write_durably(aside / name, content)
                self.reached("probes written")
                write_durably(aside / MANIFEST, sealed(manifest))
                self.reached("manifest written")
                flush_directory(aside)
                self.reached("directory flushed")
                aside.rename(place)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            self.reached("in place")
            flush_directory(place.parent)
            self.reached("place flushed")

    def is_done(self, unit_hash: str) -> bool:
        """Whether a unit has a result that is as it was written. A damaged one is put aside, with a warning.

        Call it only inside :meth:`driving`.
        """
        return self.status(unit_hash) is not None

    def status(self, unit_hash: str) -> str | None:
        """How a unit ended, ``None`` where it has no result; otherwise as :meth:`is_done`."""
        with explained(self.directory):
            if not self._place(unit_hash).exists():
                return None
            try:
                manifest, _ = self._read(unit_hash)
            except Damaged as problem:
                self._quarantine(unit_hash, str(problem))
                return None
            return str(manifest["status"])

    def put_aside(self, unit_hash: str, problem: str) -> None:
        """Give up a result, so that it is computed anew. Call it only inside :meth:`driving`.

        Args:
            unit_hash: of the unit.
            problem: what is wrong with it, for the warning.
        """
        with explained(self.directory):
            self._quarantine(unit_hash, problem)

    def study(self) -> Study:
        """The study this directory belongs to.

        Raises:
            StoreProblem: there is no run here, or its study cannot be read.
        """
        return recorded_study(self.directory, self.warn)

    def plan(self) -> Plan:
        """The plan as it was recorded.

        Raises:
            StoreProblem: there is no run here, or its plan cannot be read.
        """
        study = self.study()
        try:
            return Plan.from_json(study, recorded_plan(self.directory))
        except (OSError, Damaged, ValueError, LookupError, TypeError) as error:
            raise StoreProblem(
                f"the plan in {self.directory} cannot be read: {type(error).__name__}",
                f"write it anew with: temper resume {self.directory}",
            ) from error

    def tables(self, plan: Plan | None = None) -> Tables:
        """Everything computed so far, in the order of the plan. Units without a result are left out, and damaged ones with a warning.

        Args:
            plan: whose units to read; ``None`` reads the recorded one.
        """
        finished = []
        with explained(self.directory):
            present = {path.name for path in (self.directory / "units").glob("[!.]*")}
            for unit in (plan or self.plan()).units:
                if unit.hash not in present:
                    continue
                try:
                    manifest, files = self._read(unit.hash)
                    trials = decode_trials(files[TRIALS]) if TRIALS in files else None
                    finished.append(FinishedUnit(unit, manifest, decode_probes(files[PROBES]), trials))
                except Damaged as problem:
                    self.warn(
                        f"unit {unit.hash[:12]} ({unit.label}) is damaged and left out: {problem}; compute it anew with: temper resume"
                    )
        return join_tables(finished)

    def put_model_aside(self, place: Path, problem: str) -> None:
        """Give up a damaged defended model, so that it is trained anew. Call it only inside :meth:`driving`."""
        with explained(self.directory):
            folder = quarantined(self.directory, place)
        self.warn(f"the model {place.name} was damaged ({problem}); it was moved to {folder} and is trained anew")

    def _place(self, unit_hash: str) -> Path:
        return self.directory / "units" / unit_hash

    def _read(self, unit_hash: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Manifest and files of a unit, proved to be what was written."""
        place = self._place(unit_hash)
        try:
            manifest = checked_schema(unsealed_manifest(place / MANIFEST), self.directory)
            files = {name: (place / name).read_bytes() for name in (PROBES, TRIALS) if name in manifest.get("files", ())}
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            raise Damaged(f"{Path(error.filename or place).name}: {error.strerror}") from error
        check_manifest(manifest)
        if PROBES not in files:
            raise Damaged(f"it has no {PROBES}")
        if manifest["unit"]["hash"] != unit_hash:
            raise Damaged("its manifest describes another unit")
        for name, content in files.items():
            expected = manifest["files"][name]
            if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
                raise Damaged(f"{name} has changed since it was written")
        return manifest, files

    def _quarantine(self, unit_hash: str, problem: str) -> None:
        folder = quarantined(self.directory, self._place(unit_hash))
        self.warn(f"unit {unit_hash[:12]} was damaged ({problem}); it was moved to {folder} and is computed anew")

    def _lock(self) -> int:
        handle = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise StoreProblem(
                    f"another process is writing to {self.directory}", "wait until it ends, or choose another --out"
                ) from None
            raise
        return handle

    def _check_belongs_to(self, plan: Plan) -> int | None:
        """Refuse a directory that holds anything but this plan's run.

        Returns:
            The number of threads that the run began with, ``None`` for a new one.
        """
        try:
            recorded = recorded_plan(self.directory)
        except (FileNotFoundError, Damaged):
            recorded = None
        if recorded is not None:
            if recorded["digest"] != plan.digest:
                raise StoreProblem(
                    f"{self.directory} holds the run of another study, or of another version of this one's models, data or code",
                    "choose another --out, or delete that directory",
                )
            return int(recorded["threads"])
        if (self.directory / "study.json").exists():
            if self.study() != plan.study:
                raise StoreProblem(f"{self.directory} holds the run of another study", "choose another --out, or delete that directory")
            return recorded_threads(self.directory)
        if strangers := sorted(path.name for path in self.directory.glob("[!.]*")):
            raise StoreProblem(f"{self.directory} is not empty ({strangers[0]}) and holds no run", "choose another --out")
        return None

    def _sweep(self) -> None:
        """Remove what killed processes left half written; the lock says that no living one is at work."""
        for folder in (self.directory, self.directory / "units", self.directory / "environments"):
            for path in folder.glob(f".*{TEMPORARY}"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for folder in (self.directory / "models", self.directory / KEPT):  # where tempering.models.saving writes
            sweep(folder)


def _search_in_short(search: SearchResult | None) -> dict[str, Any] | None:
    """What a manifest says of a search: how many trials, what they used together, and what was chosen."""
    if search is None:
        return None
    return {"trials": len(search.trials), "spend": search.spend, "chosen": search.chosen, "config": search.config}
