"""Faults put in the way of a run at one of its operations on files, and chains of runs of which each meets the next."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from torture.promise import Tally
from torture.promises import _toy
from torture.promises._children import End, run
from torture.promises._operations import ADDING, READING, Operation, watch

Moment = tuple[str, str, int]
"""An operation that is the same in every run: its name, its path without numbers of processes, and how often these came before."""


class Moments:
    """Names operations."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: Counter[tuple[str, str]] = Counter()

    def of(self, operation: Operation) -> Moment:
        path = str(operation.path.relative_to(self._directory)) if operation.path != self._directory else "."
        path = re.sub(r"\.\d+\.tmp", ".tmp", re.sub(r"\.[^./]+\.partial|\.tmp[A-Za-z0-9]{6}$", ".partial", path))
        name = operation.name, path
        self._seen[name] += 1
        return (*name, self._seen[name])


def die(operation: Operation) -> None:
    """The kill."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_space(operation: Operation) -> None:
    """What a full disk says, in the words of whoever writes."""
    if operation.name == "weights":
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    if operation.name == "tokenizer":
        raise Exception("No space left on device (os error 28)")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(operation.path))


def stale(operation: Operation) -> None:
    """What a network file system says of a file that it has lost sight of."""
    if operation.name in ("weights", "tokenizer"):
        raise SafetensorError("Error while serializing: I/O error: Stale file handle (os error 116)")
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(operation.path))


def lost_answer(operation: Operation) -> None:
    """What a network file system says of a rename or an unlinking that it did, and whose answer was lost: that there is no such file."""
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(operation.path))


class Fault:
    """What happens at a moment.

    Attributes:
        act: kills or raises.
        after: it is done after the operation, not instead of it.
        lasting: it is done to every later operation too that adds something.
        among: names of the operations that it can happen to; empty for all.
    """

    def __init__(self, act: Callable[[Operation], None], after: bool = False, lasting: bool = False, among: Sequence[str] = ()) -> None:
        self.act, self.after, self.lasting, self.among = act, after, lasting, among


FAULTS = {
    "kill": Fault(die),
    "full": Fault(no_space, lasting=True, among=ADDING),
    "stale": Fault(stale),
    "stale read": Fault(stale, among=READING),
    "lost answer": Fault(lost_answer, after=True, among=("rename", "replace", "unlink", "rmdir", "mkdir")),
}


def moments(folder: str, study: str, directory: str, body: Callable[..., None] = _toy.compute, reads: bool = False) -> list[Moment]:
    """Compute a study undisturbed, and say which operations there were; those that only read too, where that is asked."""
    names, seen = Moments(Path(directory)), []
    watch(Path(directory), before=lambda operation: seen.append(names.of(operation)), reads=reads)
    body(folder, study, directory)
    return seen


def faulty(folder: str, study: str, directory: str, log: str, name: str, targets: Sequence[Moment]) -> Moment | None:
    """Compute a study, with a fault at the first of some moments that comes; the moment where it came to one and went on to the end."""
    fault, names = FAULTS[name], Moments(Path(directory))
    wanted = {tuple(target) for target in targets}
    met: list[Moment] = []

    def hook(operation: Operation) -> None:
        moment = names.of(operation)
        if (not met and moment in wanted) or (met and fault.lasting and operation.name in fault.among):
            if not met:
                met.append(moment)
                Path(f"{log}.met").write_text("\n".join(map(str, moment)), encoding="utf-8")
            fault.act(operation)

    reads = bool(set(fault.among) & set(READING))
    watch(Path(directory), **{"after" if fault.after else "before": hook}, reads=reads)
    _toy.compute(folder, study, directory, log=log)
    return met[0] if met else None


def chains(folder: Path, study: str, name: str, targets: Sequence[Moment], tally: Tally, expected: Callable[[End], bool]) -> None:
    """Runs one after the other, each of which goes on where the one before was ended, and meets the next of some moments.

    When a run comes to its end its tables are compared, and another directory is begun for the moments that are left.

    Args:
        folder: of models and data; directories are made in it.
        study: a name in :data:`torture.promises._toy.STUDIES`.
        name: of the fault.
        targets: each is met once.
        tally: counts a trial for each that was met.
        expected: whether a run whose fault it was ended as it should.
    """
    whole = folder / "undisturbed"
    if not whole.exists():
        tally.count(run(_toy.compute, str(folder), study, str(whole)).code == 0, "undisturbed, it does not finish", trials=0)
    reference, left, number = _toy.rows(whole), list(targets), 0
    while left:
        directory = folder / f"{name}-{number}"
        number += 1
        met = 0
        for end, moment in _runs(folder, study, directory, name, left):
            if moment is not None:
                met += 1
                words = f"{study}, {name} at {moment[0]} {moment[1]} (number {moment[2]}): ended with {end.code} {end.said}"
                tally.count(expected(end), words)
            elif end.code != 0:
                tally.count(False, f"{study}, resumed after {name}: ended with {end.code} {end.said}")
                return
        if _toy.leftovers(directory):  # a fault that was survived may have kept something from being removed; the next run does that
            run(_toy.compute, str(folder), study, str(directory))
        if problem := compared(directory, reference):
            tally.count(False, f"{study}, {name}, chain {number}: {problem}")
        if not met:
            return


def _runs(folder: Path, study: str, directory: Path, name: str, left: list[Moment]) -> Iterator[tuple[End, Moment | None]]:
    log = folder / f"{directory.name}.log"
    while True:
        mark = Path(f"{log}.met")
        mark.unlink(missing_ok=True)
        before, spent = _toy.standing(directory), _toy.spent(directory)
        log.write_text("", encoding="utf-8")
        end = run(faulty, str(folder), study, str(directory), str(log), name, left)
        moment = _read(mark)
        repeated = before & set(log.read_text(encoding="utf-8").split())
        lost = before - _toy.standing(directory)
        if repeated or lost:
            end = End(71, f"units that were done were {'lost' if lost else 'computed anew'}: {sorted(repeated | lost)[0][:12]}")
        elif fallen := _toy.fallen(spent, _toy.spent(directory)):
            end = End(71, fallen)
        if moment is not None:
            left.remove(moment)
        yield end, moment
        if end.code == 0 or moment is None:
            return


def _read(mark: Path) -> Moment | None:
    if not mark.exists():
        return None
    name, path, number = mark.read_text(encoding="utf-8").split("\n")
    return name, path, int(number)


def compared(directory: Path, reference: dict[str, str]) -> str:
    """What is wrong with a run that has come to its end; ``""`` where it is as one that nobody disturbed."""
    if differs := _toy.different(_toy.rows(directory), reference):
        return f"{differs} is not that of the undisturbed run"
    if lying := _toy.leftovers(directory):
        return f"{lying[0]} lies about"
    if clocks := _toy.negative_clocks(directory):
        return f"{clocks[0]} is negative"
    return ""


def spread(found: Sequence[Moment], count: int) -> list[Moment]:
    """So many moments of a run, of every kind of operation at least one as far as there is room, and otherwise evenly."""
    kinds: dict[tuple[str, str], Moment] = {}
    for moment in found:
        kinds.setdefault((moment[0], re.sub(r"[0-9a-f]{12,}", "*", moment[1])), moment)
    chosen = set(list(kinds.values())[:: max(1, -(-len(kinds) // count))])
    rest = [moment for moment in found if moment not in chosen]
    chosen |= set(rest[:: max(1, -(-len(rest) // max(1, count - len(chosen))))]) if count > len(chosen) else set()
    return [moment for moment in found if moment in chosen]


def undisturbed(folder: Path, study: str) -> tuple[list[Moment], Any]:
    """The moments of a run that nobody disturbs, and what it left."""
    _toy.prepare(folder)
    end = run(moments, str(folder), study, str(folder / "undisturbed"))
    if end.code != 0:
        raise RuntimeError(f"the undisturbed run ended with {end.code} {end.said}")
    return [(name, path, number) for name, path, number in end.result], _toy.rows(folder / "undisturbed")
