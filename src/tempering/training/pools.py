"""Rows to draw batches from, in epochs, so that the batch of any step can be had without those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tempering.data.asking import PLAIN, Asking
from tempering.data.batching import Batch, collate
from tempering.data.chat import ChatFormat, Encoded
from tempering.data.records import Example


@dataclass(frozen=True)
class Rows:
    """Some encoded examples, as one batch holds them.

    Attributes:
        encoded: tokens and labels of each.
        identities: of the examples, for the meter.
        pad_id: what :meth:`batch` pads with.
    """

    encoded: tuple[Encoded, ...]
    identities: tuple[str, ...]
    pad_id: int

    def __len__(self) -> int:
        """How many rows."""
        return len(self.encoded)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, padding left out."""
        return [len(row.input_ids) for row in self.encoded]

    @property
    def labelled(self) -> int:
        """Positions that predict a labelled token."""
        return sum(row.labelled for row in self.encoded)

    def batch(self) -> Batch:
        """The rows padded to the longest on the right, on the CPU."""
        return collate(self.encoded, self.pad_id)

    def part(self, places: Sequence[int]) -> Rows:
        """The rows at these places, in this order."""
        return Rows(tuple(self.encoded[place] for place in places), tuple(self.identities[place] for place in places), self.pad_id)

    def __add__(self, other: Rows) -> Rows:
        """These rows and then the others."""
        return Rows(self.encoded + other.encoded, self.identities + other.identities, self.pad_id)


class Pool:
    """Examples of one kind, drawn without replacement in epochs.

    The batch of a step is decided by the seed and the step's number alone, so that an interrupted training draws on as if it had
    never stopped.
    """

    def __init__(self, examples: Sequence[Example], chat: ChatFormat, seed: Sequence[int], asking: Asking = PLAIN) -> None:
        """Encode the examples.

        Args:
            examples: at least one, each with an answer.
            chat: how they become tokens.
            seed: decides the order.
            asking: how prompts are put.

        Raises:
            UnusableData: an example has no answer.
            ValueError: there are none.
        """
        if not examples:
            raise ValueError("a pool needs at least one example")
        self._encoded = [asking.encode(chat, example) for example in examples]
        self._identities = [example.identity for example in examples]
        self._pad_id = chat.pad_id
        self._seed = tuple(int(number) for number in seed)
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self._encoded)

    def rows(self, step: int, size: int) -> Rows:
        """The batch of a step.

        Args:
            step: from 0.
            size: rows a batch; never more than there are examples.
        """
        size = min(size, len(self))
        places = range(step * size, (step + 1) * size)
        return self._chosen([int(self._order(place // len(self))[place % len(self)]) for place in places])

    def all(self) -> Rows:
        """Every row, in the order given."""
        return self._chosen(range(len(self)))

    def _chosen(self, indices: Sequence[int]) -> Rows:
        return Rows(tuple(self._encoded[index] for index in indices), tuple(self._identities[index] for index in indices), self._pad_id)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([*self._seed, epoch]).permutation(len(self))
