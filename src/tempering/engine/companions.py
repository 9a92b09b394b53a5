"""Which units may be run together, and where that pays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tempering import registry
from tempering.attacks._contract import FineTuningAttack
from tempering.engine.agenda import Agenda, KindOf
from tempering.engine.units import PlannedTarget, Unit
from tempering.training.settings import BY_SHAPE

MOST = 32
"""Runs that one worker trains in one pass at most, unless told; what is gained by more is lost when the worker is killed."""

SMALL = 50_000_000
"""Weights of a model up to which training several of it in one pass pays; the products of a larger one keep the machine busy."""


def kind_of(unit: Unit) -> tuple[Any, ...] | None:
    """What units must agree in to be run together; ``None`` for one that is run alone.

    Attacks that only declare what is trained can be, on the same target, examined in the same way, if adapters go with adapters on the
    same layers, and whole models with whole models. Whoever cannot be stacked is alone, so that the others of his group stay together: with
    dropout, or an optimiser that looks at the shape of what it moves. So is whoever has a budget of device seconds, for in a pass that
    several share nobody's own can be told. Batches are of one size, for every run is filled up to the largest.
    """
    work = unit.work
    if work.kind != "attack" or work.attack is None or work.search is not None or work.base is not None or work.model.quantization:
        return None
    attack = registry.create("attacks", work.attack.name, work.attack.config)
    if not isinstance(attack, FineTuningAttack) or type(attack).run is not FineTuningAttack.run:
        return None
    adapters, training = attack.adapters, attack.training
    if work.budget.device_seconds is not None or training is None or training.optimiser in BY_SHAPE:
        return None
    if adapters is not None and adapters.dropout > 0:
        return None
    return work.untouched, unit.defended, training.batch_size, training.autocast, None if adapters is None else adapters.targets


def gathered(agenda: Agenda, targets: Iterable[PlannedTarget], together: int | None) -> int:
    """Have an agenda give out together what is to be run together.

    Args:
        agenda: of the run.
        targets: of the plan.
        together: runs in one pass at most, as a user asks for it; ``None`` where that pays, 1 never.

    Returns:
        How many units a worker is given at most.
    """
    if together != 1:
        agenda.gather(companions(targets, always=together is not None))
    return together or MOST


def companions(targets: Iterable[PlannedTarget], *, always: bool) -> KindOf:
    """:func:`kind_of`, remembered, and only where running together pays.

    It pays for small models in 16-bit, and on accelerators; two cores are as busy with one small model in float32 as with many
    (1.1 to 1.2 times as fast was measured, which is not worth losing more when a worker is killed).

    Args:
        targets: of the plan.
        always: whether it pays or not.
    """
    small = {target.digest: target.parameters <= SMALL for target in targets}
    known: dict[tuple[str, str], tuple[Any, ...] | None] = {}

    def kind(unit: Unit) -> tuple[Any, ...] | None:
        work = unit.work
        if not always and not (small.get(work.model_digest, False) and (work.dtype != "float32" or work.device != "cpu")):
            return None
        key = work.hash, unit.defended
        if key not in known:
            known[key] = kind_of(unit)
        return known[key]

    return kind
