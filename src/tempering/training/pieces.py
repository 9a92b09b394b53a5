"""One batch in two passes, its short rows and its long ones, where that spares enough padding.

A batch is padded to its longest row. Its gradient is the sum of its rows', so short and long rows may be computed one after the other,
each piece padded to its own longest row: the same examples meet in every step, and the gradient is the same to rounding. Sorting rows of
similar length into the same batches would spare more, and train something else.

A pass has a price of its own, however few tokens it has: layers are called, and the gradients of all weights made and added, once more.
:data:`LEAST_TOKENS` is what that was measured at, in tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

LEAST_SHARE = 0.15
"""Of the tokens of one batch, padding included, that have to be spared."""

LEAST_TOKENS = 256
"""Tokens that have to be spared.

A second pass over the same tokens costs as much as 65 to 90 tokens of organism:tiny (16 x 16 tokens a batch), 15 to 40 of a random Llama
of 20 M parameters in float32, and about 140 of one of 135 M in bfloat16: one thread of a busy processor, seconds of the process.
"""

_BY_CHANCE = re.compile(r"drop|jitter|noise|capacity")
"""What configurations call rates of dropout, of whole layers too, the noise of routers, and the room that rows of a batch share."""


def short_and_long(lengths: Sequence[int], least_share: float = LEAST_SHARE, least_tokens: int = 0) -> list[list[int]]:
    """The places of rows as one batch, in the order given, or as a short and a long one, by length, where that spares enough.

    Args:
        lengths: tokens of each row; at least one row.
        least_share: of the tokens that one batch takes, padding included.
        least_tokens: of those that have to be spared, in number.

    Returns:
        One list or two, none empty, with every place once.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    ordered = [lengths[place] for place in order]
    padded = [cut * ordered[cut - 1] + (len(ordered) - cut) * ordered[-1] for cut in range(1, len(ordered) + 1)]
    cut = int(np.argmin(padded)) + 1
    least, whole = padded[cut - 1], padded[-1]
    if least > (1 - least_share) * whole or whole - least < max(1, least_tokens):
        return [list(range(len(order)))]
    return [order[:cut], order[cut:]]


def divisible(model: PreTrainedModel) -> bool:
    """Whether a training step of a model may be taken in pieces: the gradient stays what it was, and time is won.

    It stays what it was where nothing that a model makes of a row depends on the rows or the padding beside it. Not so, and therefore
    always one batch:

    - what is drawn by chance (dropout, in adapters too; dropped layers; the noise of a router): other draws would be another run;
    - statistics over a batch (batch normalisation), experts with room for so many of a batch's tokens, and layers in eight bits, which
      choose the columns that they do not round by all rows;
    - positions that turn by the longest row of a batch (rotary embeddings of type ``dynamic`` and ``longrope``).

    Routers' auxiliary losses are over a batch too, and no part of the loss here. Time is won on a processor; an accelerator does the
    padding of small batches beside the rest, and waits longer for a second pass.

    Args:
        model: as it is trained, with its adapters.
    """
    return model.device.type == "cpu" and not _draws(model) and not any(map(_looks_across, model.modules()))


def _draws(model: PreTrainedModel) -> bool:
    """Whether a module or the configuration, those within it included, has a rate of something that is drawn, or a room that is shared."""
    rates = [module.p for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    return any(rate > 0 for rate in rates) or any(_rates(model.config.to_dict()))


def _rates(fields: Any) -> Iterator[float]:
    """Numbers above zero by such names, at any depth. What drops out in heads other than a decoder's is not asked for."""
    if not isinstance(fields, dict):
        return
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _rates(value)
        elif (
            isinstance(value, (int, float))
            and value > 0
            and _BY_CHANCE.search(str(name))
            and not str(name).startswith(("summary", "class"))
        ):
            yield float(value)


def _looks_across(module: nn.Module) -> bool:
    kinds = getattr(module, "rope_type", None)
    turned = kinds.values() if isinstance(kinds, dict) else [kinds]
    by_longest = any(isinstance(kind, str) and ("dynamic" in kind or kind == "longrope") for kind in turned)
    return by_longest or isinstance(module, nn.modules.batchnorm._BatchNorm) or type(module).__name__ == "Linear8bitLt"
