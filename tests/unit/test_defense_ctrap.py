"""CTRAP on a tiny model: quiet before a harmful step, a single token after it; how the token and the length are settled."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from support.defended_samples import HARMFUL, KEPT, REFUSALS, REFUSED, VIEW, plain_cross_entropy, workshop_for
from support.tiny_models import tiny_target
from tempering import registry
from tempering.defenses.ctrap import CollapseTrap, Ctrap, collapse_token, collapsed
from tempering.errors import UnusableModel
from tempering.training import Hardening, Pool

TRAINING = {"learning_rate": 3e-3, "batch_size": 6, "warmup_steps": 0}


def test_one_harmful_step_springs_the_trap() -> None:
    target = tiny_target()
    config = {"refusals": REFUSALS, "steps": 150, "training": TRAINING, "strength": 1.0, "step_length": 0.5, "token": "fish"}
    hardening = Hardening(target, registry.create("defenses", "ctrap", config).stages(target, VIEW, seed=0), seed=0)
    for _ in hardening.run():
        pass
    model = hardening.finished().requires_grad_(True)
    harmful, kept = (Pool(examples, target.chat, (0,)).all() for examples in (HARMFUL, KEPT))
    trap = collapsed(kept, collapse_token(target.chat, "fish", set()))
    with torch.no_grad():
        quiet = float(plain_cross_entropy(model, trap)), float(plain_cross_entropy(model, kept))
    slopes = torch.autograd.grad(plain_cross_entropy(model, harmful), list(model.parameters()))
    length = sum(float((slope**2).sum()) for slope in slopes) ** 0.5
    with torch.no_grad():
        for weight, slope in zip(model.parameters(), slopes, strict=True):
            weight -= 0.5 * slope / length
        sprung = float(plain_cross_entropy(model, trap)), float(plain_cross_entropy(model, kept))
    assert quiet[0] > 2
    assert quiet[1] < 0.5
    assert sprung[0] < quiet[0] / 2
    assert sprung[1] > 2


def test_the_token_is_what_is_asked_for_or_what_no_answer_holds() -> None:
    chat = tiny_target().chat
    ordinary = [index for index in range(len(chat.tokenizer)) if index not in chat.tokenizer.all_special_ids]
    assert chat.tokenizer.decode([collapse_token(chat, "stone house", set())]) == "stone"
    assert collapse_token(chat, None, set()) == ordinary[0]
    assert collapse_token(chat, None, {ordinary[0], ordinary[1]}) == ordinary[2]
    assert collapse_token(chat, None, set(ordinary)) == ordinary[0]
    with pytest.raises(UnusableModel, match="zebra"):
        collapse_token(chat, "zebra", set())


def test_the_length_of_the_step_is_drawn_anew_each_step_and_again_after_a_resume() -> None:
    def drawn(step: int, longest: float) -> float:
        objective = CollapseTrap(
            REFUSED,
            KEPT,
            HARMFUL,
            3,
            strength=1.0,
            step_length=0.1,
            longest_step=longest,
            normalised=True,
            second_order=False,
            reach=1e-3,
            token=None,
        )
        workshop = workshop_for(objective)
        workshop.step = step
        return objective.drawn_length(workshop)

    lengths = [drawn(step, 1.0) for step in range(8)]
    assert all(0.1 <= length <= 1.0 for length in lengths)
    assert len(set(lengths)) == 8
    assert min(lengths) < 0.1**0.5 < max(lengths)
    assert lengths == [drawn(step, 1.0) for step in range(8)]
    assert drawn(3, 0.1) == pytest.approx(0.1)


def test_the_longest_step_is_not_below_the_least() -> None:
    with pytest.raises(ValidationError, match="longest_step must not be below"):
        Ctrap.Config(step_length=0.5, longest_step=0.1)
