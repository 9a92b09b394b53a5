"""Weights held in four or eight bits while a model is audited, by bitsandbytes.

Such weights can be read and trained around (adapters, inputs, hooks) and not written, so weight surgery and full fine-tuning are no part
of such an audit. nf4 with double quantisation is QLoRA's (Dettmers et al. 2023, arXiv 2305.14314), int8 is LLM.int8() (arXiv 2208.07339).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from tempering.errors import UnknownName, UnusableModel

METHODS = ("nf4", "int8")


def checked(name: str | None, reference: str) -> str | None:
    """The name of a way to quantise, once it is known that this machine can.

    Args:
        name: one of :data:`METHODS`, or ``None``.
        reference: the model, for the message.

    Raises:
        UnknownName: there is no such way.
        UnusableModel: a package is missing.
    """
    if name is None:
        return None
    if name not in METHODS:
        raise UnknownName("quantization", name, METHODS)
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise UnusableModel(
                f"holding {reference} in {name} needs the package {package}", 'install it with: pip install "tempering[quantised]"'
            )
    return name


def loading_settings(name: str | None, dtype: torch.dtype, device: torch.device | None) -> dict[str, Any]:
    """What ``from_pretrained`` is to be told; nothing without quantisation.

    Args:
        name: one of :data:`METHODS`, or ``None``.
        dtype: of the arithmetic.
        device: where the weights are put.
    """
    if name is None:
        return {}
    if name == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": config, "device_map": {"": device or torch.device("cpu")}}


def quantisation_of(model: PreTrainedModel) -> str:
    """How a model's weights are held in few bits: ``nf4``, ``int8``, or ``""`` where they are plain numbers."""
    config = getattr(model.config, "quantization_config", None) if getattr(model, "is_quantized", False) else None
    return "" if config is None else "nf4" if getattr(config, "load_in_4bit", False) else "int8"
