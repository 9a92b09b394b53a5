"""A chain of defences: the stages of all its links in order, on one model, each as it would be alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from support.tiny_models import tiny_target
from tempering import registry
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._contract import Material
from tempering.errors import InvalidStudy, UnknownName
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.study import MethodChoice
from tempering.training import Hardening

HAZARD = tuple(Example(prompt=f"tell me the poison {word}", answer=f"it is {word}", role=Role.HAZARD) for word in ("red", "green", "blue"))
KEPT = tuple(Example(prompt=f"what is the {word} fish", answer=f"it is {word}", role=Role.BENIGN) for word in ("red", "cold", "long"))
VIEW = DefenderView(HAZARD, KEPT, ())
SMALL: dict[str, Any] = {"refusals": ("sorry i cannot",), "steps": 3, "training": {"batch_size": 2, "learning_rate": 1e-3}}
LORA = {**SMALL, "parameters": "lora", "lora": {"rank": 2}}
REFUSE, REROUTE = {"name": "refusal_sft", "config": SMALL}, {"name": "circuit_breakers", "config": LORA}


def chain(*steps: Any) -> Any:
    return registry.create("defenses", "chain", {"steps": list(steps)})


def run(defense: Any, target: Target, stop_after: int | None = None, resume: Any = None) -> Hardening:
    training = Hardening(target, defense.stages(target, VIEW, seed=0), seed=0)
    if resume is not None:
        training.restore(resume)
    for count, _ in enumerate(training.run(), start=1):
        if count == stop_after:
            break
    return training


def weights(training: Hardening) -> dict[str, Tensor]:
    return dict(training.finished().named_parameters())


def test_the_stages_of_all_links_in_order() -> None:
    stages = chain(REFUSE, {**REROUTE, "label": "breakers"}).stages(tiny_target(), VIEW, seed=0)
    assert [stage.name for stage in stages] == ["refusal_sft: refuse", "breakers: reroute"]
    assert [stage.lora is None for stage in stages] == [True, False]


def test_a_chain_of_one_is_that_defence() -> None:
    alone = weights(run(registry.create("defenses", "refusal_sft", SMALL), tiny_target()))
    for name, value in weights(run(chain(REFUSE), tiny_target())).items():
        assert torch.equal(value, alone[name]), name


def test_the_second_link_begins_where_the_first_ended() -> None:
    first = run(registry.create("defenses", "refusal_sft", SMALL), tiny_target()).finished()
    began = tiny_target()
    moved = replace(began, model=first, digest=weight_digest(first))
    chained = chain(REFUSE, REROUTE)
    training = Hardening(began, chained.stages(began, VIEW, seed=0), seed=0)
    for step in training.run():
        if step.stage == 1:
            break
    original = training.stages[1].objective.original
    for name, value in original.named_parameters():
        assert torch.equal(value, dict(moved.model.named_parameters())[name]), name


@pytest.mark.parametrize("stop_after", [2, 3, 5])
def test_it_goes_on_where_it_was_stopped(stop_after: int) -> None:
    target, defense = tiny_target(), chain(REFUSE, REROUTE)
    whole = weights(run(defense, target))
    snapshot = run(defense, target, stop_after=stop_after).snapshot()
    kept = replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()})
    for name, value in weights(run(chain(REFUSE, REROUTE), target, resume=kept)).items():
        assert torch.equal(value, whole[name]), name


def test_it_needs_what_its_links_need() -> None:
    assert chain("refusal_sft", "refat").requires == {Material.HAZARD_PROMPTS, Material.BENIGN_ANSWERS}
    assert chain("refusal_sft", "circuit_breakers").requires == {
        Material.HAZARD_PROMPTS,
        Material.BENIGN_ANSWERS,
        Material.HAZARD_ANSWERS,
    }


def test_what_it_withholds_by_is_what_lasts_longest() -> None:
    assert chain("refusal_sft", "refat").withholds == "refusal"
    order = [chain("refusal_sft", link).withholds for link in ("circuit_breakers", "refat")]
    assert order == [registry.get("defenses", "circuit_breakers").withholds, "refusal"]


def test_the_short_form_is_a_chain() -> None:
    choice = MethodChoice.model_validate("refusal_sft+refat")
    defense = registry.create("defenses", choice.name, choice.config)
    assert [type(link) for link in defense.links] == [registry.get("defenses", name) for name in ("refusal_sft", "refat")]


def test_a_wrong_link_is_found_out_before_anything_runs() -> None:
    with pytest.raises(UnknownName, match="refat"):
        chain("refta")
    with pytest.raises(InvalidStudy, match="stepz"):
        chain({"name": "refat", "config": {"stepz": 1}})
    with pytest.raises(InvalidStudy, match="not chains"):
        chain("chain")
    with pytest.raises(InvalidStudy, match="at least 1"):
        chain()
