"""What a declaration will use, without running it; a plan of many runs asks for little more than once for each kind of run.

A grid of learning rates asks the same question of the same examples a thousand times. So what an example's tokens count, what a
model's structure costs and what a whole run spends are kept, for as long as the model and its chat format live.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from tempering.data.asking import Asking
from tempering.data.chat import ChatFormat
from tempering.data.records import Example
from tempering.models import Target
from tempering.training.adapters import add_lora
from tempering.training.flops import FlopCount
from tempering.training.loop import batches, charge_rows
from tempering.training.meter import Meter, Spend
from tempering.training.settings import FineTuning, LoraSettings

MOST_SPENDS = 1024
"""So many runs are remembered of a model; each holds on to a list of examples."""


@dataclass(frozen=True)
class _Row:
    """What of a training row decides its cost: whose it is, its tokens, and those of them that carry a loss."""

    identity: str
    tokens: int
    labelled: int


@dataclass
class _Known:
    """What was found out about one model: by the adapters that move, and by everything that decides a spend."""

    counts: dict[LoraSettings | None, FlopCount] = field(default_factory=dict)
    spends: dict[Hashable, Spend] = field(default_factory=dict)


_models: WeakKeyDictionary[PreTrainedModel, _Known] = WeakKeyDictionary()
_rows: WeakKeyDictionary[ChatFormat, dict[tuple[Asking, Example], _Row]] = WeakKeyDictionary()


def estimate(target: Target, declaration: FineTuning) -> Spend:
    """What a declaration will use, by the analytic count, without running it.

    Args:
        target: left untouched; only its structure is read.
        declaration: what would be trained.
    """
    known = _models.setdefault(target.model, _Known())
    deciding = (
        tuple(declaration.examples),
        declaration.asking,
        declaration.settings.batch_size,
        declaration.steps,
        declaration.seed,
        declaration.lora,
    )
    if not _hashable(declaration.asking):
        return _spend(target, declaration, known)
    if deciding not in known.spends:
        if len(known.spends) >= MOST_SPENDS:
            known.spends.clear()
        known.spends[deciding] = _spend(target, declaration, known)
    return known.spends[deciding]


def _spend(target: Target, declaration: FineTuning, known: _Known) -> Spend:
    rows = _rows_of(target.chat, declaration.examples, declaration.asking)
    if declaration.lora not in known.counts:
        known.counts[declaration.lora] = _count(target, declaration.lora)
    count, meter = known.counts[declaration.lora], Meter()
    for indices in batches(len(rows), declaration.settings.batch_size, declaration.steps, declaration.seed):
        chosen = [rows[index] for index in indices]
        identities, lengths = [row.identity for row in chosen], [row.tokens for row in chosen]
        charge_rows(meter, count, identities, lengths, sum(row.labelled for row in chosen))
    return meter.spend()


def _count(target: Target, lora: LoraSettings | None) -> FlopCount:
    model = target.view_model()  # nothing is trained
    return FlopCount.of(model.requires_grad_(True) if lora is None else add_lora(model, lora))


def _rows_of(chat: ChatFormat, examples: Sequence[Example], asking: Asking) -> list[_Row]:
    """Each example's row, encoded once in every way of asking."""
    if not _hashable(asking):
        return [_row(chat, example, asking) for example in examples]
    kept = _rows.setdefault(chat, {})
    for example in examples:
        if (asking, example) not in kept:
            kept[asking, example] = _row(chat, example, asking)
    return [kept[asking, example] for example in examples]


def _row(chat: ChatFormat, example: Example, asking: Asking) -> _Row:
    encoded = asking.encode(chat, example)
    return _Row(example.identity, len(encoded.input_ids), encoded.labelled)


def _hashable(asking: Asking) -> bool:
    """A way of asking that somebody else wrote may hold lists."""
    try:
        hash(asking)
    except TypeError:
        return False
    return True
