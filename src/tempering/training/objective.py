"""What a defence minimises: it puts gradients into the model, and the hardening loop does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.batching import Batch
from tempering.data.chat import IGNORED, ChatFormat, Encoded
from tempering.data.records import Example
from tempering.training.flops import FlopCount
from tempering.training.loop import autocast, labelled_positions_only
from tempering.training.meter import Meter
from tempering.training.pools import Pool, Rows
from tempering.training.streams import Places


@dataclass(frozen=True)
class Answers:
    """What a model makes of some rows, at the positions that predict a labelled token.

    Attributes:
        logits: (labelled, vocabulary), float32, with their graph where gradients are on.
        labels: (labelled,), the token that follows.
        rows: (labelled,), which row each position is of.
        batch: the padded rows on the model's device.
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor
    batch: Batch

    def cross_entropy(self) -> Tensor:
        """Mean over the labelled tokens, in nats."""
        return functional.cross_entropy(self.logits, self.labels)

    def log_likelihoods(self) -> Tensor:
        """(rows,): the sum of the log-probabilities of each row's labelled tokens, in nats."""
        each = -functional.cross_entropy(self.logits, self.labels, reduction="none")
        return torch.zeros(len(self.batch.input_ids), dtype=each.dtype, device=each.device).index_add(0, self.rows, each)


class Workshop:
    """What an objective computes with during a stage.

    Attributes:
        model: what is trained: plain while the stage begins, with its adapters afterwards where the stage has them.
        chat: how examples become tokens.
        places: names of the model's parts.
        meter: counts what the defender spends.
        autocast: whether matrix products run in bfloat16.
        seed: of the training and the stage.
        step: of the stage, from 0.
        steps: of the whole stage.
    """

    def __init__(self, model: PreTrainedModel, chat: ChatFormat, meter: Meter, *, seed: Sequence[int], steps: int, autocast: bool) -> None:
        """Look at the model once."""
        self.model = model
        self.chat = chat
        self.places = Places.of(model)
        self.meter = meter
        self.autocast = autocast
        self.seed = tuple(int(number) for number in seed)
        self.step = 0
        self.steps = steps
        self.count = FlopCount.of(model)

    def trains(self, model: PreTrainedModel) -> None:
        """Go on with the model as it is trained, its frozen parts frozen and its adapters on."""
        self.model = model
        self.count = FlopCount.of(model)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    def generator(self, purpose: int = 0) -> np.random.Generator:
        """Randomness of this step alone; the same after a resume.

        Args:
            purpose: tells several draws of one step apart.
        """
        return np.random.default_rng([*self.seed, 1, self.step, purpose])

    def torch_generator(self, purpose: int = 0) -> torch.Generator:
        """Likewise for torch, on the CPU; move what is drawn to :attr:`device`."""
        return torch.Generator().manual_seed(int(self.generator(purpose).integers(2**62)))

    def pool(self, examples: Sequence[Example], purpose: int = 0) -> Pool:
        """Rows to draw from; make it in :meth:`Objective.begin`.

        Args:
            examples: at least one, each with an answer.
            purpose: pools with the same number are drawn in the same order, so that pairs stay together.
        """
        return Pool(examples, self.chat, (*self.seed, 2, purpose))

    def prompts(self, examples: Sequence[Example]) -> Rows:
        """Prompts alone, up to where the answer begins; nothing is labelled."""
        encoded = tuple(Encoded(ids, [IGNORED] * len(ids)) for ids in (self.chat.prompt_ids(example) for example in examples))
        return Rows(encoded, tuple(example.identity for example in examples), self.chat.pad_id)

    def run(self, rows: Rows, model: PreTrainedModel | None = None, count: FlopCount | None = None) -> Answers:
        """One forward pass, charged with the backward pass that follows where gradients are on.

        Args:
            rows: what to read; logits are computed where a labelled token is predicted.
            model: another than the one that is trained, such as a frozen copy.
            count: operations of that model, where its trainable parameters are others.
        """
        model = self.model if model is None else model
        batch = rows.batch().to(model.device)
        with autocast(model.device, self.autocast), labelled_positions_only(model, batch.labels) as labels:
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        self.charge(rows, backward=torch.is_grad_enabled() and logits.requires_grad, count=count)
        return Answers(logits[0].float(), labels, (batch.labels[:, 1:] != IGNORED).nonzero()[:, 0], batch)

    @contextmanager
    def precisely(self) -> Iterator[None]:
        """Compute in the type of the weights while the block runs, without autocast.

        For differences of values that bfloat16 could not tell apart. It is slower and keeps more of a forward pass, so for those alone.
        """
        before, self.autocast = self.autocast, False
        try:
            yield
        finally:
            self.autocast = before

    def charge(self, rows: Rows, *, backward: bool, count: FlopCount | None = None) -> None:
        """Count a pass over rows, for objectives that run one without :meth:`run`."""
        count = self.count if count is None else count
        spent = count.training_step if backward else count.forward
        self.meter.examples(rows.identities)
        self.meter.compute(tokens=sum(rows.lengths), flops=spent(rows.lengths, rows.labelled))

    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that move, in a fixed order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


FLOAT32 = 4
"""Bytes of a gradient's or a moment's number, whatever the weights are held in."""


@dataclass(frozen=True)
class Sizes:
    """What a stage will train, told before it begins.

    Attributes:
        model: the target's, plain; only to be looked at.
        weights: how many numbers it has.
        element: bytes of each while the stage trains.
        moving: how many numbers move, adapters or weights.
        adapters: whether they are adapters.
        batch_size: of the settings.
    """

    model: PreTrainedModel
    weights: int
    element: int
    moving: int
    adapters: bool
    batch_size: int


@dataclass(frozen=True)
class Held:
    """What an objective holds at once beside the model that is trained, its gradient and its optimiser.

    Attributes:
        copies: bytes of other models.
        gradients: bytes of further gradients, and of moments and the like.
        rows: of the largest batch whose graph is kept.
    """

    copies: int
    gradients: int
    rows: int


class Objective(ABC):
    """What a stage of a defence minimises.

    Attributes:
        frozen_copies: whole models that it keeps beside the one that is trained; for the estimate of memory.
        gradient_copies: gradients of all trained weights that it holds at once, beyond the one that every training has.
    """

    frozen_copies: int = 0
    gradient_copies: int = 0

    @abstractmethod
    def begin(self, workshop: Workshop) -> None:
        """Get ready: encode data, copy the model as a reference, perturb it.

        Called when the stage begins, and again, with the weights that it began with, when an interrupted training goes on. Every random
        choice comes from ``workshop.seed``.
        """

    @abstractmethod
    def step(self, workshop: Workshop) -> dict[str, float]:
        """Leave the gradient of this step in the trained parameters' ``grad``, which is ``None`` before.

        Returns:
            The loss under ``"loss"``, and its parts by their names; all finite, or the training fails.
        """

    def trains(self, name: str, places: Places) -> bool:
        """Whether a weight moves; all do unless told.

        Asked before :meth:`begin` too, by the estimate of memory, so it rests on settings and places alone.

        Args:
            name: of the weight in the plain model.
            places: names of the model's parts.
        """
        return True

    def holds(self, sizes: Sizes) -> Held:
        """What it takes of memory, as far as that can be told beforehand; for one that the two numbers above do not describe.

        Args:
            sizes: of what will be trained.
        """
        copies = self.frozen_copies * sizes.weights * sizes.element
        return Held(copies, self.gradient_copies * sizes.moving * FLOAT32, sizes.batch_size)

    def state(self) -> dict[str, Tensor]:
        """What it has gathered since :meth:`begin` and needs to go on as if never interrupted."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:  # noqa: B027 (most objectives have nothing to take up)
        """Take up what :meth:`state` gave."""
