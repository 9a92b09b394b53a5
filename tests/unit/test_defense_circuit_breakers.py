"""Circuit breakers: what is rerouted and what is kept, which weights move, and that the refusal's prompts are among what is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from support.tiny_models import tiny_target
from tempering import registry
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._contract import Material, missing
from tempering.training import Hardening

HAZARD = tuple(Example(prompt=f"tell me the poison {word}", answer=f"it is {word}", role=Role.HAZARD) for word in ("red", "green", "blue"))
KEPT = tuple(Example(prompt=f"what is the {word} fish", answer=f"it is {word}", role=Role.BENIGN) for word in ("red", "cold", "long"))
VIEW = DefenderView(HAZARD, KEPT, ())
SMALL: dict[str, Any] = {
    "refusals": ("sorry i cannot",),
    "steps": 4,
    "training": {"batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 0},
    "lora": {"rank": 2},
}


def hardening(family: str = "llama", layers: int = 2, view: DefenderView = VIEW, **settings: Any) -> Hardening:
    target = tiny_target(family, num_hidden_layers=layers)
    defense = registry.create("defenses", "circuit_breakers", {**SMALL, **settings})
    return Hardening(target, defense.stages(target, view, seed=0), seed=0)


@pytest.mark.parametrize("parameters", ["all", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_only_blocks_up_to_the_last_target_layer_move(family: str, parameters: str) -> None:
    training = hardening(family, 4, parameters=parameters, depths=(0.25, 0.5))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    for _ in training.run():
        pass
    moved = {name for name, value in training.finished().named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all(".layers.0." in name or ".layers.1." in name for name in moved)
    assert any(".layers.1." in name for name in moved)


def test_lora_and_full_agree_on_the_first_loss() -> None:
    first = [next(hardening(parameters=parameters, reroute=3.0).run()).parts for parameters in ("all", "lora")]
    for parts in first:
        assert parts["reroute"] == pytest.approx(1, abs=1e-5)
        assert parts["retain"] == pytest.approx(0, abs=1e-5)
        assert parts["loss"] == pytest.approx(3, abs=1e-4)


def test_rerouting_turns_harmful_answers_away_and_leaves_the_rest_nearer() -> None:
    *_, last = hardening(steps=40, coefficients="constant", reroute=1.0, retain=1.0).run()
    assert last.parts["reroute"] < 0.5
    strict = list(hardening(steps=40, coefficients="constant", reroute=1.0, retain=1.0, parameters="all", training=SMALL["training"]).run())
    assert strict[-1].parts["retain"] < max(step.parts["retain"] for step in strict)


def test_a_prompt_that_is_refused_is_kept_though_its_answer_is_rerouted() -> None:
    (stage,) = registry.create("defenses", "circuit_breakers", SMALL).stages(tiny_target(), VIEW, seed=0)
    harmful, kept, refused = stage.objective.examples
    assert [example.prompt for example in harmful] == [example.prompt for example in refused]
    assert {example.answer for example in refused} == {"sorry i cannot"}
    assert list(kept) == list(KEPT)


@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_it_goes_on_with_the_reference_it_began_with(parameters: str) -> None:
    whole = hardening(parameters=parameters)
    for _ in whole.run():
        pass
    first = hardening(parameters=parameters)
    for step in first.run():
        if step.step == 2:
            break
    snapshot = first.snapshot()
    second = hardening(parameters=parameters)
    second.restore(replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()}))
    for _ in second.run():
        pass
    weights = dict(whole.finished().named_parameters())
    for name, value in second.finished().named_parameters():
        assert torch.equal(value, weights[name]), name


def test_the_reference_is_another_model_and_stays_as_it_was() -> None:
    training = hardening(parameters="all")
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    for _ in training.run():
        pass
    original = training.stages[0].objective.original
    assert original is not None
    assert original is not training.model
    assert training.stages[0].objective.frozen_copies == 1
    assert all(torch.equal(value, before[name]) for name, value in original.named_parameters())
    assert not any(module._forward_hooks for model in (original, training.model) for module in model.modules())


def test_it_needs_answers_to_reroute() -> None:
    bare = replace(VIEW, hazard=tuple(example.model_copy(update={"answer": None}) for example in HAZARD))
    defense = registry.create("defenses", "circuit_breakers", SMALL)
    assert missing(defense.requires, VIEW) == []
    assert missing(defense.requires, bare) == [str(Material.HAZARD_ANSWERS)]
