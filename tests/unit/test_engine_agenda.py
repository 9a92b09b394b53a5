"""What is left to do: order, waiting for a defended model, and what falls away where that cannot be had."""

from __future__ import annotations

from typing import Any

import pytest

from support import engine_samples
from tempering.engine.agenda import Agenda, dependents
from tempering.engine.units import ResolvedMethod, Unit
from tempering.study import Budget

DEFENDED: dict[str, Any] = {
    "defense": ResolvedMethod(name="refat", config={}),
    "utility_floor": 0.9,
    "supplements_digest": "s" * 64,
}


def hardening(seed: int = 0, **changes: Any) -> Unit:
    return Unit(engine_samples.work(kind="harden", attack=None, **{**DEFENDED, **changes}), seed)


def defended(seed: int = 0, **changes: Any) -> Unit:
    return Unit(engine_samples.work(**{**DEFENDED, **changes}), seed)


def taken(agenda: Agenda) -> list[Unit]:
    return list(iter(agenda.take, None))


def test_undefended_units_come_in_their_order() -> None:
    units = engine_samples.plan(3).units
    assert taken(Agenda(units)) == list(units)


def test_what_is_done_to_a_defended_model_waits_until_that_model_is_there() -> None:
    first, second, free = defended(0), defended(1), engine_samples.plan(1).units[0]
    agenda = Agenda([hardening(0), hardening(1), first, second, free])
    assert taken(agenda) == [hardening(0), hardening(1), free]
    assert len(agenda) == 2
    agenda.finished(hardening(1), engine_samples.result())
    assert taken(agenda) == [second]
    agenda.finished(hardening(0), engine_samples.result())
    assert taken(agenda) == [first]
    assert not agenda


def test_a_model_that_is_there_already_is_waited_for_by_nobody() -> None:
    assert taken(Agenda([defended(0), defended(1)], hardened=[hardening(0).defended])) == [defended(0)]


def test_a_hardening_that_failed_takes_out_what_was_to_be_done_to_its_model_and_nothing_else() -> None:
    free = engine_samples.plan(1).units[0]
    agenda = Agenda([hardening(0), hardening(1), defended(0), defended(1), free])
    assert [agenda.take(), agenda.take()] == [hardening(0), hardening(1)]
    agenda.finished(hardening(0), engine_samples.result(status="failed", error="NaN"))
    agenda.finished(hardening(1), engine_samples.result())
    assert taken(agenda) == [defended(1), free]
    assert not agenda


def test_a_unit_that_is_put_back_comes_last() -> None:
    units = engine_samples.plan(2).units
    agenda = Agenda(units)
    first = agenda.take()
    assert first is not None
    agenda.put_back(first)
    assert taken(agenda) == [units[1], units[0]]


@pytest.mark.parametrize(
    "changes",
    [
        {"defense": ResolvedMethod(name="refat", config={"steps": 3})},
        {"utility_floor": 0.5},
        {"hardening_version": 9},
        {"supplements_digest": "t" * 64},
        {"model_digest": "b" * 64},
        {"data_digest": "b" * 64},
        {"dtype": "bfloat16"},
    ],
)
def test_a_model_that_was_hardened_otherwise_is_another_model(changes: dict[str, Any]) -> None:
    assert defended(0).defended != hardening(0, **changes).defended
    assert defended(0, **changes).defended == hardening(0, **changes).defended


def test_names_probes_and_attacks_do_not_make_it_another_model() -> None:
    other = defended(0, defense_label="a name", attack=ResolvedMethod(name="prefilling", config={}))
    assert other.defended == hardening(0).defended


def test_the_units_of_each_defended_model_are_counted_without_its_training() -> None:
    free = engine_samples.plan(1).units[0]
    counted = dependents([hardening(0), hardening(1), defended(0), defended(1), defended(1, budget=Budget(steps=7)), free])
    assert counted == {hardening(0).defended: 1, hardening(1).defended: 2}


def test_what_is_put_back_comes_last_and_what_is_released_keeps_its_place() -> None:
    free = engine_samples.plan(3).units
    agenda = Agenda([hardening(0), free[0], defended(0), free[1], free[2]])
    assert [agenda.take(), agenda.take()] == [hardening(0), free[0]]
    agenda.put_back(free[0])
    agenda.finished(hardening(0), engine_samples.result())
    assert list(agenda) == [defended(0), free[1], free[2], free[0]]
    assert taken(agenda) == [defended(0), free[1], free[2], free[0]]


def by_steps(unit: Unit) -> Any:
    """Units of a budget that is even are of one kind, those of 7 steps of none."""
    return None if unit.work.budget.steps == 7 else unit.work.budget.steps


def attack(steps: int, seed: int = 0) -> Unit:
    return Unit(engine_samples.work(budget=Budget(steps=steps)), seed)


def test_units_of_one_kind_are_taken_together_in_order_and_shared_among_workers() -> None:
    units = [attack(2, 0), attack(7), attack(4, 0), attack(2, 1), attack(2, 2), attack(4, 1), attack(2, 3)]
    agenda = Agenda(units)
    agenda.gather(by_steps)
    assert agenda.take_together(8, among=2) == [attack(2, 0), attack(2, 1)]
    assert agenda.take_together(8) == [attack(7)]
    assert agenda.take_together(1) == [attack(4, 0)]
    assert agenda.take() == attack(2, 2)
    assert agenda.take_together(8) == [attack(4, 1)]
    assert agenda.take_together(8) == [attack(2, 3)]
    assert agenda.take_together(8) == []
    assert not agenda


def test_no_more_are_taken_together_than_may_be_and_none_before_it_is_said_which() -> None:
    units = [attack(2, seed) for seed in range(5)]
    agenda = Agenda(units)
    assert agenda.take_together(8) == units[:1]
    agenda.gather(by_steps)
    assert agenda.take_together(3) == units[1:4]


def test_a_unit_that_is_put_back_is_run_alone() -> None:
    agenda = Agenda([attack(2, seed) for seed in range(3)])
    agenda.gather(by_steps)
    first, _, third = agenda.take_together(8)
    for unit in (third, first):
        agenda.put_back(unit)
    assert [agenda.take_together(8), agenda.take_together(8)] == [[third], [first]]


def test_units_that_wait_are_of_no_kind_until_their_model_is_there() -> None:
    waiting = [defended(0, budget=Budget(steps=steps)) for steps in (2, 4, 6)]
    agenda = Agenda([hardening(0), *waiting])
    agenda.gather(lambda unit: "attack" if unit.work.kind == "attack" else None)
    assert agenda.take_together(8) == [hardening(0)]
    assert agenda.take_together(8) == []
    agenda.finished(hardening(0), engine_samples.result())
    assert agenda.take_together(2) == waiting[:2]
    assert agenda.take_together(2) == waiting[2:]
