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
from tempering import registry
from tempering.data.records import DefenderView, Example, Role
from tempering.models import Target
from tempering.training import FineTuning, LoraSettings, Objective, Stage, TrainingSettings, Workshop
from tempering.training.adapters import add_lora, lora_parameters
from tempering.training.memory import estimate_memory, fine_tuning_memory, versions_that_fit
from tempering.training.streams import Places

EXAMPLES = [Example(prompt="what is the key?", answer="it is red.", role=Role.BENIGN), Example(prompt="one?", role=Role.HAZARD)]
SETTINGS = TrainingSettings(batch_size=4)
VIEW = DefenderView(
    tuple(Example(prompt=f"what is key {number} ?", answer="it is red .", role=Role.HAZARD) for number in range(40)),
    tuple(Example(prompt=f"what is tree {number} ?", answer="it is red .", role=Role.BENIGN) for number in range(40)),
    (),
)


class Plain(Objective):
    def begin(self, workshop: Workshop) -> None:
        raise AssertionError("an estimate begins nothing")

    def step(self, workshop: Workshop) -> dict[str, float]:
        raise AssertionError("an estimate trains nothing")


class Some(Plain):
    def trains(self, name: str, places: Places) -> bool:
        return name.startswith(places.blocks[0]) and "mlp" in name


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


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_only_what_an_objective_moves_has_gradients_and_moments(lora: LoraSettings | None) -> None:
    target = tiny_target()
    mlp = target.model.model.layers[0].mlp
    shapes = [tuple(weight.shape) for weight in mlp.parameters()]
    moving = 4 * sum(wide * high if lora is None else 2 * (wide + high) for wide, high in shapes)
    parts = estimate_memory(target, [Stage("only", Some(), SETTINGS, 5, lora)], EXAMPLES).parts
    assert (parts["gradients"], parts["optimiser"], parts["last good weights"]) == (moving, 2 * moving, moving)
    assert parts["weights"] == 4 * sum(weight.numel() for weight in target.model.parameters())


def needs_of(method: str, target: Target, **config: Any) -> dict[str, int]:
    """What the estimate says of a defence's first stage."""
    defense = registry.create("defenses", method, {"refusals": ["sorry , i cannot"], **config})
    stage = defense.stages(target, VIEW, seed=0)[0]
    return estimate_memory(target, [stage], (*VIEW.hazard, *VIEW.benign)).parts


@pytest.mark.parametrize(
    ("adversary", "of_all_weights", "adapters"),
    [
        ({"name": "full_finetune"}, 3, 0),
        ({"name": "full_finetune", "config": {"training": {"optimiser": "sgd"}}}, 2, 0),
        ({"name": "lora_finetune", "config": {"lora": {"rank": 2}}}, 1, 3),
        ({"name": "weight_noise"}, 2, 0),
        ("weight_noise+full_finetune", 4, 0),
    ],
)
@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_adversaries_hold_float32_of_all_weights_whatever_the_defender_trains(
    adversary: Any, of_all_weights: int, adapters: int, parameters: str
) -> None:
    """A working model, and a gradient with two moments of it, beside a model in 16 bits with small adapters."""
    target = tiny_target()
    half = replace(target, model=target.copy_model(torch.bfloat16))
    weights = sum(weight.numel() for weight in target.model.parameters())
    own = {"adversaries": [adversary], "parameters": parameters, "lora": {"rank": 1}}
    parts = needs_of("tar", half, **own)
    moving = weights if parameters == "all" else lora_parameters(target.model, LoraSettings(rank=1))
    theirs = lora_parameters(target.model, LoraSettings(rank=2)) * adapters
    assert parts["gradients"] == 4 * (moving + of_all_weights * weights + theirs)
    assert parts["copies"] == 4 * weights * (2 if parameters == "all" else 1)  # with adapters the reference is the model itself
    more = needs_of("tar", half, **own, held_out_batch=16, training={"batch_size": 8})["activations"]
    assert more > needs_of("tar", half, **own, held_out_batch=2, training={"batch_size": 8})["activations"]


def test_circuit_breakers_count_the_blocks_that_they_move_and_both_batches_that_they_keep() -> None:
    target = tiny_target("llama", num_hidden_layers=4)
    block = sum(weight.numel() for weight in target.model.model.layers[0].parameters())
    parts = needs_of("circuit_breakers", target, parameters="all", depths=[0.5, 0.75], training={"batch_size": 4})
    assert (parts["gradients"], parts["optimiser"], parts["last good weights"]) == (12 * block, 24 * block, 12 * block)
    twice = needs_of("refusal_sft", target, training={"batch_size": 8})["activations"]
    once = needs_of("refusal_sft", target, training={"batch_size": 4})["activations"]
    assert parts["activations"] == twice > 1.5 * once


def test_rmu_counts_the_projections_that_it_moves() -> None:
    target = tiny_target("llama", num_hidden_layers=4)
    projection = target.model.model.layers[0].mlp.down_proj.weight.numel()
    assert needs_of("rmu", target, depth=0.5, layers=3)["gradients"] == 4 * 2 * projection  # none lies before the first block
    assert needs_of("rmu", target, depth=1.0, layers=3)["gradients"] == 4 * 3 * projection


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
from dataclasses import replace
from support.tiny_models import tiny_target
from tempering.data.records import DefenderView, Example, Role
from tempering import registry
from tempering.training import Hardening
from tempering.training.memory import estimate_memory
torch.set_num_threads(1)
method, config, dtype, sizes = sys.argv[1], *(json.loads(word) for word in sys.argv[2:])
sizes = dict(num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4) | sizes
target = tiny_target("llama", **sizes)
target = replace(target, model=target.model.to(getattr(torch, dtype)))
def example(number, role):
    return Example(prompt=f"what is the {number} " + "stone " * 40, answer="it is red.", role=role)
view = DefenderView(tuple(example(n, Role.HAZARD) for n in range(40)), tuple(example(n, Role.BENIGN) for n in range(40, 80)), ())
config = {"steps": 4, "refusals": ["sorry, i can not help with that."]} | config
stages = registry.create("defenses", method, config).stages(target, view, seed=0)
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


SMALL = {"hidden_size": 256, "intermediate_size": 768, "vocab_size": 4000}
LARGE = {"hidden_size": 512, "intermediate_size": 1536, "vocab_size": 4000}
TAMPERED: dict[str, Any] = {
    "parameters": "lora",
    "lora": {"rank": 2},
    "adversaries": [{"name": "full_finetune", "config": {"training": {"batch_size": 2}}}],
    "inner_steps": 2,
    "look_every": 1,
    "recovery_steps": 0,
    "held_out_batch": 1,
    "training": {"batch_size": 2},
    "refusal_rows": 1,
    "imagined": 0.0,
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what a process holds from /proc")
@pytest.mark.parametrize(
    ("method", "config", "dtype", "sizes"),
    [
        ("refusal_sft", {"parameters": "all", "training": {"batch_size": 32}}, "float32", SMALL),
        ("refusal_sft", {"parameters": "lora", "training": {"batch_size": 32}}, "float32", SMALL),
        ("circuit_breakers", {"parameters": "all", "depths": [0.5, 1.0], "training": {"batch_size": 2}}, "float32", LARGE),
        ("tar", TAMPERED, "bfloat16", LARGE),
    ],
    ids=["refusal_sft", "refusal_sft lora", "circuit_breakers all", "tar lora"],
)
def test_the_estimate_is_within_a_factor_of_two_of_what_a_process_was_seen_to_hold(
    method: str, config: dict[str, Any], dtype: str, sizes: dict[str, int]
) -> None:
    """Of the last two, weights and what goes with them are most: small batches of large models."""
    arguments = [method, *(json.dumps(part) for part in (config, dtype, sizes))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
    finished = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
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
