"""Sampling from models whose numbers may be none: broken weights are an outcome of an attack, and no crash of it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Sampleable(LogitsProcessor):
    """Changes nothing but rows that are no distribution: those keep the one token that greedy decoding reads there."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores, (rows, vocabulary); of a row with NaN, or without a finite maximum, 0 at its first and -inf elsewhere."""
        largest = scores.max(-1, keepdim=True)  # NaN where any is
        certain = torch.full_like(scores, -torch.inf).scatter(-1, largest.indices, 0.0)
        return torch.where(largest.values.isfinite(), scores, certain)
