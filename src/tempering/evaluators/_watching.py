"""What watches the library's ``generate`` from inside: it keeps the first distribution, and ends a row whose verdict is settled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from tempering.data.chat import ChatFormat
from tempering.evaluators._questions import Question

CHECK_EVERY = 4
"""Responses are judged for an early stop after so many tokens each; reading text costs as much as a tiny model's step."""


class FirstToken(LogitsProcessor):
    """Changes nothing; keeps the distribution of the first token."""

    log_probabilities: Tensor

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._seen = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note the first scores, shape (rows, vocabulary), and hand them on."""
        if not self._seen:
            self._seen = True
            self.log_probabilities = scores.float().log_softmax(-1).cpu()
        return scores


@dataclass
class _Row:
    """One response so far: its tokens up to the end token, the opening's among them, and how many of them settled its verdict."""

    tokens: list[int]
    ended: bool
    settled_at: int | None


class VerdictSettled(StoppingCriteria):
    """Ends a row when nothing that follows can change the verdict on it.

    Rows are cut where they were settled, so that a response does not show how long its neighbours went on.
    """

    def __init__(self, chat: ChatFormat, questions: Sequence[Question], width: int) -> None:
        """Watch the responses to these questions; what the model adds starts after ``width`` tokens."""
        self._chat = chat
        self._questions = questions
        self._width = width
        self._ends = set(chat.end_ids)
        self._settled: list[int | None] = [None] * len(questions)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows need no more tokens: shape (rows,), bool."""
        length = input_ids.shape[1] - self._width
        if length % CHECK_EVERY == 0:
            for index, row in enumerate(self.rows(input_ids)):
                if not row.ended and row.settled_at is None and self._questions[index].is_done(self._chat, row.tokens):
                    self._settled[index] = len(row.tokens)
        return torch.tensor([length is not None for length in self._settled], device=input_ids.device)

    def rows(self, input_ids: Tensor) -> Iterator[_Row]:
        """The responses so far, given all tokens, shape (rows, width + response)."""
        for question, added, settled_at in zip(self._questions, input_ids[:, self._width :].tolist(), self._settled, strict=True):
            end = next((place for place, token in enumerate(added) if token in self._ends), None)
            yield _Row(question.opening + added[:end], end is not None, settled_at)
