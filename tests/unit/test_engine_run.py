"""Driving a plan: events, reuse, limits on workers, and what environments tell."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.toy_study import toy_models, toy_study
from tempering.engine import local
from tempering.engine.environment import describe_environment
from tempering.engine.events import Event
from tempering.engine.plan import make_plan
from tempering.engine.results import Tables
from tempering.engine.run import execute
from tempering.engine.units import Plan, PlannedTarget


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("toy")
    toy_models(folder)
    return make_plan(toy_study(folder, {}, {"end": "crash"}, seeds=2))


@dataclass(frozen=True)
class Finished:
    """A run to the end, shared by tests that only look at it or copy it."""

    directory: Path
    tables: Tables
    events: list[Event]


@pytest.fixture(scope="module")
def finished(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("finished") / "run"
    events: list[Event] = []
    return Finished(directory, execute(plan, directory, workers=0, on_event=events.append), events)


def test_events_tell_the_whole_course(plan: Plan, finished: Finished) -> None:
    events = finished.events
    assert events[0].kind == "planned"
    assert events[-1].kind == "finished"
    assert all(event.total == 5 for event in events)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == 5
    kinds = [event.kind for event in events]
    assert kinds.count("unit_started") == 5
    assert kinds.count("unit_finished") == 3
    assert kinds.count("unit_failed") == 2
    first = [event for event in events if event.unit == plan.units[0].hash]
    assert [event.kind for event in first] == ["unit_started", *["probe"] * 5, first[-1].kind]
    assert [event.steps_done for event in first if event.kind == "probe"] == [0, 1, 2, 3, 4]
    assert {event.steps_total for event in first} == {4}
    assert "harm" in first[1].measurements
    assert next(event for event in events if event.kind == "unit_failed").message.startswith("ValueError")


def test_labels_tell_configurations_apart(finished: Finished) -> None:
    labels = {event.label for event in finished.events if event.unit}
    assert len(labels) == 5
    assert all(label.startswith(("Nudge seed ", "reference")) for label in labels)


def test_what_is_done_is_reused_and_what_is_damaged_computed_anew(plan: Plan, finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.directory, tmp_path / "run")
    probes = tmp_path / "run" / "units" / plan.units[1].hash / "probes.parquet"
    probes.write_bytes(probes.read_bytes()[:-1])
    events: list[Event] = []
    again = execute(plan, tmp_path / "run", workers=0, on_event=events.append)
    kinds = [event.kind for event in events]
    assert (kinds.count("unit_reused"), kinds.count("unit_started"), kinds.count("warning")) == (4, 1, 1)
    clocks = ["wall_s", "device_seconds"]
    assert again.units.drop(columns=clocks).equals(finished.tables.units.drop(columns=clocks))
    assert again.trajectories.drop(columns=clocks[1:]).equals(finished.tables.trajectories.drop(columns=clocks[1:]))


def test_nothing_is_run_when_everything_is_done(plan: Plan, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.subprocess, "Popen", lambda *arguments, **options: pytest.fail("a worker was started"))
    assert execute(plan, finished.directory).units.equals(finished.tables.units)


def target(parameters: int, device: str = "cpu") -> PlannedTarget:
    return PlannedTarget(
        reference="m",
        digest="",
        dtype="bfloat16",
        device=device,
        safeguard="unknown",
        parameters=parameters,
        weight_bytes=2 * parameters,
        unguarded="",
        data="d",
    )


@pytest.mark.parametrize(
    ("units", "cores", "gibibytes", "parameters", "expected"),
    [
        (100, 8, 64, 10**6, 8),  # one a core
        (3, 8, 64, 10**6, 3),  # no more than units
        (100, 8, 64, 10**9, 3),  # 2 + 16 bytes a parameter and 1.5 GiB: 18.3 GiB each
        (100, 8, 4, 10**9, 1),  # one is always tried
        (0, 8, 64, 10**6, 1),
    ],
)
def test_workers_are_limited_by_cores_units_and_memory(
    monkeypatch: pytest.MonkeyPatch, units: int, cores: int, gibibytes: int, parameters: int, expected: int
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: cores)
    monkeypatch.setattr(local, "available_memory", lambda: gibibytes * 2**30)
    assert local.usable_workers(units, [target(10), target(parameters)]) == expected


def test_a_defence_that_takes_more_memory_than_an_attack_leaves_room_for_fewer_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setattr(local, "available_memory", lambda: 64 * 2**30)
    hardened = target(10**9).model_copy(update={"hardening_bytes": 28 * 2**30})  # with 2 GB of weights and 1.5 GiB: 31.4 GiB each
    assert local.usable_workers(100, [hardened]) == 2
    assert local.usable_workers(100, [hardened.model_copy(update={"hardening_bytes": 2**30})]) == 3


def test_models_on_an_accelerator_are_limited_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 16)
    monkeypatch.setattr(local, "_accelerator_memory", lambda: 80 * 2**30)
    assert local.usable_workers(100, [target(10**9, "cuda")]) == 4


def test_an_environment_names_versions_and_hardware_but_nobody() -> None:
    environment = describe_environment()
    assert {"python", "torch", "transformers", "peft", "cpu", "cores", "memory_gib", "accelerator"} <= environment.keys()
    text = json.dumps(environment)
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert environment["cores"] >= 1
    assert getpass.getuser() not in text.lower().split()
