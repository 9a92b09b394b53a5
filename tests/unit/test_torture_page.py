"""torture/page.py: one row a promise, what was tried last, and nothing hidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torture.page import as_json, as_markdown, merged, read


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
        "mutations": [{"file": "engine/store.py", "breaks": "a result is forgotten", "caught": caught}],
    }


def test_what_is_tried_later_takes_the_place_of_what_was_there() -> None:
    rows = merged([row("soak"), row("rot", trials=7), row("gone")], [row("rot", trials=9), row("kill")], ["kill", "rot", "soak"])
    assert [(each["promise"], each["trials"]) for each in rows] == [("kill", 10), ("rot", 9), ("soak", 10)]


def test_a_page_that_is_not_there_has_no_rows_and_one_that_is_gives_them_back(tmp_path: Path) -> None:
    path = tmp_path / "reliability.json"
    assert read(path) == []
    path.write_text(json.dumps(as_json([row("rot")], "long")))
    assert read(path) == [row("rot")]


def test_the_page_says_what_failed_what_was_not_found_and_what_was_not_tried() -> None:
    rows = [row("rot", failures=2, caught=False), row("kill", caught=None, machine="another")]
    page = as_markdown(as_json(rows, "long"), ["rot", "kill", "soak"])
    assert "2 promises, 20 trials, 2 failures. Machine: two cores; another." in page
    assert "Without figures so far: soak." in page
    assert "**Failed:** it broke" in page
    assert "**not found**: a result is forgotten" in page
    assert "not tried: a result is forgotten" in page
    whole = as_markdown(as_json(rows, "long"), ["rot", "kill"])
    assert "Without figures" not in whole
