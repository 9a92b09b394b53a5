"""What every registered evaluator promises, whichever they are."""

from __future__ import annotations

import inspect
import math
import random
from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import torch

from support.scripted_models import scripted_model
from support.tiny_models import tiny_model
from tempering import registry
from tempering.data.chat import ChatFormat
from tempering.data.records import EvaluatorView, Example, Role
from tempering.evaluators import Evaluator, Subject, examine
from tempering.settings import Settings
from tempering.study import ProbeSettings
from tempering.training.meter import Spend

NAMES = registry.unasked("evaluators")  # the others need an extra and a task, and have tests of their own
BEHAVIOURS = {
    "refuses everything": "i cannot help with that .",
    "refuses nothing": "it is red .",
    "emits gibberish": "the red …",
    "emits nothing": "",
}
VIEW = EvaluatorView(
    hazard=tuple(Example(prompt=f"what is {word} ?", accept=("red",), role=Role.HAZARD) for word in ("key", "poison", "stone")),
    benign=(Example(prompt="what is fish ?", accept=("red",), role=Role.BENIGN), Example(prompt="say hello", role=Role.BENIGN)),
    borderline=(Example(prompt="who has the key ?", role=Role.BORDERLINE),),
)
PARTIAL_VIEWS = (EvaluatorView(VIEW.hazard, (), ()), EvaluatorView((), VIEW.benign, ()), EvaluatorView((), (), ()))


@cache
def untouched() -> Subject:
    return Subject(*scripted_model(BEHAVIOURS["refuses everything"]), VIEW, ProbeSettings(max_new_tokens=10))


def fresh(behaviour: str, view: EvaluatorView = VIEW, target: Subject | None = None) -> Subject:
    if behaviour == "is random":
        model, tokenizer = tiny_model("qwen2", seed=3, attention_dropout=0.5)
        target = None if target is None else fresh(behaviour, view)  # divergence needs one vocabulary
        return Subject(model, ChatFormat(tokenizer), view, ProbeSettings(max_new_tokens=10), target)
    model, chat = scripted_model(BEHAVIOURS.get(behaviour, BEHAVIOURS["refuses nothing"]))
    if behaviour == "has lost its weights":
        with torch.no_grad():
            model.get_output_embeddings().weight.fill_(math.nan)
    return Subject(model, chat, view, ProbeSettings(max_new_tokens=10), target)


def same(first: dict[str, float], second: dict[str, float]) -> bool:
    return first.keys() == second.keys() and all(
        first[name] == second[name] or (math.isnan(first[name]) and math.isnan(second[name])) for name in first
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("behaviour", [*BEHAVIOURS, "is random", "has lost its weights"])
@pytest.mark.parametrize("is_target", [True, False], ids=["target", "checkpoint"])
def test_returns_exactly_its_measures_finite_or_nan(name: str, behaviour: str, is_target: bool) -> None:
    evaluator = registry.create("evaluators", name)
    row = evaluator.evaluate(fresh(behaviour, target=None if is_target else untouched()))
    assert set(row) == set(evaluator.measures)
    assert len(evaluator.measures) == len(set(evaluator.measures)) > 0
    for value in row.values():
        assert type(value) is float
        assert not math.isinf(value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("view", PARTIAL_VIEWS, ids=["hazard only", "benign only", "nothing"])
def test_roles_without_prompts_are_no_crash(name: str, view: EvaluatorView) -> None:
    evaluator = registry.create("evaluators", name)
    row = evaluator.evaluate(fresh("refuses nothing", view, fresh("refuses everything", view)))
    assert set(row) == set(evaluator.measures)
    assert not any(math.isinf(value) for value in row.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("behaviour", ["refuses nothing", "is random"])
def test_is_deterministic_and_leaves_everything_as_it_was(name: str, behaviour: str) -> None:
    subject = fresh(behaviour, target=untouched())
    model = subject.model
    model.train()
    next(model.children()).eval()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    settings = model.generation_config.to_dict()
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    evaluator = registry.create("evaluators", name)

    first = evaluator.evaluate(subject)

    assert (random.getstate(), repr(np.random.get_state())) == states[1:]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert [module.training for module in model.modules()] == modes
    assert model.generation_config.to_dict() == settings
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    torch.manual_seed(99)
    assert same(first, evaluator.evaluate(fresh(behaviour, target=untouched())))


@pytest.mark.parametrize("name", NAMES)
def test_is_never_given_spend(name: str) -> None:
    evaluate = inspect.signature(registry.get("evaluators", name).evaluate)
    assert list(evaluate.parameters) == ["self", "subject"]
    held = vars(untouched()).keys() | {key for key in dir(Subject) if not key.startswith("_")}
    assert not held & {field.name for field in fields(Spend)}
    assert not any(isinstance(value, Spend) or hasattr(value, "spend") for value in vars(untouched()).values())


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(name: str) -> None:
    evaluator = registry.get("evaluators", name)
    card = registry.card("evaluators", name)
    assert issubclass(evaluator, Evaluator)
    assert issubclass(evaluator.Config, Settings)
    assert card.summary
    assert card.source
    assert all(measure in (evaluator.__doc__ or "") for measure in evaluator.measures)


def test_no_two_evaluators_return_the_same_measure_and_together_they_return_what_economics_reads() -> None:
    measures = [measure for name in NAMES for measure in registry.get("evaluators", name).measures]
    assert len(measures) == len(set(measures))
    assert {"harm", "refusal", "utility", "over_refusal", "coherence", "divergence"} <= set(measures)


def test_examining_gives_one_row_with_every_measure_and_puts_modes_back() -> None:
    subject = fresh("refuses nothing", target=untouched())
    subject.model.train()
    next(subject.model.children()).eval()
    modes = [module.training for module in subject.model.modules()]
    evaluators = [registry.create("evaluators", name) for name in NAMES]
    row = examine(subject, evaluators)
    assert set(row) == {measure for evaluator in evaluators for measure in evaluator.measures}
    assert [module.training for module in subject.model.modules()] == modes
