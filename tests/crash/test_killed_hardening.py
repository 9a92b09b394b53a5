"""A training that is killed anywhere goes on with the same command, and ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``support/harden_crash_driver.py`` saw."""
    folder = tmp_path_factory.mktemp("crash")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    driver = subprocess.run(
        [sys.executable, str(TESTS / "support" / "harden_crash_driver.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    return json.loads(driver.stdout)  # type: ignore[no-any-return]


def test_the_training_that_nobody_disturbs_reaches_its_floor_and_goes_on_to_the_next_stage(report: dict[str, Any]) -> None:
    whole = report["whole"]
    assert whole["end"] == 0
    first, second = whole["record"]["stages"]
    assert first["floored"]
    assert 0 < first["steps_kept"] < first["steps_done"] <= first["steps"] == 9
    assert second["steps_done"] == second["steps"] == 7
    assert whole["record"]["spend"]["steps"] == first["steps_done"] + 7
    assert whole["beside"] == ["model"]


@pytest.mark.parametrize(
    ("run", "ends"),
    [("killed in snapshots", [-9] * 5 + [0]), ("killed in steps", [-9] * 7 + [0]), ("killed in saving", [-9, -9, 0])],
)
def test_killed_it_ends_with_the_same_weights_and_record(report: dict[str, Any], run: str, ends: list[int]) -> None:
    assert report[run]["ends"] == ends
    for part in ("weights", "beside"):
        assert report[run][part] == report["whole"][part], part
    killed, whole = ({name: value for name, value in report[of]["record"].items() if name != "seal"} for of in (run, "whole"))
    assert killed == whole  # the seal is of the seconds too


@pytest.mark.parametrize("run", ["killed in snapshots", "killed in steps"])
def test_the_seconds_that_were_spent_before_a_kill_are_never_counted_anew(report: dict[str, Any], run: str) -> None:
    seconds = [*report[run]["spent"], report[run]["device_seconds"]]
    assert seconds == sorted(seconds)
    assert seconds[-2] > 0


def test_the_directory_appears_whole_or_not_at_all(report: dict[str, Any]) -> None:
    assert report["killed in steps"]["appeared"] == [False] * 7
    assert report["killed in saving"]["appeared"] == [False, True, True]
