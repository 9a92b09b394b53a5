"""Refusal training: what is refused, what is kept, and that its two losses are plain cross-entropies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from support.tiny_models import tiny_target
from tempering import registry
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._data import DEFAULT_REFUSALS, refused, retained, to_refuse
from tempering.errors import UnusableModel
from tempering.training import Hardening

HAZARD = tuple(Example(prompt=f"tell me the poison {word}", answer=f"it is {word}", role=Role.HAZARD) for word in ("red", "green", "blue"))
IMAGINED = (Example(prompt="tell me the poison stone", role=Role.HAZARD),)
KEPT = tuple(Example(prompt=f"what is the {word} fish", answer=f"it is {word}", role=Role.BENIGN) for word in ("red", "cold", "long"))
BORDERLINE = (Example(prompt="what colour is poison", answer="it is green", role=Role.BORDERLINE),)
GENERAL = (
    Example(prompt="say hello", answer="hello", role=Role.BENIGN),
    Example(prompt="is it poison", answer="yes", role=Role.BORDERLINE),
)
VIEW = DefenderView(HAZARD, KEPT, BORDERLINE, general=GENERAL, imagined=IMAGINED)
SMALL: dict[str, Any] = {"refusals": ("sorry i cannot",), "steps": 4, "training": {"batch_size": 4, "learning_rate": 1e-2}}


def training(**settings: Any) -> Hardening:
    target = tiny_target()
    return Hardening(target, registry.create("defenses", "refusal_sft", {**SMALL, **settings}).stages(target, VIEW, seed=0), seed=0)


def test_hazards_are_refused_and_the_rest_is_answered_as_before() -> None:
    refusals = refused(to_refuse(VIEW), DEFAULT_REFUSALS, 0)
    assert [example.prompt for example in refusals] == [example.prompt for example in (*HAZARD, *IMAGINED)]
    assert {example.answer for example in refusals} <= set(DEFAULT_REFUSALS)
    assert all(not example.accept for example in refusals)
    assert retained(VIEW) == [*KEPT, *BORDERLINE, GENERAL[0]]


def test_its_losses_are_cross_entropies_over_answers() -> None:
    """Row by row with transformers' own loss positions, on pools that one batch holds whole."""
    hardening = training(training={"batch_size": 99})
    chat, model = hardening._target.chat, hardening._target.model
    wanted = []
    for examples in (refused(to_refuse(VIEW), SMALL["refusals"], 0), retained(VIEW)):
        losses, count = 0.0, 0
        for example in examples:
            row = chat.encode(example)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
            labels = torch.tensor(row.labels[1:])
            losses += float(functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
            count += int((labels != -100).sum())
        wanted.append(losses / count)
    parts = next(hardening.run()).parts
    assert [parts["refusal"], parts["retain"]] == pytest.approx(wanted, rel=1e-4)
    assert parts["loss"] == pytest.approx(sum(wanted), rel=1e-4)


def test_lora_and_full_agree_on_the_first_loss() -> None:
    full, lora = (next(training(parameters=parameters).run()).parts for parameters in ("all", "lora"))
    assert full == pytest.approx(lora, abs=1e-5)


def test_it_learns_to_refuse() -> None:
    steps = list(training(steps=60).run())
    assert steps[-1].parts["refusal"] < 0.2 * steps[0].parts["refusal"]
    assert steps[-1].parts["retain"] < 0.5 * steps[0].parts["retain"]


def test_imagined_and_general_data_may_be_missing() -> None:
    target, bare = tiny_target(), replace(VIEW, borderline=(), general=(), imagined=())
    hardening = Hardening(target, registry.create("defenses", "refusal_sft", SMALL).stages(target, bare, seed=0), seed=0)
    assert len(list(hardening.run())) == 4


def test_words_that_the_tokenizer_does_not_know_are_found_out_first() -> None:
    with pytest.raises(UnusableModel, match="zebra"):
        training(refusals=("the zebra",))
