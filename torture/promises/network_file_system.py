"""What network file systems do: an operation that fails once, a rename that was done though its answer was lost, a file that shows late."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import End, run
from torture.promises._faults import FAULTS, Moment, chains, compared, faulty, moments, spread, undisturbed
from torture.promises._operations import READING

UNSEEN_S = 3.0
"""Seconds for which a new file may be missing from a listing."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    found, reference = undisturbed(folder, "whole")
    for name in ("stale", "lost answer"):
        among = [moment for moment in found if moment[0] in FAULTS[name].among or not FAULTS[name].among]
        chains(folder, "whole", name, among if long else spread(among, 8), tally, lambda end: end.code == 0 or end.refused)
    killed = folder / "killed"
    if (end := run(_toy.killed_in_training, str(folder), str(killed))).code != -9:
        raise RuntimeError(f"a run that was to be killed in a training ended with {end.code} {end.said}")
    reads = _reads_of_a_resumed_run(folder, killed)
    for number, moment in enumerate(reads if long else spread(reads, 5)):
        problem = _read_fails(folder, killed, moment, number, reference)
        tally.count(not problem, f"resumed, {moment[0]} {moment[1]} (number {moment[2]}) fails once: {problem}")
    for seed in range(20 if long else 2):
        problem = _seen_late(folder, killed, seed, reference)
        tally.count(not problem, f"resumed, new files are listed late, seed {seed}: {problem}")
    tally.note("reads of a resumed run", len(reads))


def _reads_of_a_resumed_run(folder: Path, killed: Path) -> list[Moment]:
    looked = folder / "looked"
    shutil.copytree(killed, looked)
    end = run(moments, str(folder), "whole", str(looked), _toy.compute, True)
    if end.code != 0:
        raise RuntimeError(f"the resumed run ended with {end.code} {end.said}")
    return [(name, path, number) for name, path, number in end.result if name in READING]


def _read_fails(folder: Path, killed: Path, moment: Moment, number: int, reference: dict[str, str]) -> str:
    """What is wrong with a resumed run of which one read fails, once."""
    place = folder / f"reading-{number}"
    shutil.copytree(killed, place)
    end = run(faulty, str(folder), "whole", str(place), f"{place}.log", "stale read", [moment])
    if not Path(f"{place}.log.met").exists():
        return "it did not come to that read"
    return _gone_on(folder, killed, place, end, reference)


def _seen_late(folder: Path, killed: Path, seed: int, reference: dict[str, str]) -> str:
    """What is wrong with a resumed run that is not shown its newest files."""
    place = folder / f"late-{seed}"
    shutil.copytree(killed, place)
    return _gone_on(folder, killed, place, run(late, str(folder), str(place), seed), reference)


def _gone_on(folder: Path, killed: Path, place: Path, end: End, reference: dict[str, str]) -> str:
    """What is wrong after a run that met something: it came to its end, or ended in one line with everything in place and is resumed."""
    if end.code != 0:
        if not end.refused:
            return f"ended with {end.code} {end.said}"
        if _toy.standing(killed) - _toy.standing(place) or set(_toy.spent(killed)) - set(_toy.spent(place)):
            return f"what had been done is gone after: {end.said}"
    if (end.code != 0 or _toy.leftovers(place)) and (again := run(_toy.compute, str(folder), "whole", str(place))).code != 0:
        return f"resumed once more, it ended with {again.code} {again.said}"
    return compared(place, reference)


def late(folder: str, directory: str, seed: int) -> None:
    """Compute a study while listings of its folders leave out, now and then, what has been put there in the last seconds."""
    chance, listdir, scandir, place = random.Random(seed), os.listdir, os.scandir, Path(directory)

    def unseen(path: Any) -> bool:
        try:
            return chance.random() < 0.3 and path.is_relative_to(place) and time.time() - path.lstat().st_ctime < UNSEEN_S
        except OSError:
            return False

    class Entries:
        def __init__(self, path: Any) -> None:
            self._entries = scandir(path)
            self._hides = not isinstance(path, int)

        def __iter__(self) -> Iterator[Any]:
            return (entry for entry in self._entries if not (self._hides and unseen(Path(entry.path))))

        def __enter__(self) -> Entries:
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __next__(self) -> Any:
            return next(self._entries)

        def close(self) -> None:
            self._entries.close()

    def listed(path: Any = ".") -> list[str]:
        return [name for name in listdir(path) if isinstance(path, int) or not unseen(Path(path) / name)]

    os.listdir, os.scandir = listed, Entries  # type: ignore[assignment]
    _toy.compute(folder, "whole", directory)


PROMISE = Promise(
    name="network-file-system",
    group="Nothing lost",
    sentence=(
        "An operation on a file that fails once (ESTALE), reading and listing too, or that is done though the answer says it was not, and "
        "a new file that is listed late, as on NFS, are survived or end the run in one line; resumed, it yields the same tables."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/files.py",
            """        raise StoreProblem(f"the run directory {directory} cannot be used: {error.strerror or error}", again) from error
""",
            """        raise
""",
            "what the system says is passed on as it is",
        ),
        Mutation(
            "models/belonging.py",
            """ | {name for name in _BY_NAME if os.path.lexists(directory / name)}
""",
            """
""",
            "what a listing does not show of a model counts as not there",
        ),
    ),
)
