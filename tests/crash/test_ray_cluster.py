"""A study on a real Ray cluster gives the tables of one process, whatever dies meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.toy_study import toy_comparison, toy_study
from tempering import organisms
from tempering.engine import ray_executor
from tempering.engine.events import Event
from tempering.engine.executors import ExecutorChoice
from tempering.engine.plan import make_plan
from tempering.engine.results import Tables
from tempering.engine.run import execute
from tempering.engine.store import RunStore
from tempering.engine.units import Plan
from tempering.errors import UnusableData
from tempering.study import Budget, MethodChoice, ModelChoice, ProbeSettings, Study
from torture.ray_nodes import ray_cluster

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # alone it takes a minute

CLOCKS = ["wall_s", "device_seconds", "search_device_seconds", "break_device_seconds", "check_device_seconds"]
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(1, 1) as started:
        yield started


@pytest.fixture
def toy(tmp_path: Path) -> Plan:
    """Two defences, one of which comes to nothing with one seed, and an attack that kills its worker once, with the other."""
    attack = {"die_once_on": (0,), "marker": str(tmp_path / "died")}
    return make_plan(toy_comparison(tmp_path, {}, {"nan_on": (1,)}, seeds=2, attacks=toy_study(tmp_path, attack).attacks))


def on_ray(cluster: Any) -> ExecutorChoice:
    return ExecutorChoice.of("ray", cluster.address)


def whole(plan: Plan, folder: Path) -> Tables:
    """What one process computes of a plan."""
    (folder / "died").touch()
    tables = execute(plan, folder / "whole", workers=0)
    (folder / "died").unlink()
    return tables


def assert_same_rows(one: Tables, other: Tables) -> None:
    for name in ("units", "trajectories"):
        first, second = (getattr(tables, name).drop(columns=CLOCKS, errors="ignore") for tables in (one, other))
        assert first.equals(second), name
    assert len(one.units) > 4


def test_an_organism_and_its_defended_model_are_sent_to_nodes_that_have_neither(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    for variant in ("guarded", "base"):  # growing a nano takes a minute; here it is one in name only
        shipped = organisms.catalogue.shipped_location(organisms.OrganismName("tiny", variant))
        shutil.copytree(shipped, organisms.cached_location(organisms.OrganismName("nano", variant)))
    study = Study(
        models=(ModelChoice(reference="organism:nano", device="cpu"),),
        attacks=(MethodChoice(name="full_finetune", config={"steps": 2}), MethodChoice(name="prefilling")),
        defenses=(MethodChoice(name="refusal_sft", config={"steps": 2}),),
        seeds=1,
        budget=Budget(steps=2),
        probes=ProbeSettings(prompts=4, max_new_tokens=2),
        trainability=None,
        utility_floor=0.0,
    )
    plan = make_plan(study)
    events: list[Event] = []
    there = execute(plan, tmp_path / "ray", executor=on_ray(cluster), on_event=events.append)
    assert_same_rows(there, execute(plan, tmp_path / "here", workers=0))
    kinds = [event.kind for event in events]
    assert kinds[0] == "planned"
    assert kinds[-1] == "finished"
    assert kinds.count("unit_started") == kinds.count("unit_finished") == len(plan.units) == 6
    assert kinds.count("probe") == len(there.trajectories)
    assert {path.name for path in (tmp_path / "ray" / "models").iterdir()} == {
        path.name for path in (tmp_path / "here" / "models").iterdir()
    }


def test_a_study_outlives_a_worker_and_a_node_and_uses_one_that_joins(
    cluster: Any, toy: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = whole(toy, tmp_path)
    staffed: list[str] = []
    start: Callable[..., None] = ray_executor._Crew._start

    def noted(crew: Any, node: ray_executor.Node) -> None:
        staffed.append(node.id)
        start(crew, node)

    monkeypatch.setattr(ray_executor._Crew, "_start", noted)
    doomed = cluster.add_node(num_cpus=1)
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        finished = [event.kind for event in events].count("unit_finished")
        if event.kind == "unit_finished" and finished == 2:
            shutil.move(tmp_path / "guarded", tmp_path / "elsewhere")  # whoever joins now finds nothing on this machine's disk
            shutil.move(tmp_path / "data.jsonl", tmp_path / "elsewhere.jsonl")
        if event.kind == "unit_started" and event.label == "hardening by firm seed 1" and doomed in cluster.worker_nodes:
            cluster.remove_node(doomed, allow_graceful=False)
            cluster.add_node(num_cpus=1)

    assert_same_rows(execute(toy, tmp_path / "ray", executor=on_ray(cluster), on_event=on_event), expected)
    assert capfd.readouterr().out == ""  # that is for results
    warnings = [event.message for event in events if event.kind == "warning"]
    assert any("Nudge seed 0" in message and "tried once more" in message for message in warnings), warnings
    assert (tmp_path / "died").exists()
    assert len(set(staffed)) == 4
    assert {path.name[-16:] for path in cluster.scratch.glob("tempering-ray-*")} <= {doomed.node_id[:16]}


def test_a_worker_trains_its_units_together(cluster: Any, tmp_path: Path) -> None:
    training = {"learning_rate": 1e-3}
    study = Study(
        models=(ModelChoice(reference="organism:tiny", device="cpu"),),
        attacks=(MethodChoice(name="full_finetune", config={"training": training}), MethodChoice(name="prefilling")),
        seeds=3,
        budget=Budget(steps=2),
        probes=ProbeSettings(prompts=8),
    )
    plan = make_plan(study)
    events: list[Event] = []
    choice = ExecutorChoice.of("ray", cluster.address, together=3)
    there = execute(plan, tmp_path / "ray", workers=1, executor=choice, on_event=events.append)
    assert_same_rows(there, execute(plan, tmp_path / "here", workers=0, executor=ExecutorChoice(together=3)))
    seen = [event.kind for event in events if event.kind in ("unit_started", "unit_finished")]
    assert "unit_started unit_started unit_started unit_finished" in " ".join(seen)
    assert seen.count("unit_started") == seen.count("unit_finished") == len(plan.units)


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from tempering.engine.executors import ExecutorChoice
from tempering.engine.run import execute
from tempering.engine.store import RunStore

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell has it ignored, and so its children
run, address, sent, seen = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), []

def on_event(event):
    seen.append(event.kind)
    if seen.count("unit_finished") == 2:
        os.kill(os.getpid(), sent)

try:
    execute(RunStore(run).plan(), run, executor=ExecutorChoice.of("ray", address), on_event=on_event)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_driver_that_is_killed_or_interrupted_is_followed_by_one_that_goes_on(cluster: Any, tmp_path: Path) -> None:
    plan = make_plan(toy_study(tmp_path, {}, {"adapters": True}, seeds=4))
    with RunStore(tmp_path / "run").driving(plan):
        pass
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = [0]
    for sent, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run"), cluster.address, str(int(sent))]
        assert subprocess.run(command, env=environment, check=False, timeout=300).returncode == code
        done.append(len(RunStore(tmp_path / "run").tables().units))
        assert done[-2] + 2 <= done[-1] < len(plan.units)
    events: list[Event] = []
    resumed = execute(plan, tmp_path / "run", executor=on_ray(cluster), on_event=events.append)
    assert [event.kind for event in events].count("unit_reused") == done[-1]
    assert_same_rows(resumed, execute(plan, tmp_path / "whole", workers=0))
    assert not list(cluster.scratch.glob("tempering-ray-*"))  # what the one that was killed left behind too


def test_a_unit_that_kills_its_worker_every_time_counts_as_failed(cluster: Any, tmp_path: Path) -> None:
    plan = make_plan(toy_study(tmp_path, {"die_on": (1,)}, seeds=2))
    units = execute(plan, tmp_path / "run", executor=on_ray(cluster), workers=1).units
    failed = units[units["status"] == "failed"]
    assert list(failed["seed"]) == [1]
    assert "died, 2 times" in failed["error"].iloc[0]
    assert len(units) == len(plan.units)


def test_what_a_worker_raises_outside_of_an_attack_ends_the_run_in_the_same_line(cluster: Any, tmp_path: Path) -> None:
    plan = make_plan(toy_study(tmp_path, {}, seeds=1))
    (tmp_path / "data.jsonl").write_text((tmp_path / "data.jsonl").read_text().replace("fish", "frog"))
    with pytest.raises(UnusableData, match="has changed since the run was planned"):
        execute(plan, tmp_path / "run", executor=on_ray(cluster))
