"""What is left to compute, in order, and what has to wait for a defended model to be trained."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from tempering.engine.results import UnitResult
from tempering.engine.units import Unit

KindOf = Callable[[Unit], Any]
"""What units must agree in to be run together; ``None`` for one that is run alone."""


class Agenda:
    """The units that have yet to be run.

    Whatever is done to a defended model waits until that model is there, and is taken out if it cannot be had. Taking a unit costs the
    same whether ten wait or a hundred thousand: those that can begin lie in a heap by their place in the order, those that wait in a list
    for each model.
    """

    def __init__(self, units: Iterable[Unit], *, hardened: Iterable[str] = ()) -> None:
        """Take up the units.

        Args:
            units: in the order in which they shall be started.
            hardened: the defended models that are there already, by :attr:`tempering.engine.units.Unit.defended`.
        """
        self._units: dict[int, Unit] = dict(enumerate(units))
        self._hardened = set(hardened)
        self._next = len(self._units)
        self._ready: list[int] = []
        self._waiting: defaultdict[str, list[int]] = defaultdict(list)
        self._kind_of: KindOf = lambda unit: None
        self._kinds: defaultdict[Any, dict[int, None]] = defaultdict(dict)
        self._alone: set[int] = set()
        for place, unit in self._units.items():
            self._file(place, unit)

    def __len__(self) -> int:
        """How many are left, those that wait among them."""
        return len(self._units)

    def __iter__(self) -> Iterator[Unit]:
        """What is left, in order."""
        return iter(self._units.values())

    def take(self) -> Unit | None:
        """The first unit that waits for nothing, taken from the agenda; ``None`` where all that are left wait, or none is left."""
        self._forget_taken()
        return self._taken(self._ready[0]) if self._ready else None

    def take_together(self, most: int, among: int = 1) -> list[Unit]:
        """What :meth:`take` gives, with others of its kind that wait for nothing, in order.

        Args:
            most: at most so many.
            among: how many workers share the units of a kind.
        """
        self._forget_taken()
        if not self._ready:
            return []
        place = self._ready[0]
        kind = None if place in self._alone else self._kind_of(self._units[place])
        unit = self._taken(place)
        if kind is None or most < 2:
            return [unit]
        alike = self._kinds[kind]
        count = min(most, -(-(len(alike) + 1) // among)) - 1
        return [unit, *(self._taken(other) for other in list(islice(alike, count)))]

    def gather(self, kind_of: KindOf) -> None:
        """Say which units may be run together; until then none are."""
        self._kind_of = kind_of
        self._kinds.clear()
        for place in sorted(set(self._ready) & self._units.keys()):
            self._note_kind(place)

    def put_back(self, unit: Unit) -> None:
        """Run a unit once more, last of all, and alone."""
        self._units[self._next] = unit
        self._alone.add(self._next)
        self._file(self._next, unit)
        self._next += 1

    def finished(self, unit: Unit, result: UnitResult) -> None:
        """A unit has its result: let those begin that waited for it, or take them out."""
        if unit.work.kind != "harden":
            return
        released = self._waiting.pop(unit.defended, [])
        if result.status == "completed":
            self._hardened.add(unit.defended)
            for place in released:
                self._begin(place)
        else:
            for place in released:
                del self._units[place]

    def _file(self, place: int, unit: Unit) -> None:
        if unit.work.kind == "harden" or not unit.defended or unit.defended in self._hardened:
            self._begin(place)
        else:
            self._waiting[unit.defended].append(place)

    def _begin(self, place: int) -> None:
        heapq.heappush(self._ready, place)
        self._note_kind(place)

    def _note_kind(self, place: int) -> None:
        if place not in self._alone and (kind := self._kind_of(self._units[place])) is not None:
            self._kinds[kind][place] = None

    def _taken(self, place: int) -> Unit:
        unit = self._units.pop(place)
        if place not in self._alone and (kind := self._kind_of(unit)) is not None:
            self._kinds[kind].pop(place, None)
        return unit

    def _forget_taken(self) -> None:
        """Clear the head of the heap of units that went with others of their kind, or were taken just now."""
        while self._ready and self._ready[0] not in self._units:
            heapq.heappop(self._ready)


def dependents(units: Iterable[Unit]) -> Counter[str]:
    """How many units are done to each defended model, by :attr:`tempering.engine.units.Unit.defended`; its own training not counted."""
    return Counter(unit.defended for unit in units if unit.work.kind != "harden" and unit.defended)
