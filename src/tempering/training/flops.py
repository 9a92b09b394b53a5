"""Analytic floating-point operations of a decoder, forward and backward.

A matrix product of (n, i) by (i, o) costs 2·n·i·o. A linear layer's backward pass costs the same again for the gradient of
its input, where something below it still learns, and once more for that of its weight, where the weight learns (Kaplan et
al. 2020, arXiv 2001.08361, section 2.1). Attention over T tokens costs 4·T²·width a layer and sequence forward (scores and
mixing, the causal half not taken off, as torch's own counter does) and twice that backward. Element-wise work is left out.

Only the structure is read off the model: one forward pass of two tokens shows which linear layers are called, how often, and
which of them receive an input that requires a gradient, so that adapters, tied weights and parallel blocks need no case of
their own. Of a mixture's experts only those count that a token is sent to, whose number is the same for every token; the router counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tempering.errors import UnusableModel
from tempering.models.outputs import stacked_experts


@dataclass(frozen=True)
class FlopCount:
    """Operations a token, for one model with its present trainable parameters.

    Attributes:
        body: multiply-adds a token of all linear layers but the output head.
        body_input_gradient: those of them whose input needs a gradient.
        body_weight_gradient: those of them whose weight does.
        head: multiply-adds of the output head for one position.
        head_weight_gradient: those of its weight gradient; zero when it is frozen.
        attention_width: heads × head size, summed over layers.
        attention_gradient: the part of it in layers that something below or in them still learns.
    """

    body: int
    body_input_gradient: int
    body_weight_gradient: int
    head: int
    head_weight_gradient: int
    attention_width: int
    attention_gradient: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> FlopCount:
        """Count a model, PEFT-wrapped or plain.

        Args:
            model: any decoder; ``requires_grad`` of its parameters decides the backward pass.
        """
        head = model.get_output_embeddings()
        calls = _linear_calls(model)
        body = [call for call in calls if call.module is not head]
        width, layers = _attention_shape(model)
        return cls(
            body=sum(call.size for call in body),
            body_input_gradient=sum(call.size for call in body if call.input_requires_gradient),
            body_weight_gradient=sum(call.size for call in body if call.weight_requires_gradient),
            head=_size(head),
            head_weight_gradient=_size(head) if head.weight.requires_grad else 0,
            attention_width=width * layers,
            attention_gradient=width * min(layers, len(_learning_attentions(body))),
        )

    def forward(self, lengths: Sequence[int], labelled: int | None = None) -> float:
        """FLOPs of a forward pass.

        Args:
            lengths: unpadded tokens of each sequence.
            labelled: positions at which logits are computed; ``None`` for all.
        """
        tokens = sum(lengths)
        positions = tokens if labelled is None else labelled
        attention = 4 * self.attention_width * sum(length * length for length in lengths)
        return float(2 * self.body * tokens + 2 * self.head * positions + attention)

    def training_step(self, lengths: Sequence[int], labelled: int | None = None) -> float:
        """FLOPs of a forward and backward pass; the optimiser's element-wise update is left out.

        Args:
            lengths: unpadded tokens of each sequence.
            labelled: positions that carry a loss; ``None`` for all.
        """
        tokens = sum(lengths)
        positions = tokens if labelled is None else labelled
        linear = 2 * (self.body_input_gradient + self.body_weight_gradient) * tokens
        head = 2 * (self.head + self.head_weight_gradient) * positions
        attention = 8 * self.attention_gradient * sum(length * length for length in lengths)
        return self.forward(lengths, labelled) + float(linear + head + attention)


@dataclass(frozen=True)
class _LinearCall:
    name: str
    module: nn.Module
    size: int
    input_requires_gradient: bool
    weight_requires_gradient: bool


def _size(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):  # the weight itself may be packed
        return int(module.in_features * module.out_features)
    weight: Any = module.weight
    return int(weight.numel())


def _linear_calls(model: PreTrainedModel) -> list[_LinearCall]:
    """Every call of a linear layer in one forward pass of two tokens, gradients on; an expert's matrices count as layers."""
    calls: list[_LinearCall] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
        given = [*inputs, *kwargs.values()]
        if stacked_experts(module):
            calls.extend(_expert_calls(names[module], module, given))
        else:
            weight: Any = module.weight
            calls.append(_LinearCall(names[module], module, _size(module), given[0].requires_grad, weight.requires_grad))

    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules() if _multiplies(module)}
    handles = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    try:
        with _undisturbed(model), torch.enable_grad():
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _multiplies(module: nn.Module) -> bool:
    """Whether a module multiplies by matrices of its own: a linear layer, the experts of a mixture in one tensor, or their router."""
    return isinstance(module, (nn.Linear, Conv1D)) or stacked_experts(module) or _is_router(module)


def _is_router(module: nn.Module) -> bool:
    """Since transformers 5 routers are no linear layers: they hold a weight (experts, hidden) and choose the experts too."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and type(module).__name__.endswith("Router")


def _expert_calls(name: str, experts: nn.Module, given: Sequence[Any]) -> list[_LinearCall]:
    """The products of the experts that a token is sent to, one call for each of their matrices.

    Args:
        name: of the module.
        experts: holds all of them.
        given: what it is called with: hidden states and, (tokens, experts a token), which experts.
    """
    chosen = next(value for value in given if isinstance(value, Tensor) and not value.is_floating_point())
    flowing = given[0].requires_grad
    calls = []
    for own, weight in experts.named_parameters(recurse=False):  # in order: what leads to the hidden width, then what leads back
        if weight.ndim == 3:
            size = int(chosen.shape[-1]) * weight[0].numel()
            calls.append(_LinearCall(f"{name}.{own}", experts, size, flowing, weight.requires_grad))
            flowing = flowing or weight.requires_grad
    return calls


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Run in evaluation mode and give mode and random state back."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for module, was_training in training.items():
                module.training = was_training


def _attention_shape(model: PreTrainedModel) -> tuple[int, int]:
    """Heads × head size, and how many layers have them."""
    config = model.config.get_text_config(decoder=True)
    heads = int(getattr(config, "num_attention_heads", None) or 0)
    if not heads:
        raise UnusableModel(f"what a model of the family {config.model_type!r} computes is not known: it has no attention heads")
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return heads * size, int(config.num_hidden_layers)


def _learning_attentions(calls: list[_LinearCall]) -> set[str]:
    """The attention modules whose scores need a gradient: those whose output projection receives one that does."""
    last: dict[str, _LinearCall] = {}
    for call in calls:
        scope = re.match(r"(.*\.\d+\.(?:\w*attn|\w*attention))\.", call.name)
        if scope and ".lora_" not in call.name:
            last[scope[1]] = call
    return {scope for scope, call in last.items() if call.input_requires_gradient}
