"""A study that is computed for real in a second, and what a run of it left behind, as it can be compared byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torture.mutations import ROOT

sys.path.append(str(ROOT / "tests"))

from support.toy_study import toy_comparison, toy_study
from tempering.api import make_report
from tempering.engine import hardening
from tempering.engine.defended import MODELS
from tempering.engine.events import Event
from tempering.engine.executors import LOCAL, ExecutorChoice
from tempering.engine.hardening_folder import Pace, TrainingFolder
from tempering.engine.plan import make_plan
from tempering.engine.run import drive
from tempering.engine.store import RunStore
from tempering.study import Budget, ProbeSettings, Study

CLOCKS = ("wall_s", "device_seconds", "search_device_seconds", "break_device_seconds", "check_device_seconds")
"""Columns that say how long something took; no two runs agree in them."""

LITTLE: dict[str, Any] = {
    "budget": Budget(steps=2),
    "probes": ProbeSettings(prompts=2, max_new_tokens=2, evaluators=("harm", "utility", "divergence")),
}


def small(folder: Path) -> Study:
    """Twelve attacks and a reference."""
    return toy_study(folder, {"steps": 2}, {"steps": 2, "adapters": True}, seeds=6, **LITTLE)


def whole(folder: Path) -> Study:
    """Everything a run can write: two defended models with their trainings, searches with their trials, attacks and a reference."""
    attacks = toy_study(folder, {"steps": 2}).attacks
    return toy_comparison(folder, {"steps": 2}, seeds=2, attacks=attacks, search=2, **LITTLE)


STUDIES = {"small": small, "whole": whole}


def compute(
    folder: str,
    study: str,
    directory: str,
    workers: int = 0,
    log: str = "",
    executor: ExecutorChoice = LOCAL,
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Compute what a run directory does not hold yet. Unlike a user's run it keeps a snapshot of every step, and writes no report.

    Args:
        folder: of models and data.
        study: a name in :data:`STUDIES`.
        directory: the run's.
        workers: processes; 0 computes in this one.
        log: a file to which the hash of every unit is added when it is begun.
        executor: where units are computed.
        on_event: is told what happens.
    """
    torch.set_num_threads(1)
    hardening.Pace = lambda seconds: Pace(0.0)  # type: ignore[attr-defined,misc,assignment]

    def told(event: Event) -> None:
        if log and event.kind == "unit_started":
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"{event.unit}\n")
        on_event(event)

    store = RunStore(directory, warn=lambda message: told(Event("warning", message=message)))
    drive(make_plan(STUDIES[study](Path(folder))), store, workers=workers, executor=executor, on_event=told)


def report(directory: str) -> None:
    """Write a run's report."""
    torch.set_num_threads(1)
    make_report(directory)


def prepare(folder: Path) -> None:
    """Put models and data into a folder. Reads random numbers and no thread."""
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    for make in STUDIES.values():
        make(folder)


def rows(directory: Path, warn: Callable[[str], None] = lambda message: None) -> dict[str, str]:
    """What a run left: its tables without clocks as text, and the SHA-256 of its defended models."""
    tables = RunStore(directory, warn=warn).tables()
    frames = {"units": tables.units, "trajectories": tables.trajectories, "trials": tables.trials}
    found = {
        name: frame.drop(columns=[clock for clock in CLOCKS if clock in frame]).to_json(orient="split", double_precision=15)
        for name, frame in frames.items()
        if frame is not None
    }
    for weights in sorted(directory.glob("models/*/*.safetensors")):
        found[str(weights.relative_to(directory))] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return found


def different(one: dict[str, str], other: dict[str, str]) -> str:
    """The first thing in which two runs differ; ``""`` where they agree."""
    return next((name for name in sorted({*one, *other}) if one.get(name) != other.get(name)), "")


def leftovers(directory: Path) -> list[str]:
    """What lies about in a finished run's directory that belongs to nothing."""
    hidden = [path for path in directory.rglob(".*") if path.name != ".lock"]
    return sorted(str(path.relative_to(directory)) for path in [*hidden, *directory.rglob("*.training")])


def negative_clocks(directory: Path) -> list[str]:
    """Columns of the tables that hold a negative duration."""
    tables = RunStore(directory).tables()
    frames = (tables.units, tables.trajectories, tables.trials)
    return [clock for frame in frames if frame is not None for clock in CLOCKS if clock in frame and (frame[clock] < 0).any()]


def snapshots(directory: Path) -> list[Path]:
    """What trainings that are not at their end have kept to go on from, the latest of each training last."""
    return sorted(path for path in directory.glob(f"{MODELS}/*.training/[0-9]*") if path.is_dir())


def interrupted(folder: str, directory: str, stop: Callable[[], None]) -> None:
    """Compute the whole study, and call what stops it as soon as a training has put a snapshot in place."""
    watched = partial(TrainingFolder, reached=lambda moment: stop() if moment == "in place" else None)
    hardening.TrainingFolder = watched  # type: ignore[attr-defined,assignment]
    try:
        compute(folder, "whole", directory)
    finally:
        hardening.TrainingFolder = TrainingFolder  # type: ignore[attr-defined]


def killed_in_training(folder: str, directory: str) -> None:
    """Compute the whole study, and be killed when a training has put its first snapshot in place."""
    interrupted(folder, directory, lambda: os.kill(os.getpid(), signal.SIGKILL))


def spent(directory: Path) -> dict[str, float]:
    """Seconds on the device that each training says it has spent, by its name: as its latest snapshot has it, or its finished model."""
    found = {}
    for snapshot in snapshots(directory):
        path = snapshot / "record.json"
        if path.exists():  # killed while an older one was removed, that one may be there in part
            found[snapshot.parent.name.removesuffix(".training")] = json.loads(path.read_bytes())["record"]["hardening"]["spend"]
    for card in directory.glob(f"{MODELS}/[!.]*/tempering.json"):
        found[card.parent.name] = json.loads(card.read_bytes())["spend"]
    return {name: float(spend["device_seconds"]) for name, spend in found.items()}


def fallen(before: dict[str, float], after: dict[str, float]) -> str:
    """What is wrong where a meter has been reset; ``""`` where every training has spent at least what it had spent before."""
    reset = (name for name, told in before.items() if after.get(name, told) < told)
    return next((f"the meter of {name[:12]} fell from {before[name]} to {after[name]} s" for name in reset), "")


def standing(directory: Path) -> set[str]:
    """Hashes of the units that have a result in place."""
    return {path.name for path in (directory / "units").glob("[!.]*")}
