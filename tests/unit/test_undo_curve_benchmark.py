"""benchmarks/undo_curve.py: which points are missing, what a break is, and the drawing, with trainings and attacks made up."""

from __future__ import annotations

import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempering.attacks import Checkpoint
from tempering.data.records import AttackerView
from tempering.study import Budget, MethodChoice
from tempering.training import Spend

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("undo_curve_benchmark", ROOT / "benchmarks" / "undo_curve.py")
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


def made_up(name: str, alpha: float | None, seed: int, broken: bool = True) -> dict[str, Any]:
    run = {
        "broken": broken,
        "price_steps": 10,
        "price_flops": 1e10 * (1 + (alpha or 0)),
        "recovered": 0.9 if broken else 0.1,
        "utility": 1.0,
    }
    return {
        "defense": name,
        "alpha": alpha,
        "seed": seed,
        "budget_steps": 200,
        "training": {"flops": 1e12 * (alpha or 0), "steps": 5, "stages": []},
        "tax": {"harm": 0.0, "refusal": 1.0, "utility": 1.0, "over_refusal": 0.0},
        "attacks": {title: {**run, "probes": []} for title in benchmark.ATTACKS},
    }


def test_only_missing_points_are_made_and_each_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, made = tmp_path / "results" / "curve.json", []
    monkeypatch.setattr(benchmark, "Bench", lambda steps: SimpleNamespace(budget=Budget(steps=steps)))

    def point(name: str, choice: MethodChoice | None, seed: int, *others: Any) -> dict[str, Any]:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append((name, seed))
        return made_up(name, None if choice is None else choice.config.get("alpha"), seed)

    monkeypatch.setattr(benchmark, "point", point)
    arguments = ([0.0, 0.5], 2, 200, out, tmp_path, print)
    with pytest.raises(KeyboardInterrupt):
        benchmark.make([], *arguments)
    kept = json.loads(out.read_text())["points"]
    assert {(row["defense"], row["seed"]) for row in kept} == set(made) == {("none", 0), ("undo 0", 0), ("undo 0.5", 0)}
    made.clear()
    monkeypatch.setattr(benchmark, "point", lambda *given: (made.append((given[0], given[2])), made_up(given[0], None, given[2]))[1])
    benchmark.make(kept, *arguments)
    assert set(made) == {("data_filtering", 0), *((name, 1) for name in ("none", "undo 0", "undo 0.5", "data_filtering"))}
    assert len(json.loads(out.read_text())["points"]) == 8


def test_a_break_needs_the_utility_and_a_run_that_holds_is_priced_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(0.2, 1.0), (0.8, 0.5), (0.6, 0.95), (0.9, 1.0), (0.4, 0.9)]

    class Attack:
        requires = uses = frozenset()

    def checkpoints(*_: Any, **__: Any) -> Any:
        for step in range(1, 7):
            yield Checkpoint(None, Spend(steps=step, flops=100.0 * step))

    bench = object.__new__(benchmark.Bench)
    bench.budget, bench.attacker, bench.reference = Budget(steps=5), AttackerView((), (), (), ()), 1.0
    measured = iter(rows)
    monkeypatch.setattr(benchmark.registry, "create", lambda *_: Attack())
    monkeypatch.setattr(benchmark, "checkpoints", checkpoints)
    monkeypatch.setattr(benchmark, "replace", lambda target, **_: target)
    monkeypatch.setattr(bench, "measure", lambda *_, **__: dict(zip(("harm", "utility"), next(measured), strict=True)), raising=False)
    found = bench.attack(MethodChoice(name="any"), None, {"harm": 0.0, "utility": 1.0}, 0)
    assert (found["broken"], found["price_steps"], found["price_flops"]) == (True, 3, 300.0)
    assert (found["recovered"], found["utility"]) == (0.4, 0.9)
    assert found["probes"] == [[step, 100.0 * step, *row] for step, row in enumerate(rows, start=1)]
    measured = iter([(0.3, 1.0)] * 5)
    found = bench.attack(MethodChoice(name="any"), None, {"harm": 0.0, "utility": 1.0}, 0)
    assert (found["broken"], found["price_steps"], found["recovered"]) == (False, 5, 0.3)


def test_the_drawing_and_the_summary(tmp_path: Path) -> None:
    points = [made_up(f"undo {alpha:g}", alpha, seed, broken=alpha < 0.5) for alpha in (0.0, 0.3, 1.0) for seed in range(2)]
    points += [made_up("none", None, 0), made_up("data_filtering", None, 0, broken=False)]
    benchmark.draw(points, tmp_path / "figures" / "curve.svg")
    text = (tmp_path / "figures" / "curve.svg").read_text()
    ElementTree.fromstring(text)
    assert "price against α" in text
    assert all(title in text for title in benchmark.ATTACKS)
    lines = benchmark.summary(points).splitlines()
    assert len(lines) == 5
    assert "full_finetune 3e-4 13.0 GFLOP (0.90)" in lines[1]
    assert "full_finetune 3e-4 >20 GFLOP (0.10)" in lines[2]
    with pytest.raises(SystemExit, match="no points"):
        benchmark.draw(points[-2:], tmp_path / "none.svg")
