"""Random mapping: hazard text is sent to fixed random directions, one a token, in every layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tempering.data.records import Example
from tempering.training import Objective, Pool, Workshop
from tempering.training.streams import outputs_of


class RandomDirections:
    """R[token id] ~ N(0, I), fixed by the seed; of the tokens asked for only, so that no vocabulary x width matrix is held."""

    def __init__(self, seed: Sequence[int], width: int) -> None:
        """Draw nothing yet.

        Args:
            seed: together with the token id it decides a row.
            width: of the residual stream.
        """
        self._seed = tuple(int(number) for number in seed)
        self._width = width
        self._drawn: dict[int, Tensor] = {}

    def rows(self, token_ids: Tensor) -> Tensor:
        """(tokens, width), float32, on the device of the ids.

        Args:
            token_ids: (tokens,).
        """
        distinct, places = torch.unique(token_ids, return_inverse=True)
        table = torch.stack([self._row(int(token)) for token in distinct])
        return table.to(token_ids.device)[places]

    def _row(self, token: int) -> Tensor:
        if token not in self._drawn:
            seed = int(np.random.default_rng([*self._seed, token]).integers(2**62))
            self._drawn[token] = torch.randn(self._width, generator=torch.Generator().manual_seed(seed))
        return self._drawn[token]


def mapping_loss(streams: Sequence[Tensor], directions: Tensor) -> Tensor:
    """Mean over layers and tokens of 1 - |cos(h, R[token id])|, in [0, 1].

    Args:
        streams: of every layer, (tokens, width).
        directions: (tokens, width), R of each token.
    """
    each = [1 - functional.cosine_similarity(stream.float(), directions, dim=-1).abs().mean() for stream in streams]
    return torch.stack(each).mean()


class MappingTraining(Objective):
    """CE(retain) + mean over layers and tokens of (1 - |cos(h, R[token id])|) on hazard text, prompts and answers."""

    def __init__(self, hazard: Sequence[Example], kept: Sequence[Example], batch_size: int, *, weight: float = 1.0) -> None:
        """Keep the examples.

        Args:
            hazard: questions with the answers that are to be forgotten.
            kept: what must still be answered.
            batch_size: of each in a step.
            weight: of the mapping's part.
        """
        self._examples = hazard, kept
        self._batch_size = batch_size
        self._weight = weight
        self._pools: tuple[Pool, Pool]
        self._directions: RandomDirections

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples and fix R."""
        hazard, kept = (workshop.pool(examples, purpose) for purpose, examples in enumerate(self._examples))
        self._pools = hazard, kept
        self._directions = RandomDirections((*workshop.seed, 3), workshop.places.hidden_size)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of both parts, one after the other, so that only one graph is held."""
        hazard, kept = (pool.rows(workshop.step, self._batch_size) for pool in self._pools)
        with outputs_of(workshop.model, workshop.places.blocks) as streams:
            batch = workshop.run(hazard).batch
        tokens = batch.attention_mask.bool()
        mapping = mapping_loss([stream[tokens] for stream in streams.values()], self._directions.rows(batch.input_ids[tokens]))
        (self._weight * mapping).backward()  # type: ignore[no-untyped-call]
        retain = workshop.run(kept).cross_entropy()
        retain.backward()  # type: ignore[no-untyped-call]
        parts = {"mapping": float(mapping.detach()), "retain": float(retain.detach())}
        return {"loss": self._weight * parts["mapping"] + parts["retain"], **parts}
