"""The tables of a run as files that others read: Parquet for DuckDB and pandas, or CSV, with what every column means beside them.

Every column has the one type that :mod:`tempering.report.dictionary` gives it, the same in every run, so that

    SELECT attack, usd_median, usd_low, usd_high FROM 'export/prices.parquet'

works, and so does one over the exports of many runs. There are no nested values (configurations are text that holds JSON) and no index
columns. A number that does not exist is NULL in Parquet and empty in CSV; a bound that does not exist is infinite (``inf``).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from tempering.report.dictionary import FLAG, NUMBER, TEXT, WHOLE, Type, undescribed
from tempering.report.downloads import tame
from tempering.report.folder import write_folder
from tempering.report.summary import dumps
from tempering.report.tables import TABLES, Table

Format = Literal["parquet", "csv"]
FORMATS: tuple[Format, ...] = ("parquet", "csv")

DICTIONARY = "tables.json"
SCHEMA = 1
"""Raised when the meaning of a field of ``tables.json`` changes."""

_MADE_BY = "tempering export"
_ARROW: dict[Type, pa.DataType] = {TEXT: pa.string(), WHOLE: pa.int64(), NUMBER: pa.float64(), FLAG: pa.bool_()}
_SQL = {arrow: name for name, arrow in _ARROW.items()}
_BY_NAME = {table.name: table for table in TABLES}


def export_tables(frames: Mapping[str, pd.DataFrame], out: Path, *, format_: Format, facts: Mapping[str, Any]) -> list[Path]:
    """Write tables and their dictionary to a folder of their own, whole or not at all.

    Args:
        frames: by the names in :data:`tempering.report.tables.TABLES`.
        out: absent, empty, or an earlier export, which is replaced.
        format_: of the files.
        facts: what the dictionary says of the run, as JSON values.

    Returns:
        The files, the dictionary last.

    Raises:
        StoreProblem: ``out`` holds something else, or cannot be written to.
    """
    files: dict[str, bytes] = {}
    entries = []
    for name, frame in frames.items():
        table, file = _BY_NAME[name], f"{name}.{format_}"
        content = typed(frame, table)
        files[file] = _encoded(content, format_)
        entries.append({"name": name, "file": file, "rows": len(frame), "row": table.row, "columns": _listed(table, content.schema)})
    head = {"schema": SCHEMA, "made_by": _MADE_BY, "format": format_}
    files[DICTIONARY] = dumps({**head, **facts, "tables": entries}).encode()
    return write_folder(out, files, earlier=_earlier(out))


def typed(frame: pd.DataFrame, table: Table) -> pa.Table:
    """A frame as an Arrow table whose columns have the types that the dictionary gives them; NaN is null.

    A column that nobody described keeps its type. One that holds what its type cannot, as a half in a count, becomes DOUBLE, or else text:
    numbers are never changed.
    """
    columns = {str(name): table.columns.get(str(name)) for name in frame.columns}
    return pa.table({name: _array(frame[name], column.type if column else _guessed(frame[name])) for name, column in columns.items()})


def _array(values: pd.Series[Any], type_: Type) -> pa.Array:
    for possible in (type_, NUMBER) if type_ != TEXT else ():
        try:
            return pa.Array.from_pandas(values, type=_ARROW[possible])
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            continue
    return pa.array([None if pd.isna(value) else str(value) for value in values], type=pa.string())


def _guessed(values: pd.Series[Any]) -> Type:
    if pd.api.types.is_bool_dtype(values):
        return FLAG
    if pd.api.types.is_integer_dtype(values):
        return WHOLE
    return NUMBER if pd.api.types.is_numeric_dtype(values) else TEXT


def _encoded(table: pa.Table, format_: Format) -> bytes:
    sink = io.BytesIO()
    if format_ == "csv":
        csv.write_csv(_tamed(table), sink)
    else:
        parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _tamed(table: pa.Table) -> pa.Table:
    """The table with an apostrophe before every text that a spreadsheet would execute."""
    columns = [
        pa.array([tame(value) for value in column.to_pylist()], pa.string()) if column.type == pa.string() else column
        for column in table.columns
    ]
    return pa.table(dict(zip(map(tame, table.column_names), columns, strict=True)))


def _listed(table: Table, schema: pa.Schema) -> list[dict[str, str]]:
    known = {field.name: table.columns.get(field.name) or undescribed(field.name) for field in schema}
    return [
        {"name": field.name, "type": _SQL[field.type], "unit": known[field.name].unit, "meaning": known[field.name].meaning}
        for field in schema
    ]


def _earlier(out: Path) -> set[str] | None:
    """The files of an earlier export; ``None`` where there is none."""
    try:
        document = json.loads((out / DICTIONARY).read_text(encoding="utf-8"))
        return {DICTIONARY, *(table["file"] for table in document["tables"])} if document["made_by"] == _MADE_BY else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
