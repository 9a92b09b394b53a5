"""Batches cut into pieces of like length, so that short rows are not padded to the longest one."""

from __future__ import annotations

from collections.abc import Iterator

from tempering.training import Rows

_SPREAD = 1.5
"""The longest row of a piece is at most so many times as long as its shortest."""


def pieces(rows: Rows) -> Iterator[tuple[Rows, float]]:
    """The rows in pieces, shortest first.

    A mean over the labelled tokens of the batch is the sum over the pieces of their own means, each times its share; so is the gradient.

    Args:
        rows: a batch, with at least one label.

    Yields:
        Some of the rows, and their share of the labelled tokens; pieces without any are left out.
    """
    total = rows.labelled
    lengths = rows.lengths
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    piece: list[int] = []
    for place, index in enumerate(order):
        piece.append(index)
        last = place + 1 == len(order)
        if last or lengths[order[place + 1]] > _SPREAD * lengths[piece[0]]:
            chosen = Rows(tuple(rows.encoded[at] for at in piece), tuple(rows.identities[at] for at in piece), rows.pad_id)
            piece = []
            if chosen.labelled:
                yield chosen, chosen.labelled / total
