"""Where the parts of a model are once adapters may have been put on it, and what flows through them.

:class:`~tempering.models.structure.Structure` finds the parts of a plain model. Adapters replace some of its modules, so here parts
are remembered by name, and looked up in whatever the model has become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from tempering.models.structure import Structure

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Places:
    """Names of a decoder's parts, in order of depth.

    Attributes:
        blocks: the decoder layers; their output is the residual stream h^l after block l.
        attention_outputs: the projections that write attention into the stream.
        mlp_outputs: likewise for the MLPs; a mixture of experts as a whole.
        mlp_output_weights: for each of these the parameters that write into the stream.
        embedding: turns token ids into the first stream.
        final_norm: before the head; ``None`` where the family has none.
        hidden_size: width of the stream.
    """

    blocks: tuple[str, ...]
    attention_outputs: tuple[str, ...]
    mlp_outputs: tuple[str, ...]
    mlp_output_weights: tuple[tuple[str, ...], ...]
    embedding: str
    final_norm: str | None
    hidden_size: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Places:
        """Find the parts of a plain model.

        Raises:
            UnusableModel: a part cannot be found.
        """
        structure = Structure.of(model)
        names = {id(module): name for name, module in model.named_modules()}
        return cls(
            blocks=tuple(names[id(block)] for block in structure.blocks),
            attention_outputs=structure.attention_output_names,
            mlp_outputs=structure.mlp_output_names,
            mlp_output_weights=structure.mlp_output_weights,
            embedding=names[id(structure.embedding)],
            final_norm=None if structure.final_norm is None else names[id(structure.final_norm)],
            hidden_size=structure.hidden_size,
        )


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside its adapters' wrapper; the model itself where it has none."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def part(model: PreTrainedModel, name: str) -> nn.Module:
    """A part by the name that :class:`Places` has it under."""
    return plain(model).get_submodule(name)


@contextmanager
def outputs_of(model: PreTrainedModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what some parts give during the last forward pass of the block, with its graph.

    Args:
        model: plain or with adapters.
        names: of :class:`Places`.

    Yields:
        Filled while the block runs: by name, (rows, tokens, width).
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept[name] = _stream(output)

        return hook

    with ExitStack() as hooks:
        for name in names:
            handle = part(model, name).register_forward_hook(keep(name))
            hooks.callback(handle.remove)
        yield kept


@contextmanager
def outputs_changed(model: PreTrainedModel, changes: Mapping[str, Change]) -> Iterator[None]:
    """Change what some parts give while the block runs.

    Args:
        model: plain or with adapters.
        changes: by name of the part, what becomes of (rows, tokens, width).
    """

    def changed(change: Change) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        return hook

    with ExitStack() as hooks:
        for name, change in changes.items():
            handle = part(model, name).register_forward_hook(changed(change))
            hooks.callback(handle.remove)
        yield


@contextmanager
def inputs_changed(model: PreTrainedModel, changes: Mapping[str, Change]) -> Iterator[None]:
    """Change what enters some parts, (rows, tokens, width), while the block runs."""

    def changed(change: Change) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        return hook

    with ExitStack() as hooks:
        for name, change in changes.items():
            handle = part(model, name).register_forward_pre_hook(changed(change), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _stream(output: Any) -> Tensor:
    """The hidden states in what a module gives; some families give a tuple."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream
