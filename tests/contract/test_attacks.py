"""What every registered attack promises, whichever they are."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel, ValidationError

from support.tiny_models import tiny_model
from support.toy_study import rows, toy_study, write_rows
from tempering import registry
from tempering.attacks._contract import Attack, AttackEnded, Checkpoint
from tempering.data.chat import ChatFormat
from tempering.data.records import AttackerView, Dataset, Document, EvaluatorView, Example, Part, Role
from tempering.engine.plan import make_plan
from tempering.engine.worker import Worker
from tempering.evaluators._contract import Subject
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.models.saving import save
from tempering.settings import Choices, Range, Settings
from tempering.study import Budget, DataChoice, MethodChoice, ModelChoice, ProbeSettings
from tempering.threat_model import Need, ThreatModel
from tempering.training import Meter

NAMES = registry.names("attacks")
ATTACK_FAMILIES = {"fine-tuning", "weight surgery", "input", "latent", "retrieval", "composition"}
MODEL_FAMILIES = ("llama", "qwen3", "gemma2", "gpt_neox")
SMALL = Budget(steps=3, examples=8, trials=3, queries=64)


@dataclass(frozen=True)
class Row:
    """What one checkpoint leaves behind."""

    spend: dict[str, float]
    details: str
    response: list[str]
    first_token: torch.Tensor


@cache
def records() -> tuple[Example, ...]:
    """The toy's prompts; more of them for the attacker, so that every part of its view holds several."""
    more = [{**row, "part": "attacker", "prompt": f"please {row['prompt']}", "entity": f"more {row['entity']}"} for row in rows()]
    return tuple(Example(**row) for row in [*rows(), *more])


@cache
def view() -> AttackerView:
    facts = [example for example in records() if example.role is Role.HAZARD]
    documents = tuple(
        Document(text=f"note: {example.answer}", entity=example.entity, prompt=f"{example.prompt} tell me", answer=str(example.answer))
        for example in facts
    )
    return Dataset("toy", records(), documents=documents).divide().attacker_view()


@cache
def evaluated() -> EvaluatorView:
    held_out = [example for example in records() if example.part is Part.EVALUATOR]
    hazard, benign = (tuple(example for example in held_out if example.role is role) for role in (Role.HAZARD, Role.BENIGN))
    return EvaluatorView(hazard, benign, ())


@cache
def target_of(family: str) -> Target:
    """A random model, and another one of its shape as its public base."""
    made = [in_memory(*tiny_model(family, seed)) for seed in (0, 1)]
    return replace(made[0], public_base=made[1])


def in_memory(model: Any, tokenizer: Any) -> Target:
    return Target("toy", model, tokenizer, ChatFormat(tokenizer), weight_digest(model))


def run(attack: Attack, target: Target, budget: Budget = SMALL, seed: int = 3) -> tuple[list[Row], str]:
    """Every checkpoint, looked at while it was alive, and how the run ended."""
    torch.manual_seed(seed)
    meter, made = Meter(), []
    given = view().limited_to(attack.requires | attack.uses)
    held = target if Need.PUBLIC_BASE in attack.requires else replace(target, public_base=None)
    try:
        with meter.timing():
            for checkpoint in attack.run(held, given, meter, budget=budget, seed=seed):
                made.append(look(checkpoint, target))
    except AttackEnded as ended:
        reason, outcome = str(ended), ended.outcome
    else:
        return made, "completed"
    assert reason, "an attack that ends says why"
    return made, outcome


def look(checkpoint: Checkpoint, target: Target) -> Row:
    subject = Subject(checkpoint.model, target.chat, evaluated(), ProbeSettings(max_new_tokens=3), asking=checkpoint.asking)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        responses = subject.responses(Role.HAZARD) + subject.responses(Role.BENIGN)
        first = subject.first_token(Role.HAZARD)
    spend = {name: value for name, value in checkpoint.spend.as_row().items() if name != "device_seconds"}
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in checkpoint.spend.as_row().values())
    return Row(spend, json.dumps(checkpoint.details, sort_keys=True, default=str), responses, first)


def fingerprint(target: Target) -> tuple[Any, ...]:
    """Everything about a target that an attack might leave behind."""
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in target.model.modules())
    modes = [module.training for module in target.model.modules()]
    learning = [(name, parameter.requires_grad, parameter.grad is None) for name, parameter in target.model.named_parameters()]
    return weight_digest(target.model), hooks, modes, learning, len(target.tokenizer), target.chat.template


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_filled_in(name: str) -> None:
    method = registry.get("attacks", name)
    assert issubclass(method, Attack)
    summary = inspect.getdoc(method)
    assert summary
    assert len(summary.splitlines()[0]) < 140
    assert summary != inspect.getdoc(Attack)
    assert method.source.strip()
    assert method.family in ATTACK_FAMILIES
    attack = registry.create("attacks", name)
    assert method.needs <= attack.requires <= frozenset(Need)
    assert attack.requires, "an attack that needs nothing is none"
    assert not attack.requires & attack.uses
    assert registry.card("attacks", name).summary


@pytest.mark.parametrize("name", NAMES)
def test_every_end_of_the_search_space_is_a_valid_setting(name: str) -> None:
    config = registry.create("attacks", name).config
    refused = []
    for path, values in search_space(type(config)):
        for value in values:
            try:
                type(config).model_validate(changed(config.model_dump(), path, value))
            except ValidationError as error:
                refused.append(f"{'.'.join(path)} = {value!r}: {error.errors()[0]['msg']}")
    assert refused == []


def search_space(settings: type[BaseModel], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], tuple[Any, ...]]]:
    """Every field with a range or choices, by its path, with the values at its ends."""
    found: list[tuple[tuple[str, ...], tuple[Any, ...]]] = []
    for name, field in settings.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Range):
                assert mark.low < mark.high
                assert not mark.log or mark.low > 0
                whole = int in (field.annotation, *get_args(field.annotation))
                found.append(((*above, name), tuple(int(end) if whole else end for end in (mark.low, mark.high))))
            elif isinstance(mark, Choices):
                assert len(set(map(str, mark.options))) == len(mark.options) > 1
                found.append(((*above, name), mark.options))
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found += search_space(field.annotation, (*above, name))
    return found


def changed(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**values, first: changed(values[first], tuple(rest), value) if rest else value}


@pytest.mark.parametrize("family", MODEL_FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_spends_more_and_more_and_leaves_the_target_alone(name: str, family: str) -> None:
    target, attack = target_of(family), registry.create("attacks", name)
    before = fingerprint(target)
    made, end = run(attack, target)
    assert fingerprint(target) == before
    assert made or end == "no_direction"
    for earlier, later in pairwise(made):
        assert all(later.spend[currency] >= earlier.spend[currency] for currency in earlier.spend)
    if made:
        assert any(made[-1].spend.values()), "nothing is free"
        assert all(torch.isfinite(row.first_token).all() for row in made)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_everything(name: str) -> None:
    target, attack = target_of("llama"), registry.create("attacks", name)
    (first, end), (second, other_end) = run(attack, target), run(registry.create("attacks", name), target)
    assert end == other_end
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one.spend, one.details, one.response) == (other.spend, other.details, other.response)
        assert torch.equal(one.first_token, other.first_token)


@pytest.mark.parametrize("name", NAMES)
def test_the_estimate_is_a_spend(name: str) -> None:
    attack = registry.create("attacks", name)
    target = target_of("llama")
    before = fingerprint(target)
    given = view().limited_to(attack.requires | attack.uses)
    for budget in (SMALL, Budget()):
        spend = attack.estimate(target, given, budget=budget).as_row()
        assert all(math.isfinite(value) and value >= 0 for value in spend.values())
        assert any(spend.values())
    assert fingerprint(target) == before


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run(registry.create("attacks", name), target_of("llama"), Budget(steps=1, examples=4, trials=1, queries=16))
    assert [path.name for path in tmp_path.rglob("*.*") if path.is_file()] == []


@pytest.fixture(scope="module")
def broken_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder whose model computes NaN wherever a prompt of the hazard is read."""
    folder = tmp_path_factory.mktemp("broken")
    for seed, name in enumerate(("guarded", "base")):
        model, tokenizer = tiny_model("llama", seed)
        if name == "guarded":
            with torch.no_grad():
                for word in ("brew", "colour"):
                    model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(word)] = math.nan
        save(model, tokenizer, folder / name)
    (folder / "data").mkdir()
    write_rows(folder / "data" / "prompts.jsonl", [json.loads(example.model_dump_json(exclude_none=True)) for example in records()])
    write_rows(folder / "data" / "documents.jsonl", [document.model_dump() for document in view().documents])
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_none_are_an_outcome_and_no_crash(name: str, broken_model: Path) -> None:
    needs = registry.create("attacks", name).requires
    study = toy_study(
        broken_model,
        models=(ModelChoice(reference=str(broken_model / "guarded"), base=str(broken_model / "base"), device="cpu"),),
        data=DataChoice(reference=str(broken_model / "data")),
        attacks=(MethodChoice(name=name),),
        threat_model=ThreatModel.model_validate("open-weights+public-base"),
        budget=SMALL,
        seeds=1,
    )
    (unit,) = (unit for unit in make_plan(study).units if unit.work.kind == "attack")
    result = Worker().run(unit)
    if Need.FINE_TUNING in needs:
        assert result.status == "failed"
    assert result.status in ("completed", "failed", "no_direction")
    assert result.status == "completed" or result.error
    assert "\n" not in result.error
