"""What ``datasets.save_to_disk`` wrote, read as plain Arrow: texts, numbers, lists and dictionaries of them, and nothing else.

The library itself is not asked. It opens whatever a column of pictures or sounds names, on this machine or on a stranger's server, and
joins the names in ``state.json`` to the folder as they stand. Arrow files can lie as well: packed and shared buffers stand for far more
than the file has, and offsets may lead out of it. So nothing packed is read, and every batch is proved sound before its values are made.

The format: a stream of Arrow messages, https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format.
"""

from __future__ import annotations

import json
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering.errors import UnusableData
from tempering.reading import Unreadable, read_bytes

MOST_BYTES = 1 << 30
"""Of all Arrow files together: what is read is kept."""
MOST_ROWS = 1_000_000
MOST_VALUES = 20_000_000
"""Of a batch, each value in a list counted: values that are nothing take no place in a file."""
LONGEST_TEXT = 1 << 20
"""Characters. What is longer is no prompt."""

_STATE, _DICTIONARY, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"
_DESCRIPTION_BYTES = 1 << 24
_MOST_FILES = 10_000
_LISTS, _LEAVES = ("List", "LargeList", "Sequence"), ("Value", "ClassLabel")
_DEEPEST = 16
_AGAIN = "save it again from texts, numbers and lists, with a current version of datasets"


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that ``datasets.save_to_disk`` wrote."""
    return any((folder / marker).is_file() for marker in (_DICTIONARY, _STATE))


@dataclass(frozen=True)
class SavedSplit:
    """One split of a saved dataset.

    Attributes:
        name: of the split; empty where it has none.
        files: the Arrow files, in order.
        columns: names of the columns.
        place: what to call it in messages.
        features: what the columns are, as ``dataset_info.json`` says it.
    """

    name: str
    files: tuple[Path, ...]
    columns: tuple[str, ...]
    place: str
    features: dict[str, Any]

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The values of some columns, row by row.

        Raises:
            UnusableData: a column holds anything but texts, numbers, lists and dictionaries, or a file is damaged, packed or too large.
        """
        for column in columns:
            if (kind := _foreign(self.features.get(column))) is not None:
                raise UnusableData(
                    f"{self.place}: the column {column[:40]!r} holds {kind[:40]}, and only texts, numbers and lists are read", _AGAIN
                )
        count = 0
        for path in self.files:
            for batch in _batches(path, columns, self.place):
                count += batch.num_rows
                if count > MOST_ROWS:
                    raise UnusableData(f"{self.place} holds more than {MOST_ROWS:,} rows", "take a part of it")
                yield from _plain(batch, self.place)


def saved_splits(folder: Path) -> list[SavedSplit]:
    """The splits of a saved dataset; of one without splits, that one.

    Raises:
        UnusableData: it is damaged or too large, or names files outside its folder.
    """
    if (folder / _DICTIONARY).is_file():
        names = _described(folder / _DICTIONARY).get("splits")
        if not isinstance(names, list) or not names or len(names) > _MOST_FILES or not all(isinstance(name, str) for name in names):
            raise UnusableData(f"{folder / _DICTIONARY} names no splits", _AGAIN)
        parts = [(name, _inside(folder, name)) for name in names]
    else:
        parts = [("", folder)]
    found = [_split(part, name, folder) for name, part in parts]
    if sum(path.stat().st_size for split in found for path in split.files) > MOST_BYTES:
        raise UnusableData(f"{folder} holds more than {MOST_BYTES >> 30} GiB", "take a part of it")
    return found


def _split(part: Path, name: str, folder: Path) -> SavedSplit:
    state = _described(part / _STATE)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UnusableData(f"{part} is an old form of a saved dataset, with its rows chosen by a second file", _AGAIN)
    entries = state.get("_data_files")
    named = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not named or len(named) > _MOST_FILES:
        raise UnusableData(f"{part / _STATE} names no Arrow files", _AGAIN)
    files = tuple(_inside(part, file) for file in named)
    for path in files:
        with _told(path):
            regular = stat.S_ISREG(path.stat().st_mode)
        if not regular:
            raise UnusableData(f"{path} is no regular file", _AGAIN)
    features = _described(part / _INFO).get("features") if (part / _INFO).is_file() else None
    name = name or str(state.get("_split") or "")
    place = f"{folder}, split {name!r}" if name else str(folder)
    return SavedSplit(name, files, _columns(files[0], place), place, features if isinstance(features, dict) else {})


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter where pathlib finds links that lead to each other
        said = error.strerror if isinstance(error, OSError) else "its links lead to each other"
        raise UnusableData(f"{path} cannot be read: {said}", _AGAIN) from error


def _described(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_bytes(path, _DESCRIPTION_BYTES))
    except (Unreadable, ValueError, RecursionError) as error:
        raise UnusableData(f"{path} cannot be read: {str(error)[:200] or type(error).__name__}", _AGAIN) from None
    if not isinstance(values, dict):
        raise UnusableData(f"{path} holds no object", _AGAIN)
    return values


def _inside(folder: Path, name: Any) -> Path:
    """A file or folder right in the folder, by a name that leads nowhere else."""
    plain = (
        isinstance(name, str)
        and name.isprintable()
        and name not in ("", ".", "..")
        and not set(name) & {"/", "\\"}
        and len(name.encode()) < 256
    )
    path = folder / name if plain else folder
    with _told(path):
        inside = plain and path.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise UnusableData(f"{folder} names {str(name)[:80]!r}, which does not lie in it; such files are not read", _AGAIN)
    return path


def _foreign(feature: Any, depth: int = 0) -> str | None:
    """The kind of a feature that is neither text nor number, nor a list or dictionary of such."""
    if feature is None or depth > _DEEPEST:
        return None if feature is None else "lists nested too deeply"
    if isinstance(feature, list):
        return next((kind for inner in feature if (kind := _foreign(inner, depth + 1)) is not None), None)
    if not isinstance(feature, dict):
        return "an unknown kind"
    kind = feature.get("_type")
    if isinstance(kind, str):
        return _foreign(feature.get("feature"), depth + 1) if kind in _LISTS else None if kind in _LEAVES else kind
    return next((kind for inner in feature.values() if (kind := _foreign(inner, depth + 1)) is not None), None)


def _columns(path: Path, place: str) -> tuple[str, ...]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            return tuple(stream.schema.names)  # decodes them, which may fail too
    except Exception as error:  # whatever a damaged Arrow file makes the library raise
        raise _damaged(place, path, error) from None


def _batches(path: Path, columns: Sequence[str], place: str) -> Iterator[Any]:
    """The record batches of a file, those columns only."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.read_schema(source)
            _check_types(schema, columns, place)
            chosen = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(column) for column in columns], use_threads=False)
            _check_messages(source, place)
            source.seek(0)
            with pa.ipc.open_stream(source, options=chosen) as stream:
                for batch in stream:
                    if batch.num_rows > MOST_ROWS or sum(_size(column) for column in batch.columns) > MOST_VALUES:
                        raise UnusableData(f"{place} holds more values than are read at once", "take a part of it")
                    batch.validate(full=True)
                    yield batch
    except UnusableData:
        raise
    except Exception as error:
        raise _damaged(place, path, error) from None


def _damaged(place: str, path: Path, error: Exception) -> UnusableData:
    told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UnusableData(f"{place} cannot be read: {path.name}: {told[:200]}", "save it again, or take another copy")


def _check_types(schema: Any, columns: Sequence[str], place: str) -> None:
    for column in columns:
        if schema.get_field_index(column) < 0:  # not there, or there twice
            raise UnusableData(f"{place} does not have the column {column[:40]!r} once in each of its files", _AGAIN)
        if not _is_plain(schema.field(column).type):
            kind = str(schema.field(column).type)[:60]
            raise UnusableData(f"{place}: the column {column[:40]!r} holds {kind}, and only texts, numbers and lists are read", _AGAIN)


def _is_plain(kind: Any, depth: int = 0) -> bool:
    import pyarrow as pa

    types = pa.types
    if depth > _DEEPEST:
        return False
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type, depth + 1)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(place).type, depth + 1) for place in range(kind.num_fields))
    leaves = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    return any(is_one(kind) for is_one in leaves)


def _check_messages(source: Any, place: str) -> None:
    """Look at every message before any is unpacked: batches only, none of them packed. The schema has been read already."""
    import pyarrow as pa

    while True:
        try:
            message = pa.ipc.read_message(source)
        except EOFError:
            return
        if message.type != "record batch":
            raise UnusableData(f"{place} holds a {message.type}, and only plain columns are read", _AGAIN)
        if _is_packed(message.metadata.to_pybytes()):
            raise UnusableData(f"{place} is packed, and may unpack to any size", "save it again without compression")


def _is_packed(metadata: bytes) -> bool:
    """Whether the header of a record batch, a FlatBuffer, says how its buffers are compressed."""

    def field(table: int, number: int) -> int:
        """Where a field of a table lies, zero where the table has none."""
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        place = 4 + 2 * number
        if place >= struct.unpack_from("<H", metadata, fields)[0]:
            return 0
        offset = int(struct.unpack_from("<H", metadata, fields + place)[0])
        return table + offset if offset else 0

    message = int(struct.unpack_from("<I", metadata, 0)[0])
    header = field(message, 2)
    batch = header + int(struct.unpack_from("<I", metadata, header)[0])
    return bool(field(batch, 3))


def _size(array: Any) -> int:
    """Values that an array makes, those of lists and dictionaries in it counted too."""
    import pyarrow as pa

    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return len(array) + _size(array.values)
    if pa.types.is_struct(array.type):
        return len(array) + sum(_size(array.field(place)) for place in range(array.type.num_fields))
    return len(array)


def _plain(batch: Any, place: str) -> Iterator[dict[str, Any]]:
    for part in (batch.slice(begin, 1000) for begin in range(0, batch.num_rows, 1000)):
        for row in part.to_pylist():
            for name, value in row.items():
                if any(isinstance(text, str) and len(text) > LONGEST_TEXT for text in (value if isinstance(value, list) else [value])):
                    raise UnusableData(f"{place} has a {name!r} of more than {LONGEST_TEXT >> 20} MiB", "take rows of prompts and answers")
            yield row
