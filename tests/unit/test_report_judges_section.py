"""What a report says of its judges, and that it says nothing where the text judged alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from support.comparison_specimen import with_every_table
from support.report_specimen import specimen
from tempering.economics.judged import judges_of
from tempering.report.judges_section import judges_section
from tempering.report.section import Material
from tempering.report.summary import make_summary


@pytest.fixture(scope="module")
def made():
    return with_every_table()


def test_two_judges_stand_side_by_side(made) -> None:
    section = judges_section(Material(made.study, made.assessment, made.conclusions))
    assert section is not None
    agreement, costs = section.tables
    assert [line.name for line in agreement.lines] == [line.name for line in costs.lines] == ["text", "wildguard"]
    first, second = agreement.lines
    assert first.cells[2].text == "–"  # the deciding judge agrees with itself
    row = made.conclusions.judges.iloc[1]
    assert 0 < row["kappa_low"] < row["kappa"] < row["kappa_high"] < 1
    assert second.cells[2].text == f"{row['kappa']:.2f}"
    assert second.cells[0].rank < first.cells[0].rank  # it is the stricter one
    assert row["only_second"] == 0 < row["only_first"]
    assert "text says" in section.lead
    assert "temper judge calibrate" in section.doubt


def test_nothing_is_said_where_the_text_judged_alone() -> None:
    plain = specimen()
    assert judges_section(Material(plain.study, plain.assessment, plain.conclusions)) is None
    assert "judges" not in make_summary(plain.study, plain.assessment, plain.conclusions, targets=plain.targets)


def test_the_summary_has_them_with_their_cost(made) -> None:
    document = make_summary(made.study, made.assessment, made.conclusions, targets=made.targets)
    first, second = document["judges"]
    assert (first["decides"], second["decides"]) == (True, False)
    assert first["kappa"] is None
    assert 0 < second["kappa"] < 1
    assert second["calls"] == 12 * len(made.tables.units)


def test_the_page_shows_them(made, tmp_path: Path) -> None:
    page = made.write(tmp_path).read_text(encoding="utf-8")
    assert "Who judged, and do judges agree?" in page
    assert "Han et al. 2024 (WildGuard)" in page


def test_probes_that_only_glanced_count_for_no_agreement() -> None:
    rows = [("a", 5.0, 1.0, 0.0, 4.0, 0.5), ("a", *[float("nan")] * 5), ("b", 3.0, 0.0, 2.0, 5.0, 0.5)]
    names = ("unit", "both.x", "only_first.x", "only_second.x", "neither.x", "score.x")
    probes = pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows]).assign(attack="attack")
    units = pd.DataFrame({"unit": ["a", "b"], "judging": ['{"x": {"calls": 3}}', ""]})
    found = judges_of(units, probes, ("first", "x"))
    assert found["both"].tolist() == [0, 8]
    assert found["alike"].iloc[1] == pytest.approx(17 / 20)
    assert found["calls"].tolist() == [0, 3]
