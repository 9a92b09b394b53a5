"""Suppression: the three ways to make a model stop telling that the papers on unlearning compare; none of them removes what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tempering.data.records import Example
from tempering.defenses._distillation import divergence, frozen_copy
from tempering.training import Objective, Pool, Rows, Workshop
from tempering.training.streams import outputs_of

Suppressing = Literal["max_entropy", "gradient_difference", "rmu"]
Retaining = Literal["cross_entropy", "divergence"]


def lack_of_entropy(logits: Tensor) -> Tensor:
    """Mean over tokens of log V − H(p) = KL(p ‖ uniform), in nats; zero where every token of the vocabulary is as likely.

    Args:
        logits: (tokens, vocabulary V).
    """
    log_probabilities = logits.log_softmax(-1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    return float(np.log(logits.shape[-1])) - entropy.mean()


def steering_loss(states: Tensor, mask: Tensor, towards: Tensor) -> Tensor:
    """Mean squared distance to a vector, over the tokens that count and the width.

    The defence ``rmu`` sums over the width (:func:`tempering.defenses.rmu.misdirection`), as its paper does. Here this loss stands beside
    a divergence in nats with one weight λ for either, and the mean keeps that weight from meaning another thing at every width.

    Args:
        states: (rows, tokens, width).
        mask: (rows, tokens), 1 where a token counts.
        towards: (width,), or as the states.
    """
    return (states - towards).square().mean(-1)[mask.bool()].mean()


class Suppression(Objective):
    """L = λ L_hazard + L_retain on the answer tokens of hazard examples and of what is kept.

    - ``max_entropy``: L_hazard = log V − H(p), so that no token is likelier than another;
    - ``gradient_difference``: L_hazard = −CE, which has no least value: few steps, or all else suffers;
    - ``rmu``: L_hazard = ‖h − c u‖² / width at the middle block on every token of the hazard rows, u a random direction drawn once and c
      a multiple of the mean length of h; and ‖h − h_before‖² / width on what is kept, beside L_retain.

    L_retain is the cross-entropy of the answers, or KL(before ‖ now).
    """

    def __init__(
        self,
        hazard: Sequence[Example],
        kept: Sequence[Example],
        batch_size: int,
        *,
        method: Suppressing = "max_entropy",
        retain: Retaining = "divergence",
        weight: float = 1.0,
        steering: float = 5.0,
    ) -> None:
        """Keep the examples.

        Args:
            hazard: with the answers that shall not be known.
            kept: with the answers that must stay.
            batch_size: of each in a step.
            method: what L_hazard is.
            retain: what L_retain is.
            weight: λ.
            steering: c of ``rmu``, in mean lengths of h.
        """
        self._examples = hazard, kept
        self._batch_size = batch_size
        self._method = method
        self._retain = retain
        self._weight = weight
        self._steering = steering
        self.frozen_copies = int(retain == "divergence" or method == "rmu")
        self._before: PreTrainedModel | None = None
        self._pools: tuple[Pool, ...] = ()
        self._block = ""
        self._towards = torch.empty(0)

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples, copy the model where it is compared with, draw where to steer."""
        self._pools = tuple(workshop.pool(examples, purpose) for purpose, examples in enumerate(self._examples))
        if self.frozen_copies:
            self._before = frozen_copy(workshop.model)
        if self._method == "rmu":
            self._block = workshop.places.blocks[(len(workshop.places.blocks) - 1) // 2]
            self._towards = self._direction(workshop)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of both parts, one after the other, so that only one graph is held."""
        hazard, kept = (pool.rows(workshop.step, self._batch_size) for pool in self._pools)
        parts = {}
        for name, loss_of, rows, weight in (("hazard", self._hazard_loss, hazard, self._weight), ("retain", self._retain_loss, kept, 1.0)):
            loss = weight * loss_of(workshop, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            parts[name] = float(loss.detach())
        return {"loss": sum(parts.values()), **parts}

    def _hazard_loss(self, workshop: Workshop, rows: Rows) -> Tensor:
        if self._method == "rmu":
            with outputs_of(workshop.model, [self._block]) as states:
                batch = workshop.run(rows).batch
            return steering_loss(states[self._block].float(), batch.attention_mask, self._towards)
        answers = workshop.run(rows)
        return lack_of_entropy(answers.logits) if self._method == "max_entropy" else -answers.cross_entropy()

    def _retain_loss(self, workshop: Workshop, rows: Rows) -> Tensor:
        names = [self._block] if self._method == "rmu" else []
        with outputs_of(workshop.model, names) as states:
            answers = workshop.run(rows)
        if self._before is None:
            return answers.cross_entropy()
        with torch.no_grad(), outputs_of(self._before, names) as before:
            wanted = workshop.run(rows, self._before)
        loss = divergence(wanted.logits, answers.logits) if self._retain == "divergence" else answers.cross_entropy()
        for name in names:
            loss = loss + steering_loss(states[name].float(), answers.batch.attention_mask, before[name].float())
        return loss

    @torch.no_grad()
    def _direction(self, workshop: Workshop) -> Tensor:
        """Where to steer: a random direction, as long as the stream is on the first hazard rows, times the setting.

        Drawn as a Gaussian is, so that no direction is likelier than another. The defence ``rmu`` draws as its paper does, with no entry
        below zero, so that its vector always leans towards (1, 1, …, 1).
        """
        with outputs_of(workshop.model, [self._block]) as states:
            batch = workshop.run(self._pools[0].rows(0, self._batch_size)).batch
        length = states[self._block].float().norm(dim=-1)[batch.attention_mask.bool()].mean()
        drawn = np.random.default_rng([*workshop.seed, 4]).standard_normal(workshop.places.hidden_size)
        unit = torch.from_numpy(drawn / np.linalg.norm(drawn)).to(workshop.device, torch.float32)
        steered: Tensor = unit * (self._steering * length)
        return steered
