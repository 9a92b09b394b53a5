"""A study in jobs of submitit gives the tables of one process, whatever dies meanwhile. Its ``local`` and ``debug`` stand for Slurm."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from support.toy_study import toy_comparison, toy_study
from tempering.engine import slurm_executor, worker
from tempering.engine.events import Event
from tempering.engine.executors import ExecutorChoice
from tempering.engine.plan import make_plan
from tempering.engine.results import Tables
from tempering.engine.run import execute
from tempering.engine.slurm_job import MESSAGES, UNITS, Listener, line_of, main
from tempering.engine.store import RunStore
from tempering.engine.units import Plan
from tempering.errors import TemperingError, UnusableData

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLOCKS = ["wall_s", "device_seconds", "search_device_seconds", "break_device_seconds", "check_device_seconds"]


@pytest.fixture(autouse=True)
def modules_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs find what this process finds, though nothing may be installed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(toy_comparison(tmp_path_factory.mktemp("toy"), {}, {"nan_on": (1,)}, seeds=2))


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return execute(plan, tmp_path_factory.mktemp("whole") / "run", workers=0)


def jobs(cluster: str, units: int = 10) -> ExecutorChoice:
    return ExecutorChoice.of("slurm", slurm=f"cluster={cluster},units={units}")


def assert_same_rows(one: Tables, other: Tables) -> None:
    for name in ("units", "trajectories"):
        first, second = (getattr(tables, name).drop(columns=CLOCKS, errors="ignore") for tables in (one, other))
        assert first.equals(second), name
    assert len(one.units) > 4


def test_jobs_leave_the_rows_of_one_process_and_nothing_else(plan: Plan, whole: Tables, tmp_path: Path) -> None:
    events: list[Event] = []
    assert_same_rows(execute(plan, tmp_path / "run", executor=jobs("debug", 2), on_event=events.append), whole)
    kinds = [event.kind for event in events]
    assert kinds.count("unit_started") == len(whole.units)
    assert kinds.count("probe") == len(whole.trajectories)
    assert not (tmp_path / "run" / "jobs").exists()


def test_jobs_in_processes_of_their_own_leave_the_same_rows(tmp_path: Path) -> None:
    plan = make_plan(toy_study(tmp_path, {}, {"adapters": True}, seeds=2))
    there = execute(plan, tmp_path / "there", executor=jobs("local", 3))
    assert_same_rows(there, execute(plan, tmp_path / "here", workers=0))


def test_a_job_that_dies_takes_one_unit_with_it_at_most(tmp_path: Path) -> None:
    study = toy_study(tmp_path, {"die_on": (0,)}, seeds=3)
    units = execute(make_plan(study), tmp_path / "run", executor=jobs("local"), workers=1).units
    failed = units[units["status"] == "failed"]
    assert list(failed["seed"]) == [0]
    assert "in a Slurm job died, 2 times" in failed["error"].iloc[0]
    assert len(units) == 4


def test_what_jobs_of_a_driver_that_was_killed_have_finished_is_taken_up(plan: Plan, whole: Tables, tmp_path: Path) -> None:
    left, attack = tmp_path / "left", next(unit for unit in plan.units if unit.label.startswith("Nudge"))
    execute(plan, tmp_path / "before", workers=0)
    job = tmp_path / "run" / "jobs" / "0123"
    listening: list[dict[str, Any]] = []

    class Kept(Listener):
        def messages(self) -> Any:
            for message in super().messages():
                listening.append(message)
                yield message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_executor, "Listener", Kept)
        execute(plan, left, executor=jobs("debug"))
    said = [message for message in listening if message["unit"] in ("", attack.hash)]
    execute_nothing(plan, tmp_path / "run")
    job.mkdir(parents=True)
    (job / UNITS).write_text("{}")
    (job / MESSAGES).write_bytes(b"".join(map(line_of, said)) + b'{"unit": "cut of')
    events: list[Event] = []
    assert_same_rows(execute(plan, tmp_path / "run", executor=jobs("debug"), on_event=events.append), whole)
    assert attack.hash not in {event.unit for event in events if event.kind == "unit_started"}
    assert not job.exists()


def execute_nothing(plan: Plan, directory: Path) -> None:
    """A run directory in which nothing is done yet."""
    with RunStore(directory).driving(plan):
        pass


def test_a_job_that_was_given_up_stops_before_its_next_group(plan: Plan, tmp_path: Path) -> None:
    groups = [[unit.as_json()] for unit in plan.units if not unit.defended][:2]
    orders = {"threads": 1, "models": str(tmp_path / "models"), "groups": groups}
    (tmp_path / UNITS).write_text(json.dumps(orders))

    unlinked = (tmp_path / UNITS).unlink
    run = worker.Worker.run

    def once(self: Any, *arguments: Any) -> Any:
        unlinked(missing_ok=True)
        return run(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.Worker, "run", once)
        main(str(tmp_path))
    kinds = [message["kind"] for message in Listener(tmp_path).messages()]
    assert (kinds[0], kinds.count("result")) == ("ready", 1)


def test_a_line_counts_when_it_ends(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    assert list(listener.messages()) == []
    with (tmp_path / MESSAGES).open("a") as file:
        file.write('{"a": 1}\n{"a": ')
        file.flush()
        assert list(listener.messages()) == [{"a": 1}]
        file.write("2}\n")
    assert list(listener.messages()) == [{"a": 2}]


def test_what_a_job_raises_outside_of_an_attack_ends_the_run_in_the_same_line(tmp_path: Path) -> None:
    plan = make_plan(toy_study(tmp_path, {}, seeds=1))
    (tmp_path / "data.jsonl").write_text((tmp_path / "data.jsonl").read_text().replace("fish", "frog"))
    with pytest.raises(UnusableData, match="has changed since the run was planned"):
        execute(plan, tmp_path / "run", executor=jobs("local"))
    assert not (tmp_path / "run" / "jobs").exists()


@pytest.mark.parametrize("ready", [False, True])
def test_jobs_that_end_before_any_unit_begins_end_the_run(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: bool) -> None:
    said = json.dumps({"unit": "", "kind": "ready", "environment": {}}) + "\n" if ready else ""
    names: dict[str, Any] = {"__name__": "__main__"}  # so that it is handed over itself, and not where it stands
    exec(f"def dies(folder):\n    open(folder + '/{MESSAGES}', 'w').write({said!r})\n    raise SystemError('the node is gone')", names)
    monkeypatch.setattr(slurm_executor, "main", names["dies"])
    with pytest.raises(TemperingError, match=r"Slurm jobs end before they begin: .*see that tempering is installed"):
        execute(plan, tmp_path / "run", executor=jobs("local"), workers=1)


def test_without_slurm_on_this_machine_one_line_says_so(plan: Plan, tmp_path: Path) -> None:
    if shutil.which("srun"):
        pytest.skip("Slurm is here")
    with pytest.raises(TemperingError, match=r"cannot hand a job to Slurm: .*see what --slurm asks for"):
        execute(plan, tmp_path / "run", executor=jobs("slurm"))
    assert not (tmp_path / "run" / "jobs").exists()
