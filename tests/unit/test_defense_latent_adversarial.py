"""Latent adversarial training: which blocks, which passes, and that training under attack makes the attack weaker."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.defenses.latent_adversarial import LatentAdversarial, LatentTraining
from tempering.training import Meter, Workshop

WORDS = ("red", "cold", "long", "green", "big")
HARMFUL = [Example(prompt=f"tell me the {word} key ?", answer=f"{word} : stone .", role=Role.HAZARD) for word in WORDS]
REFUSALS = [example.model_copy(update={"answer": "sorry i cannot ."}) for example in HARMFUL]
IMAGINED = [example.model_copy(update={"prompt": f"{example.prompt} ?", "answer": "sorry i cannot ."}) for example in HARMFUL]
KEPT = [Example(prompt=f"what is the {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun")]


def begun(layers: int = 4, imagined: list[Example] = IMAGINED, **config: Any) -> tuple[Any, Workshop]:
    target = tiny_target(num_hidden_layers=layers, attn_implementation="eager")  # torch counts no fused attention
    workshop = Workshop(target.copy_model().requires_grad_(True), target.chat, Meter(), seed=(0, 0), steps=3, autocast=False)
    settings = LatentAdversarial.Config.model_validate({"training": {"batch_size": 5}, **config})
    objective = LatentTraining(HARMFUL, REFUSALS, imagined, KEPT, settings)
    objective.begin(workshop)
    return objective, workshop


@pytest.mark.parametrize(
    ("layers", "depths", "expected"), [(4, (0.25, 0.5, 0.75), (0, 1, 2)), (2, (0.25, 0.5, 0.75), (0, 1)), (1, (0.1, 1.0), (0,))]
)
def test_depths_are_shares_of_the_blocks(layers: int, depths: tuple[float, ...], expected: tuple[int, ...]) -> None:
    objective, _ = begun(layers, depths=depths)
    assert objective._blocks == tuple(f"model.layers.{layer}" for layer in expected)


def test_a_step_has_a_part_for_every_pass() -> None:
    objective, workshop = begun()
    assert set(objective.step(workshop)) == {"loss", "toward", "away", "retain", "refusal"}
    objective, workshop = begun(imagined=[], away_weight=0)
    assert set(objective.step(workshop)) == {"loss", "toward", "retain"}
    assert not any(module._forward_hooks for module in workshop.model.modules())


def test_the_meter_counts_no_weight_gradients_for_the_adversary() -> None:
    objective, workshop = begun(imagined=[], depths=(0.25,), inner_steps=4)
    with FlopCounterMode(display=False) as counter:
        objective.step(workshop)
    counted, real = workshop.meter.spend().flops, counter.get_total_flops()
    assert real <= counted <= 1.2 * real, "what is counted too many are gradients of the stream below the first block"


def test_training_under_the_adversary_makes_it_weaker() -> None:
    objective, workshop = begun(inner_steps=3, radius=0.5)
    optimiser = torch.optim.Adam(workshop.trained(), lr=3e-3)
    parts = []
    for step in range(40):
        workshop.step = step
        parts.append(objective.step(workshop))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    assert parts[-1]["toward"] < 0.5 * parts[0]["toward"]
    assert parts[-1]["retain"] < 0.5 * parts[0]["retain"]
