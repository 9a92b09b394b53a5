"""ReFAT: which rows are ablated of what, when directions are found anew, and what its settings refuse."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from support.tiny_models import tiny_target
from tempering import registry
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._contract import Material
from tempering.defenses._data import refused
from tempering.defenses._directions import blocks_of
from tempering.defenses.refat import ReFAT, RefusalUnderAblation
from tempering.errors import InvalidStudy, UnusableModel
from tempering.models import Target
from tempering.training import Hardening, Meter, Workshop

HAZARD = tuple(Example(prompt=f"tell me the poison {word}", role=Role.HAZARD) for word in ("red", "green", "blue", "stone", "sun"))
KEPT = tuple(
    Example(prompt=f"what is the {word} fish", answer=f"it is {word}", role=Role.BENIGN) for word in ("red", "cold", "long", "green")
)
VIEW = DefenderView(HAZARD, KEPT, ())
SMALL: dict[str, Any] = {"refusals": ("sorry i cannot", "i cannot help"), "steps": 6, "training": {"batch_size": 4, "learning_rate": 1e-3}}


def begun(target: Target | None = None, **settings: Any) -> tuple[RefusalUnderAblation, Workshop]:
    target = target or tiny_target()
    at = Workshop(target.copy_model(), target.chat, Meter(), seed=(0, 0), steps=10, autocast=False)
    objective = RefusalUnderAblation(refused(HAZARD, ["sorry"], 0), KEPT, ReFAT.Config(**{**SMALL, **settings}))
    objective.begin(at)
    at.model.requires_grad_(True)
    return objective, at


def units(objective: RefusalUnderAblation, at: Workshop, rows: int) -> Tensor:
    at.step = 0
    objective.step(at)
    at.model.zero_grad()
    return objective.drawn(at, rows)[0]


def trained(**settings: Any) -> dict[str, Tensor]:
    defense = registry.create("defenses", "refat", {**SMALL, **settings})
    hardening = Hardening(tiny_target(), defense.stages(tiny_target(), VIEW, seed=0), seed=0)
    assert all(torch.isfinite(torch.tensor(list(step.parts.values()))).all() for step in hardening.run())
    return dict(hardening.finished().named_parameters())


@pytest.mark.parametrize(("layers", "share", "count"), [(2, 0.75, 2), (4, 0.75, 3), (4, 1.0, 4), (4, 0.01, 1)])
def test_the_target_layers_are_the_last(layers: int, share: float, count: int) -> None:
    target = tiny_target(num_hidden_layers=layers)
    objective, at = begun(target, layer_share=share)
    assert objective.blocks == blocks_of(at.model)[-count:]


def test_none_or_all_of_the_rows_are_ablated_where_the_probability_says_so() -> None:
    objective, at = begun(probability=0.0)
    assert units(objective, at, 8).eq(0).all()
    objective, at = begun(probability=1.0)
    assert torch.allclose(units(objective, at, 8).norm(dim=-1), torch.ones(2, 8), atol=1e-5)


@pytest.mark.parametrize("ablate", ["rows", "batch"])
def test_half_of_the_rows_or_of_the_batches_are_ablated(ablate: str) -> None:
    objective, at = begun(ablate=ablate)
    units(objective, at, 1)
    shares = []
    for step in range(200):
        at.step = step
        shares.append(float(objective.drawn(at, 16)[0].norm(dim=-1)[0].mean()))
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.1)
    whole = sum(share < 1e-6 or share > 1 - 1e-4 for share in shares)
    assert whole == 200 if ablate == "batch" else whole < 5


def test_a_row_has_one_direction_at_all_layers_where_directions_are_drawn() -> None:
    objective, at = begun(probability=1.0, direction="drawn")
    drawn = units(objective, at, 32)
    assert torch.equal(drawn[0], drawn[1])
    known = objective.state()["directions"][:, 0]
    nearest = {int((known - row).norm(dim=-1).argmin()) for row in drawn[0]}
    assert nearest == {0, 1}
    own, at = begun(probability=1.0)
    assert torch.equal(units(own, at, 3), own.state()["directions"].expand(-1, 3, -1))


def test_rows_are_given_each_of_the_positions() -> None:
    objective, at = begun(probability=1.0, positions=2)
    drawn = units(objective, at, 32)
    known = objective.state()["directions"]
    assert known.shape[1] == 2
    for layer in range(2):
        assert {int((known[layer] - row).norm(dim=-1).argmin()) for row in drawn[layer]} == {0, 1}


def test_there_are_no_more_positions_than_the_template_has() -> None:
    objective, at = begun(positions=99)
    units(objective, at, 1)
    assert objective.state()["directions"].shape[1] == len(at.chat.post_instruction_ids)


def test_what_is_added_back_is_what_harmless_prompts_have_along_the_direction() -> None:
    objective, at = begun(probability=1.0, add_back=True)
    drawn = units(objective, at, 3)
    _, offsets = objective.drawn(at, 3)
    harmless = objective.state()["harmless"][:, 0]
    assert torch.allclose(offsets, torch.einsum("lrh,lh->lr", drawn, harmless), atol=1e-5)


def test_directions_are_found_anew_every_so_many_steps() -> None:
    objective, at = begun(refresh=3)
    found = []
    for step in range(7):
        at.step = step
        objective.step(at)
        found.append(objective.state()["directions"].clone())
    assert [torch.equal(one, other) for one, other in pairwise(found)] == [True, True, False, True, True, False]


def test_the_options_train_something_else() -> None:
    plain = trained(probability=0.0)
    variants = [{}, {"places": "everywhere"}, {"add_back": True}, {"direction": "drawn"}, {"ablate": "batch"}]
    ablated = [trained(**variant)["model.layers.0.mlp.down_proj.weight"] for variant in variants]
    for index, one in enumerate(ablated):
        assert not torch.equal(one, plain["model.layers.0.mlp.down_proj.weight"])
        assert all(not torch.equal(one, other) for other in ablated[:index])


@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_it_goes_on_with_the_directions_it_had(parameters: str) -> None:
    """Stopped two steps after the directions were found, which the weights that then are would not give again."""
    settings = {**SMALL, "parameters": parameters, "lora": {"rank": 2}}
    whole = trained(**{key: settings[key] for key in ("parameters", "lora")})
    target, defense = tiny_target(), registry.create("defenses", "refat", settings)
    first = Hardening(target, defense.stages(target, VIEW, seed=0), seed=0)
    for step in first.run():
        if step.step == 2:
            break
    snapshot = first.snapshot()
    second = Hardening(target, defense.stages(target, VIEW, seed=0), seed=0)
    second.restore(replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()}))
    for _ in second.run():
        pass
    for name, value in second.finished().named_parameters():
        assert torch.equal(value, whole[name]), name


def test_lora_and_full_agree_on_the_first_loss() -> None:
    losses = []
    for parameters in ("all", "lora"):
        defense = registry.create("defenses", "refat", {**SMALL, "parameters": parameters})
        losses.append(next(Hardening(tiny_target(), defense.stages(tiny_target(), VIEW, seed=0), seed=0).run()).parts)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_hooks_are_gone_after_a_step() -> None:
    objective, at = begun(places="everywhere")
    objective.step(at)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in at.model.modules())


def test_the_passes_that_find_directions_are_paid_for() -> None:
    spent = []
    for refresh in (1, 100):
        objective, at = begun(refresh=refresh)
        for step in range(3):
            at.step = step
            objective.step(at)
        spent.append(at.meter.spend().tokens)
    prompts = sum(len(at.chat.prompt_ids(example)) for example in (*HAZARD, *KEPT))
    assert spent[0] - spent[1] == 2 * prompts


def test_what_it_refuses() -> None:
    with pytest.raises(InvalidStudy, match="add_back"):
        registry.create("defenses", "refat", {"add_back": True, "places": "everywhere"})
    with pytest.raises(UnusableModel, match="zebra"):
        registry.create("defenses", "refat", {"refusals": ["zebra"]}).stages(tiny_target(), VIEW, seed=0)
    assert registry.create("defenses", "refat").requires == {Material.HAZARD_PROMPTS, Material.BENIGN_ANSWERS}
