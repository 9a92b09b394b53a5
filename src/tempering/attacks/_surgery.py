"""Editing the weights of many linear layers of one copy, every edit made from the target's own weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tempering.attacks._orthogonalisation import untie
from tempering.errors import UnusableModel
from tempering.models import Target
from tempering.models.outputs import expert_matrices, stacked_experts
from tempering.settings import Choices, Settings

_ATTENTION = re.compile(r"att(n|ention)")
_UNREACHED_SHARE = 0.1
"""Where more of the blocks' weights than this stand in no linear layer and in no expert, an edit of those is none of the model."""

Change = Callable[[str, Tensor], Tensor]
Item = TypeVar("Item")


class LayerSettings(Settings):
    """Which linear layers are edited.

    Attributes:
        parts: all of every block, its attention, or its MLP.
        head: the output head too. Where it shares its weights with the embedding, they are parted and the embedding keeps its own.
    """

    parts: Annotated[Literal["all", "attention", "mlp"], Choices(("all", "attention", "mlp"))] = "all"
    head: bool = False


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer, or one matrix of one expert in a mixture.

    Attributes:
        name: dotted, in the model.
        module: the layer; of an expert the module that holds all of them.
        expert: the expert's matrix, (out, in), a view of its memory; ``None`` for a layer.
    """

    name: str
    module: nn.Module
    expert: Tensor | None = None

    @property
    def matrix(self) -> Tensor:
        """Its weight as (out, in), a view: what is written into it is written into the layer."""
        return self.oriented(self.module.get_parameter("weight").detach()) if self.expert is None else self.expert

    def oriented(self, values: Tensor) -> Tensor:
        """What has the shape of the module's own weight, as (out, in); a view."""
        return values.T if isinstance(self.module, Conv1D) else values


def linear_layers(model: PreTrainedModel, settings: LayerSettings) -> list[LinearLayer]:
    """The linear layers of a model that the settings name, in the model's order; one that shares its weight with another comes once.

    The matrices of every expert in a mixture are among them.

    Args:
        model: a decoder.
        settings: which layers.

    Raises:
        UnusableModel: much of the model's weights is in no linear layer, or there is none of that part.
    """
    head = model.get_output_embeddings()
    found: dict[int, LinearLayer] = {}
    for name, module in model.named_modules():
        part = "attention" if _ATTENTION.search(name) else "mlp"
        wanted = settings.head if module is head else settings.parts in ("all", part)
        if wanted and isinstance(module, (nn.Linear, Conv1D)):
            found.setdefault(id(module.weight), LinearLayer(name, module))
        elif wanted and stacked_experts(module):
            layers = [LinearLayer(f"{name}.{own}", module, matrix) for own, matrix in expert_matrices(module)]
            found |= {id(layer): layer for layer in layers}
    _require_reach(model)
    if not found:
        raise UnusableModel(f"the model has no linear layer of the part {settings.parts!r}", "name another part")
    return list(found.values())


class Surgery:
    """A copy of a target whose linear layers are edited again and again, never upon an earlier edit.

    Attributes:
        model: the copy, in evaluation mode; as the target is, until the first edit.
        elements: how many weights an edit goes over.
    """

    def __init__(self, target: Target, settings: LayerSettings) -> None:
        """Copy the target.

        Args:
            target: left untouched.
            settings: which layers.

        Raises:
            UnusableModel: as :func:`linear_layers`.
        """
        self.model = target.copy_model()
        self.model.train(False)
        if settings.head:
            untie(self.model)
        self.layers = linear_layers(self.model, settings)
        own = dict(target.model.named_modules())
        experts = {layer.name: layer.matrix for layer in linear_layers(target.model, settings) if layer.expert is not None}
        self._originals = {
            layer.name: LinearLayer(layer.name, own[layer.name]).matrix if layer.expert is None else experts[layer.name]
            for layer in self.layers
        }
        self.elements = sum(matrix.numel() for matrix in self._originals.values())

    @torch.no_grad()
    def edit(self, change: Change) -> None:
        """Write ``change(name, original)`` into every layer, rounded to its type.

        Args:
            change: from a layer's name and the target's weight, (out, in), to a tensor of that shape; must not change its argument.
        """
        for layer in self.layers:
            layer.matrix.copy_(change(layer.name, self._originals[layer.name]))

    def restore(self) -> None:
        """Give the copy the target's weights again."""
        self.edit(lambda _name, original: original)

    def originals(self) -> Iterator[tuple[str, Tensor]]:
        """Every layer's name and the target's weight, (out, in)."""
        yield from self._originals.items()


def count_elements(target: Target, settings: LayerSettings) -> int:
    """How many weights an edit would go over, without copying the target."""
    return sum(layer.matrix.numel() for layer in linear_layers(target.model, settings))


def require_layers(model: PreTrainedModel, what: str) -> None:
    """Refuse a model whose experts are no layers of their own.

    Args:
        model: a decoder.
        what: reads what enters every layer, for the message.

    Raises:
        UnusableModel: it is a mixture of experts.
    """
    if any(stacked_experts(module) for module in model.modules()):
        raise UnusableModel(
            f"{what} reads what enters every linear layer, and the experts of a mixture lie in one tensor", "take the method 'magnitude'"
        )


def _require_reach(model: PreTrainedModel) -> None:
    reached = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, Conv1D, nn.Embedding))}
    reached |= {id(tensor) for module in model.modules() if stacked_experts(module) for tensor in module.parameters(recurse=False)}
    matrices = {id(parameter): parameter for parameter in model.parameters() if parameter.dim() >= 2}
    missed = sum(parameter.numel() for key, parameter in matrices.items() if key not in reached)
    if missed > _UNREACHED_SHARE * sum(parameter.numel() for parameter in matrices.values()):
        family = getattr(model.config, "model_type", type(model).__name__)
        raise UnusableModel(
            f"most weights of a model of the family {family!r} are in no linear layer", "this attack does not know this architecture"
        )


def spread(items: tuple[Item, ...], most: int | None) -> tuple[Item, ...]:
    """At most so many of some settings, the last always among them and the others evenly spread before it.

    Args:
        items: in order.
        most: how many a budget allows, at least one; ``None`` allows all.
    """
    if most is None or most >= len(items):
        return items
    step = len(items) / most
    return tuple(items[round((place + 1) * step) - 1] for place in range(most))
