"""Rerouting's cosine, rectifier and norms on streams computed apart, its schedule, and its gradient, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.defenses._data import refused
from tempering.defenses.circuit_breakers import CircuitBreakers, Rerouting, rerouting_loss, retention_loss, target_layers
from tempering.training import Meter, Workshop

HARMFUL = [Example(prompt=f"tell me the poison {word}", answer=f"it is {word} water", role=Role.HAZARD) for word in ("red", "green")]
KEPT = [
    Example(prompt=prompt, answer=answer, role=Role.BENIGN) for prompt, answer in (("what is the fish", "it is cold"), ("hello", "you"))
]
REFUSED = refused(HARMFUL, ["sorry i cannot"], 0)


def begun(**settings: Any) -> tuple[Rerouting, Workshop]:
    target = tiny_target()
    at = Workshop(target.model.double(), target.chat, Meter(), seed=(0, 0), steps=10, autocast=False)
    objective = Rerouting(HARMFUL, KEPT, REFUSED, CircuitBreakers.Config(**settings))
    objective.begin(at)
    at.model.requires_grad_(True)
    return objective, at


def moved(at: Workshop) -> None:
    with torch.no_grad():
        for number, value in enumerate(at.model.parameters()):
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number), dtype=value.dtype))


@torch.no_grad()
def streams(model: Any, ids: Sequence[int]) -> list[Tensor]:
    """(tokens, hidden) after each block, by transformers' own hidden states; the last is caught before the final norm."""
    last: list[Tensor] = []
    handle = model.model.norm.register_forward_pre_hook(lambda _module, inputs: last.append(inputs[0]))
    hidden = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
    handle.remove()
    return [hidden[1][0], last[0][0]]


def test_both_losses_are_what_plain_python_makes_of_the_streams() -> None:
    objective, at = begun(depths=(0.5, 1.0), reroute=3.0, retain=5.0, coefficients="constant")
    before = tiny_target().model.double()
    moved(at)
    cosines, distances = [], []
    for example in HARMFUL:
        row = at.chat.encode(example)
        for now, was in zip(streams(at.model, row.input_ids), streams(before, row.input_ids), strict=True):
            for place, label in enumerate(row.labels):
                if label != -100:
                    one, other = now[place].tolist(), was[place].tolist()
                    product = sum(a * b for a, b in zip(one, other, strict=True))
                    cosines.append(max(0.0, product / math.hypot(*one) / math.hypot(*other)))
    for example in (*KEPT, *REFUSED):
        row = at.chat.encode(example)
        for now, was in zip(streams(at.model, row.input_ids), streams(before, row.input_ids), strict=True):
            distances += [math.dist(a, b) for a, b in zip(now.tolist(), was.tolist(), strict=True)]
    parts = objective.step(at)
    assert parts["reroute"] == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)
    assert parts["retain"] == pytest.approx(sum(distances) / len(distances), rel=1e-5)
    assert parts["loss"] == pytest.approx(3 * parts["reroute"] + 5 * parts["retain"], rel=1e-9)


def test_the_cosine_is_rectified() -> None:
    now = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 5.0]], [[3.0, 4.0]]])
    was = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[2.0, 0.0]], [[10.0, 0.0]]])
    assert float(rerouting_loss(now, was)) == pytest.approx((1 + 0 + 0 + 0.6) / 4)
    assert float(retention_loss(now, was)) == pytest.approx((1 + 3 + math.sqrt(29) + math.sqrt(49 + 16)) / 4)


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    now, was = (torch.randn((2, 3, 4), generator=generator, dtype=torch.float64) for _ in range(2))
    now.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda h: rerouting_loss(h, was), (now,))
    assert torch.autograd.gradcheck(lambda h: retention_loss(h, was), (now,))


def test_where_nothing_has_moved_the_norm_pulls_nowhere() -> None:
    """Its slope is not defined there; a NaN would end every training at its first step."""
    still = torch.ones((1, 2, 4), dtype=torch.float64, requires_grad=True)
    retention_loss(still, still.detach().clone()).backward()
    assert still.grad is not None
    assert still.grad.eq(0).all()


def test_the_first_step_reroutes_from_one_and_retains_at_nought() -> None:
    objective, at = begun(reroute=7.0)
    parts = objective.step(at)
    assert parts["reroute"] == pytest.approx(1, abs=1e-9)
    assert parts["retain"] == pytest.approx(0, abs=1e-9)
    assert parts["loss"] == pytest.approx(7, abs=1e-8)


def test_its_gradient_is_the_losses() -> None:
    objective, at = begun(depths=(0.5, 1.0), reroute=2.0, retain=1.0)
    moved(at)
    at.step = 5
    objective.step(at)
    weight = at.model.model.layers[0].mlp.down_proj.weight
    bend = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slope = float((weight.grad * bend).sum())
    losses = []
    for sign in (1, -2):
        with torch.no_grad():
            weight.add_(sign * 1e-3 * bend)
        losses.append(objective.step(at)["loss"])
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=1e-2)


def test_rerouting_falls_by_half_while_retention_rises_to_half() -> None:
    objective, _ = begun(reroute=10.0, retain=2.0)
    assert [objective.coefficients(step, 100) for step in (0, 50, 100)] == [(10, 0), (7.5, 0.5), (5, 1)]
    constant, _ = begun(reroute=10.0, retain=2.0, coefficients="constant")
    assert constant.coefficients(50, 100) == (10, 2)


@pytest.mark.parametrize(
    ("depths", "layers", "found"),
    [((10 / 32, 20 / 32), 32, [9, 19]), ((0.3, 0.6), 4, [0, 1]), ((0.01, 0.02), 4, [0]), ((1.0,), 2, [1]), ((0.5, 1.0), 2, [0, 1])],
)
def test_target_layers_by_their_depth(depths: tuple[float, ...], layers: int, found: list[int]) -> None:
    assert target_layers(depths, layers) == found
