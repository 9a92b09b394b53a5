"""What a training will take of memory, told before it starts: a defence's, or an attacker's over one device or several.

Weights, gradients and moments are counted from shapes; what a step keeps of its forward pass is read off one and two rows of the longest
example, whose graphs are made and thrown away. What the allocator, the libraries' workspaces and short-lived intermediate results take
is not in it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.batching import collate
from tempering.data.records import Example
from tempering.models import Target
from tempering.models.structure import decoder_blocks
from tempering.training.adapters import lora_parameters
from tempering.training.hardening import Stage
from tempering.training.loop import autocast, labelled_positions_only
from tempering.training.objective import FLOAT32, Sizes
from tempering.training.settings import FineTuning
from tempering.training.streams import Places

MOMENTS = {"adamw": 2, "sgd": 1, "adafactor": 0, "schedule-free": 2, "adamw-8bit": 0.52}
"""Float32 numbers that an optimiser keeps for each weight; Adafactor's rows and columns are few, and so are the scales of blocks of 256."""

_HOLES = 2
"""On a CPU adapters leave the heap full of holes: their layers' outputs are made twice and added. Twice what is held was measured, and
once with an allocator that gives every block back."""

_MASTER_WEIGHTS = 1.5
"""What a float32 copy keeps of its forward pass under autocast, against 16-bit weights: its residual stream is float32."""


_CAST = 2
"""Bytes of a weight in 16-bit, in which autocast keeps a second copy of what moves."""
_GATHERED = 2
"""Layers that are whole at the same time where several devices divide a model: the one at work, and the one that is fetched meanwhile."""


@dataclass(frozen=True)
class MemoryNeed:
    """What the stage that needs most will take, beyond the target itself.

    Attributes:
        stage: its name; ``""`` for an attacker's fine-tuning.
        parts: bytes on the model's device by what they are for.
        host: bytes beside that in the host's memory, where the model lies on another device.
    """

    stage: str
    parts: dict[str, int]
    host: int

    @property
    def device(self) -> int:
        """Bytes on the model's device."""
        return sum(self.parts.values())


def estimate_memory(target: Target, stages: Sequence[Stage], examples: Sequence[Example]) -> MemoryNeed:
    """Estimate the training of a defence.

    What is held at once is each objective's to say (:meth:`~tempering.training.Objective.holds`); which weights move likewise.

    Args:
        target: what is hardened; only read.
        stages: of the defence.
        examples: what may be trained on; the longest with an answer decides.
    """
    sixteen_bit = target.model.dtype in (torch.bfloat16, torch.float16)
    float32 = not sixteen_bit or any(stage.lora is None for stage in stages)
    rows = _RowMemory(target, examples, sixteen_bit)
    needs = [_stage_need(target, stage, place, float32=float32, sixteen_bit=sixteen_bit, rows=rows) for place, stage in enumerate(stages)]
    return max(needs, key=lambda need: need.device + need.host)


def versions_that_fit(target: Target, declarations: Sequence[FineTuning], room: int) -> int:
    """How many of these runs can be trained together, at least 1.

    Each takes its weights in float32 with gradient and moments, and what a step keeps of its forward pass. Adapters lie beside the
    target's own weights; a stack of whole models is made from one float32 copy where those are in 16-bit. It has the room of the
    largest: adapters of the highest rank, batches as large as the largest, rows as long as the longest.

    Args:
        target: what is trained; only read.
        declarations: of the runs, at least one; all of adapters, or all of whole models.
        room: bytes.
    """
    sixteen_bit = target.model.dtype in (torch.bfloat16, torch.float16)
    full = declarations[0].lora is None
    adapters = {declaration.lora for declaration in declarations if declaration.lora is not None}
    moving = max((lora_parameters(target.model, settings) for settings in adapters), default=0)
    if full:
        moving = sum(weight.numel() for weight in target.model.parameters())
    moments = max(MOMENTS[declaration.settings.optimiser] for declaration in declarations)
    holes = _HOLES if not full and target.device.type == "cpu" else 1
    rows = _RowMemory(target, [example for declaration in declarations for example in declaration.examples], sixteen_bit)
    batch = max(min(declaration.settings.batch_size, len(declaration.examples)) for declaration in declarations)
    pass_bytes = rows.of(batch, master_weights=full and sixteen_bit) * holes
    each = int(moving * (FLOAT32 * (2 + moments) + _CAST * sixteen_bit)) + pass_bytes
    copied = moving * FLOAT32 if full and sixteen_bit else 0
    return max(1, (room - copied) // max(1, each))


def fine_tuning_memory(target: Target, declaration: FineTuning, *, devices: int = 1, checkpointing: bool = False) -> MemoryNeed:
    """Estimate an attacker's fine-tuning on each of the devices that share it.

    Args:
        target: what is trained, whole; only read.
        declaration: what would be trained.
        devices: how many the weights and the rows of a batch are divided among. Adapters are whole on each.
        checkpointing: only what enters each layer is kept of the forward pass, and one layer's activations at a time.
    """
    model, full = target.model, declaration.lora is None
    sixteen_bit = model.dtype in (torch.bfloat16, torch.float16)
    own = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    weights = FLOAT32 * sum(weight.numel() for weight in model.parameters()) if full else own
    moving = weights // devices if declaration.lora is None else FLOAT32 * lora_parameters(model, declaration.lora)
    rows = _RowMemory(target, declaration.examples, sixteen_bit, checkpointing=checkpointing)
    batch = min(declaration.settings.batch_size, len(declaration.examples))
    layer = max(sum(weight.numel() for weight in block.parameters()) for block in decoder_blocks(model))
    element = weights // max(1, sum(weight.numel() for weight in model.parameters()))
    parts = {
        "target": own // devices,
        "weights": weights // devices,
        "gathered layers": _GATHERED * layer * element if devices > 1 else 0,
        "gradients": moving,
        "optimiser": int(moving * MOMENTS[declaration.settings.optimiser]),
        "activations": rows.of(math.ceil(batch / devices), master_weights=full and sixteen_bit),
    }
    return MemoryNeed("", parts, 0)


def _stage_need(target: Target, stage: Stage, place: int, *, float32: bool, sixteen_bit: bool, rows: _RowMemory) -> MemoryNeed:
    weights = sum(weight.numel() * (FLOAT32 if float32 else weight.element_size()) for weight in target.model.parameters())
    moved = _moving(target.model, stage)
    moving = FLOAT32 * moved
    count = sum(weight.numel() for weight in target.model.parameters())
    sizes = Sizes(target.model, count, weights // max(1, count), moved, stage.lora is not None, stage.settings.batch_size)
    held = stage.objective.holds(sizes)
    good = moving if stage.floored else 0
    holes = _HOLES if stage.lora is not None and target.device.type == "cpu" else 1
    parts = {
        "weights": weights,
        "gradients": moving + held.gradients,
        "optimiser": int(moving * MOMENTS[stage.settings.optimiser]),
        "copies": held.copies + weights * (place > 0),  # from the second stage on, what it began with
        "activations": rows.of(held.rows, master_weights=float32 and sixteen_bit) * holes,
    }
    if target.device.type == "cpu":
        return MemoryNeed(stage.name, {**parts, "last good weights": good}, 0)
    snapshot = weights * (place > 0) + int(moving * (1 + MOMENTS[stage.settings.optimiser]))
    return MemoryNeed(stage.name, parts, good + snapshot)


def _moving(model: PreTrainedModel, stage: Stage) -> int:
    """How many numbers the stage trains."""
    places = Places.of(model)

    def moves(name: str) -> bool:
        return stage.objective.trains(name, places)

    if stage.lora is not None:
        return lora_parameters(model, stage.lora, moves)
    return sum(weight.numel() for name, weight in model.named_parameters() if moves(name))


class _RowMemory:
    """What a batch keeps of its forward pass until the backward pass."""

    def __init__(self, target: Target, examples: Sequence[Example], sixteen_bit: bool, *, checkpointing: bool = False) -> None:
        answered = [example for example in examples if example.answer is not None]
        self._fixed, self._each, self._count = 0, 0, len(examples)
        if not answered:
            return
        longest = max(answered, key=lambda example: len(example.prompt) + len(example.answer or "") + len(example.system or ""))
        one, two = (_kept_by_forward(target, longest, count, sixteen_bit, checkpointing) for count in (1, 2))
        self._each = max(0, two - one)
        self._fixed = max(0, one - self._each)

    def of(self, rows: int, *, master_weights: bool) -> int:
        """Bytes of a batch of so many rows, or of as many as there are."""
        return self._fixed + round(min(rows, self._count) * self._each * (_MASTER_WEIGHTS if master_weights else 1))


def _kept_by_forward(target: Target, example: Example, rows: int, sixteen_bit: bool, checkpointing: bool) -> int:
    """Bytes that the graph of a forward pass holds, the weights left out."""
    model, chat = target.model, target.chat
    batch = collate([chat.encode(example)] * rows, chat.pad_id).to(model.device)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = _Kept()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.by_layer[kept.layer][storage.data_ptr()] = storage.nbytes()
        return tensor

    with kept.watching(model), _learning(model), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(model.device, sixteen_bit), labelled_positions_only(model, batch.labels) as labels:
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        loss = functional.cross_entropy(logits[0].float(), labels)
        del logits, loss
    return kept.with_checkpointing() if checkpointing else kept.in_all()


class _Kept:
    """What a graph holds, by the decoder layer that it was kept in.

    Attributes:
        layer: the one at work; ``None`` before, between and after them.
        by_layer: bytes by address.
        entering: bytes of what enters each layer.
    """

    def __init__(self) -> None:
        self.layer: nn.Module | None = None
        self.by_layer: defaultdict[nn.Module | None, dict[int, int]] = defaultdict(dict)
        self.entering = 0

    @contextmanager
    def watching(self, model: PreTrainedModel) -> Iterator[None]:
        """Note which layer is at work while the block runs."""

        def enter(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.layer = layer
            stream: Tensor = inputs[0] if inputs else named["hidden_states"]
            self.entering += stream.nbytes

        def leave(_layer: nn.Module, _inputs: Any, _output: Any) -> None:
            self.layer = None

        layers = decoder_blocks(model)
        hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
        hooks += [layer.register_forward_hook(leave) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def in_all(self) -> int:
        """Bytes, each address once."""
        return sum({address: size for kept in self.by_layer.values() for address, size in kept.items()}.values())

    def with_checkpointing(self) -> int:
        """Bytes where of the layers only the input is kept, and those of one layer at a time are made anew."""
        outside = sum(self.by_layer[None].values())
        return outside + self.entering + max(sum(kept.values()) for layer, kept in self.by_layer.items() if layer is not None)


@contextmanager
def _learning(model: PreTrainedModel) -> Iterator[None]:
    """Let all weights require gradients while the block runs."""
    before = [weight.requires_grad for weight in model.parameters()]
    model.requires_grad_(True)
    try:
        yield
    finally:
        for weight, required in zip(model.parameters(), before, strict=True):
            weight.requires_grad_(required)
