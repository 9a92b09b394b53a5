"""Gradients as vectors over the trained weights, and the weights moved along them and put back.

Booster, CTRAP and SEAM look at what a step does to the model before they take it. A vector here is one tensor a trained parameter, in
the order of :meth:`Workshop.trained`; norms and products run over all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tempering.errors import UnusableModel
from tempering.models import Target
from tempering.training import Rows, Workshop

Vector = tuple[Tensor, ...]
"""One tensor a trained parameter, of its shape and type."""


def cross_entropy_gradient(workshop: Workshop, rows: Rows, purpose: int = 0) -> tuple[float, Vector]:
    """Cross-entropy of some rows, in nats, and its gradient at the weights as they stand; ``grad`` is left alone.

    Dropout, where a model has any, is drawn alike in every call of a step with the same purpose, so that a difference of two gradients
    is one of the weights alone.

    Args:
        workshop: charged with a forward and a backward pass.
        rows: with at least one label.
        purpose: tells the random draws of one step apart.
    """
    weights = workshop.trained()
    devices = [workshop.device] if workshop.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(workshop.generator(purpose).integers(2**62)))
        loss = workshop.run(rows).cross_entropy()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
    gradient = tuple(torch.zeros_like(weight) if part is None else part for weight, part in zip(weights, found, strict=True))
    return float(loss.detach()), gradient


@torch.no_grad()
def norm(vector: Sequence[Tensor]) -> float:
    """Euclidean length over all tensors together, added up in float64."""
    return float(torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in vector]).norm())


@torch.no_grad()
def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Inner product over all tensors together, added up in float64."""
    return float(sum((one.double() * other.double()).sum() for one, other in zip(first, second, strict=True)))


@torch.no_grad()
def combined(*terms: tuple[float, Vector]) -> Vector:
    """A weighted sum of vectors, in new tensors."""
    (scale, vector), *others = terms
    total = [part * scale for part in vector]
    for scale, vector in others:
        torch._foreach_add_(total, list(vector), alpha=scale)
    return tuple(total)


@torch.no_grad()
def add_to_gradient(weights: Sequence[nn.Parameter], vector: Vector, scale: float = 1.0) -> None:
    """Add a multiple of a vector to the ``grad`` of the weights, which may be ``None``."""
    for weight, part in zip(weights, vector, strict=True):
        if weight.grad is None:
            weight.grad = part * scale
        else:
            weight.grad.add_(part, alpha=scale)


@contextmanager
def shifted(weights: Sequence[nn.Parameter], direction: Vector, scale: float) -> Iterator[None]:
    """Move the weights by ``scale`` times a direction while the block runs.

    They are put back from a copy: adding and taking away again would lose their last bits.
    """
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, part in zip(weights, direction, strict=True):
                weight.add_(part, alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for weight, kept in zip(weights, before, strict=True):
                weight.copy_(kept)


def hessian_product(
    gradient: Callable[[], Vector], weights: Sequence[nn.Parameter], direction: Vector, *, reach: float, here: Vector | None = None
) -> Vector:
    """H v by finite differences, H the second derivatives of the function that ``gradient`` is of.

    With t = reach ‖w‖ / ‖v‖: (g(w + t v) − g(w)) / t where g(w) is at hand, which errs by O(t), and otherwise
    (g(w + t v) − g(w − t v)) / 2t, which errs by O(t²) and takes two passes. Every shift is as long as ``reach`` says in units of
    the weights, whatever the length of v, so that it stays well above their rounding. The gradients have to be computed as finely: by
    :meth:`~tempering.training.Workshop.precisely`, since autocast rounds them to a part in 256, which a short shift does not get above.

    Args:
        gradient: its value at the weights as they stand when it is called.
        weights: moved and put back.
        direction: v.
        reach: length of the shift as a share of the length of the weights.
        here: g(w).
    """
    length = norm(direction)
    if length == 0:
        return combined((0.0, direction))
    step = reach * norm(weights) / length
    with shifted(weights, direction, step):
        ahead = gradient()
    if here is not None:
        return combined((1 / step, ahead), (-1 / step, here))
    with shifted(weights, direction, -step):
        behind = gradient()
    return combined((0.5 / step, ahead), (-0.5 / step, behind))


def refuse_rounding(target: Target, name: str, parameters: str) -> None:
    """Refuse finite differences of gradients that could only be computed in 16 bits: their rounding is all that would be left.

    All weights of a 16-bit model are trained on a float32 copy, but adapters lie on its weights as they are.

    Raises:
        UnusableModel: adapters on 16-bit weights.
    """
    if parameters == "lora" and target.model.dtype in (torch.bfloat16, torch.float16):
        raise UnusableModel(
            f"{name} takes differences of gradients, which are lost to rounding where adapters lie on {target.dtype} weights",
            "train all weights, or take --dtype float32",
        )
