"""Rows of other people's data to typed examples: column names, roles, splits, duplicates, overlaps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tempering.data.records import Dataset, Document, Example, Part, Role
from tempering.data.supplement_rows import Beside, gather, shortened
from tempering.errors import UnusableData

COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "goal", "query", "behavior", "behaviour"),
    "answer": ("answer", "response", "output", "target", "completion"),
    "system": ("system", "system_prompt"),
    "role": ("role",),
    "split": ("part", "split"),
    "domain": ("domain", "category", "topic"),
    "entity": ("entity",),
    "accept": ("accept",),
}
"""What each field may be called, the preferred name first. Capitals do not matter; other columns are ignored."""

DOCUMENT_COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "document", "passage", "content"),
    "entity": COLUMNS["entity"],
    "prompt": COLUMNS["prompt"],
    "answer": COLUMNS["answer"],
}
"""The same for documents."""

_ROLES = {
    "hazard": Role.HAZARD,
    "harmful": Role.HAZARD,
    "benign": Role.BENIGN,
    "harmless": Role.BENIGN,
    "borderline": Role.BORDERLINE,
}
_SPLITS = {
    **{part.value: part.value for part in Part},
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "eval": "test",
    "evaluation": "test",
}
_USUAL_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Hint:
    """What the name of a file or split says about all its rows."""

    role: Role | None = None
    split: str | None = None

    @classmethod
    def of(cls, name: str) -> Hint:
        """Read a name such as ``harmful_train``; words that contradict each other say nothing."""
        words = set(re.split(r"[^a-z]+", name.lower()))
        roles = {_ROLES[word] for word in words & set(_ROLES)}
        splits = {_SPLITS[word] for word in words & set(_SPLITS)}
        return cls(roles.pop() if len(roles) == 1 else None, splits.pop() if len(splits) == 1 else None)


@dataclass(frozen=True)
class Row:
    """One example with where it was read and the split it is marked with, before splits are made parts."""

    where: str
    example: Example
    split: str | None


def read_row(values: Mapping[str, Any], where: str, hint: Hint) -> Row:
    """Make one row an example.

    Args:
        values: column name to value.
        where: file and line, for messages.
        hint: role and split of rows that do not name their own.

    Raises:
        UnusableData: no prompt, an empty one, no role or an unknown one, an unknown split, or a value that is no text.
    """
    columns = {str(name).strip().lower(): value for name, value in values.items()}
    if not any(name in columns for name in COLUMNS["prompt"]):
        found = ", ".join(repr(str(name)[:40]) for name in list(values)[:8]) or "none"
        raise UnusableData(f"{where} has no prompt; its columns: {found}", f"name one of them {', '.join(COLUMNS['prompt'][:4])}")
    prompt = _text(columns, "prompt", where)
    if prompt is None:
        raise UnusableData(f"{where} has an empty prompt", "remove the line or fill it")
    if "prompt" not in columns and "instruction" in columns and isinstance(columns.get("input"), str) and columns["input"].strip():
        prompt = f"{prompt}\n\n{_checked(columns['input'], 'input', where)}"  # Alpaca keeps the instruction's material apart
    example = Example(
        prompt=prompt,
        answer=_text(columns, "answer", where),
        accept=_accepted(columns, where),
        role=_role(columns, where, hint),
        domain=_text(columns, "domain", where) or "default",
        entity=_text(columns, "entity", where) or "",
        system=_text(columns, "system", where),
    )
    return Row(where, example, _split(columns, where, hint))


def read_document(values: Mapping[str, Any], where: str) -> Document:
    """Make one row a document.

    Args:
        values: column name to value.
        where: file and line, for messages.

    Raises:
        UnusableData: no text, an empty one, or a value that is no text.
    """
    columns = {str(name).strip().lower(): value for name, value in values.items()}
    if not any(name in columns for name in DOCUMENT_COLUMNS["text"]):
        found = ", ".join(repr(str(name)[:40]) for name in list(values)[:8]) or "none"
        raise UnusableData(f"{where} is a document without text; its columns: {found}", f"name one of them {DOCUMENT_COLUMNS['text'][0]}")
    text = _text(columns, "text", where, DOCUMENT_COLUMNS)
    if text is None:
        raise UnusableData(f"{where} is a document with an empty text", "remove the line or fill it")
    others = {field: _text(columns, field, where, DOCUMENT_COLUMNS) or "" for field in ("entity", "prompt", "answer")}
    return Document(text=text, **others)


def assemble(name: str, rows: Iterable[Row | Document | Beside], *, alone: bool = True) -> Dataset:
    """Check rows against each other and make them a dataset.

    Documents belong to no part and are kept as they are, each once; so are supplements, of which no prompt may be among the examples'.

    A prompt that comes again in the same split is left out and counted. Splits called train, validation and test become
    the attacker's, the defender's and the evaluator's part. Where a role has only two of them, the later one is the
    evaluator's and the other is left for :meth:`Dataset.divide`; a single one is left to it whole.

    Args:
        name: of the dataset.
        rows: in the order read.
        alone: it is the whole dataset, and not one of several that are joined, of which another may hold the hazard.

    Raises:
        UnusableData: no examples, no hazard among them, an entity or prompt in two splits, or supplements that cannot be used.
    """
    kept: dict[tuple[str, str | None], Row] = {}
    prompts: dict[str, Row] = {}
    entities: dict[str, Row] = {}
    documents: dict[Document, None] = {}
    supplements: list[Beside] = []
    count = 0
    for row in rows:
        if isinstance(row, Document):
            documents[row] = None
            continue
        if isinstance(row, Beside):
            supplements.append(row)
            continue
        count += 1
        _refuse_overlap("prompt", row, prompts, row.example.prompt)
        _refuse_overlap("entity", row, entities, row.example.entity)
        key = (row.example.prompt, row.example.system)
        first = kept.get(key)
        if first is not None and first.example.role is not row.example.role:
            raise UnusableData(
                f"{row.where} gives the prompt {shortened(row.example.prompt)} the role {row.example.role}, "
                f"and {first.where} the role {first.example.role}",
                "keep one of them",
            )
        if first is None or (first.split is None and row.split is not None):
            kept[key] = row
    if not kept:
        raise UnusableData(f"{name} holds no examples", 'give lines such as {"prompt": "…", "answer": "…", "role": "hazard"}')
    if alone and all(row.example.role is not Role.HAZARD for row in kept.values()):
        raise without_hazard(name)
    parts = {role: _parts_of({row.split for row in kept.values() if row.example.role is role}) for role in Role}
    examples = tuple(
        row.example.model_copy(update={"part": parts[row.example.role].get(row.split)}) if row.split else row.example
        for row in kept.values()
    )
    gathered = gather(supplements, {prompt: row.where for prompt, row in prompts.items()})
    return Dataset(name, examples, duplicates=count - len(kept), documents=tuple(documents), supplements=gathered)


def without_hazard(name: str) -> UnusableData:
    """The error of a dataset that nothing can be measured with."""
    return UnusableData(
        f"{name} has no hazard examples",
        "mark some with the role 'hazard', put them into a file named hazard*.jsonl, or add a set by name (temper ls data)",
    )


def _parts_of(splits: set[str | None]) -> dict[str | None, Part]:
    parts: dict[str | None, Part] = {part.value: part for part in Part}
    usual = [split for split in _USUAL_SPLITS if split in splits]
    if len(usual) == 3:
        parts.update(zip(usual, Part, strict=True))
    elif len(usual) == 2:
        parts[usual[1]] = Part.EVALUATOR
    return parts


def _refuse_overlap(kind: str, row: Row, first_seen: dict[str, Row], value: str) -> None:
    first = first_seen.setdefault(value, row)
    if first.split is None:
        first_seen[value] = row
    elif row.split is not None and row.split != first.split:
        raise UnusableData(
            f"overlapping splits: the {kind} {shortened(value)} stands in {first.split!r} ({first.where}) "
            f"and in {row.split!r} ({row.where})",
            f"give each {kind} one split",
        )


def _text(columns: Mapping[str, Any], field: str, where: str, known: Mapping[str, tuple[str, ...]] = COLUMNS) -> str | None:
    """The first filled column of a field; ``None`` where all are empty."""
    for name in known[field]:
        text = _checked(columns.get(name), name, where)
        if text.strip():
            return text
    return None


def _checked(value: Any, name: str, where: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnusableData(f"{where}: the column {name!r} holds no text but {type(value).__name__}", "make it text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UnusableData(f"{where}: the column {name!r} holds half a surrogate pair, which is no character", "mend the line's encoding")
    return value


def _accepted(columns: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = columns.get("accept")
    items = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(text for item in items if (text := _checked(item, "accept", where)).strip())


def _role(columns: Mapping[str, Any], where: str, hint: Hint) -> Role:
    text = _text(columns, "role", where)
    if text is None:
        if hint.role is None:
            raise UnusableData(
                f"{where} has no role", f'add "role": one of {", ".join(Role)}, or name the file hazard*, benign* or borderline*'
            )
        return hint.role
    role = _ROLES.get(text.strip().lower())
    if role is None:
        raise UnusableData(f"{where}: unknown role {shortened(text)}", f"known: {', '.join(_ROLES)}")
    return role


def _split(columns: Mapping[str, Any], where: str, hint: Hint) -> str | None:
    text = _text(columns, "split", where)
    if text is None:
        return hint.split
    split = _SPLITS.get(text.strip().lower())
    if split is None:
        raise UnusableData(f"{where}: unknown split {shortened(text)}", f"known: {', '.join(_SPLITS)}")
    return split
