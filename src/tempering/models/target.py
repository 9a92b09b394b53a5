"""The target: a model with its tokenizer, chat template, safeguard and digest."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
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
