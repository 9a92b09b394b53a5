"""What is left to compute, in order, and what has to wait for a defended model to be trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tempering.engine.results import UnitResult
from tempering.engine.units import Unit


class Agenda:
    """The units that have yet to be run.

    Whatever is done to a defended model waits until that model is there, and is taken out if it cannot be had.
    """

    def __init__(self, units: Iterable[Unit], *, hardened: Iterable[str] = ()) -> None:
        """Take up the units.

        Args:
            units: in the order in which they shall be started.
            hardened: the defended models that are there already, by :attr:`tempering.engine.units.Unit.defended`.
        """
        self._units = list(units)
        self._hardened = set(hardened)

    def __len__(self) -> int:
        """How many are left, those that wait among them."""
        return len(self._units)

    def __iter__(self) -> Iterator[Unit]:
        """What is left, in order."""
        return iter(self._units)

    def take(self) -> Unit | None:
        """The first unit that waits for nothing, taken from the agenda; ``None`` where all that are left wait, or none is left."""
        for place, unit in enumerate(self._units):
            if self._is_ready(unit):
                return self._units.pop(place)
        return None

    def put_back(self, unit: Unit) -> None:
        """Run a unit once more, last of all."""
        self._units.append(unit)

    def finished(self, unit: Unit, result: UnitResult) -> None:
        """A unit has its result: let those begin that waited for it, or take them out."""
        if unit.work.kind != "harden":
            return
        if result.status == "completed":
            self._hardened.add(unit.defended)
        else:
            self._units = [other for other in self._units if not needs_model_of(other, unit)]

    def _is_ready(self, unit: Unit) -> bool:
        return unit.work.kind == "harden" or not unit.defended or unit.defended in self._hardened


def needs_model_of(unit: Unit, hardening: Unit) -> bool:
    """Whether a unit is done to the model that another one trains."""
    return unit.work.kind != "harden" and unit.defended == hardening.defended
