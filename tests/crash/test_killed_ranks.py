"""Units over several devices: the rows of one device, whichever of the processes is killed on the way, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.judge_server import Script, answer_in, judge_server
from tempering.engine.executors import ExecutorChoice
from tempering.engine.plan import make_plan
from tempering.engine.results import Tables
from tempering.engine.run import execute
from tempering.errors import InvalidStudy, JudgeUnavailable
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


def half(payload: dict[str, Any]) -> str:
    """Finds every other response useful, by its content."""
    return '{"verdict": "useful"}' if sum(map(ord, answer_in(payload))) % 2 else '{"verdict": "refusal"}'


def test_ranks_ask_a_judge_once_and_all_have_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, tables = [], []
    for name, devices in (("alone", 1), ("together", 2)):
        monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / name / "cache"))
        script = Script(half)
        with judge_server(script) as address:
            probes = ProbeSettings(
                prompts=4, evaluators=("harm", "utility"), max_new_tokens=8, judges=(f"openai:server={address},model=m",)
            )
            study = STUDY.model_copy(update={"probes": probes, "attacks": (MethodChoice(name="lora_finetune"),)})
            tables.append(execute(make_plan(study), tmp_path / name / "run", workers=1, executor=ExecutorChoice(devices=devices)))
        heard.append(sorted(answer_in(payload) for payload in script.heard))
    assert heard[0] == heard[1] != []
    assert same(*tables)
    assert tables[0].trajectories["harm"].between(0, 1, inclusive="neither").any()


def test_a_judge_that_is_gone_ends_every_rank_in_one_line(tmp_path: Path) -> None:
    probes = ProbeSettings(prompts=4, evaluators=("harm", "utility"), judges=("openai:server=http://127.0.0.1:9/v1,model=m,retries=0",))
    with pytest.raises(JudgeUnavailable, match="temper resume"):
        execute(make_plan(STUDY.model_copy(update={"probes": probes})), tmp_path, workers=1, executor=ExecutorChoice(devices=2))
    patience = time.monotonic() + 20
    while followers() and time.monotonic() < patience:
        time.sleep(0.1)
    assert followers() == []


def test_what_needs_its_model_whole_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    two = ExecutorChoice(devices=2)
    with pytest.raises(InvalidStudy, match="the attack 'refusal_ablation' needs its model whole"):
        execute(make_plan(STUDY.model_copy(update={"attacks": (MethodChoice(name="refusal_ablation"),)})), tmp_path / "a", executor=two)
    with pytest.raises(InvalidStudy, match="--workers 0 is this process alone"):
        execute(make_plan(STUDY), tmp_path / "b", workers=0, executor=two)
    assert not list(tmp_path.glob("*/units/*"))
