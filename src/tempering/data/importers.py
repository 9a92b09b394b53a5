"""Data from outside: a JSONL file, a folder of them, or a saved Hugging Face dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tempering.data.members import nearest
from tempering.data.records import Dataset, Document
from tempering.data.rows import COLUMNS, DOCUMENT_COLUMNS, Hint, Row, assemble, read_document, read_row
from tempering.data.saved import is_saved, saved_splits
from tempering.data.supplement_rows import Beside, Kind, beside
from tempering.errors import UnusableData
from tempering.reading import expanded
from tempering.relocation import located

LONGEST_LINE = 1 << 20
"""Bytes. A longer line is no prompt, and reading it whole could exhaust the memory."""
MOST_BYTES = 1 << 30
"""Of all files of a dataset together: what is read is kept."""
MOST_ROWS = 1_000_000
"""Likewise, examples and documents: the shortest line becomes a thousand bytes of memory."""


def load_dataset(reference: str, *, alone: bool = True) -> Dataset:
    """Read a dataset, from whatever of the known forms the reference points to.

    A line or row is an object with ``prompt``, and as far as known ``answer``, ``role``, ``domain``, ``entity``, ``split``,
    ``system`` and ``accept`` (:data:`tempering.data.rows.COLUMNS` has the other names that are understood). A file or split
    whose name contains hazard, harmful, benign, harmless or borderline gives its rows that role; train, val and test in a
    name give the split. One whose name begins with documents holds no examples but what is public about the hazard: ``text``,
    and as far as known ``entity``, and the same told as ``prompt`` and ``answer``. One whose name begins with general, imagined or novel
    holds supplements (:class:`tempering.data.supplements.Supplements`), a new domain in a train and a test half.

    Args:
        reference: a ``.jsonl`` file, a folder with some, or a folder that ``datasets.save_to_disk`` wrote.
        alone: it is the whole dataset, and not one of several that are joined.

    Raises:
        UnusableData: nothing there, or something in it that cannot be used; the message names file and line.
    """
    try:
        path = located(reference) or expanded(reference)
        if path.is_file():
            return assemble(path.stem, _counted(_jsonl_rows(path), path), alone=alone)
        if reference.strip() and path.is_dir():
            rows = _saved_rows(path) if is_saved(path) else _folder_rows(path)
            return assemble(path.resolve().name, _counted(rows, path), alone=alone)
    except OSError as error:
        raise UnusableData(f"cannot read {error.filename or reference}: {error.strerror or error}") from None
    except RuntimeError as error:  # no such user's home, or a loop of links
        raise UnusableData(f"cannot read {reference!r}: {error}") from None
    meant = nearest(reference)
    remedy = (
        f"did you mean {meant!r}?"
        if meant
        else "give a JSONL file, a folder of them, a saved Hugging Face dataset, or a name (temper ls data)"
    )
    raise UnusableData(f"no data at {reference!r}", remedy)


def _counted(rows: Iterator[Row | Document | Beside], path: Path) -> Iterator[Row | Document | Beside]:
    for number, row in enumerate(rows, 1):
        if number > MOST_ROWS:
            raise UnusableData(f"{path} holds more than {MOST_ROWS:,} examples", "take a part of it")
        yield row


def _folder_rows(folder: Path) -> Iterator[Row | Document | Beside]:
    files = sorted(path for path in folder.glob("*.jsonl") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise UnusableData(f"{folder} holds no .jsonl files", "name them hazard*.jsonl, benign*.jsonl and borderline*.jsonl")
    if sum(path.stat().st_size for path in files) > MOST_BYTES:
        raise _too_large(folder)
    for path in files:
        yield from _jsonl_rows(path)


def _reader(name: str) -> Callable[[Mapping[str, Any], str], Row | Document | Beside]:
    """What makes a row of a file or split of this name an example, a document or a supplement, given the values and where they stand."""
    if _holds_documents(name):
        return read_document
    hint, kind = Hint.of(name), Kind.of(name)
    if kind is None:
        return lambda values, where: read_row(values, where, hint)
    return partial(_read_supplement, hint=Hint(hint.role or kind.role, hint.split), kind=kind)


def _read_supplement(values: Mapping[str, Any], where: str, *, hint: Hint, kind: Kind) -> Beside:
    row = read_row(values, where, hint)
    return beside(kind, where, row.example, row.split)


def _holds_documents(name: str) -> bool:
    return name.lower().startswith("documents")


def _jsonl_rows(path: Path) -> Iterator[Row | Document | Beside]:
    read = _reader(path.stem)
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                raise UnusableData(f"{where} is longer than {LONGEST_LINE >> 20} MiB", "write one example or document a line, as JSON")
            if stream.tell() > MOST_BYTES:
                raise _too_large(path)
            if line.strip():
                yield read(_json_object(line, where), where)


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number, object_pairs_hook=_each_once)
    except UnicodeDecodeError as error:
        raise UnusableData(f"{where} is not UTF-8 (byte {error.start + 1} of the line)", "save the file as UTF-8") from None
    except RecursionError:
        raise UnusableData(f"{where} is nested too deeply", "write one flat object a line") from None
    except ValueError as error:
        raise UnusableData(f"{where} is not JSON: {error}", "write one object a line") from None
    if not isinstance(value, dict):
        raise UnusableData(f"{where} is no JSON object but {type(value).__name__}", 'write {"prompt": "…"}')
    return value


def _no_number(name: str) -> None:
    """NaN and the infinities, which Python writes and JSON does not know."""
    raise ValueError(f"{name} is no number")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)[:40]!r} stands twice")
    return values


def _too_large(path: Path) -> UnusableData:
    return UnusableData(f"{path} holds more than {MOST_BYTES >> 30} GiB", "take a part of it")


def _saved_rows(folder: Path) -> Iterator[Row | Document | Beside]:
    for split in saved_splits(folder):
        read = _reader(split.name)
        columns, needed = (DOCUMENT_COLUMNS, "text") if _holds_documents(split.name) else (COLUMNS, "prompt")
        if not any(column.strip().lower() in columns[needed] for column in split.columns):
            read(dict.fromkeys(split.columns), split.place)  # says which columns there are instead
        known = {name for names in columns.values() for name in names} | {"input"}
        wanted = [column for column in split.columns if column.strip().lower() in known]
        for number, values in enumerate(split.rows(wanted)):
            yield read(values, f"{split.place}, row {number}")
