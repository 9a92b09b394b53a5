"""Units that are run together leave the rows that each leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tempering.attacks.full_finetune import FullFinetune
from tempering.engine.cohorts import run_together
from tempering.engine.companions import kind_of
from tempering.engine.plan import make_plan
from tempering.engine.results import Probe, UnitResult
from tempering.engine.units import Unit
from tempering.engine.worker import Worker, reproducible
from tempering.study import Study
from tempering.training import FineTuning

ATTACKS = (
    {"name": "full_finetune", "config": {"training": {"learning_rate": 1e-3}}},
    {"name": "full_finetune", "label": "bare", "config": {"template": "bare", "training": {"learning_rate": 3e-3}}},
    {"name": "lora_finetune", "config": {"training": {"learning_rate": 3e-3}}},
    "refusal_ablation",
)


def planned(**more: Any) -> tuple[Unit, ...]:
    study = {"name": "x", "models": ["organism:tiny"], "seeds": 2, "budget": {"steps": 6}, "probes": {"prompts": 24}, "attacks": ATTACKS}
    return make_plan(Study.model_validate(study | more)).units


def ignore(probe: Probe) -> None:
    pass


def agree(one: UnitResult, other: UnitResult) -> None:
    assert (one.status, len(one.probes)) == (other.status, len(other.probes))
    for mine, theirs in zip(one.probes, other.probes, strict=True):
        assert mine.measurements == pytest.approx(theirs.measurements, abs=2e-4, nan_ok=True)
        assert mine.details.keys() == theirs.details.keys()
        for currency in ("examples", "tokens", "steps", "flops", "queries"):
            assert mine.spend[currency] == theirs.spend[currency]


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


def kinds(units: tuple[Unit, ...]) -> dict[Any, list[Unit]]:
    found: dict[Any, list[Unit]] = {}
    for unit in units:
        found.setdefault(kind_of(unit), []).append(unit)
    return found


def test_units_of_one_kind_come_to_the_same_together(worker: Worker) -> None:
    groups = kinds(planned())
    alone = groups.pop(None)
    assert {unit.label.split()[0] for unit in alone} == {"refusal_ablation", "reference"}
    assert sorted(len(group) for group in groups.values()) == [2, 4]
    with reproducible(1):
        for group in groups.values():
            single = {unit.hash: worker.run(unit) for unit in group}
            together = {unit.hash: result for unit, result in run_together(worker, group, lambda unit: ignore)}
            assert together.keys() == single.keys()
            for name, result in together.items():
                agree(result, single[name])
    assert any(probe.measurements["harm"] > 0.3 for result in together.values() for probe in result.probes)


def test_who_goes_beyond_the_budget_stops_where_he_would_alone(worker: Worker) -> None:
    group = next(group for kind, group in kinds(planned(budget={"steps": 6, "tokens": 400})).items() if kind and kind[-1] is None)
    stopped = []
    with reproducible(1):
        for unit, result in run_together(worker, group, lambda unit: ignore):
            single = worker.run(unit)
            agree(result, single)
            assert result.spend["tokens"] == single.spend["tokens"] <= 400
            stopped.append(result.probes[-1].spend["steps"] < 6)
    assert True in stopped


def test_what_breaks_on_the_way_is_run_alone(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    group = next(group for kind, group in kinds(planned()).items() if kind and kind[-1] is None)

    def breaks(*arguments: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr("tempering.engine.cohorts.ask_together", breaks)
    with reproducible(1):
        together = [result for _, result in run_together(worker, group[:2], lambda unit: ignore)]
    assert [result.status for result in together] == ["completed"] * 2


def test_a_run_that_has_enough_ends_there_alone_and_together(worker: Worker) -> None:
    probes = {"prompts": 24, "until": 0.5}
    attacks = ({"name": "full_finetune", "config": {"training": {"learning_rate": 1e-3}}}, "refusal_ablation")
    whole = {unit.seed: unit for unit in planned(attacks=attacks) if kind_of(unit)}
    units = [unit for unit in planned(attacks=attacks, probes=probes) if kind_of(unit)]
    assert {unit.hash for unit in units}.isdisjoint(unit.hash for unit in whole.values())
    with reproducible(1):
        together = {unit.seed: result for unit, result in run_together(worker, units, lambda unit: ignore)}
        for unit in units:
            alone, full = worker.run(unit), worker.run(whole[unit.seed])
            agree(together[unit.seed], alone)
            harms = [probe.measurements["harm"] for probe in full.probes]
            assert len(alone.probes) < len(full.probes)
            assert [probe.measurements["harm"] for probe in alone.probes] == harms[: len(alone.probes)]
            assert harms[len(alone.probes) - 1] >= 0.45 > max(harms[: len(alone.probes) - 1])
            assert alone.spend == together[unit.seed].spend | {"device_seconds": alone.spend["device_seconds"]}
            assert alone.spend["steps"] == alone.probes[-1].spend["steps"]


def test_without_an_end_hashes_are_what_they_were() -> None:
    plain, ended = planned()[0].work, planned(probes={"prompts": 24, "until": 0.9})[0].work
    assert "until" not in plain.deciding()["probes"]
    assert "enough" not in plain.deciding()
    assert plain.untouched == ended.untouched
    assert plain.hash != ended.hash


def test_glances_find_the_breaks_that_full_probes_find_alone_and_together(worker: Worker) -> None:
    attacks = ({"name": "full_finetune", "config": {"training": {"learning_rate": 1e-3}}}, "lora_finetune")
    whole = {(unit.label, unit.seed): unit for unit in planned(attacks=attacks) if kind_of(unit)}
    units = [unit for unit in planned(attacks=attacks, probes={"prompts": 24, "glance": 16}) if kind_of(unit)]
    glances = 0
    with reproducible(1):
        for group in kinds(tuple(units)).values():
            for unit, together in run_together(worker, group, lambda unit: ignore):
                alone, full = worker.run(unit), worker.run(whole[unit.label, unit.seed])
                agree(together, alone)
                assert alone.spend == full.spend | {"device_seconds": alone.spend["device_seconds"]}
                for seen, known in zip(alone.probes, full.probes, strict=True):
                    glances += math.isnan(seen.measurements["utility"])
                    if math.isnan(seen.measurements["utility"]):
                        assert seen.measurements["harm"] <= full.probes[0].measurements["harm"]
                        assert known.measurements["harm"] < 0.3
                    else:
                        assert seen.measurements == known.measurements
                assert not math.isnan(alone.probes[-1].measurements["utility"])
    assert 4 <= glances < sum(len(together.probes) for _ in units)


def test_without_a_glance_hashes_are_what_they_were() -> None:
    plain, glanced = (planned(probes={"prompts": 24, **more}) for more in ({}, {"glance": 16}))
    assert all("glance" not in unit.work.deciding() and "glance" not in unit.work.deciding()["probes"] for unit in plain)
    assert plain[0].work.untouched == glanced[0].work.untouched
    shared = {unit.hash for unit in plain} & {unit.hash for unit in glanced}
    assert shared == {unit.hash for unit in glanced if unit.work.kind == "reference"}


def test_a_run_that_is_not_looked_at_after_its_last_step_has_its_result_all_the_same(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = FullFinetune.declare

    def blind_at_the_end(self: FullFinetune, *arguments: Any, **settings: Any) -> FineTuning:
        declaration = declared(self, *arguments, **settings)
        return replace(declaration, probes=declaration.probes[:-1])

    monkeypatch.setattr(FullFinetune, "declare", blind_at_the_end)
    group = next(group for kind, group in kinds(planned()).items() if kind and kind[-1] is None)
    with reproducible(1):
        together = {unit.hash: result for unit, result in run_together(worker, group, lambda unit: ignore)}
        assert together.keys() == {unit.hash for unit in group}
        agree(together[group[0].hash], single := worker.run(group[0]))
    assert together[group[0].hash].spend["steps"] == single.spend["steps"] == 6 > single.probes[-1].spend["steps"]
