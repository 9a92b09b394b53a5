"""What is left to compute, in order, and what has to wait for a defended model to be trained."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from tempering.engine.results import UnitResult
from tempering.engine.units import Unit


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
        return self._units.pop(heapq.heappop(self._ready)) if self._ready else None

    def put_back(self, unit: Unit) -> None:
        """Run a unit once more, last of all."""
        self._units[self._next] = unit
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
                heapq.heappush(self._ready, place)
        else:
            for place in released:
                del self._units[place]

    def _file(self, place: int, unit: Unit) -> None:
        if unit.work.kind == "harden" or not unit.defended or unit.defended in self._hardened:
            heapq.heappush(self._ready, place)
        else:
            self._waiting[unit.defended].append(place)


def dependents(units: Iterable[Unit]) -> Counter[str]:
    """How many units are done to each defended model, by :attr:`tempering.engine.units.Unit.defended`; its own training not counted."""
    return Counter(unit.defended for unit in units if unit.work.kind != "harden" and unit.defended)
