"""Exported tables, read by those who will read them: DuckDB and pandas."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from support.comparison_specimen import with_every_table
from support.report_specimen import Specimen, specimen
from tempering.errors import StoreProblem
from tempering.report import folder
from tempering.report.dictionary import UNKNOWN
from tempering.report.export import export_tables, typed
from tempering.report.tables import TABLES, run_tables

BY_NAME = {table.name: table for table in TABLES}
FACTS = {"study": "made up"}


@functools.cache
def plain() -> Specimen:
    return specimen()


@functools.cache
def everything_made() -> Specimen:
    return with_every_table()


def exported(out: Path, format_: str = "parquet", *, subject=None) -> tuple[dict[str, pd.DataFrame], dict]:
    """The frames that were exported, and the dictionary beside them."""
    subject = subject or everything_made()
    frames = run_tables(subject.tables, subject.assessment, subject.conclusions)
    export_tables(frames, out, format_=format_, facts=FACTS)
    return frames, json.loads((out / "tables.json").read_text())


@pytest.fixture(scope="module", params=["parquet", "csv"])
def everything(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "out"
    return (out, *exported(out, request.param))


def test_duckdb_reads_every_column_with_the_type_that_the_dictionary_gives(everything) -> None:
    out, frames, document = everything
    assert [table["name"] for table in document["tables"]] == list(frames) == list(BY_NAME)
    for table in document["tables"]:
        path, types = out / table["file"], {column["name"]: column["type"] for column in table["columns"]}
        assert list(types) == list(frames[table["name"]].columns)
        assert all(column["meaning"] and column["meaning"] != UNKNOWN for column in table["columns"])
        source = f"'{path}'" if document["format"] == "parquet" else f"read_csv('{path}', types = {types!r})"
        found = {name: kind for name, kind, *_ in duckdb.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()}
        assert found == types
        assert duckdb.sql(f"SELECT count(*) FROM {source}").fetchall() == [(table["rows"],)] == [(len(frames[table["name"]]),)]


def place(everything, name: str) -> str:
    out, _, document = everything
    return f"'{out / name}.{document['format']}'"


def test_a_question_in_sql_gets_the_numbers_of_economics(everything) -> None:
    _, frames, _ = everything
    prices = frames["prices"]
    found = duckdb.sql(
        f"SELECT attack, flops_median, flops_high FROM {place(everything, 'prices')} "
        "WHERE NOT flops_censored AND defense = 'none' ORDER BY flops_median, attack"
    ).fetchall()
    expected = prices[~prices["flops_censored"] & (prices["defense"] == "none")].sort_values(["flops_median", "attack"])
    assert found == list(expected[["attack", "flops_median", "flops_high"]].itertuples(index=False, name=None))
    assert len(found) > 3
    joined = duckdb.sql(
        f"SELECT count(*), bool_and(u.seed = b.seed) FROM {place(everything, 'units')} u JOIN {place(everything, 'breaks')} b USING (unit)"
    ).fetchall()
    assert joined == [(len(frames["breaks"]), True)]


def test_pandas_reads_the_same_values(everything) -> None:
    out, frames, document = everything
    read = pd.read_parquet if document["format"] == "parquet" else lambda path: pd.read_csv(path, float_precision="round_trip")
    for name, frame in frames.items():
        again = read(out / f"{name}.{document['format']}")
        for column in frame.columns:
            if frame[column].dtype.kind in "if":
                np.testing.assert_array_equal(again[column].to_numpy(dtype=float), frame[column].to_numpy(dtype=float), err_msg=column)
            elif frame[column].dtype.kind == "b":
                assert again[column].dtype == bool
                assert again[column].tolist() == frame[column].tolist()
            else:
                assert again[column].fillna("").tolist() == frame[column].fillna("").tolist(), (name, column)


def test_a_missing_number_is_null_and_an_open_bound_infinite(tmp_path: Path) -> None:
    exported(tmp_path / "out", subject=plain())
    prices = f"'{tmp_path / 'out' / 'prices.parquet'}'"
    assert duckdb.sql(f"SELECT flops_median, flops_high FROM {prices} WHERE attack = 'identity_shift'").fetchall() == [(None, math.inf)]


def test_the_dictionary_says_of_which_run_it_is(everything) -> None:
    _, _, document = everything
    assert (document["schema"], document["study"]) == (1, "made up")
    assert {table["row"] for table in document["tables"]} == {table.row for table in TABLES}


def test_types_do_not_depend_on_what_a_run_happens_to_hold() -> None:
    units = run_tables(plain().tables, plain().assessment, plain().conclusions)["units"]
    whole = typed(units, BY_NAME["units"]).schema
    empty = typed(units.iloc[:0], BY_NAME["units"]).schema
    missing = typed(units.assign(steps=np.nan, error=None), BY_NAME["units"]).schema
    assert whole.equals(empty)
    assert whole.equals(missing)


def test_a_value_that_its_type_cannot_hold_is_kept(tmp_path: Path) -> None:
    frame = pd.DataFrame({"seed": [1, 2], "steps": [1.5, 2.0], "tokens": ["many", 3], "mine": [True, False], "also": [{"a": 1}, None]})
    export_tables({"units": frame}, tmp_path / "out", format_="parquet", facts={})
    (table,) = json.loads((tmp_path / "out" / "tables.json").read_text())["tables"]
    assert {column["name"]: column["type"] for column in table["columns"]} == {
        "seed": "BIGINT",
        "steps": "DOUBLE",
        "tokens": "VARCHAR",
        "mine": "BOOLEAN",
        "also": "VARCHAR",
    }
    assert [column["meaning"] for column in table["columns"]][3:] == [UNKNOWN, UNKNOWN]
    assert duckdb.sql(f"SELECT * FROM '{tmp_path / 'out' / 'units.parquet'}'").fetchall() == [
        (1, 1.5, "many", True, "{'a': 1}"),
        (2, 2.0, "3", False, None),
    ]


# Where it goes


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    exported(tmp_path / "out", "csv", subject=plain())
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".json"}
    assert not (tmp_path / "out" / "tax.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["notes.txt", "tables.json", "prices.parquet"])
def test_what_is_somebody_elses_is_left_alone(tmp_path: Path, place: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / place).write_text("[1]")
    with pytest.raises(StoreProblem, match=rf"holds something else \({place}\); choose another --out"):
        exported(out)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", place]


def test_a_strangers_file_among_ours_is_not_thrown_away(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    (tmp_path / "out" / "my-plot.png").touch()
    with pytest.raises(StoreProblem, match=r"my-plot\.png"):
        exported(tmp_path / "out")
    assert (tmp_path / "out" / "prices.parquet").is_file()


def test_a_file_or_a_place_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreProblem, match="is a file; choose another --out"):
        exported(tmp_path / "file")
    with pytest.raises(StoreProblem, match=r"cannot write to .*; choose another --out"):
        exported(tmp_path / "file" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("at", ["write", "swap"])
def test_an_export_that_breaks_off_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    exported(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    real = Path.rename

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def rename(self: Path, target: Path) -> Path:
        return full() if at == "swap" and Path(target).name == "out" and self.name.count(".before") == 0 else real(self, target)  # type: ignore[func-returns-value]

    if at == "write":
        monkeypatch.setattr(folder, "write_durably", full)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StoreProblem, match=r"cannot write to .*: No space left on device"):
        exported(tmp_path / "out", "csv")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
