"""Runs that workers train together leave the tables of single ones, also when a worker is killed in the midst of them."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tempering.engine.events import Event
from tempering.engine.executors import ExecutorChoice
from tempering.engine.plan import make_plan
from tempering.engine.results import Tables
from tempering.engine.run import execute
from tempering.study import Study

FAST = {"config": {"training": {"learning_rate": 1e-3}}}


def study(*attacks: Any) -> Study:
    values = {"name": "x", "models": ["organism:tiny"], "seeds": 3, "budget": {"steps": 4}, "probes": {"prompts": 16}, "attacks": attacks}
    return Study.model_validate(values)


def agree(one: Tables, other: Tables) -> None:
    assert list(one.units["unit"]) == list(other.units["unit"])
    assert list(one.units["status"]) == list(other.units["status"])
    numbers = [name for name in one.trajectories.columns if pd.api.types.is_float_dtype(one.trajectories[name]) and "seconds" not in name]
    assert {"harm", "utility", "flops"} <= set(numbers)
    for name in numbers:
        assert list(one.trajectories[name]) == pytest.approx(list(other.trajectories[name]), abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_tables_are_those_of_single_runs(tmp_path: Path, workers: int) -> None:
    plan = make_plan(study({"name": "full_finetune", **FAST}, "lora_finetune", "prefilling"))
    events: list[Event] = []
    choice = ExecutorChoice(together=3)
    together = execute(plan, tmp_path / "together", workers=workers, executor=choice, on_event=events.append)
    alone = execute(plan, tmp_path / "alone", workers=0, executor=ExecutorChoice(together=1))
    agree(together, alone)
    kinds = [(event.kind, event.unit) for event in events]
    assert len({unit for kind, unit in kinds if kind == "unit_started"}) == len(plan.units)
    assert len([unit for kind, unit in kinds if kind == "unit_finished"]) == len(plan.units)
    under_way = list(itertools.accumulate({"unit_started": 1, "unit_finished": -1}.get(kind, 0) for kind, _ in kinds))
    assert max(under_way) >= 3  # more than there are workers


def test_a_slurm_job_trains_its_units_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    plan = make_plan(study({"name": "full_finetune", **FAST}, "lora_finetune", "prefilling"))
    events: list[Event] = []
    choice = ExecutorChoice.of("slurm", slurm="cluster=debug,units=10", together=3)
    together = execute(plan, tmp_path / "together", executor=choice, on_event=events.append)
    here = execute(plan, tmp_path / "here", workers=0, executor=ExecutorChoice(together=3))
    agree(together, here)
    kinds = [event.kind for event in events]
    under_way = itertools.accumulate({"unit_started": 1, "unit_finished": -1}.get(kind, 0) for kind in kinds)
    assert max(under_way) == 3  # in one job, one process
    assert kinds.count("unit_started") == kinds.count("unit_finished") == len(plan.units)


def test_units_whose_slurm_job_is_killed_are_tried_again_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("DEADLY_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("DEADLY_DRIVER", str(os.getpid()))
    path = Path(__file__).parent.parent / "support" / "deadly_attack.py"
    plan = make_plan(study({"name": f"{path}:Deadly", **FAST}))
    choice = ExecutorChoice.of("slurm", slurm="cluster=local,units=10", together=3)
    tables = execute(plan, tmp_path / "run", executor=choice)
    assert (tmp_path / "mark").exists()
    assert set(tables.units["status"]) == {"completed"}


def test_units_whose_worker_is_killed_are_tried_again_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEADLY_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("DEADLY_DRIVER", str(os.getpid()))
    path = Path(__file__).parent.parent / "support" / "deadly_attack.py"
    plan = make_plan(study({"name": f"{path}:Deadly", **FAST}))
    events: list[Event] = []
    tables = execute(plan, tmp_path / "run", workers=1, executor=ExecutorChoice(together=3), on_event=events.append)
    assert (tmp_path / "mark").exists()
    assert set(tables.units["status"]) == {"completed"}
    assert not [event for event in events if event.kind == "unit_failed"]
