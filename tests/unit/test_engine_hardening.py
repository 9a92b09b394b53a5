"""From a job to a hardened model: what is watched, kept, taken up and refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.hardening_jobs import REFUSAL, interrupted_after, job_of, toy_folder
from support.toy_study import DEFENSE, rows, write_rows
from tempering import models
from tempering.defenses.refusal_sft import RefusalSft
from tempering.engine import hardening, hardening_folder
from tempering.engine.hardening import HardenedModel, HardeningJob, TrainingProgress, plan_hardening, train
from tempering.engine.hardening_folder import Pace, TrainingFolder
from tempering.engine.hardening_measure import Measurement, share_of
from tempering.engine.loading import load_records
from tempering.errors import FailedTraining, InvalidStudy, StoreProblem, UnknownName, UnusableData, UnusableModel
from tempering.study import DataChoice, MethodChoice, ModelChoice
from tempering.training import Hardening


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("hardening"))


def test_the_directory_holds_an_ordinary_model_and_the_record(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder)
    made = train(job, tmp_path / "new" / "model")
    assert isinstance(made, HardenedModel)
    assert made.record == json.loads((made.directory / "tempering.json").read_text())
    assert made.record["job"] == job.hash
    loaded = models.load(str(made.directory), device="cpu")
    assert loaded.digest == made.record["digest"] != job.model_digest
    assert made.record["spend"]["steps"] == 8
    assert made.record["measurements"] is None
    assert [path.name for path in made.directory.parent.iterdir()] == ["model"]
    modes = {path.stat().st_mode & 0o777 for path in made.directory.iterdir()}
    assert len(modes) == 1


def test_the_same_job_again_returns_at_once(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder)
    first = train(job, tmp_path / "model")
    told: list[TrainingProgress] = []
    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert train(job, tmp_path / "model", on_progress=told.append) == first
    assert [progress.kind for progress in told] == ["done"]
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_another_job_or_anything_else_in_the_directory_is_an_error(folder: Path, tmp_path: Path) -> None:
    train(job_of(folder), tmp_path / "model")
    with pytest.raises(StoreProblem, match="hardened in another way"):
        train(job_of(folder, seed=1), tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StoreProblem, match="holds no hardened model; choose another --out"):
        train(job_of(folder), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def test_weights_that_were_changed_afterwards_are_not_taken_for_ours(folder: Path, tmp_path: Path) -> None:
    path = train(job_of(folder), tmp_path / "model").directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(StoreProblem, match="not as it was written"):
        train(job_of(folder), tmp_path / "model")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_an_interrupted_training_ends_with_the_same_weights(folder: Path, tmp_path: Path, parameters: str, dtype: str) -> None:
    job = job_of(folder, config={**REFUSAL, "parameters": parameters}, dtype=dtype)
    whole = train(job, tmp_path / "whole")
    assert whole.record["base"]["dtype"] == dtype
    assert whole.record["digest"] != job.model_digest
    interrupted_after(job, tmp_path / "model", 4)
    assert (tmp_path / "model.training").is_dir()
    told: list[TrainingProgress] = []
    again = train(job, tmp_path / "model", on_progress=told.append)
    assert told[0].kind == "resumed"
    assert told[0].message == "going on after 4 of 8 steps"
    assert again.record["files"] == whole.record["files"]
    assert again.record["digest"] == whole.record["digest"]
    spent = [{name: value for name, value in made.record["spend"].items() if name != "device_seconds"} for made in (whole, again)]
    assert spent[0] == spent[1]
    assert not (tmp_path / "model.training").exists()


def test_a_damaged_snapshot_falls_back_to_the_one_before(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder)
    whole = train(job, tmp_path / "whole")
    for damaged, message in ((("tensors.safetensors",), "after 3 of 8"), (("record.json",), "after 3 of 8")):
        place = tmp_path / damaged[0] / "model"
        interrupted_after(job, place, 4)
        snapshots = sorted(path for path in place.with_name("model.training").iterdir() if path.name[0] != ".")
        assert [path.name for path in snapshots] == ["00000003", "00000004"]
        content = (snapshots[-1] / damaged[0]).read_bytes()
        (snapshots[-1] / damaged[0]).write_bytes(content[:-3])
        told: list[TrainingProgress] = []
        assert train(job, place, on_progress=told.append).record["files"] == whole.record["files"]
        assert [progress.kind for progress in told[:2]] == ["warning", "resumed"]
        assert "the snapshot 00000004" in told[0].message
        assert message in told[1].message


def test_with_every_snapshot_damaged_it_starts_anew(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder)
    interrupted_after(job, tmp_path / "model", 4)
    for path in (tmp_path / "model.training").glob("*/tensors.safetensors"):
        path.unlink()
    told: list[TrainingProgress] = []
    train(job, tmp_path / "model", on_progress=told.append)
    assert [progress.kind for progress in told[:3]] == ["warning", "warning", "step"]
    assert told[2].steps_done == 1


def test_the_training_of_another_job_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    interrupted_after(job_of(folder), tmp_path / "model", 4)
    with pytest.raises(StoreProblem, match="another model, defence, data, seed or setting; give the same ones again, remove that folder"):
        train(job_of(folder, seed=1), tmp_path / "model")
    assert train(job_of(folder), tmp_path / "model").record["spend"]["steps"] == 8


def test_two_processes_do_not_train_into_one_directory(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.training").mkdir()
    with (tmp_path / "model.training" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreProblem, match="another process is training into"):
            train(job_of(folder), tmp_path / "model")


def test_a_loss_that_is_not_finite_leaves_one_line_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FailedTraining, match="loss is nan at step 1 of 'refuse'; try a lower learning rate, or another seed") as failed:
        train(job_of(folder, DEFENSE, {"nan_on": [0]}), tmp_path / "model")
    assert failed.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_last_step_that_breaks_the_weights_fails_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = Hardening.finished

    def broken(self: Hardening) -> Any:
        model = finished(self)
        with torch.no_grad():
            next(iter(model.parameters())).fill_(float("inf"))
        return model

    monkeypatch.setattr(Hardening, "finished", broken)
    with pytest.raises(FailedTraining, match="weights that are not finite"):
        train(job_of(folder), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_running_out_of_memory_says_what_to_change(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"ran out of memory: .* --lora"):
        train(job_of(folder, DEFENSE, {"crash_on": [0]}), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_will_not_fit_is_refused_before_it_starts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "available_memory", lambda: 1 << 16)
    with pytest.raises(UnusableModel) as refused:
        train(job_of(folder), tmp_path / "model")
    line = str(refused.value)
    assert re.search(r"by 'refusal_sft' needs about 0\.\d+ MiB of memory and 0\.062 MiB are free", line)
    assert "train adapters with --lora" in line
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(hardening, "available_memory", lambda: 0)  # a system that does not tell refuses nothing
    train(job_of(folder), tmp_path / "model")


def test_on_an_accelerator_both_memories_are_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device that only pretends to be one: what its memory would be told to hold, and what the host would."""
    job = job_of(folder)
    target = models.load(str(folder / "guarded"), device="cpu")
    pretended = SimpleNamespace(model=target.model, chat=target.chat, device=torch.device("cuda:0"), dtype="float32")
    planned = plan_hardening(job.model, job.data, MethodChoice(name="refusal_sft", config=REFUSAL))
    view = planned.division.defender_view()
    stages = RefusalSft(RefusalSft.Config(**REFUSAL)).stages(target, view, seed=0)
    room = {"device": 1 << 30, "cached": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room["device"], 1 << 40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: room["cached"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    hardening.check_memory(job, pretended, stages, view)  # type: ignore[arg-type]
    room["device"] = 1 << 12
    with pytest.raises(UnusableModel, match=r"MiB of memory of cuda:0 and 0.0039 MiB are free"):
        hardening.check_memory(job, pretended, stages, view)  # type: ignore[arg-type]
    room["cached"] = 1 << 30  # held by this process already, and unused
    hardening.check_memory(job, pretended, stages, view)  # type: ignore[arg-type]
    monkeypatch.setattr(hardening, "available_memory", lambda: 1 << 12)
    with pytest.raises(UnusableModel, match=r"MiB of memory and 0.0039 MiB are free"):  # snapshots and good weights lie in the host's
        hardening.check_memory(job, pretended, stages, view)  # type: ignore[arg-type]


def test_a_full_disk_is_told_in_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hardening_folder, "save_file", full)
    with pytest.raises(StoreProblem, match=r"no space left for the training in .*model.training; free some, then give the same command"):
        train(job_of(folder), tmp_path / "model", snapshot_seconds=0)
    assert list(tmp_path.iterdir()) == []


def test_measurements_are_shares_with_wilsons_interval(folder: Path) -> None:
    target = models.load(str(folder / "guarded"), device="cpu")
    division = load_records(DataChoice(reference=str(folder / "data.jsonl")), ModelChoice(reference="x")).divide()
    found = Measurement(division.evaluator_view(), 2)(target)
    assert set(found) == {"harm", "refusal", "utility", "coherence"}  # no borderline prompts, so nothing is said of over-refusal
    assert found["coherence"]["prompts"] == 4
    share, count, z = 0.75, 8, 1.959963984540054
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    measured = share_of(share, count)
    assert (measured["low"], measured["high"]) == pytest.approx((centre - half, centre + half))


def test_the_hash_is_of_everything_that_decides_the_weights(folder: Path) -> None:
    job = job_of(folder)
    moved = job.model_copy(update={"model": ModelChoice(reference="elsewhere"), "data": DataChoice(reference="there.jsonl")})
    assert moved.hash == job.hash
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"floor": 0.8},
        {"watch_steps": 7},
        {"watch_prompts": 7},
        {"model_digest": "0" * 64},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"data_digest": "0" * 64},
        {"supplements_digest": "0" * 64},
        {"data": DataChoice(reference="data.jsonl", seed=3)},
        {"defense": job.defense.model_copy(update={"config": {**job.defense.config, "steps": 9}})},
        {"code_version": 99},
    ]
    hashes = {HardeningJob.model_validate({**job.model_dump(), **change}).hash for change in changes}
    assert len(hashes | {job.hash}) == len(changes) + 1


def test_a_chain_is_told_from_another_by_the_code_of_its_links(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(Path(DEFENSE.rpartition(":")[0]).read_text())
    config = {"steps": ["refusal_sft", f"{mine}:Firm"]}
    first = job_of(folder, "chain", config)
    mine.write_text(mine.read_text() + "# changed\n")
    second = job_of(folder, "chain", config)
    assert first.defense.code != second.defense.code
    assert first.hash != second.hash
    assert job_of(folder, "chain", {"steps": ["refusal_sft", "npo"]}).defense.code == ""


def test_a_model_or_data_that_changed_since_is_not_trained(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder)
    with pytest.raises(UnusableModel, match="has changed since the training was planned"):
        train(job.model_copy(update={"model_digest": "0" * 64}), tmp_path / "model")
    with pytest.raises(UnusableData, match="has changed since the training was planned"):
        train(job.model_copy(update={"data_digest": "0" * 64}), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_data_without_what_the_defence_needs(folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data.jsonl", rows(benign=False))
    model = ModelChoice(reference=str(folder / "guarded"), device="cpu")
    with pytest.raises(UnusableData, match="the defence 'refusal_sft' needs benign answers, which the defender's part"):
        plan_hardening(model, DataChoice(reference=str(tmp_path / "data.jsonl")), MethodChoice(name="refusal_sft", config=REFUSAL))


def test_an_organism_lends_its_world_by_its_name(folder: Path) -> None:
    own = load_records(DataChoice(), ModelChoice(reference="organism:nano"))
    lent = load_records(DataChoice(reference="organism:nano/base"), ModelChoice(reference=str(folder / "guarded")))
    assert lent.digest == own.digest
    assert lent.supplements().digest == own.supplements().digest
    with pytest.raises(UnknownName, match="did you mean 'nano'"):
        load_records(DataChoice(reference="organism:nnano"), ModelChoice(reference="x"))
    with pytest.raises(InvalidStudy, match="name a JSONL file"):
        load_records(DataChoice(), ModelChoice(reference=str(folder / "guarded")))


def test_snapshots_keep_their_pace() -> None:
    now = [0.0]
    pace = Pace(3.0, lambda: now[0])
    now[0] = 2.9
    assert not pace.due
    now[0] = 3.0
    assert pace.due
    with pace.timing():
        now[0] = 5.0  # writing took two seconds, so forty must pass before the next
    now[0] = 44.9
    assert not pace.due
    now[0] = 45.0
    assert pace.due
    assert Pace(0, lambda: 0.0).due


def test_a_folder_with_nothing_to_go_on_from_is_not_left_behind(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path / "model", "job", lambda message: None)
    with folder.held():
        assert folder.path.is_dir()
        assert folder.latest() is None
    assert not folder.path.exists()


def test_tensors_that_share_memory_are_each_kept(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path / "model", "job", lambda message: None)
    whole = torch.arange(6.0)
    with folder.held():
        folder.write({"whole": whole, "same": whole, "part": whole[2:4], "step": torch.tensor(3)}, {"a": 1}, 5)
        tensors, record = folder.latest() or ({}, {})
    assert record == {"a": 1}
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "whole": [0, 1, 2, 3, 4, 5],
        "same": [0, 1, 2, 3, 4, 5],
        "part": [2, 3],
        "step": 3,
    }
