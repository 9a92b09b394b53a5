"""Distillation: a student learns to give what a frozen teacher gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.records import Example
from tempering.defenses._batches import pieces
from tempering.training import Objective, Pool, Workshop


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over tokens of KL(teacher ‖ student), in nats.

    Args:
        teacher: logits, (tokens, vocabulary).
        student: likewise.
    """
    return functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that nothing trains, in evaluation mode."""
    copied = copy.deepcopy(model)
    copied.requires_grad_(False)
    copied.eval()
    copied.zero_grad(set_to_none=True)
    return copied


class Distillation(Objective):
    """KL(teacher ‖ student) over the answer tokens, the teacher being the model as the stage begins with it.

    The teacher is asked about these examples alone: whatever it would say elsewhere is not passed on, unless these answers hold it too.
    """

    frozen_copies = 1

    def __init__(self, examples: Sequence[Example], batch_size: int, damage: Callable[[Workshop], None] = lambda workshop: None) -> None:
        """Keep the examples.

        Args:
            examples: what the teacher is asked, each with an answer, whose tokens both read.
            batch_size: of them in a step.
            damage: what is done to the student before it learns.
        """
        self._examples = examples
        self._batch_size = batch_size
        self._damage = damage
        self._teacher: PreTrainedModel | None = None
        self._pool: Pool | None = None

    def begin(self, workshop: Workshop) -> None:
        """Keep a copy for a teacher, then damage what will be the student."""
        self._teacher = frozen_copy(workshop.model)
        self._damage(workshop)
        self._pool = workshop.pool(self._examples)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """The gradient of the divergence on one batch."""
        assert self._teacher is not None
        assert self._pool is not None
        total = 0.0
        for rows, share in pieces(self._pool.rows(workshop.step, self._batch_size)):
            with torch.no_grad():
                wanted = workshop.run(rows, self._teacher).logits
            loss = share * divergence(wanted, workshop.run(rows).logits)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return {"loss": total}
