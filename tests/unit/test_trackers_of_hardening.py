"""``temper harden --track``: the losses of a training and the measurements of its card, and that a tracker changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.command_line import error_line, temper, temper_apart
from support.toy_study import rows, toy_models, write_rows
from tempering.engine.events import Event
from tempering.trackers import Tracker
from tempering.trackers._contract import Ending, Facts
from tempering.trackers._telling import POINTS, training_values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private-place")
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    (folder / "settings.yaml").write_text("steps: 4\nrefusals: ['no, i can not say that.']\n")
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[Any]:
    model = [folder / "guarded", "--data", folder / "data.jsonl", "--device", "cpu", "--prompts", "4"]
    return ["harden", *model, "--defense", "refusal_sft", "--config", folder / "settings.yaml", "--out", out, *more]


class Recorder(Tracker):
    """Writes down what it is told, and fails at one of its methods if it should."""

    def __init__(self, failing: str = "") -> None:
        self.told: list[tuple[str, Any]] = []
        self.failing = failing

    def load(self) -> None:
        pass

    def start(self, facts: Facts, folder: Path) -> str:
        self._take("start", (facts, folder))
        return "look here"

    def probe(self, unit: str, steps: int, values: Mapping[str, float]) -> None:
        self._take("probe", (unit, steps, dict(values)))

    def progress(self, number: int, values: Mapping[str, float]) -> None:
        self._take("progress", dict(values))

    def results(self, values: Mapping[str, float]) -> None:
        self._take("results", dict(values))

    def finish(self, ending: Ending) -> None:
        self._take("finish", ending)

    def _take(self, what: str, value: Any) -> None:
        self.told.append((what, value))
        if what == self.failing:
            raise OSError("no route to host")


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr("tempering.hardening.chosen", lambda named: [recorder] if named else [])
    return recorder


def of(recorder: Recorder, what: str) -> list[Any]:
    return [value for kind, value in recorder.told if kind == what]


def test_losses_go_out_step_by_step_and_the_card_at_the_end(folder: Path, tmp_path: Path, tracked: Recorder) -> None:
    result = temper(*arguments(folder, tmp_path / "out", "--track", "recorder", "--json"))
    assert result.exit_code == 0, result.stderr
    assert "look here" in result.stderr
    record = json.loads(result.stdout)["record"]  # and nothing else on standard output
    (facts, place), *_ = of(tracked, "start")
    assert place == tmp_path / "out.trackers"  # the model's own directory holds the model
    assert facts.group == record["job"]
    assert facts.settings["defenses"] == "refusal_sft"
    assert str(folder) not in str(facts)
    probes = of(tracked, "probe")
    assert {unit for unit, _, _ in probes} == {"refusal_sft/hardening/seed 0"}
    assert sorted({steps for _, steps, _ in probes}) == [1, 2, 3, 4]
    for _, _, values in probes:
        assert values["loss"] == pytest.approx(values["parts/refusal"] + values["parts/retain"])
    (results,) = of(tracked, "results")
    for when in ("before", "after"):
        measured = record["measurements"][when]
        assert results[f"{when}/refusal"] == measured["refusal"]["value"]
        assert results[f"{when}/utility low"] == measured["utility"]["low"]
        assert results[f"{when}/utility high"] == measured["utility"]["high"]
    assert results["spend/flops"] == record["spend"]["flops"]
    assert of(tracked, "progress")[-1] == {"done": 1.0, "total": 1.0, "failed": 0.0}
    assert tracked.told[-1] == ("finish", "finished")


@pytest.mark.parametrize("failing", ["start", "probe", "results", "finish"])
def test_one_that_fails_is_a_line_of_warning(folder: Path, tmp_path: Path, tracked: Recorder, failing: str) -> None:
    tracked.failing = failing
    result = temper(*arguments(folder, tmp_path / "out", "--track", "recorder"))
    assert result.exit_code == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: test_trackers_of_hardening is told nothing more of this run: no route to host"]
    assert (tmp_path / "out" / "tempering.json").is_file()


def test_a_training_that_fails_ends_so(folder: Path, tmp_path: Path, tracked: Recorder) -> None:
    (tmp_path / "settings.yaml").write_text("steps: 4\ntraining: {learning_rate: 1.0e+30}\nrefusals: ['no, i can not say that.']\n")
    given = arguments(folder, tmp_path / "out", "--track", "recorder")
    given[given.index(folder / "settings.yaml")] = tmp_path / "settings.yaml"
    assert "failed" in error_line(temper(*given))
    assert tracked.told[-1] == ("finish", "failed")


def test_an_unknown_tracker_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    assert "no tracker named 'neptune'" in error_line(temper(*arguments(folder, tmp_path / "out", "--track", "neptune")))
    assert list(tmp_path.iterdir()) == []


def test_a_long_training_is_told_of_now_and_again() -> None:
    steps = 20 * POINTS
    told = [
        step
        for step in range(1, steps + 1)
        if training_values(Event("training", steps_done=step, steps_total=steps, measurements={"loss": 1.0}))
    ]
    assert len(told) == POINTS
    assert told[-1] == steps


def test_trackio_offline(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    kept = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    finished = temper_apart(*arguments(folder, tmp_path / "out", "--track", "trackio"), folder=tmp_path, **kept)
    assert finished.returncode == 0, finished.stderr
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("select metrics from metrics order by id")]
    losses = {row["refusal_sft/hardening/seed 0/steps"] for row in rows if "refusal_sft/hardening/seed 0/loss" in row}
    assert losses == {1, 2, 3, 4}
    (after,) = [row["after/refusal"] for row in rows if "after/refusal" in row]
    assert after == json.loads((tmp_path / "out" / "tempering.json").read_text())["measurements"]["after"]["refusal"]["value"]
