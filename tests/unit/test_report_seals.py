"""Every file of a report is sealed: page, pictures and tables that have changed are named, and written anew they are as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.report_specimen import specimen
from tempering.errors import StoreProblem
from tempering.report import checksums
from tempering.rereading import stored_report, stored_summary


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    specimen().write(place)
    return place


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "PAUSE_S", 0.0)


def files(report: Path) -> list[str]:
    return sorted(path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file() and path.name != "checksums.json")


def test_a_changed_byte_in_any_file_of_a_report_is_found_and_the_file_named(report: Path) -> None:
    stored_report(report)
    assert {Path(name).suffix for name in files(report)} == {".html", ".png", ".parquet", ".json"}
    for name in files(report):
        path = report / name
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(StoreProblem, match=rf"is damaged: {name} is not as it was written; write it anew with: temper report "):
            stored_report(report)
        path.write_bytes(whole)
    stored_report(report)


def test_a_page_that_was_put_elsewhere_is_no_damage_and_a_table_is(report: Path) -> None:
    for name, missed in (("report.html", False), ("figures/survival.png", False), ("tables/units.parquet", True)):
        (report / name).rename(report / "elsewhere")
        try:
            if missed:
                with pytest.raises(StoreProblem, match=name):
                    stored_report(report)
            else:
                stored_report(report)
        finally:
            (report / "elsewhere").rename(report / name)


def test_who_reads_the_summary_alone_is_not_kept_from_it_by_a_picture(report: Path) -> None:
    path = report / "figures" / "survival.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert stored_summary(report)
    path.write_bytes(whole)
