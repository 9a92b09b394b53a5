"""``temper harden`` as a user meets it, on a tiny random model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import tempering
from support.command_line import error_line, temper
from support.toy_study import ATTACK, DEFENSE, rows, toy_models, write_rows
from tempering import models
from tempering.engine import hardening
from tempering.errors import InvalidStudy
from tempering.hardening import choose_defense


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, the data, settings for the control, and one hardened model in ``out``."""
    folder = tmp_path_factory.mktemp("harden")
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    (folder / "settings.yaml").write_text("steps: 4\nrefusals: ['no, i can not say that.']\n")
    result = temper(*arguments(folder), "--out", folder / "out", "--json")
    assert result.exit_code == 0, result.stderr
    (folder / "stdout.json").write_text(result.stdout)
    return folder


def arguments(folder: Path, defense: str = "refusal_sft", config: bool = True) -> list[Any]:
    settings = ["--config", folder / "settings.yaml"] if config else []
    model = [folder / "guarded", "--data", folder / "data.jsonl", "--device", "cpu"]
    return ["harden", *model, "--defense", defense, *settings, "--prompts", "4"]


def test_json_is_one_document_with_the_record_and_the_next_command(folder: Path) -> None:
    document = json.loads((folder / "stdout.json").read_text())
    assert document["directory"] == str(folder / "out")
    assert document["record"] == json.loads((folder / "out" / "tempering.json").read_text())
    assert document["record"]["measurements"]["after"]["utility"]["prompts"] == 4
    assert models.load(document["directory"], device="cpu").digest == document["record"]["digest"]


def test_the_next_command_works_as_it_is_printed(folder: Path, tmp_path: Path) -> None:
    command = shlex.split(json.loads((folder / "stdout.json").read_text())["next"])
    assert command[:3] == ["temper", "audit", str(folder / "out")]
    quick = ["--attacks", ATTACK, "--seeds", "1", "--budget", "steps=4", "--prompts", "4", "--workers", "0", "--out", tmp_path / "run"]
    result = temper(*command[1:], *quick)
    assert result.exit_code == 0, result.stderr


def test_again_it_returns_what_is_there(folder: Path) -> None:
    result = temper(*arguments(folder), "--out", folder / "out")
    assert result.exit_code == 0, result.stderr
    assert "holds this model already" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["Held-out", "prompts", "Before", "After"]
    assert any(line.startswith("benign prompts answered well") for line in lines)
    assert "refuse: 4 of 4 steps; ran all its steps" in lines
    assert lines[-3].startswith("Training took 4 steps, ")
    assert lines[-1].startswith("What it costs to strip its safeguard: temper audit ")


def test_progress_goes_to_standard_error(folder: Path, tmp_path: Path) -> None:
    result = temper(*arguments(folder), "--out", tmp_path / "out", "--seed", "1")
    lines = result.stderr.splitlines()
    assert lines[0] == f"hardening {folder / 'guarded'} by refusal_sft ..."
    assert "refuse: ran all its steps" in lines
    assert lines[-1] == "measuring the model before and after on held-out prompts"
    assert "steps ..." not in result.stdout


BAD = [
    (["--defense", "refusal_stf"], 2, "no defense named 'refusal_stf'; did you mean 'refusal_sft'?"),
    (["--defense", "refusal_sft+rmuu"], 2, "no defense named 'rmuu'; did you mean 'rmu'?"),
    (["--defense", "mine.py:Mine"], 2, "no file mine.py for the defense"),
    (["--utility-floor", "2"], 2, "--utility-floor 2.0: it should be less than or equal to 1"),
    (["--prompts", "0"], 2, "--prompts 0: it should be greater than 0"),
    (["--dtype", "bf16"], 2, "--dtype bf16: it should be 'float32', 'bfloat16' or 'float16'"),
    (["--device", "abacus"], 2, "there is no device 'abacus'"),
    (["--config", "none.yaml"], 2, "cannot read the settings none.yaml: No such file or directory"),
    (["--data", "none.jsonl"], 2, "no data at 'none.jsonl'"),
    (["--data", "organism:nnano"], 2, "no organism named 'nnano'; did you mean 'nano'?"),
]


@pytest.mark.parametrize(("changed", "code", "expected"), BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: list[str], code: int, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = temper(*arguments(folder, config=False), *changed, "--out", "out")
    assert expected in error_line(result)
    assert result.exit_code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("stesp: 3\n", "defense 'refusal_sft', setting 'stesp'"),
        ("steps: 0\n", "defense 'refusal_sft', setting 'steps': Input should be greater than 0"),
        ("- steps\n", "holds no mapping; write one setting a line"),
        ("steps: 1\nsteps: 2\n", ":2: the key 'steps' stands twice"),
        ("steps: [\n", "is not YAML"),
    ],
)
def test_settings_that_cannot_be_used(folder: Path, tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    assert expected in error_line(temper(*arguments(folder, config=False), "--config", tmp_path / "bad.yaml", "--out", tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_directory_with_something_else_in_it_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        result = temper(*arguments(folder), "--out", out)
        assert "exists already and holds no hardened model" in error_line(result)
        assert result.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_data_without_what_the_defence_needs(folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data.jsonl", rows(benign=False))
    result = temper(*arguments(folder), "--data", tmp_path / "data.jsonl", "--out", tmp_path / "out")
    assert "the defence 'refusal_sft' needs benign answers, which the defender's part of the data does not hold" in error_line(result)
    assert not (tmp_path / "out").exists()


def test_too_little_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "available_memory", lambda: 1000)
    line = error_line(temper(*arguments(folder), "--out", tmp_path / "out"))
    assert "MiB of memory and" in line
    assert "train adapters with --lora" in line
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_fails(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("nan_on: [0]\n")
    result = temper(*arguments(folder, DEFENSE, config=False), "--config", tmp_path / "settings.yaml", "--out", tmp_path / "out")
    assert "loss is nan at step 1" in error_line(result)
    assert result.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


def test_adapters_where_the_defence_knows_them(folder: Path, tmp_path: Path) -> None:
    assert "cannot be trained with adapters; leave --lora out" in error_line(
        temper(*arguments(folder, DEFENSE, config=False), "--lora", "--out", tmp_path / "out")
    )
    result = temper(*arguments(folder), "--lora", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["record"]["defense"]["config"]["parameters"] == "lora"


def test_ctrl_c_says_how_to_go_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = hardening.Pace
    monkeypatch.setattr(hardening, "Pace", lambda seconds: pace(0))
    measured = hardening.Session.progress
    seen = []

    def interrupt(self: Any, kind: str, *rest: Any, **more: Any) -> Any:
        seen.append(kind)
        if seen.count("step") == 3 and kind == "step":
            raise KeyboardInterrupt
        return measured(self, kind, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(hardening.Session, "progress", interrupt)
    result = temper(*arguments(folder), "--out", tmp_path / "out", "--seed", "2")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1] == "interrupted; give the same command again to go on"
    monkeypatch.setattr(hardening.Session, "progress", measured)
    result = temper(*arguments(folder), "--out", tmp_path / "out", "--seed", "2")
    assert result.exit_code == 0
    assert "going on after 2 of 4 steps" in result.stderr


def test_ctrl_c_before_anything_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempering.hardening.plan_hardening", interrupt)
    result = temper(*arguments(folder), "--out", tmp_path / "out")
    assert result.stderr.splitlines()[-1] == "interrupted; nothing was kept"
    assert list(tmp_path.iterdir()) == []


def test_the_current_directory_may_be_the_place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = temper(*arguments(folder), "--out", ".")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "here" / "tempering.json").is_file()


def test_settings_of_a_chain_are_given_by_the_names_of_its_links() -> None:
    chosen = choose_defense("refusal_sft+rmu", {"rmu": {"steps": 7}}, lora=True)
    assert [(step["name"], step["config"]) for step in chosen.config["steps"]] == [
        ("refusal_sft", {"parameters": "lora"}),
        ("rmu", {"steps": 7, "parameters": "lora"}),
    ]
    with pytest.raises(InvalidStudy, match="the settings 'steps' belong to no link of refusal_sft"):
        choose_defense("refusal_sft+rmu", {"steps": 7})
    assert choose_defense("chain", {"steps": ["refusal_sft"]}).config == {"steps": ["refusal_sft"]}


def test_a_notebook_gets_text_without_markup_of_others(folder: Path) -> None:
    settings = {"steps": 4, "refusals": ["no, i can not say that."]}
    places = {"data": folder / "data.jsonl", "out": folder / "out", "device": "cpu", "prompts": 4}
    hardened = tempering.harden(str(folder / "guarded"), defense="refusal_sft", config=settings, **places)  # type: ignore[arg-type]
    assert isinstance(hardened, tempering.Hardened)
    assert hardened.spend["steps"] == 4
    assert hardened.measurements["after"]["utility"]["prompts"] == 4
    hostile = {**hardened.record, "stages": [{**hardened.record["stages"][0], "name": "<script>"}]}
    page = tempering.Hardened(hardened.directory, hostile, "temper <b>")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;: 4 of 4 steps" in page
    assert "temper &lt;b&gt;" in page
    assert "<td>benign prompts answered well</td>" in page


def test_help_and_the_list_of_defences() -> None:
    text = temper("harden", "--help").stdout
    for flag in ("--defense", "--config", "--lora", "--out", "--data", "--seed", "--utility-floor", "--dtype", "--device", "--json"):
        assert flag in text
    listed = {row["name"]: row["needs"] for row in json.loads(temper("ls", "defenses", "--json").stdout)}
    assert listed["refusal_sft"] == ["benign answers", "hazard prompts"]
