"""The defenders' loop: stages follow each other, and a training that was interrupted ends with the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.models.target import Target
from tempering.training import Hardening, LoraSettings, NonFiniteLoss, Objective, Stage, TrainingSettings, Workshop
from tempering.training.streams import Places

SETTINGS = TrainingSettings(learning_rate=1e-3, batch_size=2, schedule="linear", warmup_steps=2)
EXAMPLES = [Example(prompt=f"question {number}", answer=f"answer {number}", role=Role.BENIGN) for number in range(5)]


class Learning(Objective):
    """Cross-entropy on the examples, with noise of its own and a count, so that a resume has something to get wrong."""

    def __init__(self, only: str = "") -> None:
        self.only = only
        self.count = 0

    def begin(self, workshop: Workshop) -> None:
        self.pool = workshop.pool(EXAMPLES)
        with torch.no_grad():
            next(workshop.model.parameters()).mul_(0.5)

    def step(self, workshop: Workshop) -> dict[str, float]:
        self.count += 1
        loss = workshop.run(self.pool.rows(workshop.step, 2)).cross_entropy() * (1 + workshop.generator().random()) * self.count
        loss = loss * (1 + torch.rand(()))
        loss.backward()
        return {"loss": float(loss.detach())}

    def trains(self, name: str, places: Places) -> bool:
        return self.only in name

    def state(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self.count)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.count = int(state["count"])


def stages(lora: bool) -> list[Stage]:
    adapters = LoraSettings(rank=2) if lora else None
    return [Stage("first", Learning(), SETTINGS, 4, adapters), Stage("second", Learning(), SETTINGS, 3, adapters)]


def trained(target: Target, lora: bool, seed: int = 0) -> tuple[Hardening, dict[str, Tensor]]:
    hardening = Hardening(target, stages(lora), seed=seed)
    for _ in hardening.run():
        pass
    return hardening, dict(hardening.finished().named_parameters())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 6])
def test_resuming_ends_with_the_same_weights(lora: bool, stop_after: int) -> None:
    target = tiny_target()
    whole, weights = trained(target, lora)
    first = Hardening(target, stages(lora), seed=0)
    for count, _ in enumerate(first.run(), start=1):
        if count == stop_after:
            break
    snapshot = first.snapshot()
    second = Hardening(target, stages(lora), seed=0)
    second.restore(replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()}))
    for _ in second.run():
        pass
    assert second.meter.spend() == whole.meter.spend()
    for name, value in second.finished().named_parameters():
        assert torch.equal(value, weights[name]), name


def test_the_target_is_left_as_it_is_and_the_seed_decides() -> None:
    target = tiny_target()
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    _, weights = trained(target, lora=False)
    _, again = trained(target, lora=False)
    _, other = trained(target, lora=False, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in target.model.state_dict().items())
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert any(not torch.equal(weights[name], other[name]) for name in weights)


def test_only_what_the_objective_names_moves() -> None:
    target = tiny_target()

    class Still(Learning):
        def begin(self, workshop: Workshop) -> None:
            self.pool = workshop.pool(EXAMPLES)

    for lora in (None, LoraSettings(rank=2)):
        hardening = Hardening(target, [Stage("only", Still("mlp.down_proj"), SETTINGS, 2, lora)], seed=0)
        for _ in hardening.run():
            pass
        before = dict(target.model.named_parameters())
        moved = {name for name, value in hardening.finished().named_parameters() if not torch.equal(value, before[name])}
        assert moved
        assert all("mlp.down_proj" in name for name in moved)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    class Broken(Learning):
        def step(self, workshop: Workshop) -> dict[str, float]:
            return {"loss": float("nan")}

    with pytest.raises(NonFiniteLoss, match="step 1 of 'only'"):
        next(Hardening(tiny_target(), [Stage("only", Broken(), SETTINGS, 2)], seed=0).run())


def test_a_training_with_other_stages_is_not_taken_up() -> None:
    first = Hardening(tiny_target(), stages(False), seed=0)
    next(first.run())
    other = Hardening(tiny_target(), stages(False)[:1], seed=0)
    with pytest.raises(ValueError, match="other stages"):
        other.restore(first.snapshot())
