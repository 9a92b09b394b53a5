"""Taking several directions at once out of the residual stream, by hooks that gradients pass through or out of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tempering.attacks._orthogonalisation import untie
from tempering.attacks._residuals import Writer, changed_input, changed_output, exact, writers
from tempering.models.structure import Structure, norm_scale


@contextmanager
def subspaces_ablated(structure: Structure, bases: Tensor) -> Iterator[None]:
    """Ablation of several directions: x <- x - Bᵀ B x, each row of a batch with its own B.

    It acts at every block input, attention output and MLP output, at all positions.

    Args:
        structure: the model's parts.
        bases: (rows or 1, k, hidden), float32; the rows of each B orthonormal or zero. Gradients reach it.
    """
    with ExitStack() as hooks:
        for block in structure.blocks:
            hooks.enter_context(changed_input(block, partial(without, bases=bases)))
        for writer in writers(structure):
            hooks.enter_context(changed_output(writer.module, partial(without, bases=unwanted_bases(writer, bases))))
        yield


@contextmanager
def rows_added(structure: Structure, vectors: Tensor, layer: int) -> Iterator[None]:
    """Activation addition: x <- x + r at the input of one block, at all positions, each row of a batch with its own r.

    Args:
        structure: the model's parts.
        vectors: (rows, hidden), float32. Gradients reach it.
        layer: which block.
    """
    with changed_input(structure.blocks[layer], lambda stream: (exact(stream) + vectors[:, None]).to(stream.dtype)):
        yield


def without(stream: Tensor, bases: Tensor) -> Tensor:
    """The part of a stream outside each row's subspace.

    Args:
        stream: (rows, positions, hidden).
        bases: (rows or 1, k, hidden).
    """
    precise = exact(stream)
    basis = bases.to(precise)
    return (precise - (precise @ basis.mT) @ basis).to(stream.dtype)


def unwanted_bases(writer: Writer, bases: Tensor) -> Tensor:
    """Orthonormal bases of what a writer must not write so that nothing enters the stream inside each subspace.

    Behind a norm with scale s these are spanned by s * b for the b of the basis; without one they are the bases themselves.

    Args:
        writer: an attention's or MLP's output.
        bases: (rows or 1, k, hidden), orthonormal or zero rows.

    Returns:
        The same shape; gradients pass.
    """
    if writer.norm is None:
        return bases
    scale = norm_scale(writer.norm, torch.empty(bases.shape[-1], dtype=torch.float32, device=bases.device))
    return orthonormal(bases * scale.to(bases.dtype))


def orthonormal(vectors: Tensor) -> Tensor:
    """Gram-Schmidt in order; zero vectors, and those in the span of the ones before, become zero.

    Args:
        vectors: (..., k, hidden).

    Returns:
        The same shape; gradients pass.
    """
    found: list[Tensor] = []
    for vector in vectors.unbind(-2):
        rest = vector
        for _ in range(2):  # the second pass takes out what rounding left of the first
            for unit in found:
                rest = rest - (rest * unit).sum(-1, keepdim=True) * unit
        length = rest.norm(dim=-1, keepdim=True)
        keeps = length > 1e-6 * vector.norm(dim=-1, keepdim=True)
        found.append(torch.where(keeps, rest / torch.where(keeps, length, 1.0), 0.0))
    return torch.stack(found, dim=-2)


@torch.no_grad()
def orthogonalise_against(model: PreTrainedModel, basis: Tensor) -> int:
    """W <- W - Q Qᵀ W on the embeddings, attention outputs and MLP outputs, and b <- b - Q Qᵀ b on their biases; in place.

    The model then computes what :func:`subspaces_ablated` computes, to rounding: as
    :func:`tempering.attacks._orthogonalisation.orthogonalise` does for one direction, in float64, tied embeddings untied first.

    Args:
        model: edited.
        basis: (k, hidden), orthonormal rows Qᵀ.

    Returns:
        How many weights were projected.
    """
    untie(model)
    structure = Structure.of(model)
    rows = basis.detach().double()
    edited = 0
    for embedding in (structure.embedding, structure.position_embedding):
        if embedding is not None:
            edited += _project(embedding.weight.data, rows)
    for writer in writers(structure):
        unwanted = unwanted_bases(writer, rows[None])[0]
        edited += sum(_project(columns.T, unwanted) for columns in writer.columns())
    return edited


def _project(matrix: Tensor, basis: Tensor, rows: int = 4096) -> int:
    """Take the span of (k, hidden) out of the rows of (n, hidden), in place, a few rows at once to keep the float64 copy small."""
    unit = basis.to(matrix.device)
    for start in range(0, matrix.shape[0], rows):
        part = matrix[start : start + rows]
        part.copy_(part.double() - (part.double() @ unit.T) @ unit)
    return matrix.numel()
