"""torture/page.py: one row a promise, what was tried last, of which code, and nothing hidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torture import code
from torture.code import code_now, of_one_row
from torture.page import as_json, as_markdown, merged, read

OURS = {"commit": "0123456789ab", "clean": True, "digest": "d1"}


def row(name: str, *, trials: int = 10, failures: int = 0, caught: bool | None = True, machine: str = "two cores") -> dict[str, Any]:
    return {
        "promise": name,
        "group": "Nothing lost",
        "sentence": f"{name} holds.",
        "trials": trials,
        "failures": failures,
        "examples": ["it broke"] if failures else [],
        "notes": {"kills": 3},
        "seconds": 1.5,
        "tried": "2026-11-23",
        "machine": machine,
        "code": OURS,
        "mutations": [{"file": "engine/store.py", "breaks": "a result is forgotten", "caught": caught}],
    }


def test_what_is_tried_later_takes_the_place_of_what_was_there() -> None:
    rows = merged([row("soak"), row("rot", trials=7), row("gone")], [row("rot", trials=9), row("kill")], ["kill", "rot", "soak"])
    assert [(each["promise"], each["trials"]) for each in rows] == [("kill", 10), ("rot", 9), ("soak", 10)]


def test_a_page_that_is_not_there_holds_nothing_and_one_that_is_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "reliability.json"
    assert read(path) == {}
    content = as_json([row("rot")], "long", OURS, {"seconds": 240.0})
    path.write_text(json.dumps(content))
    assert read(path) == content
    assert content["promises"] == [row("rot")]


def test_the_page_says_what_failed_what_was_not_found_and_what_was_not_tried() -> None:
    rows = [row("rot", failures=2, caught=False), row("kill", caught=None, machine="another")]
    rows[0]["mutations"][0]["why"] = "its text is gone"
    page = as_markdown(as_json(rows, "long", OURS), ["rot", "kill", "soak"])
    assert "2 promises, 20 trials, 2 failures. Machine: two cores; another." in page
    assert "Without figures so far: soak." in page
    assert "**Failed:** it broke" in page
    assert "**not found**: a result is forgotten (`engine/store.py`): its text is gone" in page
    assert "not tried: a result is forgotten" in page
    whole = as_markdown(as_json(rows, "long", OURS), ["rot", "kill"])
    assert "Without figures" not in whole


def test_rows_of_other_code_are_marked() -> None:
    rows = [row("rot"), row("kill"), row("old")]
    rows[1]["code"] = {"commit": "fedcba987654", "clean": False, "digest": "d2"}
    del rows[2]["code"]  # a row of before the code was noted
    page = as_markdown(as_json(rows, "long", OURS), ["rot", "kill", "old"])
    assert "† Tried on other code than that of this page (commit 0123456789ab): kill, old." in page
    assert "| kill holds. † |" in page
    assert "| rot holds. |" in page
    assert "at commit fedcba987654 with changes of its own †." in page
    assert "at commit 0123456789ab.\n" in page
    assert "at a commit that nobody noted †" in page
    assert "†" not in as_markdown(as_json(rows[:1], "long", {**OURS, "commit": "another of the same code"}), ["rot"])


@pytest.mark.parametrize(("seconds", "says"), [(243.4, "took 243 s (300 s are allowed)"), (301.0, "**more than the 300 s")])
def test_the_page_says_how_long_the_short_forms_took(seconds: float, says: str) -> None:
    short = {"seconds": seconds, "promises": 22, "failures": 0, "tried": "2026-11-23", "machine": "two cores", "code": OURS}
    page = as_markdown(as_json([], "long", OURS, short), [])
    assert "The short forms of 22 promises together" in page
    assert says in page


def test_code_is_told_by_what_stands_in_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "ROOT", tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\n")
    first = code_now()
    assert (first["commit"], first["clean"]) == ("", None)  # no repository
    (tmp_path / "src" / "notes.txt").write_text("no source")
    assert code_now() == first
    (tmp_path / "src" / "a.py").write_text("x = 2\n")
    second = code_now()
    assert second["digest"] != first["digest"]
    assert of_one_row(first, first) == first
    assert of_one_row(first, second) == {**first, "clean": False}


def test_this_repository_knows_its_commit() -> None:
    now = code_now()
    assert len(now["digest"]) == 64
    if (code.ROOT / ".git").exists():
        assert len(now["commit"]) >= 12
        assert now["clean"] in (True, False)
