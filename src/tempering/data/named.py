"""A named set as examples: its declared columns and files, read by one path whatever the set."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tempering.data.declarations import NamedSet, SetFile, declaration, is_commit
from tempering.data.examples import Example
from tempering.data.fetching import LOCAL, SHIPPED, Found, find
from tempering.data.members import Member
from tempering.data.normal_form import normal_form, text_digest
from tempering.data.provenance import SetUsed
from tempering.data.rows import Hint, read_row
from tempering.data.tables import read_saved, read_table
from tempering.errors import UnusableData

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

ASKED = "Answer with the letter and the text of the right choice."
"""Stands behind the choices, so that an answer can be checked by its text: a letter alone is too often a word."""


@dataclass(frozen=True)
class Loaded:
    """The examples of a named set.

    Attributes:
        examples: in the order of the set.
        used: where they come from.
    """

    examples: tuple[Example, ...]
    used: SetUsed


def load_named(member: Member) -> Loaded:
    """Read a named set: its copy, the hub's cache, or the hub.

    Raises:
        UnusableData: it cannot be had, or is not what is declared.
    """
    declared = declaration(member.name)
    found = find(member, declared)
    left_out: Counter[str] = Counter()
    read = list(_examples(member.name, declared, found, left_out))
    count = len(read) + left_out.total()
    different = read if declared.most is None or len(read) <= declared.most else _different(read)
    kept = _drawn(different, declared.most)
    if len(different) < len(read):
        left_out["repeated"] = len(read) - len(different)
    if len(kept) < len(different):
        left_out["not drawn"] = len(different) - len(kept)
    if not kept:
        raise UnusableData(f"{_called(member.name, declared, found)} holds no rows that can be used", "name another revision or copy")
    return Loaded(tuple(kept), _used(member, declared, found, count, dict(left_out)))


def _used(member: Member, declared: NamedSet, found: Found, read: int, left_out: dict[str, int]) -> SetUsed:
    return SetUsed(
        name=member.name,
        repository=declared.repository or "",
        revision=found.revision,
        pinned=found.revision in (LOCAL, SHIPPED) or is_commit(member.revision or declared.revision),
        licence=declared.licence,
        use=declared.use,
        read=read,
        left_out=left_out,
    )


def _examples(name: str, declared: NamedSet, found: Found, left_out: Counter[str]) -> Iterator[Example]:
    wanted = declared.columns.names
    for file in declared.files:
        where = _called(name, declared, found, file)
        columns = tuple(dict.fromkeys((*wanted, *file.only)))
        if found.saved:
            rows = read_saved(found.files[file.path], file.split, columns, where)
        else:
            rows = read_table(found.files[file.path], columns, where)
        for number, row in enumerate(rows, 1):
            if any(str(row[column]).strip().lower() != str(value).lower() for column, value in file.only.items()):
                continue
            if not str(row[declared.columns.prompt] or "").strip():
                left_out["empty"] += 1
                continue
            example = _example(row, declared, file, f"{where}, row {number}")
            if declared.longest is not None and len(example.prompt) + len(example.answer or "") > declared.longest:
                left_out["long"] += 1
                continue
            yield example


def _example(row: Mapping[str, Any], declared: NamedSet, file: SetFile, where: str) -> Example:
    columns = declared.columns
    values: dict[str, Any] = {"instruction": row[columns.prompt]}
    if columns.material is not None:
        values["input"] = row[columns.material] or ""
    if columns.answer is not None:
        values["answer"] = row[columns.answer]
    if columns.domain is not None:
        values["domain"] = _domain(row[columns.domain])
    if file.domain is not None:
        values["domain"] = file.domain
    example = read_row(values, where, Hint(file.role or declared.role)).example
    changes: dict[str, Any] = {} if file.part is None else {"part": file.part}
    if columns.choices is not None and columns.right is not None:
        changes |= _multiple_choice(example.prompt, row[columns.choices], row[columns.right], where)
    return Example.model_validate(example.model_dump() | changes) if changes else example


def _domain(value: Any) -> Any:
    """A topic as text; of flags the first that holds."""
    if isinstance(value, Mapping):
        return next((str(name) for name, holds in value.items() if holds), "")
    return value


def _multiple_choice(question: str, choices: Any, right: Any, where: str) -> dict[str, Any]:
    """The question with its choices, and the answers that are right.

    The text of the right choice is one by itself, unless another choice has it within.
    """
    if not isinstance(choices, (list, tuple)) or not 2 <= len(choices) <= len(LETTERS):
        raise UnusableData(f"{where} has no list of choices", "take another revision or copy")
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise UnusableData(f"{where}: {str(right)[:40]!r} is not the number of a choice", "take another revision or copy")
    texts = [str(choice).strip() for choice in choices]
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    own = normal_form(texts[right])
    alone = own and not any(own in normal_form(text) for number, text in enumerate(texts) if number != right)
    prompt = "\n".join([question, "", *lines, "", ASKED])
    return {
        "prompt": prompt,
        "entity": prompt,
        "answer": lines[right],
        "accept": (lines[right], texts[right]) if alone else (lines[right],),
    }


def _different(examples: list[Example]) -> list[Example]:
    """The first example of every prompt in normal form: rows of one prompt share a digest, and would be drawn together."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(normal_form(example.prompt), example)
    return list(first.values())


def _drawn(examples: list[Example], most: int | None) -> list[Example]:
    """At most so many, drawn by the digests of their prompts: the same ones whatever their order, and most of them in a later revision."""
    if most is None or len(examples) <= most:
        return examples
    ranked = heapq.nsmallest(most, ((text_digest(example.prompt), number) for number, example in enumerate(examples)))
    return [examples[number] for number in sorted(number for _, number in ranked)]


def _called(name: str, declared: NamedSet, found: Found, file: SetFile | None = None) -> str:
    """What messages call a set or one of its files."""
    if declared.repository is None or found.revision == LOCAL:
        return f"{name} ({found.root if file is None else found.files[file.path]})"
    within = "" if file is None else f", {file.path}"
    return f"{name} ({declared.repository}@{found.revision[:12]}{within})"
