"""Units over several devices: the rows of one device, whichever of the processes is killed on the way, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tempering.engine.executors import ExecutorChoice
from tempering.engine.plan import make_plan
from tempering.engine.results import Tables
from tempering.engine.run import execute
from tempering.errors import InvalidStudy
from tempering.study import Budget, MethodChoice, ProbeSettings, Study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc"),
]

STUDY = Study(
    models=("organism:tiny",),
    attacks=(MethodChoice(name="full_finetune", config={"training": {"batch_size": 6}}), "lora_finetune"),
    seeds=1,
    budget=Budget(steps=2),
    probes=ProbeSettings(prompts=5, evaluators=("harm", "utility", "divergence")),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return execute(make_plan(STUDY), tmp_path_factory.mktemp("alone"), workers=0)


def followers(rank: int = 1) -> list[int]:
    """The processes below this one that are a given rank."""
    found = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    rows = [(int(pid), int(parent), rest) for pid, parent, rest in (line.split(None, 2) for line in found)]
    ours = {pid for pid, parent, _ in rows if parent == os.getpid()}
    parents = ours if rank else {os.getpid()}
    return [pid for pid, parent, rest in rows if parent in parents and f'"rank": {rank}' in rest]


def same(one: Tables, other: Tables) -> bool:
    numbers = one.trajectories.select_dtypes("number").columns.difference(["device_seconds"])
    close = (one.trajectories[numbers] - other.trajectories[numbers]).abs() <= 1e-4 * other.trajectories[numbers].abs() + 1e-6
    empty = one.trajectories[numbers].isna() & other.trajectories[numbers].isna()
    return bool((close | empty).all(axis=None)) and list(one.units["status"]) == list(other.units["status"])


def test_two_ranks_leave_the_rows_of_one_process_though_one_of_them_is_killed(alone: Tables, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_once(event) -> None:  # type: ignore[no-untyped-def]
        if event.kind == "probe" and not killed:
            killed.extend(followers())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    together = execute(make_plan(STUDY), tmp_path, workers=1, on_event=kill_once, executor=ExecutorChoice(devices=2))
    assert len(killed) == 1
    assert set(together.units["status"]) == {"completed"}
    assert list(together.units["unit"]) == list(alone.units["unit"])  # the same hashes: how it is computed is in none
    assert same(together, alone)
    patience = time.monotonic() + 20
    while followers() and time.monotonic() < patience:
        time.sleep(0.1)
    assert followers() == []
    assert not list(tmp_path.glob("**/meeting*"))


def test_what_needs_its_model_whole_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    two = ExecutorChoice(devices=2)
    with pytest.raises(InvalidStudy, match="the attack 'refusal_ablation' needs its model whole"):
        execute(make_plan(STUDY.model_copy(update={"attacks": (MethodChoice(name="refusal_ablation"),)})), tmp_path / "a", executor=two)
    with pytest.raises(InvalidStudy, match="--workers 0 is this process alone"):
        execute(make_plan(STUDY), tmp_path / "b", workers=0, executor=two)
    assert not list(tmp_path.glob("*/units/*"))
