"""SEAM on a tiny model: the gradients turn against each other, in full and with adapters."""

from __future__ import annotations

import pytest

from support.defended_samples import REFUSALS, VIEW
from support.tiny_models import tiny_target
from tempering import registry
from tempering.training import Hardening, HardeningStep


def trained(**config: object) -> list[HardeningStep]:
    target = tiny_target()
    training = {"learning_rate": 3e-3, "batch_size": 6, "warmup_steps": 0}
    defense = registry.create("defenses", "seam", {"refusals": REFUSALS, "steps": 40, "training": training, "unlearning": 0.0, **config})
    return list(Hardening(target, defense.stages(target, VIEW, seed=0), seed=0).run())


@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_the_gradients_are_turned_against_each_other(parameters: str) -> None:
    coupled = trained(coupling=3.0, parameters=parameters)
    loose = trained(coupling=0.0, parameters=parameters)
    ends = [sum(step.parts["cosine"] for step in steps[-10:]) / 10 for steps in (coupled, loose)]
    assert ends[0] < ends[1] - 0.2
    assert ends[0] < 0
    assert coupled[-1].parts["retain"] < coupled[0].parts["retain"]


def test_unlearning_raises_the_harmful_loss() -> None:
    raised, left = trained(coupling=0.0, unlearning=1.0), trained(coupling=0.0)
    assert raised[-1].parts["harm"] > left[-1].parts["harm"] + 0.5
