"""One example as it is put to a model, and how what the model writes is read: up to where a judge needs it, with its thought or without."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tempering.data.chat import ChatFormat
from tempering.data.records import Example
from tempering.data.thoughts import LONGEST, Marker, begun_by, may_begin
from tempering.judges._judging import settled

UNFINISHED = "…"
"""The response of a model whose thought did not end within its limit: no answer, which is an evasion and neither refusal nor help."""


@dataclass
class Thinking:
    """Where the thought of one response ends.

    Attributes:
        chat: reads tokens.
        room: most tokens of the thought.
        most: most tokens of the answer behind it.
        kept: whether the judge reads the thought too.
        opened: the marker that the prompt ends in, if it opens the thought itself.
    """

    chat: ChatFormat
    room: int
    most: int
    kept: bool
    opened: Marker | None
    _read: int = 0
    _end: int | None = None

    def answer_begins(self, tokens: list[int], *, whole: bool) -> int | None:
        """How many tokens the thought and its marks have, 0 where there is none; ``None`` as long as it goes on.

        Args:
            tokens: of the response so far, which only ever grows.
            whole: whether no more will come.
        """
        if self._end is not None:
            return self._end
        marker = self.opened
        if marker is None:
            beginning = self._text(tokens[:LONGEST])
            marker = begun_by(beginning)
            if marker is None:
                if whole or not may_begin(beginning):
                    self._end = 0
                return self._end
        for stop in range(self._read + 1, len(tokens) + 1):
            if marker.closes in self._text(tokens[max(0, stop - LONGEST) : stop]):
                self._end = stop
                break
        self._read = len(tokens)
        return self._end

    def _text(self, tokens: list[int]) -> str:
        """With special tokens, since the marks may be some."""
        return str(self.chat.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Question:
    """One example as it is put to the model.

    Attributes:
        example: what a response is judged by.
        prompt: tokens up to where the answer starts.
        opening: tokens that the answer is made to begin with.
        limit: most new tokens, a thought's among them.
        whole: a judge will read the response to its end, so that it may not be cut where the text settles the verdict.
        thinking: where the model may think before it answers; ``None`` where its thought is closed.
    """

    example: Example
    prompt: list[int]
    opening: list[int]
    limit: int
    whole: bool = False
    thinking: Thinking | None = field(default=None, compare=False)

    @property
    def given(self) -> list[int]:
        """All that is put before the model."""
        return self.prompt + self.opening

    def is_done(self, chat: ChatFormat, tokens: list[int]) -> bool:
        """Whether nothing that follows this beginning of a response, the opening's tokens among them, matters."""
        if self.thinking is None:
            return not self.whole and settled(self.example, chat.decode(tokens))
        begins = self.thinking.answer_begins(tokens, whole=False)
        if begins is None:
            return len(tokens) >= self.thinking.room
        answer = self._answer(tokens, begins)
        return len(tokens) - begins >= self.thinking.most or (not self.whole and settled(self.example, chat.decode(answer)))

    def response(self, chat: ChatFormat, tokens: list[int]) -> str:
        """The text that a judge reads of a response that has ended, the opening's tokens among its own."""
        if self.thinking is None:
            return chat.decode(tokens)
        begins = self.thinking.answer_begins(tokens, whole=True)
        return UNFINISHED if begins is None else chat.decode(self._answer(tokens, begins)).lstrip("\n")

    def _answer(self, tokens: list[int], begins: int) -> list[int]:
        assert self.thinking is not None
        return tokens[0 if self.thinking.kept else begins : begins + self.thinking.most]


def fresh(question: Question) -> Question:
    """The same question to another model: what was found of one's thought is not known of the other's."""
    old = question.thinking
    return question if old is None else replace(question, thinking=Thinking(old.chat, old.room, old.most, old.kept, old.opened))
