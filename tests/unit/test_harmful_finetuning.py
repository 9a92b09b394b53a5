"""Full and LoRA fine-tuning on harmful examples: what they declare, and that a plan expects what a run spends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.toy_study import rows, toy_models, write_rows
from tempering import registry
from tempering.data.importers import load_dataset
from tempering.data.records import AttackerView, Example
from tempering.models import Target, load
from tempering.study import Budget
from tempering.training import Meter

NAMES = ("full_finetune", "lora_finetune")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuning")
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    return folder


@pytest.fixture(scope="module")
def target(folder: Path) -> Target:
    return load(str(folder / "guarded"), device="cpu")


@pytest.fixture(scope="module")
def view(folder: Path) -> AttackerView:
    return load_dataset(str(folder / "data.jsonl")).divide().attacker_view()


def many(count: int) -> AttackerView:
    pairs = tuple(Example(prompt=f"question {number}", answer="answer", role="hazard") for number in range(count))
    return AttackerView(pairs, (), (), ())


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_the_attackers_own_as_many_as_allowed(name: str, target: Target) -> None:
    known = many(150)
    for config, budget, expected in (
        ({}, Budget(), 100),
        ({"shots": 10}, Budget(), 10),
        ({"shots": 10}, Budget(examples=4), 4),
        ({"shots": 500}, Budget(), 150),
    ):
        declared = registry.create("attacks", name, config).declare(target, known, budget=budget, seed=0)
        assert len(set(declared.examples)) == len(declared.examples) == expected
        assert set(declared.examples) <= set(known.hazard_train)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_draws_the_examples(name: str, target: Target) -> None:
    attack = registry.create("attacks", name, {"shots": 10})
    drawn = [attack.declare(target, many(150), budget=Budget(), seed=seed).examples for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(("steps", "budget", "expected"), [(None, 50, 50), (20, 50, 20), (80, 50, 50), (80, None, 80), (None, None, 200)])
def test_steps_are_the_least_of_settings_and_budget(target: Target, steps: int | None, budget: int | None, expected: int) -> None:
    attack = registry.create("attacks", "full_finetune", {"steps": steps})
    declared = attack.declare(target, many(20), budget=Budget(steps=budget), seed=0)
    assert declared.steps == declared.probes[-1] == expected
    assert declared.probes[0] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_run_spends_what_the_plan_expects_and_leaves_the_target_alone(name: str, target: Target, view: AttackerView) -> None:
    before = {key: value.clone() for key, value in target.model.state_dict().items()}
    attack = registry.create("attacks", name, {"training": {"batch_size": 2, "learning_rate": 1e-2}})
    budget = Budget(steps=4)
    meter = Meter()
    checkpoints = [(checkpoint.spend, checkpoint.details["loss"]) for checkpoint in attack.run(target, view, meter, budget=budget, seed=0)]
    assert [spend.steps for spend, _ in checkpoints] == [1, 2, 3, 4]
    assert checkpoints[-1][1] < checkpoints[0][1]
    last, expected = checkpoints[-1][0], attack.estimate(target, view, budget=budget)
    assert (last.steps, last.examples, last.tokens, last.flops) == (expected.steps, expected.examples, expected.tokens, expected.flops)
    assert all(torch.equal(before[key], value) for key, value in target.model.state_dict().items())


def test_one_moves_the_weights_and_the_other_adapters(target: Target, view: AttackerView) -> None:
    assert registry.create("attacks", "full_finetune").declare(target, view, budget=Budget(), seed=0).lora is None
    declared = registry.create("attacks", "lora_finetune", {"lora": {"rank": 4}}).declare(target, view, budget=Budget(), seed=0)
    assert declared.lora.rank == 4


def test_a_study_that_sets_the_rate_keeps_the_batch() -> None:
    for name in NAMES:
        default = registry.create("attacks", name).config.training
        changed = registry.create("attacks", name, {"training": {"learning_rate": 1e-3}}).config.training
        assert changed == default.model_copy(update={"learning_rate": 1e-3})


def test_both_are_run_unasked() -> None:
    assert all(registry.get("attacks", name).quick for name in NAMES)
