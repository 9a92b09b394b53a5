"""What a training takes of memory, told beforehand: counted exactly where it can be, and near what a process was seen to use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.training import FineTuning, LoraSettings, Objective, Stage, TrainingSettings, Workshop
from tempering.training.adapters import add_lora, lora_parameters
from tempering.training.memory import estimate_memory, fine_tuning_memory, versions_that_fit

EXAMPLES = [Example(prompt="what is the key?", answer="it is red.", role=Role.BENIGN), Example(prompt="one?", role=Role.HAZARD)]
SETTINGS = TrainingSettings(batch_size=4)


class Plain(Objective):
    def begin(self, workshop: Workshop) -> None:
        raise AssertionError("an estimate begins nothing")

    def step(self, workshop: Workshop) -> dict[str, float]:
        raise AssertionError("an estimate trains nothing")


class Some(Plain):
    def trains(self, name: str) -> bool:
        return "mlp" in name


class Copying(Plain):
    frozen_copies = 2
    gradient_copies = 3


def test_weights_gradients_and_moments_are_counted_exactly() -> None:
    target = tiny_target()
    size = 4 * sum(weight.numel() for weight in target.model.parameters())
    parts = estimate_memory(target, [Stage("only", Plain(), SETTINGS, 5)], EXAMPLES).parts
    assert {name: parts[name] for name in ("weights", "gradients", "optimiser", "copies", "last good weights")} == {
        "weights": size,
        "gradients": size,
        "optimiser": 2 * size,
        "copies": 0,
        "last good weights": size,
    }
    sgd = estimate_memory(target, [Stage("only", Plain(), TrainingSettings(optimiser="sgd"), 5, floored=False)], EXAMPLES).parts
    assert (sgd["optimiser"], sgd["last good weights"]) == (size, 0)
    copying = estimate_memory(target, [Stage("only", Copying(), SETTINGS, 5)], EXAMPLES).parts
    assert (copying["copies"], copying["gradients"]) == (2 * size, 4 * size)


def test_the_stage_that_needs_most_decides_and_later_ones_keep_what_they_began_with() -> None:
    target = tiny_target()
    size = 4 * sum(weight.numel() for weight in target.model.parameters())
    stages = [Stage("first", Plain(), SETTINGS, 5), Stage("second", Plain(), SETTINGS, 5)]
    need = estimate_memory(target, stages, EXAMPLES)
    assert need.stage == "second"
    assert need.parts["copies"] == size
    assert need.host == 0


def test_weights_that_an_objective_picks_when_it_begins_are_not_counted_before() -> None:
    parts = estimate_memory(tiny_target(), [Stage("only", Some(), SETTINGS, 5)], EXAMPLES).parts
    assert parts["gradients"] == parts["optimiser"] == parts["last good weights"] == 0
    assert parts["weights"] > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
def test_adapters_are_counted_without_being_made(family: str, targets: str) -> None:
    target = tiny_target(family)
    settings = LoraSettings.model_validate({"rank": 4, "targets": targets})
    made = add_lora(target.copy_model(), settings)
    assert lora_parameters(target.model, settings) == sum(weight.numel() for weight in made.parameters() if weight.requires_grad)


def test_activations_grow_with_the_batch_and_not_with_what_has_no_answer() -> None:
    target = tiny_target()

    def activations(rows: int, examples: list[Example]) -> int:
        return estimate_memory(target, [Stage("only", Plain(), TrainingSettings(batch_size=rows), 5)], examples).parts["activations"]

    many = EXAMPLES * 8
    four, eight = activations(4, many), activations(8, many)
    assert 1.5 * four < eight <= 2 * four
    assert activations(1000, many) == activations(16, many)  # no batch has more rows than there are
    longer = [*many, Example(prompt="what is the key? " * 4, answer="it is red.", role=Role.BENIGN)]
    assert activations(4, longer) > 2 * four
    assert activations(4, EXAMPLES[1:]) == 0


def test_adapters_on_sixteen_bit_weights_need_least() -> None:
    target = tiny_target()
    half = replace(target, model=target.copy_model(torch.bfloat16))
    lora = LoraSettings(rank=1, targets="attention")
    full, adapters, small = (
        estimate_memory(start, [Stage("only", Plain(), SETTINGS, 5, chosen)], EXAMPLES).parts
        for start, chosen in ((target, None), (target, lora), (half, lora))
    )
    assert adapters["weights"] == full["weights"] == 2 * small["weights"]
    assert adapters["optimiser"] == small["optimiser"] < full["optimiser"]
    master = estimate_memory(half, [Stage("only", Plain(), SETTINGS, 5)], EXAMPLES).parts
    assert master["weights"] == full["weights"]  # all weights are trained on a float32 copy


def test_several_devices_divide_what_is_trained_and_checkpointing_what_is_kept() -> None:
    target = tiny_target("llama", num_hidden_layers=8)
    size = 4 * sum(weight.numel() for weight in target.model.parameters())

    def parts(lora: LoraSettings | None = None, **laid_out: Any) -> dict[str, int]:
        declaration = FineTuning(EXAMPLES[:1] * 8, TrainingSettings(batch_size=8), 5, (5,), seed=0, lora=lora)
        return fine_tuning_memory(target, declaration, **laid_out).parts

    one, four, anew = parts(), parts(devices=4), parts(checkpointing=True)
    assert (one["weights"], one["gradients"], one["optimiser"], one["gathered layers"]) == (size, size, 2 * size, 0)
    assert [four[name] for name in ("weights", "gradients", "optimiser")] == [
        one[name] // 4 for name in ("weights", "gradients", "optimiser")
    ]
    assert 0 < four["gathered layers"] < size / 2
    assert one["activations"] / 4 <= four["activations"] < one["activations"] / 3
    assert one["activations"] / 8 < anew["activations"] < one["activations"] / 2
    adapters = LoraSettings(rank=2)
    assert parts(adapters, devices=4)["optimiser"] == parts(adapters)["optimiser"]  # whole on every device
    assert parts(adapters, devices=4)["weights"] == size // 4


def test_the_target_is_left_as_it_is() -> None:
    target = tiny_target()
    target.model.requires_grad_(False)
    next(target.model.parameters()).requires_grad_(True)
    before = [(weight.requires_grad, weight.grad, weight.clone()) for weight in target.model.parameters()]
    estimate_memory(target, [Stage("only", Plain(), SETTINGS, 5)], EXAMPLES)
    for weight, (required, gradient, value) in zip(target.model.parameters(), before, strict=True):
        assert weight.requires_grad is required
        assert weight.grad is gradient is None
        assert torch.equal(weight, value)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in target.model.modules())


MEASURED = """
import json, sys, threading, time, torch
from support.tiny_models import tiny_target
from tempering.data.records import DefenderView, Example, Role
from tempering import registry
from tempering.training import Hardening
from tempering.training.memory import estimate_memory
torch.set_num_threads(1)
sizes = dict(hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, vocab_size=4000)
target = tiny_target("llama", **sizes)
def example(number, role):
    return Example(prompt=f"what is the {number} " + "stone " * 40, answer="it is red.", role=role)
view = DefenderView(tuple(example(n, Role.HAZARD) for n in range(40)), tuple(example(n, Role.BENIGN) for n in range(40, 80)), ())
config = {"steps": 4, "parameters": sys.argv[1], "training": {"batch_size": 32}, "refusals": ["sorry, i can not help with that."]}
stages = registry.create("defenses", "refusal_sft", config).stages(target, view, seed=0)
need = estimate_memory(target, stages, view.benign)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
most, over = [0], threading.Event()
def watch():
    while not over.is_set():
        most[0] = max(most[0], resident())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
before = resident()
watcher.start()
training = Hardening(target, stages, seed=0)
kept = []
for step in training.run():
    if step.step == 2:
        kept = [value.clone() for value in training.trained().values()]
over.set()
watcher.join()
print(json.dumps({"estimated": need.device, "measured": most[0] - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what a process holds from /proc")
@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_the_estimate_is_within_a_factor_of_two_of_what_a_process_was_seen_to_hold(parameters: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
    finished = subprocess.run(
        [sys.executable, "-c", MEASURED, parameters], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert finished.returncode == 0, finished.stderr
    seen = json.loads(finished.stdout)
    assert 0.5 < seen["estimated"] / seen["measured"] < 2, seen


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_runs_that_fit_together_are_counted_by_the_one_that_takes_most(lora: LoraSettings | None) -> None:
    target, room = tiny_target(), 2**24
    short = Example(prompt="is it red ?", answer="no .", role=Role.HAZARD)
    long = Example(prompt="is it red ? " * 12, answer="no .", role=Role.HAZARD)

    def declared(example: Example, batch_size: int, adapters: LoraSettings | None) -> FineTuning:
        return FineTuning([example] * 32, TrainingSettings(batch_size=batch_size), 2, (2,), 0, adapters)

    small = declared(short, 4, lora)
    larger = [declared(short, 16, lora), declared(long, 4, lora)]
    if lora is not None:
        larger.append(declared(short, 4, LoraSettings(rank=32)))
    alone = versions_that_fit(target, [small, small], room)
    assert alone > 1
    for other in larger:
        assert versions_that_fit(target, [small, other], room) == versions_that_fit(target, [other], room) < alone
