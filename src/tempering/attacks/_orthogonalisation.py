"""Taking a direction out of everything that a model's weights write into its residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tempering.attacks._residuals import writers
from tempering.models.structure import Structure

_COLUMNS = 4096
"""Columns projected at once, so that the float64 copy of a large matrix stays small."""


@torch.no_grad()
def orthogonalise(model: PreTrainedModel, direction: Tensor) -> int:
    """W <- W - r r^T W on the embeddings, attention outputs and MLP outputs, and b <- b - r r^T b on their biases; in place.

    The model then computes what directional ablation by hooks computes, to rounding. Three shapes need care for that:

    * Tied embeddings are untied first. The head reads the *normed* stream, which may well point along r, so editing it would
      change logits that ablation leaves alone.
    * Behind an output norm with scale s (Gemma 2 and 3, OLMo 2) the projected vector is s * r, normalised; without a norm s is one.
    * In a mixture of experts the output of every expert is edited, the shared ones' too. The router reads the stream and is left alone.

    The arithmetic is float64; weights go back to their own type, which in bfloat16 leaves a rounding residue of about 2^-9 of each
    weight along r.

    Args:
        model: edited.
        direction: (hidden,) unit vector r.

    Returns:
        How many weights were projected.
    """
    untie(model)
    structure = Structure.of(model)
    unit = direction.double()
    edited = 0
    for embedding in (structure.embedding, structure.position_embedding):
        if embedding is not None:
            edited += _project(embedding.weight.data.T, unit)
    for writer in writers(structure):
        vector = writer.unwanted(unit)
        edited += sum(_project(columns, vector) for columns in writer.columns())
    return edited


@torch.no_grad()
def untie(model: PreTrainedModel) -> None:
    """Give the output head weights of its own, equal to what it shared with the embedding; nothing where it shared none."""
    structure = Structure.of(model)
    embedding, head = structure.embedding, structure.head
    for config in {id(config): config for config in (model.config, model.config.get_text_config(decoder=True))}.values():
        config.tie_word_embeddings = False
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=embedding.weight.requires_grad)
    if getattr(model, "all_tied_weights_keys", None):
        model.all_tied_weights_keys = {}


def _project(matrix: Tensor, unit: Tensor) -> int:
    """Take ``unit`` out of the columns of (hidden, columns), in place."""
    vector = unit.to(matrix.device)
    for start in range(0, matrix.shape[1], _COLUMNS):
        columns = matrix[:, start : start + _COLUMNS]
        exact = columns.double()
        columns.copy_(exact - torch.outer(vector, vector @ exact))
    return matrix.numel()
