"""Prompts and likely answers as trees, in which every beginning that several of them share is read once.

A node is a token behind a certain beginning: what a decoder makes of it depends on nothing else, so sequences with the same beginning share
its nodes. The nodes of a tree stand in one row of a batch; the attention mask lets each see its own beginning and nothing more, and
positions count from the root. What is computed is what reading every sequence alone would compute, except for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

WIDTH = 128
"""Nodes a tree is filled up to: the wider, the more is shared and the more of the attention is spent on what is masked."""

_ROOT = -1


@dataclass
class _Tree:
    """One row of the batch.

    Attributes:
        tokens: of every node; a parent comes before its children.
        parents: of every node, -1 at the root.
        depths: of every node, from zero.
        children: node by parent and token.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, sequence: Sequence[int]) -> int:
        """Put a sequence in; its last node."""
        node = _ROOT
        for depth, token in enumerate(sequence):
            found = self.children.get((node, token))
            if found is None:
                found = self.children[(node, token)] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(depth)
            node = found
        return node

    def lacking(self, sequence: Sequence[int]) -> int:
        """How many nodes a sequence would add."""
        node = _ROOT
        for depth, token in enumerate(sequence):
            found = self.children.get((node, token))
            if found is None:
                return len(sequence) - depth
            node = found
        return 0


class PromptTrees:
    """Some prompts, each with the answers it may get, dealt out over trees.

    A node is named by ``tree * width + place``, as in the flattened batch.

    Attributes:
        input_ids: (trees, width).
        position_ids: (trees, width).
        sees: (trees, width, width) bool, whether a node sees another; what stands behind a tree's end sees itself.
        last: node of the last token of each prompt.
        width: nodes of the widest tree.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]) -> None:
        """Deal them out, prompts that begin alike together.

        Args:
            prompts: token ids, at least one prompt and one token each.
            answers: for each prompt those whose tokens are to be read too.
        """
        trees = [_Tree()]
        home: dict[int, tuple[int, int]] = {}
        for row in sorted(range(len(prompts)), key=lambda row: list(prompts[row])):
            prompt = list(prompts[row])
            if trees[-1].tokens and len(trees[-1].tokens) + trees[-1].lacking(prompt) + sum(map(len, answers[row])) > WIDTH:
                trees.append(_Tree())
            home[row] = (len(trees) - 1, trees[-1].add(prompt))
            for answer in answers[row]:
                trees[-1].add([*prompt, *answer])
        width = max(len(tree.tokens) for tree in trees)
        self._trees = trees
        self.width = width
        self.input_ids = torch.zeros((len(trees), width), dtype=torch.int64)
        self.position_ids = torch.zeros((len(trees), width), dtype=torch.int64)
        self.sees = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
        for index, tree in enumerate(trees):
            self._lay_out(index, tree)
        self.last = [home[row][0] * width + home[row][1] for row in range(len(prompts))]

    def child(self, node: int, token: int) -> int | None:
        """The node of a token behind another node, if it is there."""
        tree, place = divmod(node, self.width)
        found = self._trees[tree].children.get((place, token))
        return None if found is None else tree * self.width + found

    def path(self, node: int) -> list[int]:
        """Places, in its tree, of the nodes from the root to a node."""
        tree, place = divmod(node, self.width)
        places = [place]
        while (parent := self._trees[tree].parents[places[-1]]) != _ROOT:
            places.append(parent)
        return places[::-1]

    def behind(self, row: int) -> Iterator[int]:
        """A prompt's last node, and the nodes of the answers behind it."""
        open_nodes = [self.last[row]]
        while open_nodes:
            node = open_nodes.pop()
            yield node
            tree, place = divmod(node, self.width)
            open_nodes += [tree * self.width + child for child, parent in enumerate(self._trees[tree].parents) if parent == place]

    def _lay_out(self, index: int, tree: _Tree) -> None:
        count = len(tree.tokens)
        self.input_ids[index, :count] = torch.tensor(tree.tokens)
        self.position_ids[index, :count] = torch.tensor(tree.depths)
        for node, parent in enumerate(tree.parents):
            if parent != _ROOT:
                self.sees[index, node] |= self.sees[index, parent]


def additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added to attention scores: zero where a node sees another and the least number elsewhere.

    Args:
        sees: (trees, width, width).
        dtype: of the scores.

    Returns:
        (trees, 1, width, width).
    """
    return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[:, None]
