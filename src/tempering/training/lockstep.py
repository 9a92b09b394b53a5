"""One optimizer step over several ranks: each takes its share of the batch, and together they have the gradient of the whole.

The loss of a batch is the mean over its labelled tokens, and ranks have different numbers of them. So each rank takes the sum over its
own tokens, divided by the number in the whole batch. FSDP takes the mean of the ranks' gradients of the weights that it divides; the
gradients of those that every rank holds whole (adapters) are averaged here. Multiplied by the number of ranks, a rank's loss thus
has the gradient of the whole batch's mean, and every rank clips and steps alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.batching import Batch, collate
from tempering.data.chat import IGNORED, Encoded
from tempering.errors import UnusableModel
from tempering.models.ranks import Ranks
from tempering.training.settings import BY_SHAPE


def own_rows(chosen: Sequence[Encoded], ranks: Ranks) -> list[Encoded]:
    """The rows of a batch that this rank computes: every ``size``-th in order of length, so that all ranks have about as much to do.

    A rank that is left with none takes the first row without its labels, since all have to go through the layers together.
    """
    by_length = sorted(chosen, key=lambda row: len(row.input_ids))
    rows = [by_length[place] for place in ranks.share(len(by_length))]
    return rows or [Encoded(by_length[0].input_ids, [IGNORED] * len(by_length[0].input_ids))]


def own_batch(chosen: Sequence[Encoded], pad_id: int, ranks: Ranks) -> tuple[Batch, int]:
    """This rank's share of a batch, and how many labelled tokens the whole batch has."""
    labelled = sum(label != IGNORED for row in chosen for label in row.labels[1:])
    return collate(own_rows(chosen, ranks), pad_id), labelled


def backward(logits: Tensor, labels: Tensor, labelled: int, trained: Sequence[nn.Parameter], ranks: Ranks) -> float:
    """Leave the gradient of the whole batch on every rank, and return the whole batch's loss.

    Args:
        logits: (own labelled tokens, vocabulary).
        labels: (own labelled tokens,).
        labelled: labelled tokens of the whole batch.
        trained: the weights that move.
        ranks: the group.
    """
    own = functional.cross_entropy(logits.float(), labels, reduction="sum") / labelled
    (own * ranks.size).backward()  # type: ignore[no-untyped-call]
    _average([weight for weight in trained if not isinstance(weight, DTensor)], ranks)
    return float(ranks.add_up(own.detach().double()))


def _average(weights: Sequence[nn.Parameter], ranks: Ranks) -> None:
    """Give weights that every rank holds whole the mean of the ranks' gradients, in one message."""
    if not weights:
        return
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    together = ranks.add_up(torch.cat([gradient.reshape(-1) for gradient in gradients])) / ranks.size
    for weight, mean in zip(weights, torch.split(together, [weight.numel() for weight in weights]), strict=True):
        weight.grad = mean.view_as(weight)


def refuse_what_would_differ(model: PreTrainedModel, optimiser: str) -> None:
    """Refuse what several ranks would compute otherwise than one process.

    Args:
        model: about to be trained over several ranks.
        optimiser: its name in the settings.

    Raises:
        UnusableModel: there is dropout, whose masks are drawn for a batch as one process holds it; or an optimiser that looks at rows,
            columns or blocks of matrices would be given weights of which each rank has a part.
    """
    if any(_drops(module) for module in model.modules()):
        raise UnusableModel("dropout draws other masks over several devices than on one", "set dropout to 0, or run on one device")
    divided = any(isinstance(weight, DTensor) for weight in model.parameters() if weight.requires_grad)
    if divided and optimiser in BY_SHAPE:
        raise UnusableModel(
            f"{optimiser} looks at more than one number at a time, and over several devices each holds a part of them",
            "take adamw, sgd or schedule-free, train adapters, or run on one device",
        )


def _drops(module: nn.Module) -> bool:
    rates = (getattr(module, name, 0.0) for name in ("attention_dropout", "activation_dropout"))
    return (isinstance(module, nn.Dropout) and module.p > 0) or any(isinstance(rate, float) and rate > 0 for rate in rates)
