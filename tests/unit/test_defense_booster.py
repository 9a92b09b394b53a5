"""Booster on a tiny model: the harmful loss falls less under a harmful step than refusal training leaves it to."""

from __future__ import annotations

import pytest
import torch

from support.defended_samples import HARMFUL, REFUSALS, VIEW, plain_cross_entropy
from support.tiny_models import tiny_target
from tempering import registry
from tempering.models import Target
from tempering.training import Hardening, Pool

TRAINING = {"learning_rate": 3e-3, "batch_size": 5, "warmup_steps": 0}


def hardened(target: Target, name: str, **config: object) -> Hardening:
    defense = registry.create("defenses", name, {"refusals": REFUSALS, "steps": 40, "training": TRAINING, **config})
    hardening = Hardening(target, defense.stages(target, VIEW, seed=0), seed=0)
    for _ in hardening.run():
        pass
    return hardening


def fall(hardening: Hardening, target: Target, step_length: float) -> float:
    """By how many nats one harmful step of some length lowers the harmful loss."""
    model = hardening.finished().requires_grad_(True)
    rows = Pool(HARMFUL, target.chat, (0,)).all()
    before = plain_cross_entropy(model, rows)
    slopes = torch.autograd.grad(before, list(model.parameters()))
    length = sum(float((slope**2).sum()) for slope in slopes) ** 0.5
    with torch.no_grad():
        for weight, slope in zip(model.parameters(), slopes, strict=True):
            weight -= step_length * slope / length
        return float(before.detach() - plain_cross_entropy(model, rows))


def test_a_harmful_step_lowers_the_harmful_loss_less() -> None:
    target = tiny_target()
    plain = fall(hardened(target, "refusal_sft"), target, 0.1)
    boosted = fall(hardened(target, "booster", strength=5.0, step_length=0.1), target, 0.1)
    assert 0 < boosted < 0.7 * plain


def test_hazard_prompts_without_an_answer_are_only_refused() -> None:
    bare = HARMFUL[0].model_copy(update={"answer": None, "prompt": "how is key poison brew"})
    target = tiny_target()
    defense = registry.create("defenses", "booster", {"refusals": REFUSALS, "steps": 1})
    view = VIEW.__class__(hazard=(*HARMFUL, bare), benign=VIEW.benign, borderline=VIEW.borderline)
    (stage,) = defense.stages(target, view, seed=0)
    steps = list(Hardening(target, [stage], seed=0).run())
    assert steps[0].parts["loss"] == pytest.approx(
        steps[0].parts["refusal"]
        + steps[0].parts["retain"]
        + steps[0].parts["guard"]
        + defense.config.strength * (steps[0].parts["harm"] - steps[0].parts["harm_after_step"])
    )
