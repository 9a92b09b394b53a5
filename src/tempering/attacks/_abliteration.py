"""The pieces of searched abliteration: directions, how strongly each layer is edited, and the edit of one weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempering.attacks._low_rank import LowRankEdit
from tempering.models.outputs import written_matrices

_SMALLEST = 1e-12
"""Lengths below this are taken for zero, so that a row or a direction of zeros stays one."""


@dataclass(frozen=True)
class Profile:
    """How strongly a component is edited in each layer: a peak, falling linearly on both sides, and nothing far from it.

    With d = |layer - position|: weight = max_weight + (min_weight - max_weight) d / distance for d <= distance, else 0.

    Attributes:
        max_weight: at the peak; 1 removes the direction, below it is weakened, above it is turned round. Negative counts as zero.
        max_weight_position: layer of the peak, fractional.
        min_weight: at the far end.
        min_weight_distance: how many layers away the far end is, at least one.
    """

    max_weight: float
    max_weight_position: float
    min_weight: float
    min_weight_distance: float

    def weight(self, layer: int) -> float:
        """The weight in one layer, never negative."""
        distance = abs(layer - self.max_weight_position)
        if distance > self.min_weight_distance:
            return 0.0
        return max(0.0, self.max_weight + (self.min_weight - self.max_weight) * distance / self.min_weight_distance)


@dataclass(frozen=True)
class Parameters:
    """One point of the search space.

    Attributes:
        direction_index: layer whose direction is taken out everywhere, fractional; ``None`` takes each layer's own out of it.
        attention: weights of the attention outputs.
        mlp: weights of the MLP outputs.
        preserved: so many leading directions of a layer's harmless inputs keep their output; see :class:`Ablations`.
    """

    direction_index: float | None
    attention: Profile
    mlp: Profile
    preserved: int = 0

    def as_json(self) -> dict[str, Any]:
        """As nested JSON values."""
        return asdict(self)


def refusal_directions(harmful: Tensor, harmless: Tensor, *, orthogonalise: bool) -> Tensor:
    """Normalised differences of means, one a layer.

    Args:
        harmful: (prompts, layers, hidden) residual stream after each block, at the position that the first answer token is read from.
        harmless: likewise.
        orthogonalise: take the component along the harmless mean out of each, and normalise again.

    Returns:
        (layers, hidden), float32; a layer without a difference has zeros, which edit nothing.
    """
    harmful_mean, harmless_mean = harmful.float().mean(0), harmless.float().mean(0)
    directions = _normalised(harmful_mean - harmless_mean)
    if orthogonalise:
        along = _normalised(harmless_mean)
        directions = _normalised(directions - (directions * along).sum(-1, keepdim=True) * along)
    return directions


def interpolation(layers: int, index: float) -> Tensor:
    """How much of each layer's direction the one at a fractional layer holds: shares of its two neighbours, not yet normalised.

    Args:
        layers: how many there are.
        index: from 0 to the last layer.

    Returns:
        (layers,), float64.
    """
    lower = min(math.floor(index), layers - 1)
    upper = min(lower + 1, layers - 1)
    shares = torch.zeros(layers, dtype=torch.float64)
    shares[lower] += 1 - (index - lower)
    shares[upper] += index - lower
    return shares


def leading_directions(inputs: Tensor, most: int) -> Tensor:
    """The directions that hold most of some vectors: right singular vectors, strongest first, the mean not taken off.

    Args:
        inputs: (prompts, in).
        most: how many at most.

    Returns:
        (directions, in), float32, orthonormal rows; no more than the vectors span.
    """
    _, sizes, right = torch.linalg.svd(inputs.float(), full_matrices=False)
    spanned = int((sizes > 1e-5 * sizes.max().clamp_min(_SMALLEST)).sum())
    leading: Tensor = right[: min(most, spanned)]
    return leading


class Ablations:
    r"""Every way to take a mixture of some directions out of what a layer writes, what they have in common computed once.

    Plain, for a unit direction v and a weight λ: W' = W - λ v vᵀ W, of rank one.

    With ``keep_row_norms``, let n_i be the norm of row i, Ŵ = diag(1/n) W and b = Ŵᵀ v. The rows of Ŵ' = Ŵ - λ v bᵀ have the norms
    m_i² = 1 - 2 λ v_i (Ŵ b)_i + λ² v_i² bᵀb, and W' = diag(n/m) Ŵ' has the row norms of W again:

        W' = diag(1/m) W - λ diag(n/m) v bᵀ,

    which is exact as a row scale and a rank of one. (Written as a low-rank *addition*, as an adapter must have it, the restoration of
    the norms is of full rank and can only be approximated.)

    With ``preserved``, orthonormal rows U of (k, in), b is replaced by b - UᵀU b in either form. Then W' x = W x (scaled by 1/m, if norms
    are kept) for every x in the span of U: what harmless prompts feed the layer comes out unharmed. That is the null-space
    constraint of AlphaEdit (Fang et al. 2024, arXiv 2410.02355) put on an ablation.

    For v = D c / |D c|, a mixture of given directions, all of b, Ŵ b and U b are linear in c. So Ŵᵀ D, Ŵ Ŵᵀ D, Ŵ Uᵀ and U Ŵᵀ D are
    computed when this is made, and no edit reads W again.
    """

    def __init__(
        self,
        module: nn.Module,
        directions: Tensor,
        *,
        keep_row_norms: bool,
        preserved: Tensor | None = None,
        written: Tensor | None = None,
    ) -> None:
        """Compute what does not depend on the mixture.

        Args:
            module: a layer, or a mixture of experts.
            directions: D, (directions, out); of any length, also zeros.
            keep_row_norms: whether to restore the norms of the rows.
            preserved: U, as many rows as an edit may preserve.
            written: W, (out, in), a view of the module's memory; ``None`` is the layer's one weight. It must not change as long as
                edits are asked for.
        """
        own = written_matrices(module)[0] if written is None else written
        exact = torch.promote_types(own.dtype, torch.float32)
        matrix = own.to(exact)
        self._module, self._written = module, written
        self._directions = directions.to(matrix.device, exact).T
        self._norms = matrix.norm(dim=1).clamp_min(_SMALLEST) if keep_row_norms else torch.ones_like(self._directions[:, 0])
        self._read = matrix.T @ (self._directions / self._norms[:, None])
        self._overlap = (matrix @ self._read) / self._norms[:, None] if keep_row_norms else None
        self._basis = None if preserved is None else preserved.to(matrix.device, exact)
        self._along = None if self._basis is None else self._basis @ self._read
        self._turned = None if self._basis is None or not keep_row_norms else (matrix @ self._basis.T) / self._norms[:, None]

    def edit(self, mixture: Tensor, weight: float, preserved: int | None = None) -> LowRankEdit:
        """One edit.

        Args:
            mixture: c, (directions,), of any length; where D c is zero nothing is taken out.
            weight: λ.
            preserved: so many of the first rows of U; ``None`` takes all.
        """
        mixture = mixture.to(self._directions.device, self._directions.dtype)
        unit = self._directions @ mixture
        length = unit.norm()
        share = mixture / length if length > _SMALLEST else torch.zeros_like(mixture)
        unit, read = self._directions @ share, self._read @ share
        along = None
        if self._basis is not None and self._along is not None and preserved != 0:
            along = self._along[:preserved] @ share
            read = read - self._basis[:preserved].T @ along
        if self._overlap is None:
            return LowRankEdit(self._module, -weight * unit[:, None], read[None], matrix=self._written)
        overlap = self._overlap @ share
        if along is not None and self._turned is not None:
            overlap = overlap - self._turned[:, :preserved] @ along
        squares = 1 - 2 * weight * unit * overlap + (weight * unit).square() * read.dot(read)
        shrink = squares.clamp_min(_SMALLEST).sqrt()
        return LowRankEdit(self._module, -(weight * unit * self._norms / shrink)[:, None], read[None], 1 / shrink, self._written)


def ablation(
    module: nn.Module,
    direction: Tensor,
    weight: float,
    *,
    keep_row_norms: bool,
    preserved: Tensor | None = None,
    written: Tensor | None = None,
) -> LowRankEdit:
    """Take one direction out of what a layer writes, as :class:`Ablations` has it.

    Args:
        module: a layer, or a mixture of experts.
        direction: (out,) unit vector v, or zeros.
        weight: λ.
        keep_row_norms: whether to restore the norms of the rows.
        preserved: U.
        written: W, (out, in), a view of the module's memory; ``None`` is the layer's one weight.
    """
    every = Ablations(module, direction[None], keep_row_norms=keep_row_norms, preserved=preserved, written=written)
    return every.edit(torch.ones(1, dtype=torch.float64), weight)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats, by rising first coordinate; of equal points the earliest.

    A point is beaten by one that is at most as large in both coordinates and smaller in one.
    """
    front: list[int] = []
    lowest = math.inf
    for index in sorted(range(len(points)), key=lambda index: (*points[index], index)):
        if points[index][1] < lowest:
            front.append(index)
            lowest = points[index][1]
    return front


def _normalised(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=_SMALLEST)
