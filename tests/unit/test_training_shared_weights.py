"""What is trained beside frozen weights holds no second copy of them, and leaves them as they are."""

from __future__ import annotations

import copy

import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.models import Target
from tempering.training import FineTuning, LoraSettings, Meter, TrainingSettings
from tempering.training.cohort import Cohort
from tempering.training.loop import fine_tune

EXAMPLES = tuple(Example(prompt=f"is {word} red ?", answer="no .", role=Role.HAZARD) for word in ("stone", "water", "key", "sun"))


def declared(seed: int, lora: LoraSettings | None) -> FineTuning:
    return FineTuning(EXAMPLES, TrainingSettings(batch_size=2, learning_rate=1e-2), 2, (1, 2), seed, lora)


def state(target: Target) -> dict[str, tuple[torch.Tensor, bool, int]]:
    return {name: (value.detach().clone(), value.requires_grad, value.data_ptr()) for name, value in target.model.named_parameters()}


def same(target: Target, before: dict[str, tuple[torch.Tensor, bool, int]]) -> None:
    for name, (value, learns, place) in before.items():
        now = target.model.get_parameter(name)
        assert torch.equal(now, value)
        assert now.dtype == value.dtype
        assert (now.requires_grad, now.data_ptr()) == (learns, place)
        assert now.grad is None


def own_bytes(model: torch.nn.Module, target: Target) -> int:
    """Bytes of weights that are not the target's memory."""
    held = {value.untyped_storage().data_ptr() for value in target.model.parameters()}
    new = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in model.parameters()}
    return sum(size for place, size in new.items() if place not in held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma"])  # with ends untied and tied
def test_adapters_are_trained_beside_the_targets_own_weights(family: str, dtype: torch.dtype) -> None:
    target = tiny_target(family)
    target.model.to(dtype=dtype)
    before = state(target)
    factors = 0
    for moment in fine_tune(target, declared(0, LoraSettings(rank=2)), Meter()):
        factors = sum(value.numel() * 4 for value in moment.model.parameters() if value.requires_grad)
        assert own_bytes(moment.model, target) == factors
        apart = copy.deepcopy(moment.model)
        assert own_bytes(apart, target) > factors
    assert factors > 0
    same(target, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_cohort_holds_what_moves_and_nothing_else(lora: LoraSettings | None, dtype: torch.dtype) -> None:
    target = tiny_target("llama")
    target.model.to(dtype=dtype)
    before = state(target)
    cohort = Cohort(target, [declared(seed, lora) for seed in range(3)], [Meter() for _ in range(3)])
    bank = cohort._bank.weights
    held = {value.untyped_storage().data_ptr() for value in target.model.parameters()} | {bank.untyped_storage().data_ptr()}
    assert bank.dtype == torch.float32
    assert all(value.untyped_storage().data_ptr() in held for value in cohort._model.parameters())
    if lora is None:
        assert all(value.untyped_storage().data_ptr() in held for value in cohort._window.parameters())
    for looks in cohort.run():
        for look in looks:
            shown = cohort.show(look.run)
            assert any(
                not torch.equal(value, before[name][0].to(value.dtype)) for name, value in shown.named_parameters() if name in before
            ) == (lora is None)
    same(target, before)


def test_a_view_given_other_memory_or_another_type_is_the_targets_no_more() -> None:
    target = tiny_target("llama")
    before = state(target)
    view = target.view_model()
    view.to(dtype=torch.bfloat16)
    view.requires_grad_(True)
    for value in view.parameters():
        value.data.zero_()
    same(target, before)
