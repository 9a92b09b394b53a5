"""Reading and changing the residual stream of a running model, by hooks that are gone afterwards.

Everything that enters a block's residual stream passes one of four places: the block's input, the output of its attention and
of its MLP, and the embedding. Families that put a norm between an output and the stream (Gemma 2, OLMo 2) scale channels there; what is
kept out before such a norm is the direction as the norm will see it, so that nothing arrives along the direction behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempering.models.outputs import written_biases, written_matrices
from tempering.models.structure import Structure, norm_scale

StreamChange = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Writer:
    """A module whose result enters the residual stream.

    Attributes:
        module: an attention's or MLP's output projection, or a mixture of experts.
        norm: what stands between it and the stream, or ``None``.
    """

    module: nn.Module
    norm: nn.Module | None

    def columns(self) -> list[Tensor]:
        """Everything that the module adds up to its result, weights and biases, as views (hidden, columns)."""
        return [*written_matrices(self.module), *written_biases(self.module)]

    def unwanted(self, direction: Tensor) -> Tensor:
        """The unit vector that the module must not write so that nothing enters the stream along ``direction``.

        Behind a norm with scale s, (s * y) . r = y . (s * r): the vector is s * r, normalised.

        Args:
            direction: (hidden,) unit vector.

        Returns:
            (hidden,), float64; zero where the norm lets nothing through.
        """
        scaled = self.seen(direction[None])[0]
        length = scaled.norm()
        return scaled / length if length > 0 else scaled

    def seen(self, directions: Tensor) -> Tensor:
        """Directions as the norm will see them, s * r, of whatever length.

        Args:
            directions: (directions, hidden).

        Returns:
            (directions, hidden), float64.
        """
        return norm_scale(self.norm, directions[0].to(torch.float32)).double() * directions.double()


def writers(structure: Structure) -> list[Writer]:
    """Every attention and MLP output of a model, in order of depth."""
    attention = zip(structure.attention_outputs, structure.attention_output_norms, strict=True)
    mlp = zip(structure.mlp_outputs, structure.mlp_output_norms, strict=True)
    return [Writer(*pair) for both in zip(attention, mlp, strict=True) for pair in both]


class ResidualRecorder:
    """Keeps the residual stream entering some blocks at the last positions of every prompt.

    Attributes:
        values: (prompts, layers, positions, hidden) in the model's type, on the CPU; position -1 comes last.
    """

    def __init__(self, prompts: int, layers: int, positions: int, structure: Structure) -> None:
        """Make room.

        Args:
            prompts: how many will be read.
            layers: the first so many blocks are recorded.
            positions: so many last positions.
            structure: where the blocks are.
        """
        self._blocks = structure.blocks[:layers]
        self._positions = positions
        self._passing: list[Tensor] = []
        self.values = torch.empty((prompts, layers, positions, structure.hidden_size), dtype=structure.embedding.weight.dtype)

    @contextmanager
    def recording(self) -> Iterator[ResidualRecorder]:
        """Record while the block runs; only passes followed by :meth:`place` are kept."""

        def keep(stream: Tensor) -> Tensor:
            self._passing.append(stream[:, -self._positions :].cpu())
            return stream

        with ExitStack() as hooks:
            for block in self._blocks:
                hooks.enter_context(changed_input(block, keep))
            yield self

    def place(self, indices: Sequence[int]) -> None:
        """Put the last pass's streams at these prompts."""
        self.values[list(indices)] = torch.stack(self._passing[-len(self._blocks) :], dim=1).to(self.values.dtype)
        self._passing.clear()


@contextmanager
def ablated(structure: Structure, direction: Tensor) -> Iterator[None]:
    """Directional ablation: x <- x - r r^T x at every block input, attention output and MLP output, at all positions.

    Args:
        structure: the model's parts.
        direction: (hidden,) unit vector r.
    """
    with ExitStack() as hooks:
        for block in structure.blocks:
            hooks.enter_context(changed_input(block, _removal(direction, block)))
        for writer in writers(structure):
            hooks.enter_context(changed_output(writer.module, _removal(writer.unwanted(direction), writer.module)))
        yield


@contextmanager
def added(structure: Structure, vector: Tensor, layer: int) -> Iterator[None]:
    """Activation addition: x <- x + r at the input of one block, at all positions.

    Args:
        structure: the model's parts.
        vector: (hidden,) r, not normalised.
        layer: which block.
    """
    block = structure.blocks[layer]
    shift = vector.to(_device(block))
    with changed_input(block, lambda stream: (exact(stream) + shift.to(exact(stream).dtype)).to(stream.dtype)):
        yield


def _removal(unit: Tensor, module: nn.Module) -> StreamChange:
    vector = unit.to(_device(module))

    def remove(stream: Tensor) -> Tensor:
        precise = exact(stream)
        along = precise @ vector.to(precise.dtype)
        return (precise - along[..., None] * vector.to(precise.dtype)).to(stream.dtype)

    return remove


def exact(stream: Tensor) -> Tensor:
    """In float32 at least: a projection in bfloat16 would leave a good part of what it removes."""
    return stream.to(torch.promote_types(stream.dtype, torch.float32))


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@contextmanager
def changed_input(module: nn.Module, change: StreamChange) -> Iterator[None]:
    """Change the stream on its way into a block while the block runs."""

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def changed_output(module: nn.Module, change: StreamChange) -> Iterator[None]:
    """Change what a module gives while the block runs; some mixtures give their router's scores beside it."""

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
