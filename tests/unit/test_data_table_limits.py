"""Data that is small to fetch and large to hold: every form has its limits, each told in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempering.data import importers, tables
from tempering.data.tables import read_table
from tempering.errors import UnusableData

ROWS = [{"prompt": letter * 3, "extra": 1} for letter in "abc"]


def write(folder: Path, name: str, rows: list[dict[str, Any]] | None = None) -> Path:
    rows = ROWS if rows is None else rows
    path = folder / name
    kind = name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    lines = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
        "csv": "prompt,extra\n" + "".join(f'"{row["prompt"]}",{row["extra"]}\n' for row in rows),
    }
    content = lines[kind].encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UnusableData) as caught:
        list(read_table(path, ["prompt"], "the set"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


FORMS = ["a.parquet", "a.csv", "a.jsonl", "a.json", "a.csv.gz", "a.jsonl.gz", "a.json.gz"]


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_counted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, name)
    assert [row["prompt"] for row in read_table(path, ["prompt"], "the set")] == ["aaa", "bbb", "ccc"]
    monkeypatch.setattr(tables, "MOST_ROWS", 2)
    assert "the set holds more than" in refusal(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.csv.gz", "a.jsonl.gz"])
def test_a_long_line_or_text_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, [{"prompt": "a" * (tables.LONGEST_LINE + 1), "extra": 1}])
    told = refusal(path)
    assert "than 1 MiB" in told
    assert "take rows of prompts and answers" in told


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_file_that_is_one_list_is_not_read_whole_however_large(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables.MOST_JSON == 64 << 20
    assert tables._json.__code__.co_names.count("MOST_JSON") == 1
    monkeypatch.setattr(tables, "MOST_JSON", 1 << 10)
    path = write(tmp_path, name, ROWS * 100)
    assert "the set holds more than 1 KiB or 1,000,000 rows; take a part of it" in refusal(path)


def test_one_text_for_every_row_of_a_parquet_file_is_counted_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a.parquet", [{"prompt": "a" * 10_000, "extra": 1}] * 2000)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(tables, "MOST_BYTES", 1 << 20)
    assert "holds more than" in refusal(path)


def test_lists_in_a_parquet_file_are_read_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a.parquet", [{"prompt": "a", "choices": ["b" * 100, None], "right": 1}] * 10)
    assert next(iter(read_table(path, ["choices", "right"], "the set"))) == {"choices": ["b" * 100, None], "right": 1}
    monkeypatch.setattr(tables, "MOST_BYTES", 10_000)
    with pytest.raises(UnusableData, match="holds more than"):
        list(read_table(write(tmp_path, "b.parquet", [{"choices": ["b" * 2000]}] * 10), ["choices"], "the set"))


def test_examples_of_a_dataset_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importers, "MOST_ROWS", 2)
    lines = [f'{{"prompt": "{letter}", "role": "hazard"}}\n' for letter in "abc"]
    (tmp_path / "hazard.jsonl").write_text(lines[0])
    (tmp_path / "more.jsonl").write_text("".join(lines[1:]))
    for place in (tmp_path, tmp_path / "more.jsonl"):
        if place.is_file():
            assert len(importers.load_dataset(str(place)).examples) == 2
            continue
        with pytest.raises(UnusableData, match="holds more than 2 examples; take a part of it"):
            importers.load_dataset(str(place))
