"""TAR keeps the defender's contract: it resumes, leaves the target alone, and takes any attack for an adversary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from support.tiny_models import tiny_target
from tempering import consent, registry
from tempering.data.asking import PLAIN, Asking
from tempering.data.chat import Encoded
from tempering.data.records import AttackerView, DefenderView, Example, Role
from tempering.defenses._tar_adversaries import DataMix, divided, encoding
from tempering.defenses._tar_training import TamperResistance
from tempering.defenses._tar_working import WorkingModel, plain_name
from tempering.defenses.tar import Tar
from tempering.errors import InvalidStudy, UnknownName
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.training import FlopCount, Hardening, LoraSettings, Meter, Rows, Workshop
from tempering.training.adapters import add_lora

WORDS = ("red", "fish", "sun", "tree", "river", "key")
TOY = Path(__file__).parents[1] / "support" / "toy_attack.py"


def examples(role: Role, answer: str) -> tuple[Example, ...]:
    return tuple(Example(prompt=f"{role} {word} ?", answer=f"{word} {answer}", role=role, entity=word) for word in WORDS)


VIEW = DefenderView(
    examples(Role.HAZARD, "is a poison"),
    examples(Role.BENIGN, "is a colour"),
    examples(Role.BORDERLINE, "is a note"),
    imagined=tuple(example.model_copy(update={"answer": None, "prompt": example.prompt + " ?"}) for example in examples(Role.HAZARD, "")),
)
ADVERSARIES: dict[str, dict[str, Any]] = {
    "full": {"name": "full_finetune", "config": {"training": {"learning_rate": 1e-3, "batch_size": 2}}},
    "sgd": {"name": "full_finetune", "config": {"training": {"learning_rate": 1e-2, "optimiser": "sgd", "warmup_steps": 2}}},
    "lora": {"name": "lora_finetune", "config": {"lora": {"rank": 2, "dropout": 0.1}}},
    "wrapped": {"name": "jailbreak_tuning"},
    "noise": {"name": "weight_noise"},
    "surgery": {"name": "refusal_ablation", "config": {"prompt_counts": [4]}},
    "no direction": {"name": f"{TOY}:Nudge", "config": {"end": "no_direction"}},
}


@pytest.fixture(autouse=True)
def _allowed() -> Iterator[None]:
    with consent.code_allowed(True):  # the toy attack is a file of its own
        yield


def defense(**settings: Any) -> Tar:
    small = {"steps": 3, "inner_steps": 4, "look_every": 2, "recovery_steps": 0, "refusals": ["sorry i cannot help"]}
    return Tar(Tar.Config(**{**small, **settings}))


def hardened(target: Target, method: Tar, seed: int = 0) -> tuple[dict[str, Tensor], list[dict[str, float]], Hardening]:
    hardening = Hardening(target, method.stages(target, VIEW, seed=seed), seed=seed)
    parts = [step.parts for step in hardening.run()]
    return dict(hardening.finished().named_parameters()), parts, hardening


@pytest.mark.parametrize("parameters", ["all", "lora"])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_every_kind_of_adversary_is_trained_against(name: str, parameters: str) -> None:
    target = tiny_target()
    before = weight_digest(target.model)
    method = defense(adversaries=[ADVERSARIES[name]], parameters=parameters, lora={"rank": 2})
    weights, parts, _ = hardened(target, method)
    again, _, _ = hardened(target, method)
    without, _, _ = hardened(target, defense(inner_steps=0, parameters=parameters, lora={"rank": 2}))
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert weight_digest(target.model) == before
    looked = [part["resistance"] for part in parts]
    if name == "surgery":  # a random model refuses nothing, so there is no direction to find
        assert looked == [0.0] * 3
        assert all(torch.equal(weights[key], without[key]) for key in weights)
    else:
        assert min(looked) > 0
        assert any(not torch.equal(weights[key], without[key]) for key in weights)


@pytest.mark.parametrize("settings", [{"withhold": "knowledge", "mapping_steps": 2}, {"recovery_steps": 2}, {"parameters": "lora"}])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_training_that_was_killed_ends_with_the_same_weights(settings: dict[str, Any], stop_after: int) -> None:
    target = tiny_target()
    method = defense(adversaries=[ADVERSARIES["lora"], ADVERSARIES["full"], ADVERSARIES["wrapped"]], **settings)
    weights, _, whole = hardened(target, method)
    first = Hardening(target, method.stages(target, VIEW, seed=0), seed=0)
    for count, _ in enumerate(first.run(), start=1):
        if count == stop_after:
            break
    snapshot = first.snapshot()
    second = Hardening(target, method.stages(target, VIEW, seed=0), seed=0)
    second.restore(replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()}))
    for _ in second.run():
        pass
    assert all(torch.equal(value, weights[name]) for name, value in second.finished().named_parameters())
    assert second.meter.spend() == whole.meter.spend()


def test_no_hook_and_no_adapter_is_left() -> None:
    weights, _, hardening = hardened(tiny_target(), defense(adversaries=[ADVERSARIES["lora"], ADVERSARIES["noise"]]))
    assert set(weights) == {name for name, _ in tiny_target().model.named_parameters()}
    for module in hardening.finished().modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_what_adversaries_spend_is_the_defenders() -> None:
    """To the operation: three trajectories of four steps and two looks each, and the reference's likelihoods once."""
    target = tiny_target()
    _, _, tampered = hardened(target, defense(adversaries=[ADVERSARIES["full"]], imagined=0.0))
    _, _, plain = hardened(target, defense(inner_steps=0))
    assert tampered.meter.spend().steps == 3 * (1 + 4)
    assert plain.meter.spend().steps == 3
    count = FlopCount.of(target.copy_model().requires_grad_(True))
    refusal = target.chat.encode(VIEW.hazard[0].model_copy(update={"answer": "sorry i cannot help"}))
    rows = [(len(row.input_ids), sum(label != -100 for label in row.labels)) for row in (refusal, target.chat.encode(VIEW.hazard[0]))]
    (long, many), (short, few) = rows
    inner = count.training_step([short] * 2, 2 * few)
    look = count.training_step([long, short] * 2, 2 * (many + few))  # two of six entities are held out
    reference = count.forward([long, short] * 6, 6 * (many + few))
    assert tampered.meter.spend().flops - plain.meter.spend().flops == 3 * (4 * inner + 2 * look) + reference


def test_wrong_adversaries_are_found_out_before_anything_runs() -> None:
    with pytest.raises(UnknownName):
        defense(adversaries=["full_finetuning"]).stages(tiny_target(), VIEW, seed=0)
    with pytest.raises(ValueError, match="above 0"):
        DataMix(forget=0.0)


@pytest.mark.parametrize("chosen", ["retrieval", "prefilling+retrieval", {"name": "relearning", "config": {"hold": "documents"}}])
def test_an_adversary_that_needs_documents_is_refused_before_anything_runs(chosen: Any) -> None:
    """A defender's view has none; found out at the step that first draws it, it would cost the training, and blame the data."""
    name = chosen.replace("+", " + ") if isinstance(chosen, str) else chosen["name"]
    with pytest.raises(InvalidStudy, match=r"needs documents, .* defender is given none; take it out of") as refused:
        defense(adversaries=["full_finetune", chosen]).stages(tiny_target(), VIEW, seed=0)
    assert repr(name) in str(refused.value)
    assert defense(adversaries=[{"name": "relearning", "config": {"hold": "examples"}}]).stages(tiny_target(), VIEW, seed=0)


def workshop(target: Target) -> Workshop:
    return Workshop(target.copy_model(), target.chat, Meter(), seed=(0, 0), steps=1, autocast=False)


def test_the_working_model_takes_the_weights_over_and_its_adapters_share_them() -> None:
    target, lora = tiny_target(), LoraSettings(rank=2)
    working = WorkingModel(workshop(target))
    fresh = working.ready(lora, seed=0)
    with torch.no_grad():
        for value in fresh.parameters():
            value.add_(1.0)
    trained = tiny_target(seed=1).model
    working.reset(trained)
    assert all(torch.equal(value, dict(trained.named_parameters())[name]) for name, value in working.model.named_parameters())
    again = working.ready(lora, seed=0)
    assert again is fresh
    held = {id(value) for value in working.model.parameters()}
    assert all(("lora_" in name) != (id(value) in held) for name, value in again.named_parameters())
    assert all(value.requires_grad == ("lora_" in name) for name, value in again.named_parameters())
    drawn = {name: value.clone() for name, value in again.named_parameters() if "lora_" in name}
    for name, value in drawn.items():
        bound = value.shape[1] ** -0.5 if "lora_A" in name else 0.0  # PEFT's own beginning: Kaiming uniform, and zero
        assert float(value.abs().max()) <= bound
        assert torch.equal(value, dict(working.ready(lora, seed=0).named_parameters())[name])
        assert bound == 0.0 or not torch.equal(value, dict(working.ready(lora, seed=1).named_parameters())[name])
        assert bound == 0.0 or float(value.abs().max()) > bound / 2
    assert working.count(lora).body_weight_gradient < working.count(lora, looked_at=True).body_weight_gradient
    assert all(value.requires_grad for value in working.ready(None, seed=0).parameters())


def test_the_working_model_merges_the_adapters_that_are_trained() -> None:
    target = tiny_target()
    working = WorkingModel(workshop(target))
    adapted = add_lora(target.copy_model(), LoraSettings(rank=2))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            value.add_(0.1 if "lora_" in name else 0.0)
    working.reset(adapted)
    merged = dict(adapted.merge_and_unload().named_parameters())
    assert not torch.equal(merged["model.layers.0.mlp.up_proj.weight"], target.model.state_dict()["model.layers.0.mlp.up_proj.weight"])
    for name, value in working.model.named_parameters():
        torch.testing.assert_close(value, merged[name])


def test_names_of_adapted_weights() -> None:
    assert plain_name("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight") == "model.layers.0.mlp.up_proj.weight"
    assert plain_name("model.norm.weight") == "model.norm.weight"


@pytest.mark.parametrize("share", [0.01, 0.4, 0.99])
def test_examples_are_cut_by_entity(share: float) -> None:
    held, rest = divided([*VIEW.hazard, *VIEW.hazard], share, np.random.default_rng(0))
    assert held
    assert rest
    assert not {example.entity for example in held} & {example.entity for example in rest}
    assert len(held) + len(rest) == 2 * len(VIEW.hazard)
    alone = divided(VIEW.hazard[:1], share, np.random.default_rng(0))
    assert alone == ([VIEW.hazard[0]], [VIEW.hazard[0]])


def test_an_adversary_goes_over_from_benign_to_hazard_data() -> None:
    """With a switch, the first batches are benign and the last are hazard, in one run of the optimiser."""
    target = tiny_target()
    method = defense(adversaries=[ADVERSARIES["sgd"]], inner_steps=12)
    adversaries = method.adversaries()
    assert adversaries is not None
    adversaries.begin(target, workshop(target))
    view = AttackerView(VIEW.hazard, (), VIEW.benign, ())
    attack = registry.create("attacks", "full_finetune", {"training": {"batch_size": 2}})
    moments = set()
    for seed in range(20):
        declaration, order = adversaries._declared(attack, view, attack.needs, "switch", seed, np.random.default_rng(seed))
        assert order is not None
        roles = [{declaration.examples[index].role for index in batch} for batch in order]
        assert len(roles) == 12
        moment = roles.index({Role.HAZARD}) if {Role.HAZARD} in roles else 12
        assert roles == [{Role.BENIGN}] * moment + [{Role.HAZARD}] * (12 - moment)
        moments.add(moment)
    assert len(moments) > 3
    for data, role in (("forget", Role.HAZARD), ("retain", Role.BENIGN)):
        declaration, order = adversaries._declared(
            attack, replace(view, benign_train=VIEW.benign), attack.needs, data, 0, np.random.default_rng(0)
        )
        assert order is None
        assert {example.role for example in declaration.examples} == {role} or data == "retain"


def test_encoding_is_remembered_where_it_can_be() -> None:
    chat = tiny_target().chat

    class Unhashable(Asking):
        __hash__ = None  # type: ignore[assignment]

    encode = encoding(chat)
    example = VIEW.hazard[0]
    assert encode(PLAIN, example) is encode(PLAIN, example)
    assert encode(Unhashable(), example) == encode(PLAIN, example) == chat.encode(example)


def in_pieces(rows: Rows) -> list[Rows]:
    """The retain batch that TAR makes of rows."""
    pool = SimpleNamespace(rows=lambda step, size: rows)
    objective = TamperResistance.__new__(TamperResistance)
    objective._pools = [(pool, len(rows))]  # type: ignore[list-item]
    return objective.kept_rows(0)


@pytest.mark.parametrize(("lengths", "pieces"), [([4, 4, 5], [[4, 4, 5]]), ([9, 2, 3, 2], [[2, 2, 3], [9]]), ([7], [[7]])])
def test_rows_of_very_different_lengths_are_read_apart(lengths: list[int], pieces: list[list[int]]) -> None:
    rows = Rows(tuple(Encoded([0] * length, [0] * length) for length in lengths), tuple(map(str, lengths)), 0)
    assert [piece.lengths for piece in in_pieces(rows)] == pieces
    assert all(list(piece.identities) == [str(length) for length in piece.lengths] for piece in in_pieces(rows))


@pytest.mark.parametrize("inner_steps", [0, 4])
def test_an_adversary_that_there_is_not_is_found_when_the_study_is_read(inner_steps: int) -> None:
    with pytest.raises(UnknownName, match="no attack named 'full_finetun'; did you mean 'full_finetune'"):
        registry.create("defenses", "tar", {"adversaries": [{"name": "full_finetun"}], "inner_steps": inner_steps})
