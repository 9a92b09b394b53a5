"""Leaves out what says the same twice, so that no prompt of the test is trained on in other words, nor is hazard and benign at once.

Two prompts are *exactly* alike where their normal forms are the same, and *nearly* where the Jaccard index of the character 5-grams of
those is at least :data:`NEAR` (Broder 1997, "On the resemblance and containment of documents"; Lee et al. 2022, arXiv 2107.06499, do the
same with words to whole documents, which prompts are too short for). Candidates are found by MinHash in 32 bands of 4 rows, which
miss a pair at the threshold once in seven million, and each is then compared in full, so that nothing is left out by chance.

What is kept is the first in this order: a user's own data; hazard, then borderline, then benign, so that what one set calls a hazard is
nobody's example of what is harmless; rows of a fixed part (the test's before the attacker's before the defender's); rows with an answer;
the set that was named first; the row that comes first. A user's own data are not compared with themselves, and only exactly with other
own data: what belongs together in them is told by ``entity``, and their prompts may well be made from one template.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tempering.data.examples import Example, Part, Role
from tempering.data.normal_form import normal_form, text_digest
from tempering.data.provenance import Dropped, Likeness
from tempering.errors import UnusableData

NEAR = 0.8
GRAM = 5
_BANDS, _ROWS = 32, 4
_SHOWN = 8
_ROLES = (Role.HAZARD, Role.BORDERLINE, Role.BENIGN)
_PARTS = (Part.EVALUATOR, Part.ATTACKER, Part.DEFENDER, None)


@dataclass(frozen=True)
class Candidate:
    """An example that may stand in a dataset.

    Attributes:
        example: itself.
        data: the set that it is of.
        own: that is the user's own data, not a named set.
    """

    example: Example
    data: str
    own: bool = False


def deduplicate(candidates: Sequence[Candidate]) -> tuple[tuple[Candidate, ...], tuple[Dropped, ...]]:
    """Leave out what others stand for.

    Args:
        candidates: set by set, as they were named, in the order of their rows.

    Returns:
        What is kept, in the order given, and a report of the rest. Both depend on nothing but the candidates.

    Raises:
        UnusableData: there are named sets, and the package that finds near duplicates is not installed.
    """
    return _deduplicated(tuple(candidates))


@lru_cache(maxsize=2)  # a study is checked and planned in one process, model by model, and a set of thousands takes seconds
def _deduplicated(candidates: tuple[Candidate, ...]) -> tuple[tuple[Candidate, ...], tuple[Dropped, ...]]:
    near = None if all(candidate.own for candidate in candidates) else _Near()
    forms: dict[str, int] = {}
    kept: list[int] = []
    dropped: list[tuple[int, int, Likeness]] = []
    order = {name: number for number, name in enumerate(dict.fromkeys(candidate.data for candidate in candidates))}
    for number in sorted(range(len(candidates)), key=lambda number: (*_precedence(candidates[number], order), number)):
        candidate = candidates[number]
        form = normal_form(candidate.example.prompt)
        first = forms.get(form)
        if first is not None and not (candidate.own and candidates[first].data == candidate.data):
            dropped.append((number, first, "exact"))
            continue
        if near is not None:
            grams = grams_of(form)
            if (like := near.first(grams, look=not candidate.own)) is not None:
                dropped.append((number, like, "near"))
                continue
            near.add(number, grams)
        forms.setdefault(form, number)
        kept.append(number)
    return tuple(candidates[number] for number in sorted(kept)), _report(candidates, dropped)


def grams_of(form: str) -> frozenset[str]:
    """The character 5-grams of a normal form; a shorter one is its own."""
    return frozenset(form[start : start + GRAM] for start in range(max(1, len(form) - GRAM + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """How much of two sets is common to both, in [0, 1]."""
    return len(one & other) / len(one | other)


def _precedence(candidate: Candidate, order: dict[str, int]) -> tuple[int, ...]:
    example = candidate.example
    return (
        not candidate.own,
        _ROLES.index(example.role),
        _PARTS.index(example.part),
        example.answer is None,
        order[candidate.data],
    )


class _Near:
    """The prompts that are kept so far, by their MinHash."""

    def __init__(self) -> None:
        try:
            import datasketch
        except ImportError:
            raise UnusableData(
                "the package that finds near duplicates in named sets is not installed", 'install it with: pip install "tempering[data]"'
            ) from None
        self._blank: Any = datasketch.MinHash(num_perm=_BANDS * _ROWS, seed=1, hashfunc=zlib.crc32)
        self._index: Any = datasketch.MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._grams: dict[int, frozenset[str]] = {}
        self._added: dict[int, int] = {}
        self._hashed: Any = None

    def first(self, grams: frozenset[str], *, look: bool) -> int | None:
        """The first that was added of those that are nearly the same; ``None`` where none is, or where nobody looks."""
        self._hashed = self._blank.copy()
        self._hashed.update_batch([gram.encode("utf-8", "surrogatepass") for gram in sorted(grams)])
        if not look:
            return None
        alike = (number for number in self._index.query(self._hashed) if jaccard(grams, self._grams[number]) >= NEAR)
        return min(alike, key=self._added.__getitem__, default=None)

    def add(self, number: int, grams: frozenset[str]) -> None:
        """Keep the prompt that was last looked for."""
        self._index.insert(number, self._hashed)
        self._grams[number] = grams
        self._added[number] = len(self._added)


def _report(candidates: Sequence[Candidate], dropped: Sequence[tuple[int, int, Likeness]]) -> tuple[Dropped, ...]:
    groups: dict[tuple[str, Role, Likeness, str, Role], list[str]] = {}
    for number, first, likeness in sorted(dropped):
        one, other = candidates[number], candidates[first]
        key = (one.data, one.example.role, likeness, other.data, other.example.role)
        groups.setdefault(key, []).append(text_digest(one.example.prompt))
    return tuple(
        Dropped(
            data=data,
            role=role,
            likeness=likeness,
            kept_in=kept_in,
            kept_as=kept_as,
            count=len(digests),
            digest=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
            first=tuple(digest[:12] for digest in digests[:_SHOWN]),
        )
        for (data, role, likeness, kept_in, kept_as), digests in groups.items()
    )
