"""benchmarks/repnoise_control.py, and what docs/findings.md says of its figures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def control() -> ModuleType:
    """The script, imported from its file."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("repnoise_control", ROOT / "benchmarks" / "repnoise_control.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_seeds_are_compared_with_themselves(control: ModuleType) -> None:
    rows = [
        (name, "a", seed, share)
        for name, shares in (("repnoise", (0.1, 0.3)), ("repnoise, neither term", (0.4, 0.5)))
        for seed, share in enumerate(shares)
    ]
    breaks = pd.DataFrame(rows[::-1], columns=["defense", "attack", "seed", "best_recovered"])
    row = control.compared(control.recovered(breaks))["a"]
    assert (row["median"], row["median_without"]) == (0.2, 0.45)
    assert row["difference"] == pytest.approx(-0.25)
    assert row["t_95"] == pytest.approx([-0.25 - 12.7062 * 0.05, -0.25 + 12.7062 * 0.05], abs=1e-4)  # t of one degree of freedom


def test_the_findings_say_what_was_measured() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "repnoise_control.json").read_text())
    text = (ROOT / "docs" / "findings.md").read_text().partition("## What of RepNoise is RepNoise")[2].partition("\n## ")[0]
    assert found["seeds"] == 5
    for attack, row in found["terms"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {attack} |"))
        low, high = row["t_95"]
        for value in (row["median"], row["median_without"], -row["difference"], -high, -low):
            assert f"{value:.2f}".removeprefix("0") in line
        assert high < 0  # the terms do something
    without = [share for shares in found["recovered"]["repnoise, neither term"].values() for share in shares]
    assert max(without) < 0.5  # no attack broke it without them either
