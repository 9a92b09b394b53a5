"""benchmarks/_results.py and bench.py: intervals, turns, the form of a result, what is written and read, and which command is run."""

from __future__ import annotations

import importlib.util
import itertools
import json
import platform
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tempering.engine.hardening_job import HARDENING_VERSION

ROOT = Path(__file__).resolve().parents[2]


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # bench.py imports _results by this name
    spec.loader.exec_module(module)
    return module


results = _module("_results")
bench = _module("bench")
claims = _module("claim_results")


def case(name: str = "some", **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"goal": 2.0, "ours": 1.0, "theirs": 3.0, "command": "python benchmarks/tar_floor.py", "note": "seconds"}
    made: dict[str, Any] = results.result(name, results.median_interval([1.0, 2.0, 3.0]), **{**fields, **changes})
    return made


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], (3, 3, 3)),
        ([5.0, 1.0, 2.0], (2, 1, 5)),  # too few for 95 %: their range
        (list(range(1, 10)), (5, 2, 8)),  # the table of the sign test: second and eighth of nine
        (list(range(1, 21)), (10.5, 6, 15)),  # and sixth and fifteenth of twenty
    ],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(values: list[float], expected: tuple[float, float, float]) -> None:
    found = results.median_interval(values)
    assert (found["median"], found["low"], found["high"]) == expected


def test_a_ratio_pairs_each_turn_and_is_above_one_where_ours_costs_less() -> None:
    assert results.paired_ratio([1.0, 2.0, 4.0], [3.0, 4.0, 4.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_both_sides_begin_in_turn_and_are_told_apart() -> None:
    clock, order = itertools.count(), []

    def side(name: str) -> Any:
        return lambda: (order.append(name), float(next(clock)))[1]

    assert list(results.take_turns(side("ours"), side("theirs"), 3)) == [(0.0, 1.0), (3.0, 2.0), (4.0, 5.0)]
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


@pytest.mark.parametrize(("goal", "met"), [(2.0, True), (2.001, False)])
def test_a_goal_is_met_by_the_median(goal: float, met: bool) -> None:
    assert case(goal=goal)["met"] is met


def test_the_machine_is_described_without_hosts_and_paths() -> None:
    described = results.machine()
    assert "torch 2" in described
    assert "core" in described
    assert "/" not in described
    assert platform.node() not in described


def test_what_is_written_is_read_and_other_tables_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write_result("one", case("one"))
    results.write_result("two", case("two: a"), case("two: b"))
    (tmp_path / "other.json").write_text(json.dumps([{"attack": "gcg"}]))
    assert {name: [entry["name"] for entry in cases] for name, cases in results.read_results().items()} == {
        "one": ["one"],
        "two": ["two: a", "two: b"],
    }


def test_every_committed_result_has_the_form() -> None:
    found = results.read_results()
    for name in set(found) & set(bench.NAMES):
        for entry in found[name]:
            assert set(entry["ratio"]) == {"median", "low", "high"}
            assert entry["ratio"]["low"] <= entry["ratio"]["median"] <= entry["ratio"]["high"]
            assert entry["met"] == (entry["ratio"]["median"] >= entry["goal"])
            assert entry["name"].startswith(name)
    assert "tar-floor" in found


def test_a_result_of_the_table_is_made_by_its_command_whatever_its_file_says() -> None:
    small = case(command="python benchmarks/matmul_share.py --rows 8 --turns 3")
    assert bench.command_of("matmul-share", [small]) == bench.command_of("matmul-share", [])
    assert bench.command_of("matmul-share", [small])[:3] == ["benchmarks/matmul_share.py", "--rows", "32"]


def test_another_result_is_made_by_the_command_that_it_names() -> None:
    assert bench.command_of("any", [case(command="python benchmarks/tar_floor.py --repeats 3")]) == [
        "benchmarks/tar_floor.py",
        "--repeats",
        "3",
    ]
    assert bench.command_of("any", []) == []


def test_the_names_are_those_that_were_asked_for() -> None:
    organism, models = ["adversaries-organism", "adversaries-smollm2"], ["abliteration-heretic", "matmul-share"]
    growth = ["engine-overhead", "plan-growth", "memory-peak", "tar-floor", "ray"]
    assert list(bench.NAMES) == [*organism, *models, *growth]


@pytest.mark.parametrize("command", ["python /tmp/elsewhere.py", "rm benchmarks/tar_floor.py", "python benchmarks/../setup.py", "python"])
def test_a_command_that_is_no_script_of_the_benchmarks_is_not_run(command: str) -> None:
    assert bench.command_of("any", [case(command=command)]) == []


def test_a_claim_says_which_code_made_its_defended_models() -> None:
    def unit(kind: str, version: int) -> SimpleNamespace:
        return SimpleNamespace(work=SimpleNamespace(kind=kind, hardening_version=version))

    plan = SimpleNamespace(
        units=[unit("attack", 0), unit("harden", HARDENING_VERSION), unit("harden", HARDENING_VERSION), unit("novel", 0)]
    )
    assert claims.hardening_versions(plan) == [HARDENING_VERSION]
    assert claims.hardening_versions(SimpleNamespace(units=[*plan.units, unit("harden", 1)])) == [1, HARDENING_VERSION]
