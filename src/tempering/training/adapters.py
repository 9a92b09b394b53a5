"""Low-rank adapters by PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tempering.errors import UnusableModel
from tempering.models.outputs import stacked_experts
from tempering.training.settings import LoraSettings


def add_lora(model: PreTrainedModel, settings: LoraSettings) -> PreTrainedModel:
    """Put trainable low-rank factors on a model and freeze the rest.

    Args:
        model: changed in place; hand over a copy.
        settings: rank, scale, dropout and which layers.

    Returns:
        The PEFT-wrapped model, which can be called and generates like the plain one. Factors are float32 whatever the base.

    Raises:
        UnusableModel: the model has no linear layer of the kind asked for.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings),
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by the name of before
        return cast(PreTrainedModel, get_peft_model(model, config, autocast_adapter_dtype=True))


def lora_parameters(model: PreTrainedModel, settings: LoraSettings, moves: Callable[[str], bool] = lambda name: True) -> int:
    """How many numbers the factors have that :func:`add_lora` would put on a model; no adapter is made.

    Args:
        model: plain; only read.
        settings: of the adapters.
        moves: whether the factors of a weight count, by the weight's name.

    Raises:
        UnusableModel: the model has no linear layer of the kind asked for.
    """
    named = _targets(model, settings)
    head = model.get_output_embeddings()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    chosen = [
        module
        for name, module in layers.items()
        if (module is not head if named == "all-linear" else name in named) and moves(f"{name}.weight")
    ]
    return sum(settings.rank * (int(module.weight.shape[0]) + int(module.weight.shape[1])) for module in chosen)


def _targets(model: PreTrainedModel, settings: LoraSettings) -> Any:
    """Names of the layers that factors are put on, or PEFT's word for all of them.

    The experts of a mixture lie in one tensor and are no linear layers. They get no factors, whatever PEFT would do for the family.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    mixed = any(stacked_experts(module) for module in model.modules())
    if settings.targets == "all-linear":
        head = model.get_output_embeddings()
        return [name for name, module in layers.items() if module is not head] if mixed else "all-linear"
    aliases = ("attn", "attention") if settings.targets == "attention" else ("mlp", "feed_forward", "ffn")
    names = [name for name in layers if "." in name and any(alias in name.lower().split(".")[-2] for alias in aliases)]
    if not names:
        why = ": the experts of a mixture lie in one tensor" if mixed else ""
        raise UnusableModel(f"no linear layer of kind {settings.targets!r} found for LoRA{why}", "choose targets 'all-linear'")
    return names
