"""Runs as Inspect logs: what is said of runs that failed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

from support.report_specimen import NAMES, tables
from tempering.economics.assess import assess
from tempering.economics.prices import load_price_book
from tempering.report.inspect_logs import export_logs

FACTS = {"study_digest": "s", "data": "d", "tempering": "1"}
ALWAYS, _, HOPELESS, _ = NAMES


def exported(out: Path, units: pd.DataFrame, probes: pd.DataFrame) -> dict[str, EvalLog]:
    """The logs of a run, by what they are of."""
    made = assess(units, probes, tau=0.5, epsilon=0.1, price_book=load_price_book(), accelerator="H100-SXM")
    frames = {"units": units, "trajectories": made.trajectories, "breaks": made.breaks, "prices": made.prices}
    export_logs(frames, out, facts=FACTS, made=datetime(2026, 1, 2, tzinfo=UTC))
    return {log.eval.task: log for log in map(read_eval_log, list_eval_logs(str(out)))}


def failed(units: pd.DataFrame, attack: str) -> pd.DataFrame:
    mine = units["attack"] == attack
    return units.assign(
        status=units["status"].mask(mine, "failed"),
        error=units["error"].mask(mine, [f"it broke off at seed {seed}" for seed in units["seed"]]),
    )


def test_a_log_of_runs_some_of_which_failed_is_one_of_success(tmp_path: Path) -> None:
    logs = exported(tmp_path / "logs", *tables(seeds=3))
    assert set(logs) == {*NAMES, "reference without the safeguard"}
    assert {log.status for log in logs.values()} == {"success"}
    runs = (logs[HOPELESS].eval.metadata or {})["runs"]
    assert [run["status"] for run in runs] == ["completed", "failed", "completed"]


def test_where_every_run_failed_the_log_says_so_with_the_first_error(tmp_path: Path) -> None:
    units, probes = tables(seeds=3)
    log = exported(tmp_path / "logs", failed(units, ALWAYS), probes)[ALWAYS]
    assert log.status == "error"
    assert log.error is not None
    assert log.error.message == "it broke off at seed 0"
    assert log.samples  # what was probed before stands


def test_runs_that_failed_before_anything_was_probed_have_a_log(tmp_path: Path) -> None:
    units, probes = tables(seeds=3)
    units = failed(units, ALWAYS)
    probes = probes[probes["attack"] != ALWAYS]
    logs = exported(tmp_path / "logs", units, probes)
    assert set(logs) == {*NAMES, "reference without the safeguard"}
    log = logs[ALWAYS]
    assert (log.status, log.samples) == ("error", [])
    assert log.results is not None
    assert log.results.total_samples == 0
    assert [run["error"] for run in (log.eval.metadata or {})["runs"]] == [f"it broke off at seed {seed}" for seed in range(3)]
