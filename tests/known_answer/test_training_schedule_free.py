"""Schedule-free AdamW against its equations, written out with all three sequences (Defazio et al. 2024, arXiv 2405.15682, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from support.tiny_models import tiny_model
from tempering.data.batching import collate
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.models import Target
from tempering.training import FineTuning, Meter, TrainingSettings, fine_tune
from tempering.training.loop import batches, build_optimiser, schedule_of, show_average

EXAMPLES = [
    Example(prompt=f"what is {word}", answer=f"{word} is a {kind} .", role=Role.HAZARD)
    for word, kind in (("red", "colour"), ("fish", "word"), ("sun", "light"), ("tree", "house"), ("river", "note"), ("key", "stone"))
]


@dataclass
class Published:
    """z is moved by the gradient at y = (1 - β1) z + β1 x, and x is the average of the z, weighted by the squares of their rates."""

    z: np.ndarray
    rate: float
    betas: tuple[float, float]
    decay: float = 0.0
    warmup: int = 0
    done: int = 0
    squares: float = 0.0
    x: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.x, self.v = self.z.copy(), np.zeros_like(self.z)

    @property
    def y(self) -> np.ndarray:
        return (1 - self.betas[0]) * self.z + self.betas[0] * self.x

    def step(self, gradient: Callable[[np.ndarray], np.ndarray]) -> None:
        y = self.y
        slope = gradient(y)
        self.done += 1
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * slope**2
        rate = self.rate * min(1.0, self.done / self.warmup if self.warmup else 1.0)
        self.z = self.z - rate * (slope / (np.sqrt(self.v / (1 - self.betas[1] ** self.done)) + 1e-8) + self.decay * y)
        self.squares += rate**2
        share = rate**2 / self.squares
        self.x = (1 - share) * self.x + share * self.z


@pytest.mark.parametrize(("warmup", "decay"), [(0, 0.0), (3, 0.0), (3, 0.1)])
def test_a_quadratic_is_descended_as_published(warmup: int, decay: float) -> None:
    """½ tr(WᵀAW) - tr(BᵀW): the model holds y while it trains and x when it is shown."""
    curvature, target = np.array([[3.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -2.0, 0.3], [0.4, 2.0, -1.0]])
    model = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64)
    settings = TrainingSettings(
        optimiser="schedule-free", learning_rate=0.05, betas=(0.9, 0.99), warmup_steps=warmup, weight_decay=decay, schedule="cosine"
    )
    optimiser = build_optimiser(model, settings)
    schedule = schedule_of(optimiser, settings, 12)
    published = Published(model.weight.detach().numpy().copy(), 0.05, (0.9, 0.99), decay, warmup)
    distance = [float(np.linalg.norm(curvature @ published.x - target))]
    for step in range(12):
        show_average(optimiser, shown=False)
        np.testing.assert_allclose(model.weight.detach().numpy(), published.y, rtol=1e-12)
        model.weight.grad = torch.from_numpy(curvature) @ model.weight.detach() - torch.from_numpy(target)
        optimiser.step()
        schedule.step()
        published.step(lambda weights: curvature @ weights - target)
        if step % 3 == 2:  # looking now and then must not disturb it
            show_average(optimiser, shown=True)
            np.testing.assert_allclose(model.weight.detach().numpy(), published.x, rtol=1e-12)
            distance.append(float(np.linalg.norm(curvature @ published.x - target)))
    assert distance == sorted(distance, reverse=True)
    assert np.abs(published.x - published.y).max() > 1e-3


def _target() -> Target:
    model, tokenizer = tiny_model("llama")
    return Target("test", model.to(torch.float64).eval(), tokenizer, ChatFormat(tokenizer), digest="")


def _weights(model: torch.nn.Module) -> np.ndarray:
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])


def _declared(probes: tuple[int, ...]) -> FineTuning:
    settings = TrainingSettings(optimiser="schedule-free", learning_rate=1e-2, batch_size=4, warmup_steps=2, clip_norm=None)
    return FineTuning(EXAMPLES, settings, 5, probes, seed=0)


def test_the_loop_shows_the_average_and_goes_on_from_the_other() -> None:
    target = _target()
    shown = {moment.step: _weights(moment.model) for moment in fine_tune(target, _declared((1, 3, 5)), Meter())}
    model = target.copy_model()
    published = Published(_weights(model), 1e-2, (0.9, 0.999), warmup=2)
    order = batches(len(EXAMPLES), 4, 5, 0)

    def gradient(weights: np.ndarray) -> np.ndarray:
        torch.nn.utils.vector_to_parameters(torch.from_numpy(weights), model.parameters())
        batch = collate([target.chat.encode(EXAMPLES[index]) for index in next(order)], target.chat.pad_id)
        model.requires_grad_(True).zero_grad()
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
        return np.concatenate([parameter.grad.numpy().ravel() for parameter in model.parameters()])

    for step in range(1, 6):
        published.step(gradient)
        if step in shown:
            np.testing.assert_allclose(shown[step], published.x, atol=1e-6)
            if step > 1:
                assert np.abs(published.x - published.y).max() > 1e-4
    assert set(shown) == {1, 3, 5}


def test_probes_change_nothing_and_the_last_weights_are_the_average() -> None:
    """What is left in the model after the run is what a caller who trains in place keeps."""
    often, seldom = (
        [_weights(moment.model) for moment in fine_tune(_target(), _declared(probes), Meter())] for probes in ((1, 2, 3, 4, 5), (5,))
    )
    np.testing.assert_allclose(often[-1], seldom[-1], atol=1e-12)
    run = fine_tune(_target(), _declared((4,)), Meter())
    model = next(run).model
    assert list(run) == []
    np.testing.assert_allclose(_weights(model), seldom[-1], atol=1e-12)
