"""What a promise is: a sentence, a way to try it many times, and the faults in our own code that trying it must find."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torture.promises

GROUPS = ("Nothing lost", "Nothing let in", "Nothing let out", "Numbers", "Long runs")
"""The headings of the page, in their order."""

EXAMPLES_KEPT = 5
"""Failures whose words are kept; all are counted."""


class Tally:
    """Trials and failures of one promise, counted while it is tried.

    Attributes:
        trials: how many.
        failures: how many of them failed.
        examples: what the first failures were, in a line each.
        notes: figures worth keeping beside the counts, such as bytes or seconds, by name.
    """

    def __init__(self) -> None:
        self.trials = 0
        self.failures = 0
        self.examples: list[str] = []
        self.notes: dict[str, float | str] = {}

    def count(self, kept: bool, otherwise: str = "", *, trials: int = 1) -> None:
        """Count trials that ended alike.

        Args:
            kept: whether the promise held.
            otherwise: what went wrong, in a line, with what is needed to see it again; read only where it did not hold.
            trials: how many.
        """
        self.trials += trials
        if not kept:
            self.failures += trials
            if len(self.examples) < EXAMPLES_KEPT:
                self.examples.append(" ".join(otherwise.split())[:400])

    def note(self, name: str, value: float | str) -> None:
        """Keep a figure beside the counts."""
        self.notes[name] = value


@dataclass(frozen=True)
class Mutation:
    """A fault put into our own code, which trying the promise in its short form must find.

    Attributes:
        file: path under ``src/tempering``.
        old: text that stands there exactly once.
        new: what is put in its place.
        breaks: what the fault does, in words for the page.
    """

    file: str
    old: str
    new: str
    breaks: str


@dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        name: short, in words joined by hyphens; the name of its file with underscores.
        group: one of :data:`GROUPS`.
        sentence: what is promised, to a user.
        attempt: tries it: told whether this is the long form, given an empty folder of its own, and the tally to count into. What it
            raises counts as one failure.
        mutations: faults that it must find; at least one.
        needs: modules without which it cannot be tried; where one is missing it is left out by name.
    """

    name: str
    group: str
    sentence: str
    attempt: Callable[[bool, Path, Tally], None]
    mutations: tuple[Mutation, ...] = field(default=())
    needs: tuple[str, ...] = ()


def all_promises() -> list[Promise]:
    """Every promise there is, in the order of the page: by group, then by name."""
    found = [
        importlib.import_module(f"torture.promises.{module.name}").PROMISE
        for module in pkgutil.iter_modules(torture.promises.__path__)
        if not module.name.startswith("_")
    ]
    return sorted(found, key=lambda promise: (GROUPS.index(promise.group), promise.name))


def tried(promise: Promise, long: bool, folder: Path) -> Tally:
    """Try one promise.

    Args:
        promise: which.
        long: whether in its long form.
        folder: where it may write; made here.
    """
    tally = Tally()
    folder.mkdir(parents=True)
    try:
        with redirect_stdout(sys.stderr):  # what others' code prints is no figure of ours
            promise.attempt(long, folder, tally)
    except (Exception, SystemExit) as error:  # a fault of ours that nobody foresaw is a broken promise, not the end of the others
        tally.count(False, f"{type(error).__name__}: {error}")
    if tally.trials == 0:
        tally.count(False, "nothing was tried")
    return tally
