"""Defended models: trained by a unit, kept, attacked by others; what an honest user can teach them; what falls away where one fails."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.toy_study import toy_comparison, toy_models, write_folder
from tempering import api
from tempering.engine import hardening as trainer
from tempering.engine import holding
from tempering.engine import worker as working
from tempering.engine.defended import is_trained, job_of, load_defended, place_of
from tempering.engine.events import Event
from tempering.engine.hardening_watch import Look, Watch
from tempering.engine.plan import make_plan
from tempering.engine.results import Tables, UnitResult
from tempering.engine.run import execute
from tempering.engine.units import Plan, Unit
from tempering.engine.worker import Worker, reproducible
from tempering.errors import MemoryShortage, StoreProblem, UnusableData, UnusableModel
from tempering.models import load
from tempering.study import DataChoice, MethodChoice, TrainabilitySettings

CLOCKS = ["wall_s", "device_seconds", "search_device_seconds"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_models(folder)
    write_folder(folder / "data")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with reproducible(1):
        yield


def comparison(folder: Path, *configs: dict[str, Any], **changes: Any) -> Plan:
    fields = {"data": DataChoice(reference=str(folder / "data")), "trainability": TrainabilitySettings(steps=4), **changes}
    return make_plan(toy_comparison(folder, *configs, **fields))


def only(plan: Plan, kind: str, defense: str, seed: int = 0) -> Unit:
    (unit,) = (unit for unit in plan.units if (unit.work.kind, unit.work.defense_name, unit.seed) == (kind, defense, seed))
    return unit


def rows(result: UnitResult) -> list[Any]:
    """The probes without clocks, as text, because NaN is not equal to itself."""
    return [repr((probe.number, {**probe.spend, "device_seconds": 0}, probe.measurements, probe.details)) for probe in result.probes]


# One unit


def test_hardening_leaves_the_model_before_and_after_with_the_defenders_spend(folder: Path, tmp_path: Path) -> None:
    unit = only(comparison(folder, seeds=1), "harden", "firm")
    steps: list[tuple[int, int]] = []
    result = Worker(tmp_path).run(unit, trained=lambda done, total, warning: steps.append((done, total)))
    assert (result.status, result.error) == ("completed", "")
    before, after = result.probes
    assert set(before.spend.values()) == {0}
    assert before.measurements["divergence"] == 0 < after.measurements["divergence"]
    record = json.loads((place_of(unit, tmp_path) / "tempering.json").read_text())
    assert after.spend == result.spend == {**record["spend"]}
    assert (after.spend["steps"], after.spend["examples"]) == (3, 3)
    assert after.spend["flops"] > 0
    assert after.details["digest"] == record["digest"]
    assert (3, 3) in steps


class Low(Watch):
    """A watch that sees a fifth of the target's utility, whatever it is shown."""

    own, is_blind = 0.5, False  # type: ignore[assignment]

    def look(self, model: Any) -> Look:
        return Look(0.1, 0.2)


def test_a_training_that_the_floor_took_back_is_told_of_while_it_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "Watch", Low)
    unit, told = only(comparison(folder, seeds=1, utility_floor=0.9), "harden", "firm"), []
    for _ in range(2):  # of one that was made before too
        result = Worker(tmp_path).run(unit, trained=lambda done, total, warning: told.append((done, total, warning)))
    (stage,) = result.probes[1].details["stages"]
    assert (stage["floored"], stage["steps_kept"]) == (True, 0)
    warned = [(done, total, warning) for done, total, warning in told if warning]
    assert [(done, total) for done, total, _ in warned] == [(3, 3)] * 2
    assert {warning.partition(": ")[0] for *_, warning in warned} == {"firm, seed 0"}
    assert all("utility was 20% of the target's, below the floor" in warning for *_, warning in warned)
    assert all("none of its steps was kept" in warning for *_, warning in warned)


def test_a_model_that_is_there_already_is_not_trained_again(folder: Path, tmp_path: Path) -> None:
    unit = only(comparison(folder, seeds=1), "harden", "firm")
    first = Worker(tmp_path).run(unit)
    steps: list[int] = []
    again = Worker(tmp_path).run(unit, trained=lambda done, total, warning: steps.append(done))
    assert steps == []
    assert rows(again) == rows(first)
    assert again.spend == first.spend


def test_a_defended_unit_attacks_the_hardened_model_of_its_seed(folder: Path, tmp_path: Path) -> None:
    plan, worker = comparison(folder, seeds=2), Worker(tmp_path)
    hardened = [worker.run(only(plan, "harden", "firm", seed)) for seed in (0, 1)]
    attacked = [worker.run(only(plan, "attack", "firm", seed)) for seed in (0, 1)]
    free = worker.run(only(plan, "attack", "none"))
    for hardening, attack in zip(hardened, attacked, strict=True):
        assert attack.probes[0].measurements["harm"] == hardening.probes[1].measurements["harm"]
        assert attack.probes[0].measurements["divergence"] == 0
        assert set(attack.probes[0].spend.values()) == {0}
    finals = [repr(result.probes[-1].measurements) for result in (*attacked, free)]
    assert len(set(finals)) == 3
    digests = [result.probes[1].details["digest"] for result in hardened]
    places = [place_of(only(plan, "harden", "firm", seed), tmp_path) for seed in (0, 1)]
    assert [load(str(place)).digest for place in places] == digests
    assert digests[0] != digests[1]


def test_the_target_keeps_its_name_wherever_the_hardened_model_lies(folder: Path, tmp_path: Path) -> None:
    plan = comparison(folder, seeds=1)
    Worker(tmp_path).run(only(plan, "harden", "firm"))
    assert load_defended(only(plan, "attack", "firm"), tmp_path).reference == str(folder / "guarded")


def test_rows_do_not_depend_on_what_ran_before(folder: Path, tmp_path: Path) -> None:
    units = comparison(folder, seeds=1, trainability=TrainabilitySettings(steps=1)).units
    for unit in units:
        if unit.work.kind == "harden":
            Worker(tmp_path).run(unit)
    fresh = {unit.hash: rows(Worker(tmp_path).run(unit)) for unit in units}
    used = Worker(tmp_path)
    for unit in (*units[::-1], *units):
        assert rows(used.run(unit)) == fresh[unit.hash]


def test_the_hardened_model_is_loaded_and_probed_once_for_all_that_is_done_to_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = comparison(folder, seeds=1, attacks=tuple(MethodChoice(name=name) for name in ("full_finetune", "prefilling")))
    Worker(tmp_path).run(only(plan, "harden", "firm"))
    loads, probes = [], []
    load_it, examine = holding.load_defended, working.examine
    monkeypatch.setattr(holding, "load_defended", lambda *given: loads.append(given) or load_it(*given))
    monkeypatch.setattr(
        working, "examine", lambda subject, given: (subject.untouched is None and probes.append(subject)) or examine(subject, given)
    )
    worker = Worker(tmp_path)
    for unit in plan.units:
        if unit.work.defense is not None and unit.work.kind != "harden":
            worker.run(unit)
    assert (len(loads), len(probes)) == (1, 1)


def test_a_hardened_model_that_was_changed_or_is_gone_stops_the_run(folder: Path, tmp_path: Path) -> None:
    plan = comparison(folder, seeds=1)
    hardening, attack = only(plan, "harden", "firm"), only(plan, "attack", "firm")
    with pytest.raises(UnusableModel, match=r"hardened by firm with seed 0 is gone from .*temper resume"):
        Worker(tmp_path).run(attack)
    Worker(tmp_path).run(hardening)
    place = place_of(hardening, tmp_path)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "rope_theta": 77.0, "rms_norm_eps": 0.1}))
    with pytest.raises(StoreProblem, match=r"config.json is not as it was written"):
        Worker(tmp_path).run(attack)
    record = json.loads((place / "tempering.json").read_text())
    of_before = {name: value for name, value in record.items() if name != "seal"}  # they named the weights alone
    of_before["files"] = {"model.safetensors": record["files"]["model.safetensors"]}
    (place / "tempering.json").write_text(json.dumps(of_before))
    with pytest.raises(UnusableModel, match="is not the one that was trained"):
        Worker(tmp_path).run(attack)
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    with pytest.raises(StoreProblem, match="is not as it was written"):
        Worker(tmp_path).run(attack)


def test_data_whose_supplements_have_changed_since_planning_stop_the_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    plan = comparison(folder, seeds=1, data=DataChoice(reference=str(tmp_path / "data")))
    path = tmp_path / "data" / "novel_test.jsonl"
    path.write_text(path.read_text().replace("sun", "moon"))
    for unit in (only(plan, "harden", "firm"), only(plan, "novel", "none")):
        with pytest.raises(UnusableData, match="has changed since the run was planned"):
            Worker(tmp_path / "models").run(unit)
    assert Worker(tmp_path / "models").run(only(plan, "attack", "none")).status == "completed"  # which is given none of it


@pytest.mark.parametrize(
    ("config", "error"),
    [({"nan_on": (0,)}, "loss is nan at step 1 of 'refuse'"), ({"crash_on": (0,)}, "out of memory: DefaultCPUAllocator")],
)
def test_a_training_that_comes_to_nothing_is_an_outcome(folder: Path, tmp_path: Path, config: dict[str, Any], error: str) -> None:
    unit = only(comparison(folder, config, seeds=1), "harden", "firm")
    result = Worker(tmp_path).run(unit)
    assert result.status == "failed"
    assert error in result.error
    assert "\n" not in result.error
    assert len(result.probes) == 1
    assert not is_trained(unit, tmp_path)


def test_memory_that_is_short_for_the_moment_ends_the_run_and_is_no_outcome(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = comparison(folder, seeds=1)
    with monkeypatch.context() as short:
        short.setattr(trainer, "available_memory", lambda: 1 << 12)
        with pytest.raises(
            MemoryShortage, match=r"0\.0039 MiB are free; give the command again when more of its .* are free, train adapters"
        ):
            execute(plan, tmp_path / "run", workers=0)
    tables = execute(plan, tmp_path / "run", workers=0)
    assert set(tables.units["status"]) == {"completed"}


def test_memory_that_this_machine_does_not_have_is_an_outcome(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "available_memory", lambda: 1 << 12)
    monkeypatch.setattr(trainer, "whole_memory", lambda: 1 << 13)
    result = Worker(tmp_path).run(only(comparison(folder, seeds=1), "harden", "firm"))
    assert result.status == "failed"
    assert "0.0039 MiB are free; train adapters with --lora" in result.error


@pytest.mark.parametrize(("number", "ends"), [(errno.ESTALE, True), (errno.ENOENT, False)])
def test_a_hardened_model_that_cannot_be_read_for_the_moment_has_not_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, ends: bool
) -> None:
    unit = only(comparison(folder, seeds=1), "harden", "firm")

    def unreadable(*_: object) -> None:
        try:
            raise OSError(number, "")
        except OSError:
            raise UnusableModel("cannot read it") from None

    with monkeypatch.context() as broken:
        broken.setattr(working, "load_defended", unreadable)
        if ends:
            with pytest.raises(StoreProblem, match=r"cannot train in .*: Stale file handle"):
                Worker(tmp_path).run(unit)
        else:
            assert Worker(tmp_path).run(unit).status == "failed"
    assert Worker(tmp_path).run(unit).status == "completed"


def test_the_floor_is_handed_to_the_training(folder: Path) -> None:
    unit = only(comparison(folder, seeds=1, utility_floor=0.25), "harden", "firm")
    job = job_of(unit)
    assert (job.floor, job.seed, job.supplements_digest) == (0.25, 0, unit.work.supplements_digest)
    assert job_of(only(comparison(folder, seeds=1, utility_floor=0.5), "harden", "firm")).hash != job.hash
    assert job_of(only(comparison(folder, seeds=1, utility_floor=0.25), "attack", "firm")).hash == job.hash


def test_an_honest_user_learns_and_each_probe_asks_the_new_domain_and_the_old(folder: Path, tmp_path: Path) -> None:
    settings = TrainabilitySettings(steps=24, learning_rate=3e-2, batch_size=8)
    plan, worker = comparison(folder, seeds=1, trainability=settings), Worker(tmp_path)
    worker.run(only(plan, "harden", "firm"))
    results = {name: worker.run(only(plan, "novel", name)) for name in ("none", "firm")}
    for result in results.values():
        assert (result.status, result.error) == ("completed", "")
        assert [probe.spend["steps"] for probe in result.probes] == [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 24]
        assert all(set(probe.measurements) == {"novel", "utility"} for probe in result.probes)
        assert result.probes[0].measurements["novel"] == 0
        assert result.probes[-1].measurements["novel"] == 1
        assert result.spend["examples"] == 8
    assert rows(results["none"]) != rows(results["firm"])


def test_an_honest_training_that_diverges_is_an_outcome(folder: Path, tmp_path: Path) -> None:
    plan = comparison(folder, seeds=1, trainability=TrainabilitySettings(steps=4, learning_rate=1e30))
    result = Worker(tmp_path).run(only(plan, "novel", "none"))
    assert result.status == "failed"
    assert result.error.startswith("NonFiniteLoss")
    assert result.probes[0].number == 0


def test_a_search_is_judged_by_what_the_defended_model_scores(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, worker = comparison(folder, seeds=1, search=2), Worker(tmp_path)
    worker.run(only(plan, "harden", "firm"))
    asked = []
    untouched = working._examine_untouched
    monkeypatch.setattr(
        working, "_examine_untouched", lambda subject, *given: asked.append(weights_of(subject)) or untouched(subject, *given)
    )
    result = worker.run(only(plan, "attack", "firm"))
    assert result.search is not None
    assert len(result.search.trials) == 2
    hardened, base = load(str(place_of(only(plan, "harden", "firm"), tmp_path))), load(str(folder / "base"))
    assert asked == [weights_of(hardened), weights_of(hardened), weights_of(base)]  # probe 0, and the scale of the search


def weights_of(holder: Any) -> float:
    """Enough of a model's weights to tell it from the others."""
    return float(holder.model.get_input_embeddings().weight.detach().double().sum())


# A whole run


@dataclass(frozen=True)
class Finished:
    """A comparison to its end, in which one of four models could not be hardened."""

    plan: Plan
    directory: Path
    tables: Tables
    events: list[Event]


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    plan = comparison(folder, {}, {"nan_on": (1,)}, seeds=2)
    directory = tmp_path_factory.mktemp("finished") / "run"
    events: list[Event] = []
    with reproducible(1):
        return Finished(plan, directory, execute(plan, directory, workers=0, on_event=events.append), events)


def test_what_was_to_be_done_to_a_model_that_failed_is_left_out_and_told_of_once(finished: Finished) -> None:
    units = finished.tables.units
    there = {(row.kind, row.defense, row.seed): row.status for row in units.itertuples()}
    assert there["harden", "firm 1", 1] == "failed"
    assert ("attack", "firm 1", 1) not in there
    assert ("novel", "firm 1", 1) not in there
    assert there["attack", "firm 1", 0] == there["novel", "firm 1", 0] == "completed"
    assert list(there.values()).count("failed") == 1
    kinds = [event.kind for event in finished.events]
    assert (kinds.count("unit_failed"), kinds.count("left_out"), kinds.count("unit_started")) == (1, 1, len(units))
    (left_out,) = (event for event in finished.events if event.kind == "left_out")
    assert (left_out.label, left_out.message) == ("hardening by firm 1 seed 1", "2 runs against that model left out")
    assert finished.events[-1].done == finished.events[-1].total == len(finished.plan.units)
    assert [event.done for event in finished.events] == sorted(event.done for event in finished.events)


def test_the_tables_name_the_defence_and_what_was_measured(finished: Finished) -> None:
    trajectories = finished.tables.trajectories
    kinds = trajectories["unit"].map(finished.tables.units.set_index("unit")["kind"])
    assert set(trajectories.loc[kinds == "novel", "defense"]) == {"none", "firm", "firm 1"}
    assert trajectories.loc[kinds == "novel", ["novel", "utility"]].notna().all(axis=None)
    assert trajectories.loc[kinds != "novel", "novel"].isna().all()
    assert list(trajectories.loc[(kinds == "harden") & (trajectories["defense"] == "firm"), "probe"]) == [0, 1, 0, 1]
    config = finished.tables.units.set_index("kind").loc["harden", "config"].iloc[0]
    assert json.loads(config)["steps"] == 3


def test_the_run_continues_to_the_same_tables_and_leaves_out_the_same(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.directory, tmp_path / "run")
    gone = [only(finished.plan, "attack", "firm", 1), only(finished.plan, "harden", "firm", 0)]
    for unit in gone:
        shutil.rmtree(tmp_path / "run" / "units" / unit.hash)
    events: list[Event] = []
    again = execute(finished.plan, tmp_path / "run", workers=0, on_event=events.append)
    kinds = [event.kind for event in events]
    assert (kinds.count("unit_started"), kinds.count("left_out"), kinds.count("training")) == (2, 1, 0)
    assert same(again, finished.tables)


def test_a_model_that_was_deleted_is_trained_anew_only_where_it_is_needed(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "models")
    events: list[Event] = []
    execute(finished.plan, tmp_path / "run", workers=0, on_event=events.append)
    assert "unit_started" not in [event.kind for event in events]
    shutil.rmtree(tmp_path / "run" / "units" / only(finished.plan, "attack", "firm", 1).hash)
    again = execute(finished.plan, tmp_path / "run", workers=0, on_event=events.append)
    started = [event.label for event in events if event.kind == "unit_started"]
    assert started == ["hardening by firm seed 1", "Nudge seed 1 behind firm"]
    assert any("its model is gone" in event.message for event in events if event.kind == "warning")
    assert same(again, finished.tables)


@pytest.mark.slow
def test_worker_processes_leave_the_same_rows(finished: Finished, tmp_path: Path) -> None:
    events: list[Event] = []
    pooled = execute(finished.plan, tmp_path / "run", workers=2, on_event=events.append)
    assert same(pooled, finished.tables)
    kinds = [event.kind for event in events]
    assert (kinds.count("unit_failed"), kinds.count("left_out")) == (1, 1)


def test_the_report_has_no_rows_of_what_is_no_attack_and_tells_what_was_left_out(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.directory, tmp_path / "run")
    run = api.make_report(tmp_path / "run")
    assert set(run.breaks["attack"]) == set(run.prices["attack"]) == {finished.plan.study.attacks[0].name}
    assert run.prices.set_index("defense")["trials"].to_dict() == {"none": 2, "firm": 2, "firm 1": 1}
    assert not run.breaks["outcome"].eq("failed").any()
    kinds = run.trajectories["unit"].map(run.units.set_index("unit")["kind"])
    assert run.trajectories.loc[kinds != "attack", "recovered"].isna().all()
    (untrained,) = run.summary["defenses_not_tried"]
    assert untrained["defense"] == "firm 1"
    assert untrained["reason"].startswith("could not be trained with seed 1, 2 runs against that model left out: ")
    assert {part["attack"] for part in run.summary["attacks"]} == {finished.plan.study.attacks[0].name}
    page = run.report_path.read_text()
    assert "could not be trained with seed 1" in page
    assert "Finish it with temper resume" not in page
    assert run.summary["spent"]["flops"] == run.units.loc[run.units["kind"] == "attack", "flops"].sum()


def test_a_report_can_be_written_while_only_models_have_been_hardened(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.directory, tmp_path / "run")
    for unit in finished.plan.units:
        if unit.work.kind != "harden":
            shutil.rmtree(tmp_path / "run" / "units" / unit.hash, ignore_errors=True)
    run = api.make_report(tmp_path / "run")
    assert run.prices.empty
    assert run.report_path.is_file()


def same(one: Tables, other: Tables) -> bool:
    """Whether two runs have the same rows, clocks left out."""
    return all(
        getattr(one, name).drop(columns=CLOCKS, errors="ignore").equals(getattr(other, name).drop(columns=CLOCKS, errors="ignore"))
        for name in ("units", "trajectories")
    )
