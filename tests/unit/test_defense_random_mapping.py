"""Random mapping: directions fixed by seed and token, and hazard text that turns to them while the rest is kept."""

from __future__ import annotations

import torch

from support.tiny_models import tiny_target
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._tar_mapping import RandomDirections
from tempering.defenses.random_mapping import RandomMapping
from tempering.training import Hardening

WORDS = ("red", "fish", "sun", "tree")
HAZARD = tuple(Example(prompt=f"how to brew {word}", answer=f"with {word}", role=Role.HAZARD, entity=word) for word in WORDS)
BENIGN = tuple(Example(prompt=f"what is {word}", answer=f"{word} is a colour", role=Role.BENIGN, entity=word) for word in WORDS)
VIEW = DefenderView((*HAZARD, HAZARD[0].model_copy(update={"prompt": "what ?", "answer": None})), BENIGN, ())


def test_a_token_has_one_direction_whatever_it_stands_beside() -> None:
    together, alone = RandomDirections((0, 1), 1000), RandomDirections((0, 1), 1000)
    rows = together.rows(torch.tensor([5, 9, 5]))
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(alone.rows(torch.tensor([9]))[0], rows[1])
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(RandomDirections((0, 2), 1000).rows(torch.tensor([5]))[0], rows[0])
    assert abs(float(rows[0].mean())) < 0.15
    assert abs(float(rows[0].std()) - 1) < 0.15


def test_only_tokens_that_occur_are_drawn() -> None:
    directions = RandomDirections((0,), 8)
    directions.rows(torch.tensor([3, 70_000]))
    assert set(directions._drawn) == {3, 70_000}


def test_hazard_text_turns_to_its_directions_and_the_rest_is_kept() -> None:
    target = tiny_target()
    method = RandomMapping(RandomMapping.Config(steps=60, training={"learning_rate": 1e-2, "warmup_steps": 0}))
    hardening = Hardening(target, method.stages(target, VIEW, seed=0), seed=0)
    parts = [step.parts for step in hardening.run()]
    assert parts[-1]["mapping"] < parts[0]["mapping"] - 0.2
    assert parts[-1]["retain"] < 0.5 * parts[0]["retain"]
    assert all(part["loss"] == part["mapping"] + part["retain"] for part in parts)
