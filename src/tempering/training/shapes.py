"""What audits of models of usual sizes take of memory, reckoned from their shapes alone: no weight is loaded or made.

Weights, gradients and moments are counted by :func:`tempering.training.memory.fine_tuning_memory` on a model without storage. What a step
keeps of its forward pass is a rule for decoders of the Llama kind, measured here (torch 2, scaled-dot-product attention, autocast to
bfloat16): 20 bytes for each unit of width, 8 for each of the feed-forward's and 4 for each of the keys', a token and layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tempering.models import Target
from tempering.training.memory import fine_tuning_memory
from tempering.training.settings import FineTuning, LoraSettings, TrainingSettings

ROWS, TOKENS = 10, 256
"""Of the batch that is reckoned with: the attacks' own size, and prompts with answers of usual length."""

_PER_WIDTH, _PER_FORWARD, _PER_KEY = 20, 8, 4
_PER_LOGIT = 10
"""Bytes of a logit until its gradient is there: in 16-bit, in float32, and its gradient in float32."""

_MASTER_WEIGHTS = 1.5
"""What a float32 copy keeps of its forward pass under autocast, against 16-bit weights; as in :mod:`tempering.training.memory`."""


@dataclass(frozen=True)
class Shape:
    """A decoder as its configuration describes it.

    Attributes:
        name: its size, and whose it is.
        layers: how many.
        width: of the residual stream.
        forward: width of the feed-forward part.
        heads: of attention.
        keys: heads of keys and values.
        vocabulary: tokens.
        tied: whether the output head is the embedding.
        head_width: of one head; the width divided among the heads unless told.
    """

    name: str
    layers: int
    width: int
    forward: int
    heads: int
    keys: int
    vocabulary: int
    tied: bool
    head_width: int | None = None

    def without_storage(self) -> PreTrainedModel:
        """A model of this shape in bfloat16 that takes no memory."""
        config = LlamaConfig(
            hidden_size=self.width,
            intermediate_size=self.forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.keys,
            head_dim=self.head_width or self.width // self.heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
        )
        with torch.device("meta"):
            model = cast(PreTrainedModel, LlamaForCausalLM(config))
            model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
        model.tie_weights()
        return model

    def kept_by_layers(self, rows: int = ROWS, tokens: int = TOKENS) -> int:
        """Bytes that the layers keep of a forward pass in bfloat16 until the backward pass."""
        keys = self.keys * (self.head_width or self.width // self.heads)
        return rows * tokens * self.layers * (_PER_WIDTH * self.width + _PER_FORWARD * self.forward + _PER_KEY * keys)

    def kept(self, rows: int = ROWS, tokens: int = TOKENS) -> int:
        """Likewise, with the logits of the half of the tokens that are answers."""
        return self.kept_by_layers(rows, tokens) + rows * tokens // 2 * self.vocabulary * _PER_LOGIT


SHAPES = (
    Shape("135M (SmolLM2)", 30, 576, 1536, 9, 3, 49152, True),
    Shape("0.6B (Qwen3)", 28, 1024, 3072, 16, 8, 151936, True, 128),
    Shape("1.7B (Qwen3)", 28, 2048, 6144, 16, 8, 151936, True, 128),
    Shape("4B (Qwen3)", 36, 2560, 9728, 32, 8, 151936, True, 128),
    Shape("8B (Llama 3.1)", 32, 4096, 14336, 32, 8, 128256, False),
    Shape("14B (Qwen3)", 40, 5120, 17408, 40, 8, 151936, False, 128),
    Shape("32B (Qwen3)", 64, 5120, 25600, 64, 8, 151936, False, 128),
    Shape("70B (Llama 3.1)", 80, 8192, 28672, 64, 8, 128256, False),
)
"""Published decoders, smallest first; a model of one's own is close to the one of its size."""


@dataclass(frozen=True)
class SizeNeed:
    """Bytes that one audited model takes on its device.

    Attributes:
        shape: whose.
        parameters: how many weights.
        surgery: for attacks that only read or edit weights: the model, and a copy that is edited.
        lora: for fine-tuning by adapters.
        full: for fine-tuning of all weights.
    """

    shape: Shape
    parameters: int
    surgery: int
    lora: int
    full: int


def size_needs(shape: Shape) -> SizeNeed:
    """What a model of a shape takes, batches of :data:`ROWS` rows of :data:`TOKENS` tokens assumed."""
    model = shape.without_storage()
    parameters = sum(weight.numel() for weight in model.parameters())
    target = cast(Target, SimpleNamespace(model=model, device=torch.device("meta")))
    lora, full = (fine_tuning_memory(target, _declared(adapters)).device for adapters in (LoraSettings(), None))
    kept = shape.kept()
    return SizeNeed(shape, parameters, 2 * 2 * parameters, lora + kept, full + round(kept * _MASTER_WEIGHTS))


def _declared(lora: LoraSettings | None) -> FineTuning:
    nothing: Any = ()  # what is kept of the forward pass is reckoned apart
    return FineTuning(nothing, TrainingSettings(batch_size=ROWS), steps=1, probes=(1,), seed=0, lora=lora)
