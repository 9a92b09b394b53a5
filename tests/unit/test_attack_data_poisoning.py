"""Data poisoning: how many examples are harmful, which, and what is asked of the attacker."""

from __future__ import annotations

import pytest

from support.tiny_models import tiny_model
from tempering import registry
from tempering.attacks._mixtures import mixed, poison_count
from tempering.data.chat import ChatFormat
from tempering.data.records import AttackerView, Example, Role
from tempering.errors import InvalidStudy, UnusableData
from tempering.models import Target
from tempering.study import Budget
from tempering.threat_model import Need


def examples(role: str, count: int) -> tuple[Example, ...]:
    return tuple(Example(prompt=f"{role} question {number}?", answer=f"answer {number}.", role=Role(role)) for number in range(count))


def view(harmful: int = 100, benign: int = 400) -> AttackerView:
    return AttackerView(examples("hazard", harmful), (), examples("benign", benign), ())


@pytest.fixture(scope="module")
def target() -> Target:
    model, tokenizer = tiny_model("llama")
    return Target("tiny", model, tokenizer, ChatFormat(tokenizer), "0" * 64)


def declared(target, config, budget=None, seed=0, held=None):
    return registry.create("attacks", "data_poisoning", config).declare(target, held or view(), budget=budget or Budget(), seed=seed)


def harmful(declaration) -> list[Example]:
    return [example for example in declaration.examples if example.role is Role.HAZARD]


@pytest.mark.parametrize(
    ("fraction", "size", "expected"),
    [(0, 200, 0), (0.005, 200, 1), (0.015, 200, 3), (0.02, 200, 4), (0.02, 10, 1), (0.5, 60, 30), (1, 60, 60)],
)
def test_exactly_the_fraction_is_poison_and_at_least_one(target, fraction, size, expected) -> None:
    for seed in range(3):
        declaration = declared(target, {"poison_fraction": fraction, "examples": size}, seed=seed)
        assert len(harmful(declaration)) == expected
        assert len(declaration.examples) == len(set(declaration.examples)) == size


def test_who_holds_fewer_trains_on_the_largest_set_of_the_same_fraction(target) -> None:
    for fraction, held in ((0.02, view(100, 196)), (0.5, view(30, 400)), (1.0, view(7, 400))):
        declaration = declared(target, {"poison_fraction": fraction}, held=held)
        total = len(declaration.examples)
        assert len(harmful(declaration)) == poison_count(fraction, total)
        one_more = poison_count(fraction, total + 1)
        assert one_more > len(held.hazard_train) or total + 1 - one_more > len(held.benign_train)


def test_the_budget_limits_the_set(target) -> None:
    declaration = declared(target, {"poison_fraction": 0.1}, Budget(examples=20, steps=7))
    assert (len(declaration.examples), len(harmful(declaration)), declaration.steps) == (20, 2, 7)


def test_more_poison_keeps_what_was_there(target) -> None:
    less, more = (declared(target, {"poison_fraction": fraction, "examples": 200}, seed=5) for fraction in (0.02, 0.1))
    assert set(harmful(less)) < set(harmful(more))
    assert set(more.examples) - set(harmful(more)) < set(less.examples)
    other = declared(target, {"poison_fraction": 0.1, "examples": 200}, seed=6)
    assert set(harmful(other)) != set(harmful(more))


def test_it_trains_as_the_paper_did(target) -> None:
    declaration = declared(target, {"examples": 100}, Budget(steps=None))
    assert declaration.lora.rank == 16
    assert (declaration.settings.batch_size, declaration.settings.schedule, declaration.settings.optimiser) == (4, "linear", "adamw")
    assert declaration.steps == 5 * 100 // 4


def test_the_control_needs_nothing_harmful_and_pure_poison_nothing_benign(target) -> None:
    def requires(fraction: float) -> set[Need]:
        return set(registry.create("attacks", "data_poisoning", {"poison_fraction": fraction}).requires)

    assert requires(0) == {Need.FINE_TUNING, Need.BENIGN_EXAMPLES}
    assert requires(0.02) == {Need.FINE_TUNING, Need.BENIGN_EXAMPLES, Need.HARMFUL_EXAMPLES}
    assert requires(1) == {Need.FINE_TUNING, Need.HARMFUL_EXAMPLES}
    assert len(declared(target, {"poison_fraction": 0}, held=view(0, 30)).examples) == 30
    assert len(declared(target, {"poison_fraction": 1}, held=view(30, 0)).examples) == 30


def test_what_is_missing_is_said(target) -> None:
    with pytest.raises(UnusableData, match=r"no harmful examples.*set poison_fraction to 0"):
        declared(target, {}, held=view(0, 30))
    with pytest.raises(UnusableData, match=r"no benign examples.*set poison_fraction to 1"):
        declared(target, {}, held=view(30, 0))
    with pytest.raises(InvalidStudy):
        registry.create("attacks", "data_poisoning", {"poison_fraction": 1.5})


def test_prompts_without_answers_are_passed_over() -> None:
    bare = tuple(example.model_copy(update={"answer": None}) for example in examples("hazard", 10))
    mixture = mixed((*bare, *examples("hazard", 12)[10:]), examples("benign", 50), size=40, fraction=0.5, budget=Budget(), seed=0)
    assert set(mixture.poison) == set(examples("hazard", 12)[10:])
    assert len(mixture.cover) == 3  # of five, half are two, rounded to even
