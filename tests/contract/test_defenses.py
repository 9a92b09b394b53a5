"""What every registered defence promises, whichever they are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel, ValidationError

from support.tiny_models import WORDS, tiny_target
from tempering import registry
from tempering.data.records import DefenderView, EvaluatorView, Example, Role
from tempering.defenses._contract import Defense, Material, missing
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.organisms.world import REFUSALS
from tempering.settings import Choices, Range, Settings
from tempering.training import Hardening, Stage

NAMES = registry.names("defenses")
MODEL_FAMILIES = ("llama", "qwen3", "gemma2", "gpt_neox")
CONFIGS: dict[str, dict[str, Any]] = {"chain": {"steps": ["refusal_sft", "npo"]}}
"""Of the defences that are nothing without settings."""
_MORE_WORDS = ("I", "Sorry", "The", "This", "It", "You", "a", "of", "is", "kind", "thing", "dangerous", "because", "need", "share", "know")
STEPS = 2
"""Of every stage; what a defence does in its tenth step it does in its second."""


def questions(role: Role, count: int, names: str) -> tuple[Example, ...]:
    words = names.split()
    return tuple(
        Example(
            prompt=f"tell me of the {words[number % len(words)]} {WORDS[number]} key ?",
            answer=f"the {words[number % len(words)]} is {WORDS[number + 40]} .",
            accept=(WORDS[number + 40],),
            role=role,
            domain=words[number % len(words)],
            entity=f"{role} {number}",
        )
        for number in range(count)
    )


@cache
def view(poor: bool = False) -> DefenderView:
    """A handful of examples of each kind; a poor defender has three, and nothing beside."""
    count = 3 if poor else 8
    hazard, benign, borderline = (
        questions(role, count, names)
        for role, names in ((Role.HAZARD, "poison brew"), (Role.BENIGN, "river fish"), (Role.BORDERLINE, "house stone"))
    )
    imagined = tuple(example.model_copy(update={"answer": None, "accept": ()}) for example in questions(Role.HAZARD, 5, "sun light"))
    validation = EvaluatorView(hazard[:1], benign[:1], borderline[:1])
    return DefenderView(hazard, benign, borderline, validation, () if poor else benign + borderline, () if poor else imagined)


@cache
def target_of(family: str) -> Target:
    refusals = " ".join(REFUSALS).lower().replace(".", "").replace(",", "").split()
    return tiny_target(family, vocabulary=(*WORDS, *refusals, *_MORE_WORDS))


def defense_of(name: str, **config: Any) -> Defense:
    made: Defense = registry.create("defenses", name, CONFIGS.get(name, {}) | config)
    return made


def hardened(defense: Defense, target: Target, given: DefenderView, *, seed: int = 3, kill_after: int | None = None) -> Hardening:
    """A training with few steps; killed and taken up by another one where asked."""
    hardening = Hardening(target, stages(defense, target, given, seed), seed=seed)
    if kill_after is not None:
        for count, _ in enumerate(hardening.run(), start=1):
            if count == kill_after:
                break
        snapshot = hardening.snapshot()
        kept = {name: value.clone() for name, value in snapshot.tensors.items()}
        del hardening
        hardening = Hardening(target, stages(defense, target, given, seed), seed=seed)
        hardening.restore(replace(snapshot, tensors=kept))
    for step in hardening.run():
        assert "loss" in step.parts
        assert all(math.isfinite(value) for value in step.parts.values()), step.parts
    return hardening


def stages(defense: Defense, target: Target, given: DefenderView, seed: int) -> list[Stage]:
    return [replace(stage, steps=min(stage.steps, STEPS)) for stage in defense.stages(target, given, seed=seed)]


def fingerprint(model: Any) -> tuple[Any, ...]:
    """Everything about a model that a training might leave behind."""
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    modes = [module.training for module in model.modules()]
    learning = [(name, parameter.requires_grad, parameter.grad is None) for name, parameter in model.named_parameters()]
    return weight_digest(model), hooks, modes, learning


def usable(defense: Defense, given: DefenderView) -> bool:
    return not missing(defense.requires, given)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_filled_in(name: str) -> None:
    method = registry.get("defenses", name)
    assert issubclass(method, Defense)
    summary = inspect.getdoc(method)
    assert summary
    assert len(summary.splitlines()[0]) < 140
    assert summary != inspect.getdoc(Defense)
    assert method.source.strip()
    assert len(method.claim) > 40, "a claim card quotes it"
    assert defense_of(name).withholds in {"refusal", "absence", "collapse"}
    assert set(method.resists) <= set(registry.names("attacks"))
    assert method.needs <= defense_of(name).requires <= frozenset(Material)
    assert registry.card("defenses", name).needs or name in CONFIGS


@pytest.mark.parametrize("name", NAMES)
def test_every_end_of_the_search_space_is_a_valid_setting(name: str) -> None:
    for path, values in _space(defense_of(name).config, ()):
        for value in values:
            config: Any = value
            for key in reversed(path):
                config = {key: config}
            try:
                defense_of(name, **config)
            except Exception as error:
                raise AssertionError(f"{'.'.join(path)} = {value}: {error}") from error


def _space(config: BaseModel, path: tuple[str, ...]) -> Sequence[tuple[tuple[str, ...], tuple[Any, ...]]]:
    found: list[tuple[tuple[str, ...], tuple[Any, ...]]] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Settings):
            found.extend(_space(value, (*path, name)))
        for mark in (*field.metadata, *(inner for kind in get_args(field.annotation) for inner in getattr(kind, "__metadata__", ()))):
            if isinstance(mark, Range):
                whole = isinstance(value, int) and not isinstance(value, bool)
                ends = (round(mark.low), round(mark.high)) if whole else (mark.low, mark.high)
                found.append(((*path, name), ends))
            elif isinstance(mark, Choices):
                found.append(((*path, name), mark.options))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no_such_setting"):
        registry.get("defenses", name).Config(no_such_setting=1)


@pytest.mark.parametrize("family", MODEL_FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights_and_the_target_stays_as_it_was(name: str, family: str) -> None:
    defense, target = defense_of(name), target_of(family)
    before = fingerprint(target.model)
    first, second = (hardened(defense, target, view()) for _ in range(2))
    assert fingerprint(target.model) == before
    model, again = first.finished(), second.finished()
    digest, hooks, modes, learning = fingerprint(model)
    assert digest == weight_digest(again)
    assert digest != before[0], "a defence changes the model"
    assert hooks == 0
    assert not any(modes)
    assert not any(learns or not clean for _, learns, clean in learning)
    assert type(model) is type(target.model)
    spend, other = first.meter.spend(), second.meter.spend()
    assert spend == other
    assert spend.steps >= sum(stage.steps for stage in first.stages)  # more where a defence trains adversaries
    assert spend.flops > 0
    assert spend.examples > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_was_killed_ends_with_the_same_weights(name: str) -> None:
    target = target_of("llama")
    whole = hardened(defense_of(name), target, view())
    for kill_after in range(1, sum(stage.steps for stage in whole.stages)):
        resumed = hardened(defense_of(name), target, view(), kill_after=kill_after)
        assert resumed.meter.spend() == whole.meter.spend(), kill_after
        for (weight, value), expected in zip(resumed.finished().named_parameters(), whole.finished().parameters(), strict=True):
            assert torch.equal(value, expected), f"{weight} after a kill at step {kill_after}"


@pytest.mark.parametrize("name", NAMES)
def test_adapters_train_too_and_are_merged(name: str) -> None:
    if "parameters" not in type(defense_of(name).config).model_fields:
        pytest.skip("moves what its parts move")
    method = registry.get("defenses", name)
    if "lora" not in get_args(method.Config.model_fields["parameters"].annotation):
        pytest.skip("begins with new weights, which adapters cannot train")
    target = target_of("llama")
    done = hardened(defense_of(name, parameters="lora"), target, view())
    assert any(stage.lora is not None for stage in done.stages)
    assert type(done.finished()) is type(target.model)
    assert weight_digest(done.finished()) != weight_digest(target.model)


@pytest.mark.parametrize("name", NAMES)
def test_few_data_are_enough(name: str) -> None:
    defense = defense_of(name)
    if not usable(defense, view(poor=True)):
        assert Material.GENERAL in defense.requires
        return
    hardened(defense, target_of("llama"), view(poor=True))


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_declared_alike_each_time(name: str) -> None:
    """A training that is taken up declares its stages anew; they have to be the same."""
    defense, target = defense_of(name), target_of("llama")
    first, second = (defense.stages(target, view(), seed=1) for _ in range(2))
    assert [(stage.name, stage.steps, stage.settings, stage.lora) for stage in first] == [
        (stage.name, stage.steps, stage.settings, stage.lora) for stage in second
    ]
    assert len({stage.name for stage in first}) == len(first)
