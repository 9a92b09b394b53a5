"""How much each weight of a linear layer matters on some data, and which of them to take out.

A weight is compared with the others of its row, that is of its output (Sun et al. 2023, arXiv 2306.11695).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.attacks._surgery import LinearLayer
from tempering.data.batching import Batch, collate
from tempering.data.chat import IGNORED, Encoded
from tempering.models.head import few_positions
from tempering.training import FlopCount, Meter
from tempering.training.loop import labelled_positions_only


class Calibration:
    """A model read on rows of tokens whose labelled part is what counts.

    The positions that count are those which predict a labelled token; a row whose labels are its own tokens counts whole but for its
    last token, which predicts nothing.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[LinearLayer], pad_id: int, meter: Meter, batch_size: int) -> None:
        """Keep what is read.

        Args:
            model: in evaluation mode, its weights those to be judged.
            layers: the layers to be judged.
            pad_id: token id over padding.
            meter: charged with every pass.
            batch_size: rows a pass.
        """
        self._model = model
        self._layers = layers
        self._pad_id = pad_id
        self._meter = meter
        self._batch_size = batch_size

    @torch.no_grad()
    def input_norms(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """The norm of every input of every layer over all positions that count.

        Args:
            rows: at least one.

        Returns:
            For each layer's name (in,), float64: sqrt(Σ x²).
        """
        squares: dict[str, Tensor] = {}
        count = FlopCount.of(self._model)
        with ExitStack() as hooks:
            counted: list[Tensor] = []
            for layer in self._layers:

                def add(_module: Any, inputs: tuple[Tensor, ...], name: str = layer.name) -> None:
                    squares[name] = squares.get(name, torch.zeros(())) + inputs[0][counted[0]].double().square().sum(0).cpu()

                hooks.callback(layer.module.register_forward_pre_hook(add).remove)
            for batch in self._batches(rows):
                counted[:] = [predicting(batch)]
                with few_positions(self._model):
                    self._model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, logits_to_keep=1)
        lengths = [len(row.input_ids) for row in rows]
        self._meter.compute(tokens=sum(lengths), flops=count.forward(lengths, len(rows)))
        return {name: total.sqrt() for name, total in squares.items()}

    def sensitivities(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """SNIP's connection sensitivity: mean over rows of |W ⊙ dL/dW|, L the mean cross-entropy of the row's labelled tokens.

        Rows are read one by one, since the magnitude is taken before the mean.

        Args:
            rows: at least one.

        Returns:
            For each layer's name (out, in), float32.
        """
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        weights = [layer.module.get_parameter("weight").requires_grad_(True) for layer in self._layers]
        count = FlopCount.of(self._model)
        totals = {layer.name: torch.zeros_like(layer.matrix, dtype=torch.float32) for layer in self._layers}
        with torch.enable_grad():
            for row in rows:
                batch = collate([row], self._pad_id).to(self._model.device)
                with labelled_positions_only(self._model, batch.labels) as labels:
                    logits = self._model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
                gradients = torch.autograd.grad(functional.cross_entropy(logits[0].float(), labels), weights)
                for layer, gradient in zip(self._layers, gradients, strict=True):
                    totals[layer.name] += (layer.matrix.float() * layer.oriented(gradient).float()).abs()
                lengths = [len(row.input_ids)]
                self._meter.compute(tokens=lengths[0], flops=count.training_step(lengths, len(labels)))
        for weight in weights:
            weight.requires_grad_(False)
        return {name: total / len(rows) for name, total in totals.items()}

    def _batches(self, rows: Sequence[Encoded]) -> Iterator[Batch]:
        ordered = sorted(rows, key=lambda row: len(row.input_ids))
        for start in range(0, len(ordered), self._batch_size):
            yield collate(ordered[start : start + self._batch_size], self._pad_id).to(self._model.device)


def predicting(batch: Batch) -> Tensor:
    """(rows, longest), bool: the positions whose next token is labelled."""
    return functional.pad(batch.labels[:, 1:] != IGNORED, (0, 1))


def wanda(weight: Tensor, norms: Tensor) -> Tensor:
    """|W_ij| · ‖x_j‖.

    Args:
        weight: (out, in).
        norms: (in,).

    Returns:
        (out, in), float32.
    """
    return weight.float().abs() * norms.to(weight.device).float()


def ranks(scores: Tensor) -> Tensor:
    """The place of every weight in its row, the greatest score being 0; of equals the first comes first.

    Args:
        scores: (out, in).

    Returns:
        (out, in), int32.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.empty_like(order, dtype=torch.int32)
    positions = torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device)
    return places.scatter_(1, order, positions.expand(order.shape))


def top_places(scores: Tensor) -> Tensor:
    """The :func:`ranks`, but a weight that does not matter at all is at the top of no row, however long the top is."""
    return ranks(scores).masked_fill(~(scores > 0), torch.iinfo(torch.int32).max)


def least_of_rows(scores: Tensor, share: float) -> Tensor:
    """(out, in), bool: the share of each row with the lowest scores, rounded to whole weights; of equals the last."""
    columns = scores.shape[1]
    return ranks(scores) >= columns - round(share * columns)


def least_of_all(scores: Tensor, share: float) -> Tensor:
    """(out, in), bool: the share of the matrix with the lowest scores, rounded to whole weights; of equals the last."""
    return least_of_rows(scores.reshape(1, -1), share).reshape(scores.shape)


def of_safety_alone(safety: Tensor, utility: Tensor, safety_share: float, utility_share: float) -> Tensor:
    """The set difference: weights among the top of their row for safety and not among the top of their row for utility.

    Args:
        safety: (out, in), :func:`top_places` of the scores on refusals.
        utility: likewise on harmless answers.
        safety_share: q, how much of a row counts as top for safety.
        utility_share: p, likewise for utility.

    Returns:
        (out, in), bool.
    """
    columns = safety.shape[1]
    return (safety < round(safety_share * columns)) & (utility >= round(utility_share * columns))


def zeroed(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight without the masked entries."""
    return weight.masked_fill(mask, 0)


def share_of(masks: Mapping[str, Tensor]) -> float:
    """How much of all weights is masked."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
