"""Rows of different lengths to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from tempering.data.chat import IGNORED, Encoded


@dataclass(frozen=True)
class Batch:
    """Padded rows, all of shape (rows, longest) and type int64.

    Attributes:
        input_ids: token ids.
        attention_mask: one over tokens, zero over padding.
        labels: the token where there is loss, -100 elsewhere and over padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def collate(encoded: Sequence[Encoded], pad_id: int, side: Literal["left", "right"] = "right") -> Batch:
    """Pad rows to the longest.

    Args:
        encoded: at least one row.
        pad_id: token id over padding; masked and without loss.
        side: where the padding goes: right for training, left for generation.

    Returns:
        Tensors of shape (rows, longest).
    """
    if not encoded:
        raise ValueError("a batch needs at least one row")
    shape = (len(encoded), max(len(row.input_ids) for row in encoded))
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for index, row in enumerate(encoded):
        length = len(row.input_ids)
        place = slice(0, length) if side == "right" else slice(shape[1] - length, shape[1])
        input_ids[index, place] = torch.tensor(row.input_ids, dtype=torch.int64)
        attention_mask[index, place] = 1
        labels[index, place] = torch.tensor(row.labels, dtype=torch.int64)
    return Batch(input_ids, attention_mask, labels)
