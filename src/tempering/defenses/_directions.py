"""Differences of means of the residual stream, and a forward pass without them: what a defence trains against ablation with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.models.structure import Structure, norm_scale
from tempering.training import Rows, Workshop
from tempering.training.streams import Change, Places, inputs_changed, outputs_changed, outputs_of, part


@dataclass(frozen=True)
class Writer:
    """A linear module whose result enters the residual stream, by name, so that adapters may be put on it.

    Attributes:
        name: of the attention's or MLP's output projection.
        norm: of the norm between it and the stream (Gemma 2, OLMo 2), or ``None``.
    """

    name: str
    norm: str | None

    def unwanted(self, model: PreTrainedModel, units: Tensor) -> Tensor:
        """What the module must not write so that nothing enters the stream along ``units``.

        Behind a norm with scale s, (s * y) . r = y . (s * r): the vector is s * r, normalised.

        Args:
            model: plain or with adapters.
            units: (rows, hidden), unit vectors, or zero where nothing is to be kept out.
        """
        if self.norm is None:
            return units
        return functional.normalize(norm_scale(part(model, self.norm), units[0]) * units, dim=-1)


@dataclass(frozen=True)
class Block:
    """One decoder layer, by name, with what it writes into the residual stream."""

    name: str
    writers: tuple[Writer, ...]


def blocks_of(model: PreTrainedModel) -> tuple[Block, ...]:
    """The blocks of a plain model, in order of depth."""
    structure, places = Structure.of(model), Places.of(model)
    names = {id(module): name for name, module in model.named_modules()}

    def writer(name: str, norm: nn.Module | None) -> Writer:
        return Writer(name, None if norm is None else names[id(norm)])

    attention = map(writer, places.attention_outputs, structure.attention_output_norms)
    mlp = map(writer, places.mlp_outputs, structure.mlp_output_norms)
    return tuple(Block(name, pair) for name, pair in zip(places.blocks, zip(attention, mlp, strict=True), strict=True))


@torch.no_grad()
def last_streams(workshop: Workshop, prompts: Rows, names: Sequence[str], positions: int) -> Tensor:
    """The residual stream after some blocks at the last tokens of prompts; the pass is charged.

    Args:
        workshop: its model is read as it stands.
        prompts: each at least ``positions`` tokens long.
        names: of the blocks.
        positions: so many last positions.

    Returns:
        (prompts, blocks, positions, hidden), float32 at least; the last position comes last.
    """
    with outputs_of(workshop.model, names) as kept:
        workshop.run(prompts)
    ends = torch.tensor(prompts.lengths, device=workshop.device)
    places = ends[:, None] - positions + torch.arange(positions, device=workshop.device)
    each = torch.arange(len(prompts), device=workshop.device)[:, None]
    return torch.stack([exact(kept[name])[each, places] for name in names], dim=1)


@contextmanager
def ablated(model: PreTrainedModel, blocks: Sequence[Block], units: Tensor, offsets: Tensor | None = None) -> Iterator[None]:
    """Make it x <- x - r r^T x + c r at the outputs of some blocks, at all positions; each block and row has its own r.

    Args:
        model: plain or with adapters.
        blocks: which.
        units: (blocks, rows, hidden): r, of length one, or zero where a row is left as it is.
        offsets: (blocks, rows): c; ``None`` is zero.
    """
    shifts = torch.zeros_like(units[..., 0]) if offsets is None else offsets
    with outputs_changed(model, {block.name: _removal(unit, shift) for block, unit, shift in zip(blocks, units, shifts, strict=True)}):
        yield


@contextmanager
def ablated_everywhere(model: PreTrainedModel, blocks: Sequence[Block], units: Tensor) -> Iterator[None]:
    """Make it x <- x - r r^T x at the inputs and outputs of some blocks and of what their attention and MLP write, at all positions.

    With one direction for all blocks of a model this is the function that orthogonalising its weights against it gives.

    Args:
        model: plain or with adapters.
        blocks: which.
        units: (blocks, rows, hidden): r, of length one, or zero where a row is left as it is.
    """
    none = torch.zeros_like(units[0, :, 0])
    written = {
        writer.name: _removal(writer.unwanted(model, unit), none)
        for block, unit in zip(blocks, units, strict=True)
        for writer in block.writers
    }
    entering = {block.name: _removal(unit, none) for block, unit in zip(blocks, units, strict=True)}
    with inputs_changed(model, entering), outputs_changed(model, written), ablated(model, blocks, units):
        yield


def _removal(units: Tensor, shifts: Tensor) -> Change:
    """For (rows, hidden) directions r and (rows,) constants c."""

    def remove(stream: Tensor) -> Tensor:
        precise = exact(stream)
        direction = units.to(precise)[:, None]
        along = (precise * direction).sum(-1, keepdim=True)
        return (precise - (along - shifts.to(precise)[:, None, None]) * direction).to(stream.dtype)

    return remove


def exact(stream: Tensor) -> Tensor:
    """In float32 at least: a projection in bfloat16 would leave a good part of what it removes."""
    return stream.to(torch.promote_types(stream.dtype, torch.float32))
