"""A run that is killed, interrupted or starved loses the units in flight and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # on a busy machine; alone it takes most of a minute

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``support/crash_driver.py`` saw; its runs take most of a minute, so all tests share them."""
    folder = tmp_path_factory.mktemp("crash")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    driver = subprocess.run(
        [sys.executable, str(TESTS / "support" / "crash_driver.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    return json.loads(driver.stdout)  # type: ignore[no-any-return]


def same_rows(one: dict[str, Any], other: dict[str, Any]) -> bool:
    # As text, because NaN is not equal to itself; JSON keeps every digit of a number.
    return all(json.dumps(one[table]) == json.dumps(other[table]) for table in ("units", "trajectories", "trials"))


def column(table: dict[str, Any], name: str) -> list[Any]:
    index = table["columns"].index(name)
    return [row[index] for row in table["data"]]


def test_a_run_that_nobody_disturbs_computes_every_unit(report: dict[str, Any]) -> None:
    whole = report["whole"]
    assert whole["end"] == 0
    assert column(whole["units"], "kind").count("attack") == 12
    assert column(whole["units"], "kind").count("reference") == 1
    assert set(column(whole["units"], "status")) == {"completed"}
    assert len(whole["trajectories"]["data"]) == 12 * 5 + 1
    assert len(set(column(whole["trajectories"], "divergence"))) > 30  # the attacks did something, and each its own


def test_killed_at_every_stage_of_a_commit_it_resumes_to_the_same_tables(report: dict[str, Any]) -> None:
    run = report["killed in commits"]
    assert run["ends"] == [-9] * 6 + [0]
    assert same_rows(run, report["whole"])
    assert run["leftovers"] == []


def test_killed_in_the_middle_of_attacks_it_resumes_to_the_same_tables(report: dict[str, Any]) -> None:
    run = report["killed in attacks"]
    assert run["ends"] == [-9, -9, -9, 0]
    assert run["done"] == sorted(run["done"])
    assert 0 < run["done"][-1] < 13
    assert same_rows(run, report["whole"])
    assert run["leftovers"] == []


def test_ctrl_c_ends_driver_and_workers(report: dict[str, Any]) -> None:
    assert report["pooled"]["interrupted"] == {"end": 130, "workers": 2, "gone": True}


def test_kill_9_of_the_driver_leaves_no_worker_behind(report: dict[str, Any]) -> None:
    assert report["pooled"]["killed"] == {"end": -9, "workers": 2, "gone": True}


def test_a_second_driver_is_turned_away_in_one_line(report: dict[str, Any]) -> None:
    line = report["pooled"]["second driver"]
    assert "another process is writing to" in line
    assert "\n" not in line


def test_worker_processes_leave_the_same_rows_as_one_process(report: dict[str, Any]) -> None:
    assert report["pooled"]["finished"] == 0
    assert same_rows(report["pooled"], report["whole"])
    assert report["pooled"]["leftovers"] == []


def test_a_unit_whose_worker_dies_is_tried_once_more_and_then_counts_as_failed(report: dict[str, Any]) -> None:
    run = report["deadly"]
    assert run["end"] == 0
    by_seed = {
        seed: (status, error)
        for kind, seed, status, error in zip(*(column(run["units"], name) for name in ("kind", "seed", "status", "error")), strict=True)
        if kind == "attack"
    }
    assert by_seed.keys() == {0, 1}
    assert by_seed[0] == ("completed", "")
    assert by_seed[1][0] == "failed"
    assert "killed by signal 9, 2 times" in by_seed[1][1]


def test_killed_in_the_middle_of_a_search_it_resumes_to_the_same_trials_choice_and_tables(report: dict[str, Any]) -> None:
    run = report["killed in searches"]
    assert run["ends"] == [-9, -9, 0]
    assert column(report["searched"]["trials"], "number") == [0, 1, 2, 0, 1, 2]
    assert len(set(column(report["searched"]["trials"], "config"))) == 5  # each seed its own, the attack's own settings both
    assert set(column(report["searched"]["units"], "search_trials")) == {0, 3}
    assert same_rows(run, report["searched"])
    assert run["leftovers"] == []


def test_killed_in_the_middle_of_hardenings_it_resumes_to_the_same_tables_and_models(report: dict[str, Any]) -> None:
    run, whole = report["killed in hardenings"], report["hardened"]
    assert run["ends"] == [-9, -9, 0]
    assert whole["end"] == 0
    assert (run["died at"], run["done"], run["gone"]) == (True, 0, True)
    assert run["models"] == whole["models"]
    assert len(run["models"]) == 3
    assert column(whole["units"], "kind").count("harden") == 4
    assert column(whole["units"], "status").count("failed") == 1
    assert column(whole["units"], "kind").count("attack") == 2 * 3 - 1  # what was to be done to the model that failed is left out
    assert same_rows(run, whole)
    assert run["leftovers"] == []
