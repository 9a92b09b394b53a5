"""Weights held in few bits: what can still be attacked, and what cannot, in one line. Needs bitsandbytes, which runs on CPUs too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from support.tiny_models import tiny_model
from support.toy_study import rows, toy_study, write_rows
from tempering import models
from tempering.engine.plan import make_plan
from tempering.engine.run import execute
from tempering.errors import InvalidStudy, UnknownName, UnusableModel
from tempering.model_choice import ModelChoice
from tempering.models.saving import save
from tempering.study import Budget, DataChoice, MethodChoice, Study
from tempering.training.flops import FlopCount

PACKAGES = all(importlib.util.find_spec(name) for name in ("bitsandbytes", "accelerate"))
with_packages = pytest.mark.skipif(not PACKAGES, reason="bitsandbytes is not installed")
IDS = torch.tensor([[2, 5, 12, 30, 41, 7, 6]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    save(*tiny_model("llama", hidden_size=64, intermediate_size=128), folder / "model")
    write_rows(folder / "data.jsonl", rows())
    return folder


def study_of(folder: Path, quantization: str, *attacks: MethodChoice | str, **changes: object) -> Study:
    choice = ModelChoice(reference=str(folder / "model"), device="cpu", quantization=quantization)
    data = DataChoice(reference=str(folder / "data.jsonl"))
    return toy_study(folder, models=(choice,), data=data, attacks=attacks, seeds=1, budget=Budget(steps=2), **changes)


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(UnusableModel, match=r'needs the package bitsandbytes; install it with: pip install "tempering\[quantised\]"'):
        models.load(str(folder / "model"), device="cpu", quantization="nf4")


def test_only_what_is_known_is_taken(folder: Path) -> None:
    with pytest.raises(UnknownName, match="int3"):
        models.load(str(folder / "model"), device="cpu", quantization="int3")


def test_a_study_says_so_only_where_it_is_asked_for() -> None:
    assert "quantization" not in ModelChoice(reference="a").model_dump(mode="json")
    assert ModelChoice(reference="a", quantization="nf4").model_dump(mode="json")["quantization"] == "nf4"


@with_packages
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_it_computes_nearly_the_same_for_the_same_price(folder: Path, name: str) -> None:
    plain = models.load(str(folder / "model"), device="cpu")
    packed = models.load(str(folder / "model"), device="cpu", quantization=name)
    assert (plain.quantised, packed.quantised) == ("", name)
    assert packed.digest != plain.digest
    assert packed.digest == models.load(str(folder / "model"), device="cpu", quantization=name).digest
    assert FlopCount.of(packed.model).forward([7]) == FlopCount.of(plain.model).forward([7])
    with torch.no_grad():
        ours, theirs = packed.model(IDS).logits.flatten(), plain.model(IDS).logits.flatten()
    assert not torch.equal(ours, theirs)
    assert torch.nn.functional.cosine_similarity(ours.float(), theirs, dim=0) > 0.9


@with_packages
def test_attacks_that_write_weights_are_left_out_and_the_others_run(folder: Path, tmp_path: Path) -> None:
    by_hooks = MethodChoice(name="refusal_ablation", config={"intervention": "ablate"}, label="by hooks")
    chained = MethodChoice(name="chain", config={"steps": ["lora_finetune", "prefilling"]}, label="chained")
    plan = make_plan(study_of(folder, "nf4", "full_finetune", "lora_finetune", "refusal_ablation", by_hooks, chained, "prefilling"))
    assert {unit.work.attack_name for unit in plan.units} == {"lora_finetune", "by hooks", "prefilling"}
    assert {entry.attack for entry in plan.skipped} == {"full_finetune", "refusal_ablation", "chained"}
    assert all("changes the model's weights, and those are held in nf4; adapters" in entry.reason for entry in plan.skipped)
    tables = execute(plan, tmp_path / "run", workers=0)
    statuses = dict(zip(tables.units["attack"], tables.units["status"], strict=True))
    assert statuses["lora_finetune"] == statuses["prefilling"] == "completed"
    assert statuses["by hooks"] in ("completed", "no_direction")
    trained = tables.trajectories[tables.trajectories["attack"] == "lora_finetune"]
    assert trained["steps"].max() == 2


@with_packages
def test_no_defence_is_trained_into_packed_weights(folder: Path) -> None:
    with pytest.raises(InvalidStudy, match="no defence can be trained into weights held in int8; leave quantization out"):
        make_plan(study_of(folder, "int8", "lora_finetune", defenses=("refusal_sft",)))


@with_packages
def test_what_is_unpacked_or_merged_on_loading_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnusableModel, match="cannot be held in nf4; load it once, save it as a directory"):
        models.load(str(tmp_path / "a.gguf"), device="cpu", quantization="nf4")
