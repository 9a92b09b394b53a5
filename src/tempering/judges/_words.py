"""Text as words: one normal form, in which spelling, spacing and punctuation no longer matter.

Reading is stable under continuation: the words of a text's beginning, its last unfinished word left out, are the first words
of the whole. A verdict reached on a beginning therefore stands (:func:`tempering.judges._judging.settled`).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

# Letters, digits and combining marks. Python's \w leaves out most marks, without which Hindi or pointed Hebrew fall to pieces.
_LETTER = r"[^\W_]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff]"
# Scripts that put no space between words; there every character counts as a word.
_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
_WORD = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})(?:{_LETTER}))+(?:'(?:{_LETTER})+|(?<=\d)[.,](?=\d)(?:{_LETTER})+)*")
_UNFINISHED = re.compile(rf"(?:(?!{_UNSPACED})(?:{_LETTER})|'|(?<=\d)[.,])+$")
_SENTENCE_END = re.compile(r"[.!?…\n\r\u3002\u0964\u061f\u06d4]")
_CLAUSE_END = re.compile(r"[,;:()\u2013\u2014\u3001\u060c]|\s-+\s")
_APOSTROPHES = {ord(character): "'" for character in "\u2018\u2019\u201b\u02bc\u02b9\u2032\uff07`\u00b4"}
_INVISIBLE = {ord(character): None for character in "\u200b\ufeff\u00ad"}
_CONTRACTIONS = {
    "can't": "cannot",
    "cant": "cannot",
    "won't": "will not",
    "shan't": "shall not",
    "dont": "do not",
    "im": "i am",
    "it's": "it is",
    "that's": "that is",
    "this's": "this is",
    "here's": "here is",
    "there's": "there is",
    "let's": "let us",
}
_ENDINGS = (("n't", " not"), ("'m", " am"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'d", " would"), ("'s", ""))


class Pause(IntEnum):
    """What stands between a word and the next."""

    NONE = 0
    CLAUSE = 1
    SENTENCE = 2


@dataclass(frozen=True)
class Text:
    """A text, read.

    Attributes:
        raw: the text after Unicode normalisation, lower-cased.
        words: its words, contractions written out.
        ends: for each word, where it ends in ``raw``.
        pauses: what follows each word.
    """

    raw: str
    words: tuple[str, ...]
    ends: tuple[int, ...]
    pauses: tuple[Pause, ...]

    def until(self, count: int) -> Text:
        """The first ``count`` words with what stands before and between them, but nothing after."""
        count = min(count, len(self.words))
        end = self.ends[count - 1] if count else 0
        return Text(self.raw[:end], self.words[:count], self.ends[:count], self.pauses[:count])

    def sentence_end(self, word: int) -> int | None:
        """How many words there are up to the end of the sentence that holds a word; ``None`` if it has not ended."""
        return next((index + 1 for index in range(word, len(self.words)) if self.pauses[index] is Pause.SENTENCE), None)

    def find(self, phrases: frozenset[tuple[str, ...]]) -> list[tuple[int, int, tuple[str, ...]]]:
        """Every place where one of the phrases stands as whole words.

        Args:
            phrases: each a non-empty sequence of words in normal form.

        Returns:
            First word, one past the last word, and the phrase, in order of place.
        """
        found = []
        for length in _lengths(phrases):
            for start in range(len(self.words) - length + 1):
                if (phrase := self.words[start : start + length]) in phrases:
                    found.append((start, start + length, phrase))
        return sorted(found)

    def canonical(self, count: int) -> tuple[str, list[int]]:
        """The first ``count`` words as a line for regular expressions.

        Words are set apart by one space; a clause ends with " ," and a sentence with " .".

        Returns:
            The line, and the place in it where each word starts.
        """
        pieces: list[str] = []
        starts: list[int] = []
        length = 0
        for word, pause in zip(self.words[:count], self.pauses[:count], strict=True):
            starts.append(length)
            piece = word + ("", " ,", " .")[pause]
            pieces.append(piece)
            length += len(piece) + 1
        return " ".join(pieces), starts


@lru_cache(maxsize=256)
def _lengths(phrases: frozenset[tuple[str, ...]]) -> tuple[int, ...]:
    """How many words a phrase may have; a test's answers are looked for in every response."""
    return tuple(sorted({len(phrase) for phrase in phrases}))


def read(text: str) -> Text:
    """Read a text into words.

    Case, the shape of apostrophes, contractions, spacing and every mark that ends no clause are levelled.
    """
    raw = _level(text)
    words: list[str] = []
    ends: list[int] = []
    pauses: list[Pause] = []
    matches = list(_WORD.finditer(raw))
    for index, match in enumerate(matches):
        gap = raw[match.end() : matches[index + 1].start() if index + 1 < len(matches) else len(raw)]
        written_out = _write_out(match.group()).split()
        words += written_out
        ends += [match.end()] * len(written_out)
        pauses += [Pause.NONE] * (len(written_out) - 1) + [_pause(gap)]
    return Text(raw, tuple(words), tuple(ends), tuple(pauses))


def finished(text: str) -> str:
    """The text, levelled, without a last word that could still grow.

    Levelled first, since some marks become part of a word only then: a spacing macron is a space and a combining one.
    """
    return _UNFINISHED.sub("", _level(text))


def phrase(text: str) -> tuple[str, ...]:
    """A short text, such as an answer, as words in normal form."""
    return read(text).words


def word_at(starts: Sequence[int], place: int) -> int:
    """The first word of a canonical line that starts at a place or after it."""
    return bisect_left(starts, place)


def _level(text: str) -> str:
    text = text.translate(_APOSTROPHES).translate(_INVISIBLE)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _write_out(word: str) -> str:
    if word in _CONTRACTIONS:
        return _CONTRACTIONS[word]
    for ending, replacement in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return word.removesuffix(ending) + replacement
    return word


def _pause(between: str) -> Pause:
    if _SENTENCE_END.search(between):
        return Pause.SENTENCE
    return Pause.CLAUSE if _CLAUSE_END.search(between) else Pause.NONE
