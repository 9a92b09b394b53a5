"""Vaccine on a tiny model: its push is weathered better than after refusal training; settings and adapters."""

from __future__ import annotations

import pytest
import torch

from support.defended_samples import KEPT, REFUSALS, REFUSED, VIEW, plain_cross_entropy
from support.tiny_models import tiny_target
from tempering import registry
from tempering.defenses.vaccine import PerturbedRefusalTraining
from tempering.models import Target
from tempering.training import Hardening, Meter, Pool, Workshop
from tempering.training.streams import outputs_changed

TRAINING = {"learning_rate": 3e-3, "batch_size": 5, "warmup_steps": 0}


def hardened(target: Target, name: str, **config: object) -> Hardening:
    defense = registry.create("defenses", name, {"refusals": REFUSALS, "steps": 40, "training": TRAINING, **config})
    hardening = Hardening(target, defense.stages(target, VIEW, seed=0), seed=0)
    for _ in hardening.run():
        pass
    return hardening


def rise(hardening: Hardening, target: Target, radius: float) -> float:
    """By how many nats the worst push raises the loss of refusing."""
    model = hardening.finished().requires_grad_(True)
    workshop = Workshop(model, target.chat, Meter(), seed=(0, 0), steps=1, autocast=False)
    rows = Pool(REFUSED, target.chat, (0,)).all()
    pushes = PerturbedRefusalTraining(REFUSED, KEPT, 5, radius=radius, parts="blocks").pushes(workshop, rows)
    changes = {place: (lambda stream, push=push: stream + push) for place, push in pushes.items()}
    with torch.no_grad(), outputs_changed(model, changes):
        pushed = plain_cross_entropy(model, rows)
    with torch.no_grad():
        return float(pushed - plain_cross_entropy(model, rows))


def test_the_push_it_trained_under_costs_less() -> None:
    target = tiny_target()
    plain = rise(hardened(target, "refusal_sft"), target, 3.0)
    vaccinated = rise(hardened(target, "vaccine", radius=3.0), target, 3.0)
    assert 0 < vaccinated < 0.7 * plain


@pytest.mark.parametrize("parts", ["blocks", "attention"])
def test_adapters_on_the_mlps_alone_can_be_trained_under_pushes(parts: str) -> None:
    """No weight below the first attention output learns then, so that a push there has to ask for its own gradient."""
    target = tiny_target()
    done = hardened(target, "vaccine", steps=2, parts=parts, parameters="lora", lora={"rank": 2, "targets": "mlp"})
    before = dict(target.model.named_parameters())
    moved = {name for name, value in done.finished().named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all("mlp" in name for name in moved)
