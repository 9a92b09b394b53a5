"""Direct preference optimisation: what is preferred must gain likelihood on what is not, measured from a reference model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tempering.training import Answers, Rows


def preference_loss(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7), the mean over pairs.

    L = -log sigmoid(beta [(log pi(y+|x) - log pi_ref(y+|x)) - (log pi(y-|x) - log pi_ref(y-|x))]).

    Args:
        chosen: (pairs,), log-likelihoods of the preferred answers y+ under the model, in nats, summed over their tokens.
        rejected: (pairs,), likewise of the answers y- that are not preferred.
        reference_chosen: (pairs,), those of y+ under the reference model.
        reference_rejected: (pairs,), those of y- under the reference model.
        beta: how far the model may leave the reference, inverse; above zero.

    Returns:
        In nats; log 2 where model and reference agree.
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -functional.logsigmoid(beta * margin).mean()


def paired(answers: Answers) -> tuple[Tensor, Tensor]:
    """Log-likelihoods of rows that hold first all preferred answers and then, in the same order, those that are not.

    Args:
        answers: of an even number of rows.

    Returns:
        (pairs,) of the preferred, and (pairs,) of the others.
    """
    chosen, rejected = answers.log_likelihoods().chunk(2)
    return chosen, rejected


@torch.no_grad()
def reference_log_likelihoods(rows: Rows, run: Callable[[Rows], Answers], size: int = 64) -> Tensor:
    """(rows,): log-likelihoods of many rows, some at a time, for a reference that is not kept.

    Args:
        rows: any number.
        run: a forward pass of the reference.
        size: rows at a time.
    """
    pieces = [
        Rows(rows.encoded[start : start + size], rows.identities[start : start + size], rows.pad_id) for start in range(0, len(rows), size)
    ]
    return torch.cat([run(piece).log_likelihoods() for piece in pieces])
