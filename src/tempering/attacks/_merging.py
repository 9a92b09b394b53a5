"""Weights between, beyond and out of two models: what a merge writes, and the working copy it is written to."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tempering.attacks._orthogonalisation import untie
from tempering.models import Target
from tempering.models.counterparts import Component, Counterpart, counterparts
from tempering.training import Meter

_CHUNK = 1 << 22
"""Weights of which float64 copies are made at once."""
_OVERSAMPLING, _ITERATIONS = 8, 4
"""Of the randomised decomposition (Halko et al. 2011, arXiv 0909.4061)."""
_FULL_SIDE = 1024
"""Matrices whose smaller side is up to this are decomposed in full."""

Kind = Literal["attention", "mlp", "ends", "rank", "trim", "drop"]
ENDS = frozenset({Component.EMBEDDING, Component.HEAD, Component.NORMS, Component.OTHER})
"""What is left of a model without its attention and MLPs."""


def interpolated(target: Tensor, base: Tensor, t: float) -> Tensor:
    """θ + t (θ_base - θ), reckoned from the nearer end so that t = 0 is the target and t = 1 the base, bit for bit.

    The arithmetic is float64, the result rounded once to the target's type. Whole numbers cannot be mixed: they are the nearer end's.

    Args:
        target: θ.
        base: θ_base, of the same shape; any type and device.
        t: 0 is the target, 1 the base, beyond 1 further away from the target.
    """
    if t in (0, 1) or not target.is_floating_point():
        return (target if t < 0.5 else base).detach().to(target.device, target.dtype)
    result = torch.empty_like(target, memory_format=torch.contiguous_format)
    ours, theirs, flat = target.reshape(-1), base.reshape(-1), result.view(-1)
    for start in range(0, ours.numel(), _CHUNK):
        window = slice(start, start + _CHUNK)
        first, second = ours[window].double(), theirs[window].to(target.device).double()
        flat[window] = first + t * (second - first) if t < 0.5 else second - (1 - t) * (second - first)
    return result


class Candidate(ABC):
    """One way to merge a model with its base."""

    method: str

    @abstractmethod
    def weight(self, pair: Counterpart) -> Tensor | None:
        """The merged weight, in the target's type; ``None`` leaves the target's."""

    @abstractmethod
    def flops(self, pair: Counterpart) -> float:
        """Operations that :meth:`weight` takes, the finding of singular directions left out."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Its settings, as JSON values."""


@dataclass(frozen=True)
class Interpolation(Candidate):
    """θ + t (θ_base - θ) in every weight."""

    t: float
    method = "interpolate"

    def weight(self, pair: Counterpart) -> Tensor:
        """The interpolated weight."""
        return interpolated(pair.target, pair.base, self.t)

    def flops(self, pair: Counterpart) -> float:
        """A difference, a product and a sum each; copying the base is none."""
        return 0.0 if self.t in (0, 1) else 3.0 * pair.target.numel()

    def as_json(self) -> dict[str, Any]:
        """Its t."""
        return {"t": self.t}


@dataclass(frozen=True)
class Transplant(Candidate):
    """The base's weights in a window of blocks, in the ends, or in both.

    Attributes:
        blocks: indices of the window; may be empty.
        ends: whether also what stands outside all blocks: embedding, final norm and head.
    """

    blocks: range
    ends: bool = False
    method = "transplant"

    def weight(self, pair: Counterpart) -> Tensor | None:
        """The base's weight inside the window."""
        inside = self.ends if pair.layer is None else pair.layer in self.blocks
        return interpolated(pair.target, pair.base, 1) if inside and pair.stored else None

    def flops(self, pair: Counterpart) -> float:
        """None: weights are only copied."""
        return 0.0

    def as_json(self) -> dict[str, Any]:
        """Its blocks, first and last, counted from zero."""
        return {"blocks": [self.blocks[0], self.blocks[-1]] if self.blocks else [], "ends": self.ends}


class Factors:
    """The leading singular directions of Δ = θ - θ_base, found once a weight and charged then.

    Attributes:
        most: how many directions of each matrix.
    """

    def __init__(self, most: int, meter: Meter, seed: int) -> None:
        """Find nothing yet."""
        self.most = most
        self._meter = meter
        self._seed = seed
        self._found: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, pair: Counterpart, rank: int) -> tuple[Tensor, Tensor]:
        """Left (m, r) times sizes, and right (r, n), r at most ``rank``: their product is the best approximation of Δ of that rank.

        Of the experts of a mixture each has its own: (experts, m, r) and (experts, r, n).
        """
        if pair.name not in self._found:
            self._found[pair.name] = self._decompose(pair)
            self._meter.compute(tokens=0, flops=decomposition_flops(pair, self.most))
        left, right = self._found[pair.name]
        return left[..., :rank], right[..., :rank, :]

    def _decompose(self, pair: Counterpart) -> tuple[Tensor, Tensor]:
        exact = torch.float64 if min(pair.target.shape[-2:]) <= _FULL_SIDE else torch.float32
        delta = pair.target.to(exact) - pair.base.to(pair.target.device, exact)
        if not bool(delta.isfinite().all()):  # the decomposition would raise; this way the candidate is seen to be useless
            return delta.new_full((*delta.shape[:-1], 1), torch.nan), delta.new_zeros(*delta.shape[:-2], 1, delta.shape[-1])
        if exact is torch.float64:
            left, sizes, right = torch.linalg.svd(delta, full_matrices=False)
        else:
            with torch.random.fork_rng(devices=[delta.device] if delta.is_cuda else []):
                torch.manual_seed(self._seed)
                left, sizes, transposed = torch.svd_lowrank(delta, q=min(self.most + _OVERSAMPLING, *delta.shape[-2:]), niter=_ITERATIONS)
            right = transposed.mT
        return (left[..., : self.most] * sizes[..., None, : self.most]).clone(), right[..., : self.most, :].clone()


def decomposition_flops(pair: Counterpart, most: int) -> float:
    """Operations of finding ``most`` singular directions of one matrix, or of every expert's in a mixture.

    In full by Golub and Reinsch, 14 m n² + 8 n³ for n <= m (Golub and Van Loan, Matrix Computations, section 8.6), else 2 q m n for each of
    the products with q vectors that the randomised decomposition makes.
    """
    short, long = sorted(pair.target.shape[-2:])
    matrices = pair.target.numel() // (short * long)
    if short <= _FULL_SIDE:
        return matrices * (14.0 * long * short**2 + 8.0 * short**3)
    return matrices * 2.0 * (2 + 2 * _ITERATIONS) * (most + _OVERSAMPLING) * long * short


@dataclass(frozen=True)
class Subtraction(Candidate):
    """θ - λ P(Δ), Δ = θ - θ_base and P a part of it.

    Attributes:
        kind: ``attention``, ``mlp`` and ``ends`` take what belongs to them; ``rank`` the leading singular directions, matrix by matrix;
            ``trim`` the largest entries, weight by weight; ``drop`` random entries, those that stay scaled up to make good.
        amount: how many directions; which share of the entries is kept. Of no meaning for the other kinds.
        scale: λ.
        factors: singular directions, for ``rank``.
        seed: which entries ``drop`` keeps.
    """

    kind: Kind
    amount: float
    scale: float
    factors: Factors | None = None
    seed: int = 0
    method = "subtract"

    def weight(self, pair: Counterpart) -> Tensor | None:
        """The target's weight less its part of Δ."""
        if not self._concerns(pair):
            return None
        if self.kind in ("attention", "mlp", "ends"):
            return interpolated(pair.target, pair.base, self.scale)
        ours = pair.target.double()
        if self.kind == "rank":
            assert self.factors is not None
            left, right = self.factors.of(pair, int(self.amount))
            part = (left @ right).double()
        else:
            part = ours - pair.base.to(ours.device).double()
            part = _largest(part, self.amount) if self.kind == "trim" else self._dropped(part, pair.name)
        return (ours - self.scale * part).to(pair.target.dtype)

    def flops(self, pair: Counterpart) -> float:
        """Three operations a weight, and the product of the factors; comparing and drawing count one."""
        if not self._concerns(pair):
            return 0.0
        rank = min(self.amount, *pair.target.shape[-2:]) if self.kind == "rank" else 0
        return (2.0 * rank + (4.0 if self.kind in ("trim", "drop") else 3.0)) * pair.target.numel()

    def as_json(self) -> dict[str, Any]:
        """Its settings."""
        amount = {"rank": "rank", "trim": "density", "drop": "density"}.get(self.kind)
        return {"part": self.kind, **({amount: self.amount} if amount else {}), "scale": self.scale}

    def _concerns(self, pair: Counterpart) -> bool:
        if not pair.stored or not pair.target.is_floating_point():
            return False
        if self.kind == "rank":
            return pair.target.ndim in (2, 3)
        wanted = {"attention": {Component.ATTENTION}, "mlp": {Component.MLP}, "ends": ENDS}.get(self.kind)
        return wanted is None or pair.component in wanted

    def _dropped(self, part: Tensor, name: str) -> Tensor:
        """DARE: every entry kept with probability p, divided by p. Drawn on the CPU, so that devices agree."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        kept = torch.rand(part.shape, generator=generator) < self.amount
        return part * kept.to(part.device) / self.amount


def _largest(part: Tensor, density: float) -> Tensor:
    """The entries that are largest in magnitude, a share of all; zeros elsewhere."""
    kept = max(1, math.ceil(density * part.numel()))
    flat = part.reshape(-1)
    chosen = torch.zeros_like(flat)
    indices = flat.abs().topk(kept).indices
    chosen[indices] = flat[indices]
    return chosen.view(part.shape)


class Workbench:
    """The attacker's copy of the target, to which candidates are written one after the other.

    Attributes:
        model: the copy.
        pairs: its weights beside the base's.
        notes: what the two models do not have in common.
    """

    def __init__(self, target: Target, base: Target, meter: Meter) -> None:
        """Copy the target.

        Raises:
            UnusableModel: the base is of another architecture.
        """
        matched = counterparts(target, base)
        self.pairs: Sequence[Counterpart] = matched.weights
        self.notes = matched.notes
        self.model = target.copy_model()
        if matched.unties:
            untie(self.model)
        self._meter = meter
        self._own = {
            **dict(self.model.named_parameters(remove_duplicate=False)),
            **dict(self.model.named_buffers(remove_duplicate=False)),
        }
        self._written: set[str] = set()

    @property
    def is_identical(self) -> bool:
        """Whether no shared weight differs from the base's."""
        return all(bool((pair.target == pair.base.to(pair.target.device, pair.target.dtype)).all()) for pair in self.pairs)

    @torch.no_grad()
    def write(self, candidate: Candidate) -> None:
        """Make the copy what the candidate says, whatever it was before, and charge it."""
        for pair in self.pairs:
            weight = candidate.weight(pair)
            if weight is not None:
                self._meter.compute(tokens=0, flops=candidate.flops(pair))
                self._written.add(pair.name)
            elif pair.name in self._written:
                weight = pair.target
                self._written.remove(pair.name)
            if weight is not None:
                own = self._own[pair.name]
                (own if own.shape == weight.shape else own[: len(weight)]).copy_(weight)
