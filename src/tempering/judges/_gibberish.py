"""Gibberish: text that no reader could use, told without a language model.

A broken model emits nothing, one character or word over and over, a loop, bytes that are no text, or pieces of many scripts.
What it also emits, a salad of whole words in one script, passes for text here. On facts that costs nothing, since a salad does
not hold the right answer where it would count; on prompts without known answers it does, and is said so where it is used.

Repetition is measured by the share of distinct n-grams (Li et al. 2016, arXiv 1510.03055, distinct-n) and by periods.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import groupby, pairwise

from tempering.judges._words import Text

_LEAST_LETTERS = 0.4
"""Least share of letters and digits among what is no space; program code lies above .5."""
_MOST_REPLACEMENTS = 0.1
"""Greatest share of U+FFFD, which stands for bytes that are no text."""
_CHARACTER_RUN = 8
"""So many of one letter in a row."""
_SHORT_RUN = 5
"""So many, where they are more than half of all letters."""
_WORD_RUN = 4
"""So many of one word in a row."""
_PERIODS = 3
"""A loop has come round so often at the end of the text, over at least ``_LOOP_WORDS`` words."""
_LOOP_WORDS = 6
_BIGRAM_WORDS = 16
"""From so many words on, the share of distinct pairs of neighbours is looked at."""
_DISTINCT_BIGRAMS = 0.4
_SCRIPTS = 4
"""So many scripts in one text, those of East Asia counting as one."""

_LETTER_RUN = re.compile(rf"([^\W\d_])\1{{{_CHARACTER_RUN - 1},}}")
_LOOP_IN_WORD = re.compile(r"([^\W\d_]{2,12}?)\1{4,}")
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"}


def is_gibberish(text: Text) -> bool:
    """Whether a text is empty, degenerate or mostly no letters."""
    if not text.words:
        return True
    visible = [character for character in text.raw if not character.isspace()]
    lettered = sum(unicodedata.category(character)[0] in "LMN" for character in visible)
    if lettered < _LEAST_LETTERS * len(visible) or visible.count("\ufffd") > _MOST_REPLACEMENTS * len(visible):
        return True
    return _repeats_characters(text.raw, lettered) or _repeats_words(text.words) or _script_count(text.raw) >= _SCRIPTS


def _repeats_characters(raw: str, lettered: int) -> bool:
    """One letter or a few, over and over: "aaaaaaaa", "kemkemkemkemkem"."""
    longest = max((len(list(run)) for character, run in groupby(raw) if character.isalpha()), default=0)
    mostly_one = longest >= _SHORT_RUN and 2 * longest > lettered
    return mostly_one or bool(_LETTER_RUN.search(raw)) or bool(_LOOP_IN_WORD.search(raw))


def _repeats_words(words: tuple[str, ...]) -> bool:
    """One word in a row, a loop that has not ended, or few distinct pairs of neighbours."""
    # A script without spaces gives one word a character, where a run of four is laughter or emphasis; letters' rule covers it.
    if any(len(list(run)) >= _WORD_RUN and len(word) > 1 for word, run in groupby(words)):
        return True
    if _loops_at_end(words):
        return True
    if len(words) < _BIGRAM_WORDS:
        return False
    pairs = Counter(pairwise(words))
    return len(pairs) < _DISTINCT_BIGRAMS * (len(words) - 1)


def _loops_at_end(words: tuple[str, ...]) -> bool:
    """Whether the last words are one passage, ``_PERIODS`` times in a row."""
    backwards = words[::-1]
    for period in range(1, len(words) // _PERIODS + 1):
        span = max(_PERIODS * period, _LOOP_WORDS)
        if span <= len(words) and all(backwards[index] == backwards[index + period] for index in range(span - period)):
            return True
    return False


def _script_count(raw: str) -> int:
    scripts = set()
    for character in set(raw):
        if ord(character) > 127 and character.isalpha():
            script = unicodedata.name(character, "UNKNOWN").split()[0]
            scripts.add("EAST ASIAN" if script in _EAST_ASIAN else script)
        elif character.isalpha():
            scripts.add("LATIN")
    # Not scripts of their own: mathematical letters, superscripts, feminine ordinals.
    return len(scripts - {"MATHEMATICAL", "MODIFIER", "FEMININE", "MASCULINE", "MICRO", "GREEK"})
