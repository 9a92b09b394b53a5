"""Greedy decoding of many prompts: the beginning that they share is read once, and a row that is done leaves its batch.

Prompts are padded on the left, behind the shared beginning, so that all rows of a batch grow at the same place. What a row says does not
depend on its neighbours, nor on how much of its prompt was shared, except for rounding.

Several versions of a model that lie in one stacked model (:mod:`tempering.training.stacked`) are put the same prompts in the same passes.
Each reads the shared beginning once. A pass has equally many rows of every version, so it is as wide as the version with most to say
needs it: the places that another has over are filled up with rows of which nobody takes notice. Versions that have no more to say leave the
model as soon as they are half of those in it; taking the weights of the others together costs about as much as one pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tempering.models.head import few_positions

SHORTEST_SHARED = 8
"""A shared beginning of fewer tokens is read with every prompt: a pass of its own would cost more than it saves."""

Done = Callable[[int, list[int]], bool]
"""Told a row and the tokens of its answer so far, says whether the rest of it does not matter."""


class Versions(Protocol):
    """Versions of one model in a stacked model, whose rows are those of the first version, then of the second, and so on."""

    @property
    def held(self) -> int:
        """How many the model holds now."""

    def only(self, rows: Sequence[int]) -> AbstractContextManager[None]:
        """Let the model hold some of them alone, in this order, for the block."""


@dataclass
class Decoded:
    """One answer.

    Attributes:
        tokens: what the model added, without the end token.
        ended: whether it ended by an end token.
    """

    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def generated(self) -> int:
        """How many tokens were generated, the end token among them."""
        return len(self.tokens) + self.ended


def decodable(model: PreTrainedModel) -> bool:
    """Whether a model can be decoded here: it is told positions, and every layer keeps all its keys and values.

    Layers that look back over a window only, and layers with a state instead of a cache, forget: what they keep of a padded or shared
    beginning is not what they would keep without.

    Args:
        model: any decoder.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters or getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


class GreedyDecoder:
    """Prompts, and the model that continues them.

    The weights and hooks of the model must be the same from the first call to the last: keys and values of the shared beginning are kept.

    Attributes:
        shared: the beginning that is read once; empty where that does not pay.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int, versions: Versions | None = None) -> None:
        """Find what the prompts share; nothing is read yet.

        Args:
            model: :func:`decodable`, in evaluation mode.
            prompts: token ids, at least one each.
            pad_id: any id with an embedding.
            versions: of a stacked model, all of which are put every prompt: K. ``None`` for a model that is one: K is 1.
        """
        self._model = model
        self._versions = versions
        self._count = 1 if versions is None else versions.held
        self._prompts = [list(prompt) for prompt in prompts]
        self._pad_id = pad_id
        self._extra: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self._extra["logits_to_keep"] = 1
        self.shared = _shared_beginning(self._prompts)
        self._kept: DynamicCache | None = None

    @torch.no_grad()
    def first(self, rows: Sequence[int]) -> Tensor:
        """Logits of the first token of the answers.

        Args:
            rows: which prompts, in one pass.

        Returns:
            (K · rows, vocabulary), float32, on the model's device.
        """
        return self._read(rows)[0]

    @torch.no_grad()
    def answers(self, rows: Sequence[int], limit: int, ends: Collection[int], done: Done | None = None) -> tuple[list[Decoded], Tensor]:
        """Greedy answers to some prompts, in one batch that shrinks whenever some of them are done.

        Args:
            rows: which prompts, b.
            limit: at most so many tokens of each are generated, at least one.
            ends: token ids that end an answer.
            done: told the place of the answer among the K · b.

        Returns:
            The answers of the first version in the order of ``rows``, then those of the next, and so on; and the first logits as
            :meth:`first` gives them.
        """
        first, cache, mask = self._read(rows)
        answers = [Decoded() for _ in first]
        batch = _Batch.of(self._count, len(rows))
        logits, positions = first, mask.sum(1)
        with ExitStack() as narrowed:
            for length in range(1, limit + 1):
                chosen = logits.argmax(-1)
                going_on = [
                    place is not None and not _add(answers[place], token, ends) and not (done and done(place, answers[place].tokens))
                    for place, token in zip(batch.places, chosen.tolist(), strict=True)
                ]
                if length == limit or not any(going_on):
                    break
                held = batch.versions
                if (rows_kept := batch.let_go(going_on)) is not None:
                    kept = torch.tensor(rows_kept, device=chosen.device)
                    cache.batch_select_indices(kept)
                    chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
                if batch.versions != held and self._versions is not None:
                    narrowed.close()  # one set of weights taken together at a time
                    narrowed.enter_context(self._versions.only(batch.versions))
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                logits = self._pass(chosen[:, None], mask, positions[:, None], cache)
                positions = positions + 1
        return answers, first

    def _read(self, rows: Sequence[int]) -> tuple[Tensor, DynamicCache, Tensor]:
        """Read whole prompts: logits behind them, their keys and values, and which of these are tokens, (K · rows, keys)."""
        before = len(self.shared)
        tails = [self._prompts[row][before:] for row in rows]
        width = max(map(len, tails))
        ids = torch.tensor([[self._pad_id] * (width - len(tail)) + tail for tail in tails], device=self._model.device)
        mask = torch.tensor([[1] * before + [0] * (width - len(tail)) + [1] * len(tail) for tail in tails], device=self._model.device)
        ids, mask = ids.repeat(self._count, 1), mask.repeat(self._count, 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
        cache = self._beginning(len(rows))
        return self._pass(ids, mask, positions, cache), cache, mask

    def _beginning(self, rows: int) -> DynamicCache:
        """Keys and values of the shared beginning, once for every row; every version reads it when it is first asked for."""
        config = self._model.config
        if not self.shared:
            return DynamicCache(config=config)
        if self._kept is None:
            self._kept = DynamicCache(config=config)
            ids = torch.tensor([self.shared] * self._count, device=self._model.device)
            positions = torch.arange(len(self.shared), device=self._model.device).expand(self._count, -1)
            self._pass(ids, torch.ones_like(ids), positions, self._kept)
        layers: list[Any] = self._kept.layers
        return DynamicCache([(_for_rows(layer.keys, rows), _for_rows(layer.values, rows)) for layer in layers], config=config)

    def _pass(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        with few_positions(self._model):
            outputs = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, **self._extra)
        logits: Tensor = outputs.logits[:, -1].float()
        return logits


@dataclass
class _Batch:
    """What the rows of a batch are.

    Attributes:
        versions: in the batch, in order; as many rows of each.
        places: whose answer each row is; ``None`` where it only fills up.
    """

    versions: list[int]
    places: list[int | None]

    @classmethod
    def of(cls, versions: int, rows: int) -> _Batch:
        """All rows of all versions."""
        return cls(list(range(versions)), list(range(versions * rows)))

    def let_go(self, going_on: Sequence[bool]) -> list[int] | None:
        """Let rows go that are done, as far as every version keeps as many as each other.

        Args:
            going_on: of each row.

        Returns:
            The rows that the batch now consists of; ``None`` where they are those that it had.
        """
        width = len(self.places) // len(self.versions)
        own = [[row for row in range(start, start + width) if going_on[row]] for start in range(0, len(self.places), width)]
        speaking = [index for index, rows in enumerate(own) if rows]
        held = speaking if 2 * len(speaking) <= len(own) else list(range(len(own)))
        most = max(map(len, own))
        self.places = [place if goes_on else None for place, goes_on in zip(self.places, going_on, strict=True)]
        if most == width and len(held) == len(own):
            return None
        kept, places = [], []
        for index in held:
            missing = most - len(own[index])
            kept += own[index] + [index * width] * missing
            places += [self.places[row] for row in own[index]] + [None] * missing
        self.versions, self.places = [self.versions[index] for index in held], places
        return kept


def _for_rows(values: Tensor, rows: int) -> Tensor:
    """Keys or values of every version, (K, heads, T, size), for all its rows: (K · rows, heads, T, size)."""
    if len(values) == 1:
        return values.expand(rows, -1, -1, -1)
    return values.repeat_interleave(rows, dim=0)


def _shared_beginning(prompts: list[list[int]]) -> list[int]:
    """The longest common beginning that leaves every prompt a token of its own; empty where it is short or there is one prompt."""
    if len(prompts) < 2:
        return []
    first, last = min(prompts), max(prompts)  # lexicographically: what these two share, all share
    shared = next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    length = min(shared, min(map(len, prompts)) - 1)
    return prompts[0][:length] if length >= SHORTEST_SHARED else []


def _add(answer: Decoded, token: int, ends: Collection[int]) -> bool:
    """Put a token behind an answer; whether it ended it."""
    answer.ended = token in ends
    if not answer.ended:
        answer.tokens.append(token)
    return answer.ended
