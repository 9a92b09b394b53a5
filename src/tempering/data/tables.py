"""Rows out of files of other people: Parquet, CSV, JSON, JSON Lines, and what ``datasets`` saved; the declared columns alone."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tempering.data.saved import saved_splits
from tempering.errors import UnusableData
from tempering.reading import size_in_words

MOST_BYTES = 1 << 30
"""Of a file, unpacked: what is read is kept."""
MOST_ROWS = 1_000_000
LONGEST_LINE = 1 << 20
"""Characters of a line, of a field and of a text: what is longer is no prompt."""
MOST_JSON = 1 << 26
"""Bytes of a JSON file that is one list: it is read whole, and becomes many times as large."""
_BATCH = 100


def read_table(path: Path, columns: Sequence[str], where: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a file, by its ending.

    Args:
        path: Parquet, CSV, JSON (a list of objects) or JSON Lines; the last three also packed with gzip.
        columns: what there has to be; other columns are passed by.
        where: what to call the file in messages.

    Raises:
        UnusableData: a column is missing, or it cannot be read as what its ending says.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    readers = {"parquet": _parquet, "csv": _csv, "jsonl": _json_lines, "json": _json}
    try:
        for number, row in enumerate(readers[kind](path, columns, where), 1):
            if number > MOST_ROWS:
                raise _too_large(where)
            yield row
    except UnusableData:
        raise
    except OSError as error:
        raise UnusableData(f"cannot read {where}: {error.strerror or error}") from None
    except Exception as error:  # whatever a damaged file makes a library raise
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnusableData(f"{where} cannot be read as {kind}: {told[:200]}", "fetch it anew, or take another copy") from None


def read_saved(folder: Path, split: str, columns: Sequence[str], where: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a split that ``datasets.save_to_disk`` wrote.

    Args:
        folder: what it wrote.
        split: the split; a copy without splits, or with one only, is taken for it.
        columns: what there has to be.
        where: what to call it in messages.

    Raises:
        UnusableData: the split or a column is missing, or it cannot be read safely.
    """
    splits = {found.name: found for found in saved_splits(folder)}
    if split not in splits and len(splits) > 1:
        raise UnusableData(f"{folder} has no split {split!r}; its splits: {', '.join(splits)}", "save it with that split")
    saved = splits[split] if split in splits else next(iter(splits.values()))
    check_columns(saved.columns, columns, where)
    yield from saved.rows(columns)


def check_columns(present: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Say which column is missing.

    Raises:
        UnusableData: one is.
    """
    for column in wanted:
        if column not in present:
            found = ", ".join(repr(str(name)[:40]) for name in present[:12]) or "none"
            raise UnusableData(
                f"{where} has no column {column!r}; its columns: {found}",
                "the set has changed: name the revision that has it, as NAME@COMMIT",
            )


def _parquet(path: Path, columns: Sequence[str], where: str) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    check_columns(schema.names, columns, where)
    texts = [name for name in columns if schema.names.count(name) == 1 and str(schema.field(name).type) in ("string", "large_string")]
    with pq.ParquetFile(path, read_dictionary=texts) as file:  # so that a text of many rows stays one until they are looked at
        about = file.metadata
        unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
        if about.num_rows > MOST_ROWS or unpacked > MOST_BYTES:
            raise _too_large(where)
        room = MOST_BYTES
        for batch in file.iter_batches(
            _BATCH, columns=list(columns)
        ):  # few at once: a text that stands once in a file may be that of every row
            for row in batch.to_pylist():
                room -= sum(_characters(value, where) for value in row.values())
                if room < 0:
                    raise _too_large(where)
                yield row


def _characters(value: Any, where: str) -> int:
    """Characters of a text, or of those in a list."""
    if isinstance(value, list):
        return sum(_characters(inner, where) for inner in value)
    if not isinstance(value, str):
        return 8
    if len(value) > LONGEST_LINE:
        raise UnusableData(f"{where} holds a text of more than {LONGEST_LINE >> 20} MiB", "take rows of prompts and answers")
    return len(value)


def _csv(path: Path, columns: Sequence[str], where: str) -> Iterator[Mapping[str, Any]]:
    before = csv.field_size_limit(LONGEST_LINE)
    try:
        with _text(path, where) as stream:
            rows = csv.DictReader(_lines(stream, where), strict=True)
            check_columns([name or "" for name in rows.fieldnames or ()], columns, where)
            for row in rows:
                if None in row or None in row.values():
                    raise UnusableData(f"{where}, line {rows.line_num} has not as many fields as columns", "fetch it anew")
                yield {name: row[name] for name in columns}
    finally:
        csv.field_size_limit(before)


def _json_lines(path: Path, columns: Sequence[str], where: str) -> Iterator[Mapping[str, Any]]:
    with _text(path, where) as stream:
        for number, line in enumerate(_lines(stream, where), 1):
            if line.strip():
                yield _object(json.loads(line), columns, f"{where}, line {number}")


def _json(path: Path, columns: Sequence[str], where: str) -> Iterator[Mapping[str, Any]]:
    with _text(path, where, MOST_JSON) as stream:
        rows = json.load(stream)
    if not isinstance(rows, list):
        raise UnusableData(f"{where} holds no list of objects", "fetch it anew, or take another copy")
    for number, row in enumerate(rows, 1):
        yield _object(row, columns, f"{where}, object {number}")


def _object(value: Any, columns: Sequence[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UnusableData(f"{where} is no JSON object but {type(value).__name__}", "fetch it anew, or take another copy")
    check_columns(list(value), columns, where)
    return {name: value[name] for name in columns}


def _lines(stream: IO[str], where: str) -> Iterator[str]:
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise UnusableData(f"{where}, line {number} is longer than {LONGEST_LINE >> 20} MiB", "take rows of prompts and answers")
        yield line


def _text(path: Path, where: str, most: int = MOST_BYTES) -> IO[str]:
    """The text of a file of so many bytes at most, unpacked into memory where it is packed."""
    if path.stat().st_size > most:
        raise _too_large(where, most)
    if path.name.endswith(".gz"):
        try:
            with gzip.open(path) as packed:
                content = packed.read(most + 1)
        except (EOFError, zlib.error) as error:
            raise UnusableData(f"{where} is no whole gzip file: {error}", "fetch it anew") from None
        if len(content) > most:
            raise _too_large(where, most)
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _too_large(where: str, most: int = MOST_BYTES) -> UnusableData:
    return UnusableData(f"{where} holds more than {size_in_words(most)} or {MOST_ROWS:,} rows", "take a part of it")
