"""Which units go together: whoever cannot be stacked, or would make the others wait, is of no kind or of another."""

from __future__ import annotations

from typing import Any

import pytest

from tempering.engine.companions import kind_of
from tempering.engine.resolving import resolve
from tempering.engine.units import Unit, Work
from tempering.model_choice import ModelChoice
from tempering.study import Budget, DataChoice, MethodChoice, ProbeSettings


def unit_of(name: str, budget: dict[str, float] | None = None, seed: int = 0, **config: Any) -> Unit:
    work = Work(
        kind="attack",
        model=ModelChoice(reference="organism:tiny"),
        model_digest="0" * 64,
        dtype="float32",
        device="cpu",
        data=DataChoice(),
        data_digest="1" * 64,
        attack=resolve("attacks", MethodChoice(name=name, config=config)),
        budget=Budget.model_validate(budget or {}),
        probes=ProbeSettings(),
        evaluators=(),
    )
    return Unit(work, seed)


def test_attacks_seeds_rates_ranks_and_ways_of_asking_go_together() -> None:
    assert kind_of(unit_of("full_finetune")) == kind_of(unit_of("full_finetune", seed=1, training={"learning_rate": 1e-3}, template="bare"))
    assert kind_of(unit_of("full_finetune")) == kind_of(unit_of("benign_finetune", training={"batch_size": 10}))
    assert kind_of(unit_of("lora_finetune")) == kind_of(unit_of("lora_finetune", lora={"rank": 4}, training={"optimiser": "sgd"}))
    assert kind_of(unit_of("lora_finetune")) is not None


@pytest.mark.parametrize(
    "config",
    [
        {"training": {"batch_size": 128}},
        {"training": {"autocast": True}},
        {"lora": {"targets": "attention"}},
    ],
)
def test_who_would_be_filled_up_or_cannot_share_a_pass_is_of_another_kind(config: dict[str, Any]) -> None:
    other = kind_of(unit_of("lora_finetune", **config))
    assert other is not None
    assert other != kind_of(unit_of("lora_finetune"))
    assert other == kind_of(unit_of("lora_finetune", seed=1, **config))


@pytest.mark.parametrize(
    "config",
    [
        {"training": {"optimiser": "adafactor"}},
        {"training": {"optimiser": "adamw-8bit"}},
        {"lora": {"dropout": 0.1}},
    ],
)
def test_who_cannot_be_stacked_is_alone(config: dict[str, Any]) -> None:
    assert kind_of(unit_of("lora_finetune", **config)) is None


def test_a_budget_by_the_clock_is_nobody_elses() -> None:
    assert kind_of(unit_of("full_finetune", budget={"device_seconds": 60.0})) is None


def test_batches_of_10_and_128_do_not_go_together() -> None:
    assert kind_of(unit_of("full_finetune")) != kind_of(unit_of("benign_finetune"))
