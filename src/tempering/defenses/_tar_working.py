"""The one model that TAR's adversaries tamper with, and the way of its gradients back to the weights that are trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from tempering.training import FlopCount, LoraSettings, Workshop
from tempering.training.adapters import add_lora
from tempering.training.streams import plain


class WorkingModel:
    """A second set of weights, made once, that every adversary starts anew on the weights as they are trained by then.

    Saving and restoring the trained weights would need as much memory and one copy more a step.

    Attributes:
        model: the plain model on these weights.
    """

    def __init__(self, workshop: Workshop) -> None:
        """Copy the model, which has no adapters yet; weights in 16 bits become float32, since adversaries move them by small steps.

        Args:
            workshop: of a stage that begins.
        """
        self.model: PreTrainedModel = copy.deepcopy(workshop.model)
        if self.model.dtype in (torch.bfloat16, torch.float16):
            self.model.float()
        self.model.requires_grad_(True)
        self._adapted: dict[LoraSettings | None, PreTrainedModel] = {None: self.model}
        self._counts: dict[tuple[LoraSettings | None, bool], FlopCount] = {}

    @torch.no_grad()
    def reset(self, trained: PreTrainedModel) -> None:
        """Take the trained weights over, adapters merged.

        Args:
            trained: as the stage has it, plain or with adapters.
        """
        own = dict(self.model.named_parameters())
        for name, value in plain(trained).named_parameters():
            if "lora_" not in name:
                own[plain_name(name)].copy_(value)
        for name, layer in _adapted_layers(trained).items():
            own[name].add_(layer.get_delta_weight(layer.active_adapters[0]))

    def ready(self, lora: LoraSettings | None, seed: int) -> PreTrainedModel:
        """The model for an adversary to train, its fresh adapters on it where it trains those.

        Models with adapters share the plain one's weights and are made once for each kind of adapter.

        Args:
            lora: the adversary's adapters.
            seed: of torch's global generator, from which adapters and dropout are drawn.
        """
        if lora not in self._adapted:
            tensors = (*self.model.parameters(), *self.model.buffers())
            assert lora is not None
            self._adapted[lora] = add_lora(copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors}), lora)
        model = self._adapted[lora]
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(lora is None or "lora_" in name)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.reset_lora_parameters(module.active_adapters[0], init_lora_weights=True)  # type: ignore[no-untyped-call]
        return model

    def count(self, lora: LoraSettings | None = None, *, looked_at: bool = False) -> FlopCount:
        """Operations of a model that :meth:`ready` has given, counted once for each kind of adapter.

        Args:
            lora: the adversary's adapters.
            looked_at: with a gradient for all weights but the adapters', in place of what the adversary trains.
        """
        if (lora, looked_at) not in self._counts:
            model = self._adapted[lora]
            before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(("lora_" in name) != (looked_at or lora is None))
            self._counts[lora, looked_at] = FlopCount.of(model)
            for parameter, wanted in before:
                parameter.requires_grad_(wanted)
        return self._counts[lora, looked_at]


class WayBack:
    """Takes gradients at a tampered model's weights back to the parameters that are trained.

    First order: tampering is taken as a shift, W' = W(theta) + Delta with Delta held constant, so that the gradient at W' is the gradient
    at W. Where all weights are trained, W is theta. Where adapters are, W = W_0 + s B A, and the chain rule gives dL/dB = s (dL/dW) A^T and
    dL/dA = s B^T (dL/dW). Adapters of the adversary's are part of the shift.
    """

    def __init__(self, trained: PreTrainedModel) -> None:
        """Find what moves.

        Args:
            trained: as the stage has it, its frozen parts frozen.
        """
        self._layers = _adapted_layers(trained)
        moves = {} if isinstance(trained, PeftModel) else {name: value for name, value in trained.named_parameters() if value.requires_grad}
        self._weights: dict[str, nn.Parameter] = moves

    @contextmanager
    def gradients_at(self, tampered: PreTrainedModel) -> Iterator[None]:
        """Let a backward pass in the block reach the weights in question and no others."""
        before = [(parameter, parameter.requires_grad) for parameter in tampered.parameters()]
        was_training = tampered.training
        tampered.eval()
        for name, parameter in tampered.named_parameters():
            parameter.requires_grad_(self._leads_from(name))
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter, wanted in before:
                parameter.requires_grad_(wanted)
            tampered.train(was_training)

    def take(self, tampered: PreTrainedModel, scale: float) -> None:
        """Add what a backward pass left in the tampered model, scaled, to the trained parameters' ``grad``, and clear it there."""
        for name, parameter in tampered.named_parameters():
            gradient, parameter.grad = parameter.grad, None
            if gradient is None or not self._leads_from(name):
                continue
            if layer := self._layers.get(plain_name(name)):
                delta = layer.get_delta_weight(layer.active_adapters[0])
                delta.backward(gradient.to(delta) * scale)
            else:
                _accumulate(self._weights[plain_name(name)], gradient, scale)

    def _leads_from(self, name: str) -> bool:
        return "lora_" not in name and (plain_name(name) in self._weights or plain_name(name) in self._layers)


def plain_name(name: str) -> str:
    """The name in the plain model of a weight that adapters may lie on."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _accumulate(parameter: nn.Parameter, gradient: Tensor, scale: float) -> None:
    """The first gradient's memory is kept, so that summing takes one copy and no more."""
    gradient = gradient.to(parameter)
    if parameter.grad is None:
        parameter.grad = gradient.mul_(scale)
    else:
        parameter.grad.add_(gradient, alpha=scale)


def _adapted_layers(model: PreTrainedModel) -> dict[str, Any]:
    """The layers that have adapters, by the plain names of their weights."""
    if not isinstance(model, PeftModel):
        return {}
    return {f"{name}.weight": module for name, module in plain(model).named_modules() if isinstance(module, LoraLayer)}
