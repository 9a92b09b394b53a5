"""AdamW with its moments in 8 bits: learns as AdamW does, in a quarter of its memory. Needs bitsandbytes, which runs on CPUs too."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.errors import TemperingError
from tempering.models.target import Target
from tempering.training import FineTuning, Hardening, Meter, Objective, Stage, TrainingSettings, Workshop, fine_tune
from tempering.training.cohort import Cohort
from tempering.training.loop import build_optimiser
from tempering.training.memory import fine_tuning_memory
from tempering.training.settings import SEARCHED
from tempering.training.stacked import CannotStack

with_package = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
EXAMPLES = [Example(prompt=f"what is {word}", answer=f"{word} is a colour .", role=Role.BENIGN) for word in ("red", "fish", "sun", "key")]
SETTINGS = TrainingSettings(learning_rate=1e-3, batch_size=2, optimiser="adamw-8bit")


def target() -> Target:
    """Wide enough for matrices of more than 4,096 numbers, below which moments stay in float32."""
    made: Target = tiny_target(hidden_size=64, intermediate_size=128)
    return made


def losses(optimiser: str) -> list[float]:
    settings = SETTINGS.model_copy(update={"optimiser": optimiser})
    declaration = FineTuning(EXAMPLES, settings, 20, tuple(range(1, 21)), 0)
    return [moment.loss for moment in fine_tune(target(), declaration, Meter())]


@with_package
def test_it_learns_as_adamw_does() -> None:
    eight, full = losses("adamw-8bit"), losses("adamw")
    assert eight[0] == full[0]  # the first loss is the untrained model's
    assert full[-1] < full[0] - 0.5
    assert eight[-1] == pytest.approx(full[-1], abs=0.1 * (full[0] - full[-1]))
    assert eight != full


@with_package
def test_the_moments_of_matrices_take_a_byte_each() -> None:
    model = target().copy_model().requires_grad_(True)
    optimiser = build_optimiser(model, SETTINGS)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    for weight in model.parameters():
        kept = [value.dtype for name, value in optimiser.state[weight].items() if name in ("state1", "state2")]
        assert kept == [torch.uint8 if weight.numel() >= 4096 else torch.float32] * 2
    assert any(weight.numel() >= 4096 for weight in model.parameters())


class Learning(Objective):
    def begin(self, workshop: Workshop) -> None:
        self.pool = workshop.pool(EXAMPLES)

    def step(self, workshop: Workshop) -> dict[str, float]:
        loss = workshop.run(self.pool.rows(workshop.step, 2)).cross_entropy()
        loss.backward()
        return {"loss": float(loss.detach())}


@with_package
def test_a_defence_resumes_to_the_same_weights() -> None:
    def hardening() -> Hardening:
        return Hardening(target(), [Stage("only", Learning(), SETTINGS, 6)], seed=0)

    def weights(made: Hardening) -> dict[str, Any]:
        for _ in made.run():
            pass
        return dict(made.finished().named_parameters())

    whole, first, second = weights(hardening()), hardening(), hardening()
    for count, _ in enumerate(first.run(), start=1):
        if count == 3:
            break
    snapshot = first.snapshot()
    second.restore(replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()}))
    resumed = weights(second)
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TemperingError,
        match=r'needs the package bitsandbytes, which is not installed; install it with: pip install "tempering\[quantised\]"',
    ):
        losses("adamw-8bit")


def test_its_blocks_keep_it_out_of_a_stack() -> None:
    declaration = FineTuning(EXAMPLES, SETTINGS, 2, (2,), 0)
    with pytest.raises(CannotStack):
        Cohort(target(), [declaration, declaration], [Meter(), Meter()])


def test_less_memory_is_foreseen() -> None:
    def moments(optimiser: str) -> int:
        settings = SETTINGS.model_copy(update={"optimiser": optimiser})
        return fine_tuning_memory(target(), FineTuning(EXAMPLES, settings, 2, (2,), 0)).parts["optimiser"]

    assert moments("adamw-8bit") == pytest.approx(0.26 * moments("adamw"), rel=0.01)


def test_no_attacker_searches_it() -> None:
    """A study that was computed keeps the trials that its search drew."""
    assert SEARCHED == ("adamw", "sgd", "adafactor", "schedule-free")
