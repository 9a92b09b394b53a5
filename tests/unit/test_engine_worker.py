"""One unit: its outcome whatever happens, its budget, and rows that depend on nothing but itself."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.toy_study import rows as toy_rows
from support.toy_study import toy_models, toy_study, write_rows
from tempering.engine import holding
from tempering.engine import worker as working
from tempering.engine.plan import make_plan
from tempering.engine.results import SPEND, Probe, UnitResult
from tempering.engine.units import Unit
from tempering.engine.worker import Worker, exceeds, reproducible
from tempering.errors import UnusableData, UnusableModel
from tempering.evaluators._contract import Subject
from tempering.study import Budget, ModelChoice
from tempering.training import Spend


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_models(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with reproducible(1):
        yield


def unit_of(folder: Path, config: dict[str, Any] | None = None, **changes: Any) -> Unit:
    return make_plan(toy_study(folder, config or {}, seeds=1, **changes)).units[0]


def rows(result: UnitResult) -> list[Any]:
    """The probes without clocks, as text, because NaN is not equal to itself."""
    return [repr((probe.number, {**probe.spend, "device_seconds": 0}, probe.measurements, probe.details)) for probe in result.probes]


def test_a_unit_yields_the_untouched_probe_and_then_every_checkpoint(folder: Path) -> None:
    seen: list[Probe] = []
    result = Worker().run(unit_of(folder), seen.append)
    assert (result.status, result.error) == ("completed", "")
    assert seen == result.probes
    assert [probe.number for probe in result.probes] == [0, 1, 2, 3, 4]
    assert [probe.spend["steps"] for probe in result.probes] == [0, 1, 2, 3, 4]
    assert all(value == 0 for value in result.probes[0].spend.values())
    assert all(tuple(probe.spend) == SPEND for probe in result.probes)
    assert result.probes[0].measurements["divergence"] == 0 < result.probes[-1].measurements["divergence"]
    assert result.spend["steps"] == 4
    assert 0 < result.spend["device_seconds"] < result.wall_s


def test_a_reference_is_one_probe_without_spend(folder: Path) -> None:
    unit = next(unit for unit in make_plan(toy_study(folder, seeds=1)).units if unit.work.kind == "reference")
    result = Worker().run(unit)
    assert (result.status, len(result.probes)) == ("completed", 1)
    assert set(result.spend.values()) == {0}


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("no_direction", "no_direction", "no candidate passed"),
        ("crash", "failed", "ValueError: something broke in the middle"),
        ("out_of_memory", "failed", "out of memory: DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_every_end_is_an_outcome_that_keeps_what_was_probed_and_spent(folder: Path, end: str, status: str, error: str) -> None:
    result = Worker().run(unit_of(folder, {"end": end}))
    assert result.status == status
    assert result.error.startswith(error)
    assert "\n" not in result.error
    assert len(result.probes) == 5
    assert result.spend["steps"] == 4


def test_a_loss_that_is_not_finite_fails_the_unit_and_keeps_the_untouched_probe(folder: Path) -> None:
    result = Worker().run(unit_of(folder, {"learning_rate": 1e30}))
    assert result.status == "failed"
    assert result.error.startswith("NonFiniteLoss")
    assert result.probes[0].number == 0
    assert result.spend["steps"] < 4


def test_a_probe_that_crashes_fails_the_unit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examine = working.examine

    def fragile(subject: Subject, evaluators: Any) -> dict[str, float]:
        if subject.untouched is not None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return examine(subject, evaluators)

    monkeypatch.setattr(working, "examine", fragile)
    result = Worker().run(unit_of(folder))
    assert (result.status, result.error) == ("failed", "out of memory: CUDA out of memory")
    assert len(result.probes) == 1


def test_too_little_memory_for_the_untouched_model_blames_no_attack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(subject: Subject, evaluators: Any) -> dict[str, float]:
        raise MemoryError

    monkeypatch.setattr(working, "examine", greedy)
    with pytest.raises(UnusableModel, match=r"not enough memory.*batch_size"):
        Worker().run(unit_of(folder))


def test_a_measurement_that_is_not_finite_stays_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "examine", lambda subject, evaluators: {"harm": float("nan"), "utility": float("inf")})
    result = Worker().run(unit_of(folder))
    assert result.status == "completed"
    assert [np.isnan(probe.measurements["harm"]) for probe in result.probes] == [True] * 5


@pytest.mark.parametrize(
    ("budget", "probes"),
    [({"steps": 2}, 3), ({"steps": 4, "flops": 3e6}, 3), ({"steps": None, "examples": 2}, 2), ({"steps": 4, "tokens": 35}, 1)],
)
def test_a_checkpoint_beyond_the_budget_is_not_a_row(folder: Path, budget: dict[str, Any], probes: int) -> None:
    unit = unit_of(folder, budget=Budget(**budget))
    result = Worker().run(unit)
    assert result.status == "completed"
    assert len(result.probes) == probes
    assert result.spend == result.probes[-1].spend
    assert all(result.spend[name] <= limit for name, limit in unit.work.budget.model_dump(exclude_none=True).items())


def test_a_spend_is_beyond_a_budget_in_any_currency() -> None:
    assert not exceeds(Spend(steps=200), Budget(steps=200))
    assert exceeds(Spend(steps=201), Budget(steps=200))
    assert exceeds(Spend(steps=1, flops=2.0), Budget(steps=200, flops=1.0))
    assert not exceeds(Spend(steps=10**9), Budget(steps=None))


def test_rows_do_not_depend_on_what_ran_before(folder: Path) -> None:
    units = make_plan(toy_study(folder, {"steps": 2}, {"steps": 2, "adapters": True}, {"end": "crash", "steps": 1}, seeds=2)).units
    fresh = {unit.hash: rows(Worker().run(unit)) for unit in units}
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    used = Worker()
    for unit in (*units[::-1], *units):
        assert rows(used.run(unit)) == fresh[unit.hash]


def test_seeds_lead_to_different_rows(folder: Path) -> None:
    units = [unit for unit in make_plan(toy_study(folder, {"adapters": True}, seeds=2)).units if unit.work.kind == "attack"]
    assert rows(Worker().run(units[0]))[1:] != rows(Worker().run(units[1]))[1:]


def test_probing_does_not_disturb_the_attack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Worker().run(unit_of(folder, {"adapters": True}))
    examine = working.examine

    def noisy(subject: Subject, evaluators: Any) -> dict[str, float]:
        random.random(), np.random.random(), torch.rand(7)
        return examine(subject, evaluators)

    monkeypatch.setattr(working, "examine", noisy)
    assert rows(Worker().run(unit_of(folder, {"adapters": True}))) == rows(quiet)


def test_the_process_keeps_its_own_random_state_and_settings(folder: Path) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    Worker().run(unit_of(folder))
    with reproducible(2):
        assert torch.get_num_threads() == 2
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert torch.get_num_threads() == 1


def test_the_target_is_loaded_and_probed_once_for_all_its_units(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, probes = [], []
    load, examine = holding.load_model, working.examine

    def counting_load(choice: Any) -> Any:
        loads.append(choice.reference)
        return load(choice)

    def counting_examine(subject: Subject, evaluators: Any) -> dict[str, float]:
        if subject.untouched is None:
            probes.append(subject)
        return examine(subject, evaluators)

    monkeypatch.setattr(holding, "load_model", counting_load)
    monkeypatch.setattr(working, "examine", counting_examine)
    worker = Worker()
    for unit in make_plan(toy_study(folder, {}, {"end": "no_direction"}, seeds=2)).units:
        worker.run(unit)
    assert sorted(loads) == [str(folder / "base"), str(folder / "guarded")]
    assert len(probes) == 2  # the target's and the reference's


def test_a_model_is_let_go_of_with_its_probe_when_another_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[Any]] = []
    alive_at_load: list[int] = []
    load = holding.load_model

    def watched(choice: Any) -> Any:
        gc.collect()
        alive_at_load.append(sum(reference() is not None for reference in loaded))
        target = load(choice)
        loaded.append(weakref.ref(target.model))
        return target

    monkeypatch.setattr(holding, "load_model", watched)
    study = toy_study(folder, seeds=1)
    models = tuple(ModelChoice(reference=str(folder / name), device="cpu") for name in ("guarded", "base"))
    worker = Worker()
    for unit in make_plan(study.model_copy(update={"models": models})).units:
        worker.run(unit)
    assert alive_at_load == [0, 0]


def test_a_model_or_data_that_changed_since_planning_stops_the_run(folder: Path, tmp_path: Path) -> None:
    unit = unit_of(tmp_path)
    (tmp_path / "guarded").rename(tmp_path / "before")
    (folder / "base").rename(tmp_path / "guarded")
    try:
        with pytest.raises(UnusableModel, match="has changed since the run was planned"):
            Worker().run(unit)
    finally:
        (tmp_path / "guarded").rename(folder / "base")
    (tmp_path / "before").rename(tmp_path / "guarded")
    write_rows(tmp_path / "data.jsonl", toy_rows()[:-1])
    with pytest.raises(UnusableData, match="has changed since the run was planned"):
        Worker().run(unit)


def test_spend_columns_are_the_meters() -> None:
    assert tuple(Spend().as_row()) == SPEND
