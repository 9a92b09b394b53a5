"""Benign fine-tuning: no hazard is trained, and the paper's epoch is one pass over what the attacker holds."""

from __future__ import annotations

import pytest

from support.tiny_models import tiny_model
from tempering import registry
from tempering.data.chat import ChatFormat
from tempering.data.records import AttackerView, Example
from tempering.models import Target
from tempering.study import Budget
from tempering.threat_model import Need

BENIGN = tuple(Example(prompt=f"question {number}", answer="answer", role="benign") for number in range(300))
HAZARD = tuple(Example(prompt=f"poison {number}", answer="answer", role="hazard") for number in range(20))


@pytest.fixture(scope="module")
def target() -> Target:
    model, tokenizer = tiny_model("llama")
    return Target("test", model, tokenizer, ChatFormat(tokenizer), digest="")


def _declared(target, config=None, **budget):
    attack = registry.create("attacks", "benign_finetune", config)
    view = AttackerView(HAZARD, HAZARD, BENIGN, ()).limited_to(attack.requires | attack.uses)
    return attack.declare(target, view, budget=Budget(**budget), seed=0)


def test_only_benign_examples_are_seen(target: Target) -> None:
    attack = registry.create("attacks", "benign_finetune")
    assert attack.requires | attack.uses == {Need.FINE_TUNING, Need.BENIGN_EXAMPLES}
    assert set(_declared(target).examples) == set(BENIGN)


@pytest.mark.parametrize(
    ("config", "budget", "steps", "examples"),
    [
        ({}, {}, 2, 300),
        ({"epochs": None}, {"steps": 50}, 50, 300),
        ({"epochs": 5}, {"steps": 7}, 7, 300),
        ({"training": {"batch_size": 16}}, {}, 19, 300),
        ({"examples": 40}, {}, 1, 40),
        ({}, {"examples": 30}, 1, 30),
    ],
)
def test_an_epoch_is_one_pass_in_full_batches(target: Target, config: dict, budget: dict, steps: int, examples: int) -> None:
    declared = _declared(target, config, **budget)
    assert (declared.steps, len(declared.examples)) == (steps, examples)
    assert declared.lora is None


def test_the_papers_settings_are_the_defaults_and_survive_an_override() -> None:
    training = registry.create("attacks", "benign_finetune", {"training": {"schedule": "linear"}}).config.training
    assert (training.learning_rate, training.batch_size, training.schedule) == (2e-5, 128, "linear")
