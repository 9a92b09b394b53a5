"""What an edited model makes of trees of prompts, without computing again what the edit does not reach.

Blocks before the first edited one turn every prompt into what they turn it into in the untouched model. Residual streams that enter a block
which no edit has reached are kept, and a later pass begins with the last of them that its own edit leaves alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from tempering.attacks._prompt_tree import PromptTrees, additive
from tempering.attacks._residuals import changed_input
from tempering.models.decoding import decodable
from tempering.models.structure import Structure

MOST_KEPT = 2**29
"""Bytes of residual streams that are kept; where they would be more, only those that enter every second, third, … block are.

As much again is kept of keys and values; where they would be more, none are."""

_KeysAndValues = tuple[Any, Any]
"""Of one block: twice (trees, heads, width, size)."""


def readable(model: PreTrainedModel) -> bool:
    """Whether a model reads trees: each layer attends to all that the mask shows, and knows positions from what it is told.

    Args:
        model: any decoder.
    """
    config = model.config.get_text_config(decoder=True)
    masked = config._attn_implementation in ("eager", "sdpa")
    rotary = getattr(config, "rope_parameters", None) is not None and not getattr(config, "alibi", False)
    return masked and rotary and decodable(model)


class TreeReading:
    """Trees of prompts, laid out for one model, with the streams that its untouched blocks turn them into."""

    def __init__(self, model: PreTrainedModel, structure: Structure, trees: PromptTrees, wanted: Sequence[int]) -> None:
        """Lay the trees out; nothing is read yet.

        Args:
            model: :func:`readable`, in evaluation mode.
            structure: its parts.
            trees: what to read.
            wanted: nodes behind which logits are computed.
        """
        self._model = model
        self._blocks = structure.blocks
        self._wanted = torch.tensor(wanted, device=model.device)
        self._arguments = {
            "input_ids": trees.input_ids.to(model.device),
            "position_ids": trees.position_ids.to(model.device),
            "attention_mask": additive(trees.sees, structure.embedding.weight.dtype).to(model.device),
        }
        size = trees.input_ids.numel() * structure.hidden_size * structure.embedding.weight.element_size()
        self._continuable = _cache_bytes(model, trees.input_ids.numel(), structure) <= MOST_KEPT
        self._stride = max(1, math.ceil(size * len(self._blocks) / MOST_KEPT))
        self._streams: dict[int, Tensor] = {}
        self._untouched: dict[int, _KeysAndValues] = {}
        self._last: list[_KeysAndValues] | None = None
        self._trees = trees
        self._skippable = True

    @torch.inference_mode()
    def logits(self, first_edited: int) -> Tensor:
        """Logits behind the wanted nodes, in one pass.

        Args:
            first_edited: no block before this one is edited.

        Returns:
            (wanted, vocabulary), in the model's type.
        """
        start = max((place for place in self._streams if place <= first_edited), default=0)
        cache = DynamicCache(config=self._model.config) if self._continuable else None
        with ExitStack() as stack:
            if start:
                stack.enter_context(_begun_at(self._blocks, start, self._streams[start]))
            else:
                stack.callback(self._blocks[0].register_forward_hook(self._check).remove)
            for place in range(self._stride, first_edited + 1, self._stride):
                if place > start:
                    stack.enter_context(changed_input(self._blocks[place], self._keeper(place)))
            stack.enter_context(_only_at(self._model.get_output_embeddings(), self._wanted))
            logits: Tensor = self._model(**self._arguments, past_key_values=cache, use_cache=cache is not None).logits[0]
        if not self._skippable:
            self._streams.clear()
        self._last = None if cache is None else self._keys_and_values(cache, start)
        return logits

    def _keys_and_values(self, cache: DynamicCache, start: int) -> list[_KeysAndValues] | None:
        """Those of the last pass, with what is kept of the blocks that it skipped; nothing where a block has none of its own."""
        last = [
            self._untouched[place] if place < start else (getattr(layer, "keys", None), getattr(layer, "values", None))
            for place, layer in enumerate(cache.layers)
        ]
        if any(keys is None or values is None for keys, values in last):
            self._continuable, self._untouched = False, {}
            return None
        if self._skippable:
            # a later pass may begin at any stream that is kept, and then skips all that is before it
            self._untouched |= {place: last[place] for place in range(max(self._streams, default=0)) if place not in self._untouched}
        return last

    @property
    def continuable(self) -> bool:
        """Whether :meth:`behind` has something to give."""
        return self._last is not None

    def behind(self, nodes: Sequence[int]) -> tuple[DynamicCache, Tensor]:
        """Keys and values of what stands before and at some nodes, as the last pass had them, padded on the left.

        Args:
            nodes: of the trees.

        Returns:
            The cache, a row a node, and which of its places are tokens, (nodes, places).
        """
        assert self._last is not None
        paths = [self._trees.path(node) for node in nodes]
        width = max(map(len, paths))
        device = self._wanted.device
        rows = torch.tensor([node // self._trees.width for node in nodes], device=device)[:, None]
        places = torch.tensor([[0] * (width - len(path)) + path for path in paths], device=device)
        mask = torch.tensor([[0] * (width - len(path)) + [1] * len(path) for path in paths], device=device)
        taken = [(keys[rows, :, places].transpose(1, 2), values[rows, :, places].transpose(1, 2)) for keys, values in self._last]
        return DynamicCache(taken, config=self._model.config), mask

    def _check(self, _block: nn.Module, _inputs: Any, output: Any) -> None:
        """A skipped block can hand the stream on only where blocks give a stream and nothing else."""
        self._skippable = isinstance(output, Tensor)

    def _keeper(self, place: int) -> Callable[[Tensor], Tensor]:
        def keep(stream: Tensor) -> Tensor:
            self._streams[place] = stream
            return stream

        return keep


def _cache_bytes(model: PreTrainedModel, tokens: int, structure: Structure) -> int:
    """About what the keys and values of so many tokens take."""
    config = model.config.get_text_config(decoder=True)
    heads = int(config.num_attention_heads)
    of_a_head = int(getattr(config, "head_dim", None) or structure.hidden_size // heads)
    held = int(getattr(config, "num_key_value_heads", None) or heads)
    return 2 * tokens * held * of_a_head * len(structure.blocks) * structure.embedding.weight.element_size()


@contextmanager
def _begun_at(blocks: Sequence[nn.Module], place: int, stream: Tensor) -> Iterator[None]:
    """Let the blocks before a place hand on what they are given while the block runs, and the one there begin with a stream."""
    own = [vars(block).get("forward") for block in blocks[:place]]
    try:
        for block in blocks[:place]:
            block.forward = _handed_on
        with changed_input(blocks[place], lambda _: stream):
            yield
    finally:
        for block, forward in zip(blocks, own, strict=False):
            vars(block).pop("forward", None)
            if forward is not None:
                block.forward = forward


def _handed_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states


@contextmanager
def _only_at(head: Any, wanted: Tensor) -> Iterator[None]:
    """Give the output head only some nodes' streams while the block runs: (1, wanted, hidden)."""
    handle = head.register_forward_pre_hook(lambda _head, inputs: (inputs[0].flatten(0, 1)[wanted][None],))
    try:
        yield
    finally:
        handle.remove()
