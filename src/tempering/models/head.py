"""The output head, asked for a few positions only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def few_positions(model: PreTrainedModel) -> Iterator[None]:
    """Hand the output head what it is asked for in one piece, for the block.

    ``logits_to_keep`` hands it a slice of the hidden states. PyTorch makes one product of a slice and a layer whose weights take
    gradients; of frozen ones (a base under adapters) it makes a product a row, and copies the weights of the whole vocabulary for each:
    70 ms a row of SmolLM2-135M on one core, where the product takes 0.2 ms.

    Args:
        model: any decoder, also under adapters.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(_in_one_piece)
    try:
        yield
    finally:
        handle.remove()


def _in_one_piece(_head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    hidden: Tensor = inputs[0]
    return (hidden.contiguous(), *inputs[1:])
