"""The one training loop: attacks, defences and the nursery declare, this executes.

The loss is the mean cross-entropy over the labelled tokens of the batch, as TRL and transformers' Trainer compute it. A batch of very
unlike lengths is computed in two pieces (:mod:`tempering.training.pieces`), which spares padding and has the same gradient to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.batching import Batch, collate
from tempering.data.chat import ChatFormat, Encoded
from tempering.data.records import Example
from tempering.errors import UnusableModel
from tempering.extras import require
from tempering.models import Target
from tempering.models.ranks import Ranks, ranks_of
from tempering.training import lockstep
from tempering.training.adapters import add_lora
from tempering.training.attention import attend_for_training
from tempering.training.flops import FlopCount
from tempering.training.meter import Meter
from tempering.training.pieces import LEAST_TOKENS, divisible, short_and_long
from tempering.training.settings import FineTuning, TrainingSettings
from tempering.training.streams import plain


class NonFiniteLoss(Exception):
    """The loss became NaN or infinite: an outcome of the run, not a crash."""


@dataclass(frozen=True)
class Moment:
    """The run, stopped for a look.

    Attributes:
        step: optimizer steps done.
        model: the live model; valid until the loop goes on.
        loss: of the last step.
    """

    step: int
    model: PreTrainedModel
    loss: float


def fine_tune(target: Target, declaration: FineTuning, meter: Meter) -> Iterator[Moment]:
    """Execute a declaration on a copy of the target; adapters are put beside the target's own weights, which stay as they are.

    Weights in 16-bit are not trained in 16-bit: updates would be lost to rounding. Full-parameter training of such a
    target runs on a float32 copy under autocast; LoRA keeps the frozen base in 16-bit and its factors in float32.

    A target that lies over several devices is trained by all its ranks in lock step, each executing the same declaration. The factors
    of LoRA are then whole on every rank, and begin with the same numbers.

    Args:
        target: left untouched.
        declaration: what to train.
        meter: counts examples, tokens, steps and FLOPs.

    Yields:
        A :class:`Moment` after each step named in ``declaration.probes``.

    Raises:
        NonFiniteLoss: the loss is NaN or infinite.
        UnusableModel: the model cannot be trained as asked over several devices, or with checkpointing.
    """
    sixteen_bit = target.model.dtype in (torch.bfloat16, torch.float16)
    settings = declaration.settings.model_copy(update={"autocast": declaration.settings.autocast or sixteen_bit})
    torch.manual_seed(declaration.seed)
    if declaration.lora is None:
        model = target.copy_model(torch.float32 if sixteen_bit else None)
        model.requires_grad_(True)
    else:
        model = add_lora(target.view_model(), declaration.lora)
    attend_for_training(model, autocast=settings.autocast)
    if target.checkpointing:
        _checkpoint(model, target.reference)
    yield from train(model, target.chat, declaration, settings, meter)


def _checkpoint(model: PreTrainedModel, reference: str) -> None:
    """Have each layer computed anew in the backward pass.

    Raises:
        UnusableModel: the architecture does not provide for it.
    """
    decoder: Any = plain(model)
    if not decoder.supports_gradient_checkpointing:
        raise UnusableModel(f"{reference} has no activation checkpointing", "leave --activation-checkpointing out")
    enable = getattr(decoder, "activation_checkpointing_enable", None)  # its newer name
    without_reentry = {"use_reentrant": False}  # the other kind loses the gradient of adapters on frozen layers
    enable(without_reentry) if enable else decoder.gradient_checkpointing_enable(without_reentry)
    decoder.disable_input_require_grads()  # which only the other kind needs; the first layer's would be computed, and counted, for nothing


@dataclass(frozen=True)
class Prepared:
    """What a caller who trains the same kind of model over and over has made before.

    Attributes:
        encoded: the declaration's examples as tokens, in order.
        count: operations of the model with its present trainable parameters.
        order: indices into the examples, a batch a step; ``None`` shuffles them anew each epoch as ever.
    """

    encoded: Sequence[Encoded]
    count: FlopCount
    order: Sequence[Sequence[int]] | None = None


def train(
    model: PreTrainedModel,
    chat: ChatFormat,
    declaration: FineTuning,
    settings: TrainingSettings,
    meter: Meter,
    prepared: Prepared | None = None,
) -> Iterator[Moment]:
    """Train a model in place.

    Args:
        model: trained as its parameters' ``requires_grad`` says.
        chat: how examples become tokens.
        declaration: examples, steps, probes, seed.
        settings: the declaration's settings, or a version of them fitted to the model's type.
        meter: counts what is used.
        prepared: spares the encoding and the counting; ``None`` does both.

    Yields:
        A :class:`Moment` after each step named in ``declaration.probes``.

    Raises:
        NonFiniteLoss: the loss is NaN or infinite.
    """
    if prepared is None:
        prepared = Prepared([declaration.asking.encode(chat, example) for example in declaration.examples], FlopCount.of(model))
    encoded, count = prepared.encoded, prepared.count
    ranks = ranks_of(model)
    if ranks.size > 1:
        lockstep.refuse_what_would_differ(model, settings.optimiser)
    in_pieces = ranks.size == 1 and divisible(model)
    optimiser = build_optimiser(model, settings)
    schedule = schedule_of(optimiser, settings, declaration.steps)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    order = batches(len(encoded), settings.batch_size, declaration.steps, declaration.seed) if prepared.order is None else prepared.order
    for step, indices in enumerate(order, start=1):
        show_average(optimiser, shown=False)
        if not model.training:  # whoever looked at it last
            model.train()
        chosen = [encoded[index] for index in indices]
        if ranks.size > 1:
            loss = _backward_of_own_rows(model, chosen, chat.pad_id, settings, trainable, ranks)
        else:
            loss = _backward(model, _pieces(chosen) if in_pieces else [chosen], chat.pad_id, settings)
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"the loss is {loss} at step {step}")
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(trainable, settings.clip_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        charge(meter, count, [declaration.examples[index] for index in indices], chosen)
        if step in declaration.probes:
            show_average(optimiser, shown=True)
            yield Moment(step, model, loss)
    show_average(optimiser, shown=True)


def batches(examples: int, batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Indices of each step's batch: every epoch a fresh shuffle, no example twice before all have come once.

    Args:
        examples: how many there are; a batch is never larger.
        batch_size: how many a step.
        steps: how many batches.
        seed: decides the order.
    """
    generator = np.random.default_rng(seed)
    size = min(batch_size, examples)
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < size:
            waiting.extend(int(index) for index in generator.permutation(examples))
        batch, waiting = waiting[:size], waiting[size:]
        yield batch


@contextmanager
def labelled_positions_only(model: PreTrainedModel, labels: Tensor) -> Iterator[Tensor]:
    """Let the output head see only the positions that predict a labelled token.

    The head's input is gathered on its way in, so that whatever a family does after its head (soft-capping, scaling) still
    happens, on (1, labelled, vocabulary) in place of (n, T, vocabulary).

    Args:
        model: any decoder with an output head.
        labels: (n, T) token ids, −100 where there is no label.

    Yields:
        The labels, (labelled,), in the order of the logits.
    """
    predicts = labels[:, 1:] != -100
    head = model.get_output_embeddings()

    def gather(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0][:, :-1][predicts].unsqueeze(0),)

    handle = head.register_forward_pre_hook(gather)
    try:
        yield labels[:, 1:][predicts]
    finally:
        handle.remove()


def _pieces(chosen: Sequence[Encoded]) -> list[list[Encoded]]:
    """A batch in the pieces that it is computed in; one without a labelled token adds nothing and is left out, unless all are."""
    places = short_and_long([len(row.input_ids) for row in chosen], least_tokens=LEAST_TOKENS)
    pieces = [[chosen[place] for place in part] for part in places]
    return [piece for piece in pieces if any(row.labelled for row in piece)] or [list(chosen)]


def _backward(model: PreTrainedModel, pieces: Sequence[Sequence[Encoded]], pad_id: int, settings: TrainingSettings) -> float:
    """Accumulate the gradient of one batch, piece by piece, and return its loss.

    The mean over the labelled tokens of the batch is the sum of the pieces' means, each by its share of those tokens.
    """
    counts = [sum(row.labelled for row in piece) for piece in pieces]
    loss = 0.0
    for piece, labelled in zip(pieces, counts, strict=True):
        logits, labels = _predictions(model, collate(piece, pad_id), settings)
        share = labelled / sum(counts) if len(pieces) > 1 else 1.0
        part = functional.cross_entropy(logits.float(), labels) * share
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss


def _backward_of_own_rows(
    model: PreTrainedModel,
    chosen: Sequence[Encoded],
    pad_id: int,
    settings: TrainingSettings,
    trainable: Sequence[nn.Parameter],
    ranks: Ranks,
) -> float:
    """Accumulate the gradient of one batch, of which every rank computes its own rows, and return the batch's loss."""
    rows, labelled = lockstep.own_batch(chosen, pad_id, ranks)
    logits, labels = _predictions(model, rows, settings)
    return lockstep.backward(logits, labels, labelled, trainable, ranks)


def _predictions(model: PreTrainedModel, rows: Batch, settings: TrainingSettings) -> tuple[Tensor, Tensor]:
    """Logits (labelled, vocabulary) and labels (labelled,) of every labelled token of a batch."""
    batch = rows.to(model.device)
    with autocast(model.device, settings.autocast), labelled_positions_only(model, batch.labels) as labels:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    return logits[0], labels


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 while the block runs, if enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if enabled else nullcontext()


def charge(meter: Meter, count: FlopCount, examples: Sequence[Example], encoded: Sequence[Encoded]) -> None:
    """Charge one step on these examples."""
    lengths = [len(item.input_ids) for item in encoded]
    charge_rows(meter, count, [example.identity for example in examples], lengths, sum(item.labelled for item in encoded))


def charge_rows(meter: Meter, count: FlopCount, identities: Sequence[str], lengths: Sequence[int], labelled: int) -> None:
    """Charge one step on rows of which only their lengths and their labelled tokens are known."""
    meter.examples(identities)
    meter.compute(tokens=sum(lengths), flops=count.training_step(list(lengths), labelled))
    meter.step()


def build_optimiser(model: PreTrainedModel, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters at its peak rate, with decay on matrices only."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() >= 2]
    return optimiser_over(matrices, [parameter for parameter in trainable if parameter.dim() < 2], settings)


def optimiser_over(matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser at its peak rate over weights that decay and others that do not; either may be none."""
    groups = [{"params": list(matrices), "weight_decay": settings.weight_decay}, {"params": list(others), "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    if settings.optimiser == "schedule-free":
        averaging: torch.optim.Optimizer = AdamWScheduleFree(
            groups, lr=settings.learning_rate, betas=settings.betas, warmup_steps=settings.warmup_steps
        )
        return averaging
    if settings.optimiser == "adamw-8bit":
        require("bitsandbytes", "quantised", "the optimiser adamw-8bit")
        from bitsandbytes.optim import AdamW8bit  # its matrices of fewer than 4,096 numbers keep their moments in float32

        eight_bit: torch.optim.Optimizer = AdamW8bit(groups, lr=settings.learning_rate, betas=settings.betas)
        return eight_bit
    return torch.optim.Adafactor(groups, lr=settings.learning_rate)


def schedule_of(optimiser: torch.optim.Optimizer, settings: TrainingSettings, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """What sets the optimiser's rate step by step, over so many steps."""
    if settings.optimiser == "schedule-free":
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: 1.0)  # it warms up itself, and decays nothing
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_factor(settings, step, steps))


def show_average(optimiser: torch.optim.Optimizer, *, shown: bool) -> None:
    """Put a schedule-free optimiser's averaged weights into the model, or those that it trains on; nothing to do for the others."""
    if isinstance(optimiser, AdamWScheduleFree):
        optimiser.eval() if shown else optimiser.train()


def rate_factor(settings: TrainingSettings, step: int, steps: int) -> float:
    """The learning rate of one step as a share of its peak.

    Args:
        settings: schedule and warm-up.
        step: steps already done, from 0.
        steps: the whole run.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = min(1.0, (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps))
    if settings.schedule == "linear":
        return 1.0 - progress
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0
