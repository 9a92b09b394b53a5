"""Many fine-tuning runs at once: each with its own data, order, rate, schedule, batch and seed, all in one forward and backward pass.

What comes of a run is what :func:`tempering.training.loop.fine_tune` makes of it, to rounding: the loss of a run is the mean over its own
labelled tokens, its gradient is clipped by its own norm, and its optimiser and schedule are its own, over its own row of the bank
(:mod:`tempering.training.stacked`). Runs that are over, or that nobody wants to see more of, leave the pass.

Runs with smaller batches are filled up with rows that have no labels. Meters are charged the examples, tokens, steps and FLOPs that each
run would have used alone: the price of an attack is the attacker's, who has no cohort. Only the clock is shared: each run is charged an
equal part of the seconds of every pass that it was in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.batching import Batch, collate
from tempering.data.chat import IGNORED, Encoded
from tempering.models import Target
from tempering.training.adapters import add_lora
from tempering.training.attention import attend_for_training
from tempering.training.flops import FlopCount
from tempering.training.loop import NonFiniteLoss, autocast, batches, charge, optimiser_over, schedule_of, show_average
from tempering.training.meter import Meter
from tempering.training.settings import BY_SHAPE, FineTuning, LoraSettings
from tempering.training.stacked import CannotStack, stack
from tempering.training.stacked_lora import stack_lora


@dataclass(frozen=True)
class Look:
    """One run of a cohort, stopped for a look, or lost.

    Attributes:
        run: its place among the declarations.
        step: optimizer steps done.
        loss: of the last step.
        error: why it is lost; ``None`` while it is not.
    """

    run: int
    step: int
    loss: float
    error: NonFiniteLoss | None = None


class Cohort:
    """Fine-tuning runs that are trained together."""

    def __init__(self, target: Target, declarations: Sequence[FineTuning], meters: Sequence[Meter]) -> None:
        """Stack the runs.

        Args:
            target: left untouched.
            declarations: all of adapters on the same layers, or all of whole models.
            meters: one for each.

        Raises:
            CannotStack: the runs cannot be trained together, or the model not in a stack; one by one they can.
        """
        kinds = {declaration.lora is None for declaration in declarations}
        if len(kinds) != 1 or any(declaration.settings.optimiser in BY_SHAPE for declaration in declarations):
            raise CannotStack("some runs move adapters and others all weights, or an optimiser looks at the shape of what it moves")
        if len({declaration.settings.autocast for declaration in declarations}) > 1:
            raise CannotStack("some runs use autocast and others do not")
        sixteen_bit = target.model.dtype in (torch.bfloat16, torch.float16)
        self._autocast = sixteen_bit or declarations[0].settings.autocast
        self._target = target
        self._window: PreTrainedModel
        if kinds == {True}:
            self._model = _in_float32(target.view_model()) if sixteen_bit else target.view_model()
            self._bank = stack(self._model, len(declarations))
            self._window = target.view_model(dict(self._bank.version(0))).requires_grad_(True)
            if sixteen_bit:
                _in_float32(self._window)
            counts = [FlopCount.of(self._window)] * len(declarations)
        else:
            adapters = [(_adapters(declaration), declaration.seed) for declaration in declarations]
            self._model, self._bank = stack_lora(target, adapters)
            rank = max(settings.rank for settings, _ in adapters)
            self._window = add_lora(target.view_model(), adapters[0][0].model_copy(update={"rank": rank}))
            known = {settings: FlopCount.of(add_lora(target.view_model(), settings)) for settings in {settings for settings, _ in adapters}}
            counts = [known[settings] for settings, _ in adapters]
        attend_for_training(self._model, autocast=self._autocast)
        self._running = [
            _Run.of(place, target, declaration, meter, count, parts)
            for place, (declaration, meter, count, parts) in enumerate(zip(declarations, meters, counts, self._bank.parts(), strict=True))
        ]
        self._leaving: set[int] = set()

    def leave(self, run: int) -> None:
        """Train a run no further; it is not seen again."""
        self._leaving.add(run)

    def run(self) -> Iterator[tuple[Look, ...]]:
        """Train all runs to their ends.

        Yields:
            After a step the runs that are to be looked at then, in order, and those that are lost. What :meth:`show` and
            :meth:`together` show of them is valid until the next are asked for.
        """
        step = 0
        while self._running:
            step += 1
            started = time.perf_counter()
            losses = self._step()
            seconds = (time.perf_counter() - started) / len(self._running)
            looks = []
            for run, loss in zip(self._running, losses, strict=True):
                run.meter.worked(seconds)
                if not math.isfinite(loss):
                    self._leaving.add(run.place)
                    looks.append(Look(run.place, step, loss, NonFiniteLoss(f"the loss is {loss} at step {step}")))
                elif step in run.declaration.probes:
                    looks.append(Look(run.place, step, loss))
                if step >= run.declaration.steps:
                    self._leaving.add(run.place)
            if looks:
                yield tuple(looks)
            self._let_go()

    def show(self, run: int) -> PreTrainedModel:
        """One run as a plain model, in the bank's own memory; valid until another is shown or training goes on."""
        place = self._place(run)
        show_average(self._running[place].optimiser, shown=True)
        weights = dict(self._window.named_parameters())
        for name, value in self._bank.version(place):
            weights[name].data = value
        settings = self._running[place].declaration.lora
        if settings is not None:
            for module in self._window.modules():
                if isinstance(module, LoraLayer):
                    module.scaling["default"] = settings.alpha / settings.rank
        return self._window

    @contextmanager
    def together(self, runs: Sequence[int]) -> Iterator[PreTrainedModel]:
        """Some runs as one stacked model, whose rows are those of the first run, then of the second, and so on.

        Weights, modes and what is shown are put back afterwards.
        """
        places = [self._place(run) for run in runs]
        for place in places:
            show_average(self._running[place].optimiser, shown=True)
        with self._bank.only(places):
            yield self._model

    def _step(self) -> list[float]:
        """One step of every run; the loss of each. A run whose loss is not finite does not move."""
        self._model.train()
        for run in self._running:
            show_average(run.optimiser, shown=False)
        chosen = [next(run.order) for run in self._running]
        rows = [[run.encoded[index] for index in indices] for run, indices in zip(self._running, chosen, strict=True)]
        losses = self._backward(rows)
        for run, indices, encoded, loss in zip(self._running, chosen, rows, losses, strict=True):
            if math.isfinite(loss):
                run.move([run.declaration.examples[index] for index in indices], encoded)
        self._bank.gradients.zero_()
        return losses

    def _backward(self, rows: Sequence[Sequence[Encoded]]) -> list[float]:
        """Accumulate the gradient of every run's batch."""
        chat, device = self._target.chat, self._model.device
        batch = collate(list(_filled(rows)), chat.pad_id).to(device)
        with autocast(device, self._autocast), _labelled_of_each(self._model, batch, len(rows)) as labels:
            logits = self._model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        each = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
        losses = each.reshape(labels.shape).sum(1) / (labels != IGNORED).sum(1)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return [float(loss) for loss in losses.detach()]

    def _place(self, run: int) -> int:
        return next(place for place, each in enumerate(self._running) if each.place == run)

    def _let_go(self) -> None:
        """Take runs that left out of the pass."""
        staying = [place for place, run in enumerate(self._running) if run.place not in self._leaving]
        if len(staying) < len(self._running):
            self._running = [self._running[place] for place in staying]
            self._bank.keep(staying)


@dataclass(frozen=True)
class _Run:
    """One run of a cohort.

    Attributes:
        place: among the declarations.
        order: batches of indices, a step each.
        parts: its row of the bank, matrices and all else.
    """

    place: int
    declaration: FineTuning
    meter: Meter
    count: FlopCount
    encoded: list[Encoded]
    order: Iterator[list[int]]
    parts: list[nn.Parameter]
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @classmethod
    def of(
        cls, place: int, target: Target, declaration: FineTuning, meter: Meter, count: FlopCount, parts: tuple[nn.Parameter, nn.Parameter]
    ) -> _Run:
        """Make ready."""
        settings = declaration.settings
        encoded = [declaration.asking.encode(target.chat, example) for example in declaration.examples]
        moving = [[part] if part.numel() else [] for part in parts]
        optimiser = optimiser_over(moving[0], moving[1], settings)
        return cls(
            place,
            declaration,
            meter,
            count,
            encoded,
            batches(len(encoded), settings.batch_size, declaration.steps, declaration.seed),
            [part for group in moving for part in group],
            optimiser,
            schedule_of(optimiser, settings, declaration.steps),
        )

    def move(self, examples: Sequence[Any], encoded: Sequence[Encoded]) -> None:
        """Take one step along the gradient that lies in the bank."""
        if self.declaration.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parts, self.declaration.settings.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        charge(self.meter, self.count, examples, encoded)


def _in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its own float32 weights in place of the 16-bit ones that it shares."""
    converted: PreTrainedModel = model.to(dtype=torch.float32)  # type: ignore[call-arg]
    return converted


def _adapters(declaration: FineTuning) -> LoraSettings:
    assert declaration.lora is not None
    return declaration.lora


def _filled(rows: Sequence[Sequence[Encoded]]) -> Iterator[Encoded]:
    """The rows of all runs, those of a run together, each as many as the largest has: filled up with its shortest row without labels."""
    most = max(len(own) for own in rows)
    for own in rows:
        shortest = min(own, key=lambda row: len(row.input_ids))
        yield from own
        for _ in range(most - len(own)):
            yield Encoded(shortest.input_ids, [IGNORED] * len(shortest.input_ids))


@contextmanager
def _labelled_of_each(model: PreTrainedModel, batch: Batch, versions: int) -> Iterator[Tensor]:
    """Let the output head see only the positions that predict a labelled token, as many for each version as one has most.

    Args:
        model: a stacked decoder.
        batch: (K · b, T).
        versions: K.

    Yields:
        The labels, (K, L), −100 where a version has fewer than L; the logits come as (K, L, vocabulary).
    """
    labels = batch.labels[:, 1:].reshape(versions, -1)
    width = batch.labels.shape[1]
    predicts = labels != IGNORED
    longest = int(predicts.sum(1).max())
    order = predicts.int().argsort(dim=1, descending=True, stable=True)[:, :longest]  # labelled ones first, in their order
    kept = torch.where(predicts.gather(1, order), labels.gather(1, order), IGNORED)
    place = order // (width - 1) * width + order % (width - 1)  # among all positions, of which each row's last predicts nothing

    def gather(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        hidden = inputs[0].reshape(versions, -1, inputs[0].shape[-1])
        return (hidden.gather(1, place.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])),)

    handle = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield kept
    finally:
        handle.remove()
