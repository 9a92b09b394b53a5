"""What one trial of a search looks at, in as few passes as it takes: first tokens of harmless prompts, answers to harmful ones.

From trial to trial a prompt gets one of few answers: the refusal, or what the model would say without it. Those that were seen are read
behind their prompt in the same pass as the prompt itself, and every token that greedy decoding would choose is looked up there. Only where
an answer leaves what has been seen is it generated, from there on, behind the keys and values that this very pass has made. The answers
are those of greedy decoding, except for rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tempering.attacks._inference import MeteredModel
from tempering.attacks._prompt_tree import PromptTrees
from tempering.attacks._tree_reading import TreeReading, readable
from tempering.data.records import Example
from tempering.models.decoding import Decoded, GreedyDecoder
from tempering.models.structure import Structure

_SEEN = 3
"""Answers of a prompt that are read with it, the commonest so far."""


class TrialReading:
    """Harmless and harmful prompts with the answers that the latter have been given so far."""

    def __init__(
        self, reader: MeteredModel, structure: Structure, harmless: Sequence[Example], harmful: Sequence[Example], config: Any
    ) -> None:
        """Keep the prompts; nothing is read yet.

        Args:
            reader: the model that is read, and what is charged.
            structure: its parts.
            harmless: prompts whose first tokens are wanted.
            harmful: prompts whose answers are wanted.
            config: ``answer_tokens``.
        """
        self._reader = reader
        self._structure = structure
        self._harmless, self._harmful = harmless, harmful
        self._limit: int = config.answer_tokens
        self._prompts = [reader.prompt_ids(example) for example in (*harmless, *harmful)]
        self._seen: list[Counter[tuple[int, ...]]] = [Counter() for _ in harmful]
        self._unforeseen = 0
        self._trees: PromptTrees | None = None
        self._reading: TreeReading | None = None
        self.in_trees = readable(reader.model)
        """Whether the model reads trees; where not, prompts are read and answers generated one by one."""

    def expect(self, answers: Sequence[Sequence[int]], settled: Callable[[Sequence[int]], bool]) -> None:
        """Take answers for seen that were found otherwise, such as the untouched model's.

        Args:
            answers: to the harmful prompts, in order, as :meth:`MeteredModel.answers` gives them within the same limit.
            settled: as it was told then.
        """
        for seen, tokens in zip(self._seen, answers, strict=True):
            cut = len(tokens) == self._limit or settled(tokens)
            seen[tuple(tokens[:-1] if cut else tokens)] += 1

    def _lay_out(self) -> None:
        """Lay the prompts out anew where so many answers were not foreseen that generating them has cost what reading anew does."""
        if not self.in_trees or (self._trees is not None and 2 * self._unforeseen < len(self._harmful)):
            return
        answers: list[list[list[int]]] = [[] for _ in self._harmless]
        answers += [[list(answer) for answer, _ in seen.most_common(_SEEN)] for seen in self._seen]
        self._trees = trees = PromptTrees(self._prompts, answers)
        rows = range(len(self._harmless), len(self._prompts))
        # two prompts may be one, so a node may come twice
        self._nodes = trees.last[: len(self._harmless)] + list(dict.fromkeys(node for row in rows for node in trees.behind(row)))
        self._reading = TreeReading(self._reader.model, self._structure, trees, self._nodes)
        self._unforeseen = 0

    def look(self, first_edited: int, settled: Callable[[Sequence[int]], bool]) -> tuple[Tensor, Callable[[], list[list[int]]]]:
        """What the model, edited as it now is, makes of the prompts.

        Args:
            first_edited: no block before this one is edited.
            settled: as :meth:`MeteredModel.answers` has it.

        Returns:
            Log-probabilities of harmless prompts' first tokens, (prompts, vocabulary), float32, on the CPU; and what gives the answers to
            the harmful prompts, to be called while the edit is at work.
        """
        self._lay_out()
        if self._reading is None:
            first = self._reader.first_token(self._harmless)
            return first, lambda: self._reader.answers(self._harmful, self._limit, settled=settled)
        logits = self._reading.logits(first_edited)
        first = logits[: len(self._harmless)].float().log_softmax(-1).cpu()
        self._reader.charge_first_token(self._harmless)
        return first, lambda: self._answers(logits, settled)

    def _answers(self, logits: Tensor, settled: Callable[[Sequence[int]], bool]) -> list[list[int]]:
        """The answers that the trees foresaw, and the others generated from where they left them."""
        chosen = dict(zip(self._nodes, logits.float().argmax(-1).tolist(), strict=True))
        made = [self._followed(row, chosen, settled) for row in range(len(self._harmful))]
        left = {row: node for row, (_, node) in enumerate(made) if node is not None}
        answers = [answer for answer, _ in made]
        if left:
            self._generate(left, answers, settled)
            self._unforeseen += len(left)
        for seen, answer in zip(self._seen, answers, strict=True):
            # of an answer that was cut the last token has never been read
            seen[tuple(answer.tokens if answer.ended else answer.tokens[:-1])] += 1
        self._reader.charge_answers(self._harmful, answers)
        return [answer.tokens for answer in answers]

    def _followed(self, row: int, chosen: dict[int, int], settled: Callable[[Sequence[int]], bool]) -> tuple[Decoded, int | None]:
        """A prompt's answer as far as the trees hold it, and the last node where that is not all of it: there its last token was chosen."""
        assert self._trees is not None
        answer = Decoded()
        node = self._trees.last[len(self._harmless) + row]
        while True:
            token = chosen[node]
            if token in self._reader.chat.end_ids:
                answer.ended = True
                return answer, None
            answer.tokens.append(token)
            if len(answer.tokens) == self._limit or settled(answer.tokens):
                return answer, None
            following = self._trees.child(node, token)
            if following is None:
                return answer, node
            node = following

    @torch.inference_mode()
    def _generate(self, left: dict[int, int], answers: list[Decoded], settled: Callable[[Sequence[int]], bool]) -> None:
        """Go on with some answers, in place.

        Args:
            left: by row the node at which the trees left its answer.
            answers: of all rows, as far as the trees hold them; at least one token each.
            settled: told whole answers.
        """
        assert self._reading is not None
        rows = list(left)
        begun = [list(answers[row].tokens) for row in rows]
        given = [self._prompts[len(self._harmless) + row] + tokens for row, tokens in zip(rows, begun, strict=True)]
        decoder = (
            _FromTrees(self._reader.model, self._reading, list(left.values()), [tokens[-1] for tokens in begun], self._reader.chat.pad_id)
            if self._reading.continuable
            else GreedyDecoder(self._reader.model, given, self._reader.chat.pad_id)
        )
        for batch in self._reader.batches(given):
            # whole answers are judged, and counted against the limit
            whole = [begun[place] for place in batch]
            done = _on_whole_answers(whole, self._limit, settled)
            for place, more in zip(batch, decoder.answers(batch, self._limit, self._reader.chat.end_ids, done)[0], strict=True):
                answers[rows[place]] = Decoded(begun[place] + more.tokens, more.ended)


class _FromTrees(GreedyDecoder):
    """Goes on where trees end: what stands before has its keys and values from the pass that read the trees."""

    def __init__(self, model: PreTrainedModel, reading: TreeReading, nodes: Sequence[int], tokens: Sequence[int], pad_id: int) -> None:
        """Keep where each answer is.

        Args:
            model: with the edit under which the trees were just read.
            reading: of the trees; continuable.
            nodes: at which each answer left them.
            tokens: the one that was chosen there.
            pad_id: any id with an embedding.
        """
        super().__init__(model, [[token] for token in tokens], pad_id)
        self._reading, self._nodes = reading, list(nodes)

    def _read(self, rows: Sequence[int]) -> tuple[Tensor, DynamicCache, Tensor]:
        """Read the one token of each row behind what the trees hold."""
        cache, mask = self._reading.behind([self._nodes[row] for row in rows])
        ids = torch.tensor([self._prompts[row] for row in rows], device=mask.device)
        positions = mask.sum(1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return self._pass(ids, mask, positions[:, None], cache), cache, mask


def _on_whole_answers(begun: Sequence[list[int]], limit: int, settled: Callable[[Sequence[int]], bool]) -> Callable[[int, list[int]], bool]:
    return lambda row, added: len(begun[row]) + len(added) == limit or settled(begun[row] + added)
