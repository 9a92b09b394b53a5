from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from tempering.economics.capability import capabilities, is_capability
from tempering.economics.conclusions import Conclusions
from tempering.report.capability_section import capability_lines, capability_section, signed
from tempering.report.section import Material

NAN = math.nan
RUNS: dict[str, tuple[dict[str, Any], int, list[tuple[float, float]]]] = {
    # unit: its row, the probe of its break, and (recovered, score) of its probes
    "broke": ({"attack": "tune", "defense": "none", "kind": "attack"}, 2, [(0, 0.8), (0.2, NAN), (0.7, 0.6), (0.9, 0.1)]),
    "broke too": ({"attack": "tune", "defense": "none", "kind": "attack"}, 1, [(0, 0.8), (0.6, 0.7)]),
    "held": ({"attack": "tune", "defense": "none", "kind": "attack"}, -1, [(0, 0.8), (0.4, 0.5), (0.3, 0.2)]),
    "never more": ({"attack": "ask", "defense": "none", "kind": "attack"}, -1, [(0, 0.8), (0, NAN)]),
    "made": ({"attack": "", "defense": "firm", "kind": "harden"}, -1, [(NAN, 0.8), (NAN, 0.75)]),
    "reference": ({"attack": "", "defense": "none", "kind": "reference"}, -1, [(NAN, 0.9)]),
}


def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    units = pd.DataFrame([{"unit": name, "model": "m", "seed": 0, **row} for name, (row, _, _) in RUNS.items()])
    probes = [
        {"unit": name, "probe": number, "recovered": recovered, "utility": 1.0, "facts/acc": score}
        for name, (_, _, seen) in RUNS.items()
        for number, (recovered, score) in enumerate(seen)
    ]
    breaks = [{"unit": name, "probe": at} for name, (row, at, _) in RUNS.items() if row["kind"] == "attack"]
    return units, pd.DataFrame(probes), pd.DataFrame(breaks)


def test_the_break_counts_or_else_the_most_harm_and_a_hardening_has_a_row_of_its_own() -> None:
    found = capabilities(*tables()).set_index(["attack", "defense"])
    tuned = found.loc[("tune", "none")]
    assert (tuned["before"], tuned["runs"], tuned["broken"]) == (pytest.approx(0.8), 3, 2)
    assert tuned["after"] == pytest.approx((0.6 + 0.7 + 0.5) / 3)
    assert tuned["change"] == pytest.approx(tuned["after"] - 0.8)
    assert tuned["after_low"] <= tuned["after"] <= tuned["after_high"]
    asked = found.loc[("ask", "none")]
    assert asked["before"] == pytest.approx(0.8)
    assert (asked["runs"], math.isnan(asked["after"])) == (0, True)
    made = found.loc[("", "firm")]
    assert (made["before"], made["after"], made["runs"]) == (pytest.approx(0.8), pytest.approx(0.75), 1)
    assert len(found) == 3


def test_the_order_of_rows_changes_nothing() -> None:
    units, probes, breaks = tables()
    shuffled = [table.sample(frac=1, random_state=3) for table in (units, probes, breaks)]
    pd.testing.assert_frame_equal(capabilities(units, probes, breaks), capabilities(*shuffled))


def test_without_benchmarks_there_is_no_row_and_no_section() -> None:
    units, probes, breaks = tables()
    found = capabilities(units, probes.drop(columns="facts/acc"), breaks)
    assert found.empty
    assert "measure" in found
    assert capability_section(Material(None, None, Conclusions(capability=found))) is None  # type: ignore[arg-type]


def test_the_section_says_what_is_left() -> None:
    section = capability_section(Material(None, None, Conclusions(capability=capabilities(*tables()))))  # type: ignore[arg-type]
    assert section is not None
    (table,) = section.tables
    lines = {line.name: line for line in table.lines}
    assert table.columns == ("facts/acc",)
    assert lines["tune on m"].cells[0].text == "0.8 → 0.6"
    assert lines["tune on m"].note == "3 runs, 2 at the break"
    assert lines["ask on m"].cells[0].text == "0.8 → –"
    assert lines["ask on m"].note == "no run got more harm out of it"
    assert lines["hardening of m by firm"].cells[0].interval == "−0.05"
    assert "facts/acc after tune on m: 0.8 → 0.6" in capability_lines(capabilities(*tables()))


@pytest.mark.parametrize(("value", "text"), [(-0.04, "−0.04"), (0.011, "+0.011"), (0.0, "±0")])
def test_changes_have_a_sign(value: float, text: str) -> None:
    assert signed(value) == text


def test_a_capability_is_told_by_its_slash() -> None:
    assert is_capability("mmlu/acc")
    assert not is_capability("utility")
