"""Of two processes that want the same directory one gets it, and the other says so; who only reads is never in the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from tempering.errors import TemperingError
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import Child, End, run
from torture.promises._faults import compared

SAYS = ("another process is writing to", "another process is training into")


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    _toy.prepare(folder)
    if (end := run(_toy.compute, str(folder), "small", str(folder / "undisturbed"))).code != 0:
        raise RuntimeError(f"the undisturbed run ended with {end.code} {end.said}")
    reference = _toy.rows(folder / "undisturbed")
    for number in range(60 if long else 3):
        directory = folder / f"run-{number}"
        ends = _together(_toy.compute, (str(folder), "small", str(directory)), directory, tally)
        problem = _one_won(ends) or compared(directory, reference)
        tally.count(not problem, f"two runs, {number}: {problem}")
    whole = _weights(folder / "trained", run(train, str(folder), str(folder / "trained" / "model")))
    for number in range(30 if long else 2):
        place = folder / f"training-{number}"
        ends = _together(train, (str(folder), str(place / "model")), place / "none", tally)
        problem = _one_won(ends) or ("" if _weights(place, ends[0]) == whole else "other weights")
        tally.count(not problem, f"two hardenings, {number}: {problem}")


def train(folder: str, directory: str) -> None:
    """Harden a model, with a snapshot of every step."""
    from support.hardening_jobs import job_of
    from tempering.engine.hardening import train

    torch.set_num_threads(1)
    train(job_of(Path(folder)), Path(directory), snapshot_seconds=0)


def _together(body: Any, arguments: tuple[str, ...], directory: Path, tally: Tally) -> list[End]:
    """Start two at once, and read meanwhile."""
    children = [Child(body, *arguments), Child(body, *arguments)]
    while any(child.alive for child in children):
        if (directory / "plan.json").exists():
            problem = _read(directory)
            tally.count(not problem, f"read while it is written to: {problem}")
        time.sleep(0.2)
    return [child.end() for child in children]


def _read(directory: Path) -> str:
    """What is wrong with reading a run that another process is computing."""
    said: list[str] = []
    try:
        _toy.rows(directory, said.append)
    except TemperingError as problem:
        return "" if "; " in str(problem) else str(problem)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return said[0] if said else ""


def _one_won(ends: list[End]) -> str:
    """One computed and the other said so, or was so late that it found everything done."""
    winners = [end for end in ends if end.code == 0]
    losers = [end for end in ends if end.code != 0]
    if not winners:
        return f"nobody won: {ends[0].said}, {ends[1].said}"
    wrong = [end for end in losers if not (end.refused and end.said.startswith(SAYS))]
    return f"the other ended with {wrong[0].code} {wrong[0].said}" if wrong else ""


def _weights(place: Path, end: End) -> bytes:
    weights = place / "model" / "model.safetensors"
    return weights.read_bytes() if weights.exists() else f"none: {end.said}".encode()


PROMISE = Promise(
    name="two-drivers",
    group="Nothing lost",
    sentence=(
        "Of two processes on one run directory, or two hardenings into one, one wins and the other says so in one line; the result is that "
        "of one alone, and reading meanwhile gives whole rows."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/store.py",
            "            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
            "            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
            "a run directory may be held by two",
        ),
        Mutation(
            "engine/hardening_folder.py",
            "                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
            "                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
            "a training's folder may be held by two",
        ),
    ),
)
