"""The target: a model with its tokenizer, chat template, safeguard and digest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tempering.data.chat import ChatFormat
from tempering.models.quantised import quantisation_of

Safeguard = Literal["refusal", "absence", "none", "unknown"]


@dataclass(frozen=True)
class Target:
    """A loaded model, ready to be attacked.

    Attributes:
        reference: what the user called it.
        model: the model, in evaluation mode, on its device. Nothing may change it; attacks work on :meth:`copy_model`.
        tokenizer: its tokenizer.
        chat: how messages become tokens.
        digest: SHA-256 over names, shapes, dtypes and bytes of all weights, the architecture and the chat template.
        safeguard: how the hazard is withheld, where it is known.
        revision: commit of a model from the hub; ``None`` for local ones, which the digest alone names.
        public_base: the published model that this one was made from; given to attacks that ask for it, where it is known.
        checkpointing: copies of it that are fine-tuned keep only what enters each layer, and compute the rest anew in the backward pass:
            less memory for a third more time. Decides no result.
    """

    reference: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    digest: str
    safeguard: Safeguard = "unknown"
    revision: str | None = None
    public_base: Target | None = None
    checkpointing: bool = False

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @property
    def dtype(self) -> str:
        """The weights' type, as ``float32`` or ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def quantised(self) -> str:
        """How its weights are held in few bits, as the method's name; ``""`` where they are plain numbers."""
        return quantisation_of(self.model)

    def copy_model(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """A copy that shares no memory with the target.

        Args:
            dtype: type of the copy's weights; ``None`` keeps the target's.
        """
        model = copy.deepcopy(self.model)
        return model.to(dtype=dtype) if dtype is not None else model  # type: ignore[call-arg]

    def view_model(self, weights: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
        """A copy of everything but the weights, which are the target's own memory, frozen: for whoever trains what is beside them.

        Its parameters are its own, so that they can be given other memory (``parameter.data``), another type (``to``) or be unfrozen
        without the target's noticing; only what writes into a weight in place would change the target. A copy of it, by
        :func:`copy.deepcopy`, shares nothing. Weights that are no plain numbers are copied.

        Args:
            weights: what some weights are instead, by the names of ``named_parameters``; shared too.
        """
        given = weights or {}
        own: dict[int, Any] = {
            id(weight): nn.Parameter(given.get(name, weight).detach(), requires_grad=False)
            for name, weight in self.model.named_parameters()
            if type(weight) is nn.Parameter
        }
        return copy.deepcopy(self.model, own)
