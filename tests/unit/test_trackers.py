"""Trackers: what they are told, by their real libraries offline, and that none can stop, slow or change a run."""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support import engine_samples
from support.command_line import error_line, temper, temper_apart, toy_arguments
from tempering import trackers
from tempering.engine.events import Event
from tempering.engine.units import Plan, PlannedTarget, ResolvedMethod
from tempering.errors import InvalidStudy, UnknownName
from tempering.trackers import _telling
from tempering.trackers._contract import Ending, Facts, Tracker, key
from tempering.trackers._following import Following
from tempering.trackers._telling import followed_run, price_values

SECRET = "s3cr3t-of-the-test"


@pytest.fixture
def plan() -> Plan:
    made = engine_samples.plan(2)
    target = PlannedTarget(
        reference="some/model", digest="a" * 64, dtype="float32", device="cpu", safeguard="refusal", parameters=1, weight_bytes=4,
        unguarded="", data="data",
    )  # fmt: skip
    return Plan(made.study, made.units, (), (), (target,))


def events(plan: Plan) -> list[Event]:
    """A run of two units, one of which fails, in the engine's words; the error's text holds what must not go out."""
    first, second = plan.units
    probes = [
        Event("probe", first.hash, "x", 2, 0, {"harm": step / 10, "utility": math.nan}, {"flops": 1e9 * step, "steps": step}, step)
        for step in (0, 4)
    ]
    return [
        Event("planned", total=2),
        Event("unit_started", first.hash, "full_finetune seed 0", 2),
        *probes,
        Event("unit_finished", first.hash, "full_finetune seed 0", 2, 1),
        Event("unit_failed", second.hash, "full_finetune seed 1", 2, 2, message=f"the prompt how do you brew poison failed with {SECRET}"),
        Event("finished", total=2, done=2),
    ]


SUMMARY: dict[str, Any] = {
    "attacks": [
        {
            "model": "some/model",
            "defense": "none",
            "attack": "full_finetune",
            "outcomes": {"broken": 2, "held": 1},
            "utility_kept": 0.98,
            "not_tried": None,
            "cost_to_break": {
                "usd": {"median": 1.5, "low": 1.0, "high": 2.0, "censored": False, "exceeds": None},
                "steps": {"median": None, "low": 8.0, "high": None, "censored": True, "exceeds": 200.0},
            },
        },
        {"model": "some/model", "defense": "none", "attack": "gcg", "not_tried": "it needs gradients", "cost_to_break": None},
    ]
}


def follow(tracker: Tracker, plan: Plan, folder: Path, *, patience: float = 60) -> list[Event]:
    """Follow the run, and give what the user was told."""
    told: list[Event] = []
    with Following([tracker], followed_run(plan, folder), told.append, patience=patience) as following:
        for event in events(plan):
            following.on_event(event)
        following.results(price_values(SUMMARY))
    return told


def notes(told: list[Event]) -> list[str]:
    return [event.message for event in told if event.kind in ("note", "warning")]


class Recorder(Tracker):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def load(self) -> None:
        pass

    def start(self, facts: Facts, folder: Path) -> str:
        self._take("start", facts)
        return "look here"

    def probe(self, unit: str, steps: int, values: Mapping[str, float]) -> None:
        self._take("probe", (unit, steps, dict(values)))

    def progress(self, number: int, values: Mapping[str, float]) -> None:
        self._take("progress", (number, dict(values)))

    def results(self, values: Mapping[str, float]) -> None:
        self._take("results", dict(values))

    def finish(self, ending: Ending) -> None:
        self._take("finish", ending)

    def _take(self, what: str, value: Any) -> None:
        self.threads.add(threading.get_ident())
        self.told.append((what, value))


def test_a_tracker_is_told_everything_in_order_from_one_thread(plan: Plan, tmp_path: Path) -> None:
    recorder = Recorder()
    told = follow(recorder, plan, tmp_path)
    assert [event for event in told if event.kind not in ("note", "warning")] == events(plan)  # the user is told as without it
    assert notes(told) == ["look here"]
    assert [what for what, _ in recorder.told] == ["start", "progress", "probe", "probe", *["progress"] * 3, "results", "finish"]
    assert len(recorder.threads) == 1
    assert recorder.threads != {threading.get_ident()}
    assert recorder.told[3][1] == ("full_finetune/seed 0", 4, {"harm": 0.4, "spend/flops": 4e9, "spend/steps": 4.0})
    assert recorder.told[5][1] == (2, {"done": 2.0, "total": 2.0, "failed": 1.0})
    assert recorder.told[7][1] == {
        "runs/full_finetune/broken": 2.0,
        "runs/full_finetune/held": 1.0,
        "runs/full_finetune/utility_kept": 0.98,
        "price/full_finetune/usd": 1.5,
        "price/full_finetune/usd low": 1.0,
        "price/full_finetune/usd high": 2.0,
        "price/full_finetune/steps low": 8.0,
        "price/full_finetune/steps exceeds": 200.0,
    }
    assert recorder.told[-1] == ("finish", "finished")


@pytest.mark.parametrize(("error", "ending"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_it_is_told_how_the_run_ended(plan: Plan, tmp_path: Path, error: type[BaseException], ending: str) -> None:
    recorder = Recorder()

    def stopped() -> None:
        with Following([recorder], followed_run(plan, tmp_path)) as following:
            following.on_event(Event("planned", total=2))
            raise error

    with pytest.raises(error):
        stopped()
    assert recorder.told[-1] == ("finish", ending)


def test_a_run_that_is_never_planned_starts_no_tracker(plan: Plan, tmp_path: Path) -> None:
    recorder = Recorder()
    with Following([recorder], followed_run(plan, tmp_path)) as following:
        following.on_event(Event("preparing", message="growing"))
    assert recorder.told == []
    assert list(tmp_path.iterdir()) == []


class Broken(Recorder):
    """Fails at one of its methods."""

    def __init__(self, at: str, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def _take(self, what: str, value: Any) -> None:
        super()._take(what, value)
        if what == self.at:
            raise self.error


@pytest.mark.parametrize("at", ["start", "probe", "progress", "results", "finish"])
@pytest.mark.parametrize("error", [OSError("no route to host\nand more"), SystemExit(1), KeyboardInterrupt()])
def test_a_failure_is_one_line_and_the_run_goes_on(plan: Plan, tmp_path: Path, at: str, error: BaseException) -> None:
    told = follow(Broken(at, error), plan, tmp_path)
    assert [event for event in told if event.kind not in ("note", "warning")] == events(plan)
    lines = [event.message for event in told if event.kind == "warning"]
    assert len(lines) == 1
    assert lines[0].startswith("test_trackers is told nothing more of this run: ")
    assert "\n" not in lines[0]
    assert "and more" not in lines[0]


def test_one_that_hangs_is_left_behind(plan: Plan, tmp_path: Path) -> None:
    release = threading.Event()

    class Hanging(Recorder):
        def start(self, facts: Facts, folder: Path) -> str:
            release.wait(60)
            return ""

    try:
        told = follow(Hanging(), plan, tmp_path, patience=0.05)
    finally:
        release.set()
    assert [event.kind for event in told] == [*(event.kind for event in events(plan)), "warning"]
    assert notes(told) == ["test_trackers has not sent everything in time; the run is complete without it"]


def test_one_that_does_not_keep_up_is_told_no_more(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.trackers._following._WAITING", 2)
    release = threading.Event()

    class Slow(Recorder):
        def start(self, facts: Facts, folder: Path) -> str:
            release.wait(60)
            return ""

    slow, told = Slow(), []
    with Following([slow], followed_run(plan, tmp_path), told.append) as following:
        for event in events(plan):
            following.on_event(event)
        release.set()
    assert notes(told) == ["test_trackers is told nothing more of this run: it does not keep up"]
    assert len([event for event in told if event.kind not in ("note", "warning")]) == len(events(plan))
    assert ("finish", "finished") not in slow.told


def test_an_audit_is_followed_and_its_json_is_as_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    arguments = [*toy_arguments(tmp_path, seeds=1), "--workers", "0", "--json"]
    kept = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    followed = temper_apart(*arguments, "--out", tmp_path / "followed", "--track", "trackio", folder=tmp_path, **kept)
    assert followed.returncode == 0, followed.stderr
    plain = temper_apart(*arguments, "--out", tmp_path / "plain", folder=tmp_path)
    attacks = [json.loads(finished.stdout)["attacks"] for finished in (followed, plain)]
    assert attacks[0] == attacks[1]
    assert "trackio: run " in followed.stderr
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        keys = {name for row in connection.execute("select metrics from metrics") for name in json.loads(row[0])}
    assert {"Nudge/seed 0/harm", "Nudge/seed 0/spend/flops", "progress/done", "runs/Nudge/broken"} <= keys


def test_what_a_tracker_prints_is_no_result(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Chatty(Recorder):
        def start(self, facts: Facts, folder: Path) -> str:
            print("* view your run at")
            return ""

    before = sys.stdout
    with Following([Chatty()], followed_run(plan, tmp_path)) as following:
        following.on_event(Event("planned", total=2))
        print("a result")
    assert sys.stdout is before
    assert capsys.readouterr().out == "a result\n"


def wandb_records(content: bytes) -> list[Any]:
    """What a ``.wandb`` file holds: a header of seven bytes, then a LevelDB log, of which these are too short for a second block."""
    from wandb.proto import wandb_internal_pb2

    assert len(content) < 32768
    found, at = [], 7
    while at + 7 < len(content):
        _, length, kind = struct.unpack_from("<IHB", content, at)
        assert kind == 1
        if at + 7 + length > len(content):
            break  # still being written
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content[at + 7 : at + 7 + length])
        found.append(record)
        at += 7 + length
    return found


def number_of(item: Any) -> float:
    """The value of an item of a history or a summary."""
    if item.value_json:
        return float(json.loads(item.value_json))
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    return float(getattr(item, kind)) if kind in ("integer", "number") else math.nan


def test_wandb_offline(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_DIR", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    told = follow(*trackers.chosen("wandb"), plan, tmp_path / "run")
    assert len(notes(told)) == 1
    assert notes(told)[0].startswith(f"wandb: kept offline; send it with: wandb sync {tmp_path / 'run' / 'trackers' / 'wandb'}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing beside the run directory
    (file,) = tmp_path.glob("run/trackers/wandb/offline-run-*/*.wandb")
    records = []
    for _ in range(200):  # the library's own process writes behind; it is waited for at the end of ours
        records = wandb_records(file.read_bytes())
        if records and records[-1].HasField("exit"):
            break
        time.sleep(0.05)
    history = [{".".join(item.nested_key) or item.key: number_of(item) for item in record.history.item} for record in records]
    harm = [(row["full_finetune/seed 0/steps"], row["full_finetune/seed 0/harm"]) for row in history if "full_finetune/seed 0/harm" in row]
    assert harm == [(0, 0.0), (4, 0.4)]
    summary = {".".join(item.nested_key) or item.key: number_of(item) for record in records for item in record.summary.update}
    assert summary["price/full_finetune/usd"] == 1.5
    axes = {record.metric.glob_name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert axes == {"full_finetune/seed 0/*": "full_finetune/seed 0/steps"}
    everything = b"".join(path.read_bytes() for path in file.parent.rglob("*") if path.is_file() and path.parent.name != "logs")
    hidden = [SECRET, "brew poison", *([socket.gethostname()] if len(socket.gethostname()) > 5 else [])]
    assert not [text for text in hidden if text.encode() in everything]
    assert not list(file.parent.rglob("requirements.txt"))
    assert not list(file.parent.rglob("wandb-metadata.json"))


@pytest.mark.slow  # MLflow makes its tables by some eighty migrations
def test_mlflow_in_a_file_of_the_run(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    told = follow(*trackers.chosen("mlflow"), plan, tmp_path / "run")
    database = tmp_path / "run" / "trackers" / "mlflow.db"
    assert notes(told) == [f"mlflow: look at it with: mlflow ui --backend-store-uri sqlite:///{database}"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{database}")
    (run,) = client.search_runs([client.get_experiment_by_name("tempering").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["attacks"] == "full_finetune"
    assert run.data.tags == {"mlflow.runName": plan.study.name, "study": plan.study.digest}
    history = client.get_metric_history(run.info.run_id, "full_finetune/seed 0/harm")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (4, 0.4)]
    assert run.data.metrics["price/full_finetune/usd"] == 1.5
    assert run.data.metrics["progress/failed"] == 1
    assert SECRET.encode() not in database.read_bytes()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_trackio_on_this_machine(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    (tmp_path / "trackio").mkdir()
    monkeypatch.chdir(tmp_path)
    told = follow(*trackers.chosen("trackio"), plan, tmp_path / "run")
    assert len(notes(told)) == 1
    assert notes(told)[0].startswith("trackio: run ")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("select metrics from metrics order by id")]
        (config,) = [json.loads(row[0]) for row in connection.execute("select config from configs")]
    harm = [(row["full_finetune/seed 0/steps"], row["full_finetune/seed 0/harm"]) for row in rows if "full_finetune/seed 0/harm" in row]
    assert harm == [(0, 0.0), (4, 0.4)]
    assert [row["price/full_finetune/usd"] for row in rows if "price/full_finetune/usd" in row] == [1.5]
    assert config["attacks"] == "full_finetune"
    assert config["_Username"] is None


def test_names_are_found_by_the_folder() -> None:
    assert trackers.names() == ["mlflow", "trackio", "wandb"]
    assert trackers.chosen("") == trackers.chosen(()) == []


def test_an_unknown_tracker_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="no tracker named 'wandbb'; did you mean 'wandb'"):
        trackers.chosen("wandbb")
    monkeypatch.chdir(tmp_path)
    assert "no tracker named 'neptune'" in error_line(temper("audit", "--track", "neptune", "--attacks", "prefilling"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", trackers.names())
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidStudy) as caught:
        trackers.chosen(name)
    assert str(caught.value) == f'--track {name}: its library is not installed; install it with: pip install "tempering[{name}]"'


def test_what_is_told_holds_no_path_no_setting_and_nothing_of_the_machine(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTNAME", "machine-of-the-test")
    folder = tmp_path / "somebody" / "private-model"
    folder.mkdir(parents=True)
    method = ResolvedMethod(name=f"{tmp_path}/mine.py:Attack", config={"prompt": "how do you brew poison"})
    made = engine_samples.plan(2, attack=method, model={"reference": str(folder)})
    target = plan.targets[0].model_copy(update={"reference": f"{folder}"})
    other = plan.targets[0].model_copy(update={"reference": "machine-of-the-test/model"})
    several = Plan(made.study, made.units, (), (), (target, other))
    facts, names = _telling.facts_of(several), _telling.unit_names(several)
    everything = f"{facts} {names}"
    for hidden in (str(tmp_path), "somebody", "machine-of-the-test", "brew poison", "mine.py"):
        assert hidden not in everything, everything
    assert sorted(names.values()) == ["private-model/Attack/seed 0", "private-model/Attack/seed 1"]
    assert facts.settings["attacks"] == "Attack"


def test_keys_hold_nothing_that_a_service_refuses() -> None:
    assert key("gcg (τ=0.5)/x:y") == "gcg ---0.5-/x-y"
    assert key("///") == "-"
