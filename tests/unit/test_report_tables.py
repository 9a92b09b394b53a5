"""The one list of tables: what it names is written, read again, and described column by column."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from support.comparison_specimen import with_every_table
from support.report_specimen import Specimen, searched, specimen
from tempering.economics.assess import Assessment
from tempering.economics.capability import is_capability
from tempering.economics.conclusions import Conclusions
from tempering.engine.results import Tables
from tempering.errors import StoreProblem
from tempering.report.checksums import write_checksums
from tempering.report.dictionary import is_judged, undescribed
from tempering.report.tables import TABLES, Table, assessment_of, conclusions_of, parquet_bytes, read_tables, run_tables, write_tables
from tempering.result import Run


def write(directory: Path, made: Specimen) -> list[Path]:
    """Write the tables of a run, none of them as CSV."""
    frames = run_tables(made.tables, made.assessment, made.conclusions)
    return write_tables(directory, {name: parquet_bytes(frame) for name, frame in frames.items()})


def _made_by(made: Specimen, table: Table) -> object:
    return {"engine": made.tables, "assessment": made.assessment, "conclusions": made.conclusions}[table.source]


@pytest.fixture(scope="module")
def whole() -> Specimen:
    """A run that has every table."""
    return with_every_table()


def test_the_list_holds_every_table_that_economics_makes() -> None:
    for source, maker in (("assessment", Assessment), ("conclusions", Conclusions)):
        made = {field.name for field in dataclasses.fields(maker) if field.type == "pd.DataFrame"}
        assert made == {table.name for table in TABLES if table.source == source}
    assert {field.name for field in dataclasses.fields(Tables)} >= {table.name for table in TABLES if table.source == "engine"}
    assert len({table.name for table in TABLES}) == len(TABLES)


def test_what_was_written_is_read_again(whole: Specimen, tmp_path: Path) -> None:
    paths = write(tmp_path, whole)
    assert [path.stem for path in paths] == [table.name for table in TABLES]
    frames = read_tables(tmp_path)
    again = {"assessment": assessment_of(frames, whole.assessment.cheapest), "conclusions": conclusions_of(frames)}
    for table in TABLES:
        made = getattr(_made_by(whole, table), table.name)
        pd.testing.assert_frame_equal(frames[table.name], made)
        if table.source != "engine":
            pd.testing.assert_frame_equal(getattr(again[table.source], table.name), made)


def test_the_trials_of_a_run_in_a_notebook_are_proved_before_they_are_read(whole: Specimen, tmp_path: Path) -> None:
    paths = write(tmp_path / "tables", whole)
    write_checksums(tmp_path, {f"tables/{path.name}": path.read_bytes() for path in paths})
    nothing: Any = None
    run = Run(tmp_path, nothing, nothing, nothing, nothing, {})
    trials = run.trials
    assert len(trials)
    assert len(trials) == len(read_tables(tmp_path / "tables")["trials"])
    path = tmp_path / "tables" / "trials.parquet"
    sound = path.read_bytes()
    for content in (parquet_bytes(trials.iloc[:0]), sound[:-9], b""):
        path.write_bytes(content)
        with pytest.raises(StoreProblem, match=r"the report in .* is damaged: .*; write it anew with: temper report"):
            _ = run.trials


def test_a_table_without_rows_goes_where_an_earlier_report_left_one(whole: Specimen, tmp_path: Path) -> None:
    write(tmp_path, whole)
    plain = specimen()
    write(tmp_path, plain)
    left = {path.stem for path in tmp_path.iterdir()}
    audited = {table.name for table in TABLES if table.always} | {"incidence", "restricted", "envelope"}
    assert left == audited == set(read_tables(tmp_path))
    assert assessment_of(read_tables(tmp_path), None).multipliers.empty


def test_a_run_without_one_of_the_tables_that_all_have_cannot_be_read(tmp_path: Path) -> None:
    plain = specimen()
    write(tmp_path, plain)
    (tmp_path / "breaks.parquet").unlink()
    with pytest.raises(OSError, match=r"breaks\.parquet"):
        read_tables(tmp_path)


@pytest.mark.parametrize("make", [specimen, lambda: specimen(units=searched), with_every_table], ids=["audit", "search", "comparison"])
def test_every_column_that_occurs_is_described(make) -> None:
    made = make()
    described = {table.name: table.columns for table in TABLES}
    for name, frame in run_tables(made.tables, made.assessment, made.conclusions).items():
        assert [
            column for column in frame if column not in described[name] and not is_capability(column) and not is_judged(column)
        ] == [], name
        for column in frame:
            entry = described[name].get(column) or undescribed(column)
            assert entry.meaning
            possible = {"O": {"VARCHAR"}, "b": {"BOOLEAN"}, "i": {"BIGINT", "DOUBLE"}, "f": {"BIGINT", "DOUBLE"}}
            assert entry.type in possible[frame[column].dtype.kind], (name, column)


def test_nothing_is_described_that_never_occurs() -> None:
    """A column that was renamed must not leave its old description behind."""
    seen: dict[str, set[str]] = {}
    for made in (specimen(units=searched), with_every_table()):
        for name, frame in run_tables(made.tables, made.assessment, made.conclusions).items():
            seen.setdefault(name, set()).update(frame)
    evaluated = {"first_token_refusal", "harm_evasion", "harm_gibberish", "novel", "borderline"}
    left = {table.name: set(table.columns) - seen[table.name] - evaluated for table in TABLES}
    assert {name: columns for name, columns in left.items() if columns} == {}
