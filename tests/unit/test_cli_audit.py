"""A whole audit through the command line, on a tiny random model: its output, its files, and what is done with them afterwards."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

import tempering
from support.command_line import COMMAND, error_line, temper, temper_apart, toy_arguments
from support.toy_study import ATTACK
from tempering.errors import StoreProblem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, the data, and one finished audit in ``out``."""
    folder = tmp_path_factory.mktemp("audit")
    result = temper(*toy_arguments(folder), "--out", folder / "out", "--workers", "0", "--json")
    assert result.exit_code == 0, result.stderr
    (folder / "stdout.json").write_text(result.stdout)
    return folder


def test_json_is_one_document_and_the_summary(folder: Path) -> None:
    document = json.loads((folder / "stdout.json").read_text())
    assert document == json.loads((folder / "out" / "summary.json").read_text())
    assert document["schema"] == 1
    assert [attack["attack"] for attack in document["attacks"]] == [ATTACK]
    assert sum(document["attacks"][0]["outcomes"].values()) == document["attacks"][0]["trials"] == 2


def test_everything_lies_in_the_run_directory(folder: Path) -> None:
    out = folder / "out"
    assert "<html" in (out / "report.html").read_text()
    tables = {path.stem for path in (out / "tables").glob("*.parquet")}
    assert tables == {"units", "trajectories", "breaks", "survival", "prices", "incidence", "restricted", "envelope"}
    assert list((out / "figures").glob("*.png"))
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]


def test_the_table_the_sentence_and_the_path(folder: Path) -> None:
    result = temper("report", folder / "out")
    assert result.exit_code == 0, result.stderr
    table, _, rest = result.stdout.strip().rpartition("\n\n")
    for title in ("Attack", "Outcome", "Examples", "Steps", "Tokens", "FLOPs", "GPU", "Dollars", "Utility"):
        assert title in table
    said, path = rest.splitlines()
    assert said.endswith(".")
    assert path == f"Report: {folder / 'out' / 'report.html'}"


def test_a_search_is_run_told_of_and_kept(folder: Path, tmp_path: Path) -> None:
    result = temper(*toy_arguments(folder), "--search", "3", "--out", tmp_path / "out", "--workers", "0", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    (attack,) = document["attacks"]
    assert attack["search"]["trials"] == 3
    assert attack["search"]["flops"] > attack["cost_to_break"]["flops"]["low"]
    trials = pd.read_parquet(tmp_path / "out" / "tables" / "trials.parquet")
    assert trials["number"].tolist() == [0, 1, 2] * 2
    assert document["spent"]["flops"] > trials["flops"].sum() > 0
    assert "up to 3 trials with other settings" in (tmp_path / "out" / "report.html").read_text()
    again = temper("resume", tmp_path / "out", "--workers", "0", "--json")
    assert again.exit_code == 0, again.stderr
    assert ", 3 reused" in again.stderr
    assert json.loads(again.stdout)["attacks"] == document["attacks"]
    with_search = tempering.open_run(tmp_path / "out")
    assert with_search.prices["search_trials"].tolist() == [3.0]
    pd.testing.assert_frame_equal(with_search.trials, trials)
    assert "<th>Dollars with search</th>" in with_search._repr_html_()
    plain = tempering.open_run(folder / "out")
    assert plain.trials.empty
    assert "with search" not in plain._repr_html_()


def test_a_plan_shows_what_a_search_would_cost(folder: Path, tmp_path: Path) -> None:
    study = {
        "models": [{"reference": str(folder / "guarded"), "device": "cpu"}],
        "attacks": [ATTACK],
        "seeds": 2,
        "data": {"reference": str(folder / "data.jsonl")},
        "search": 5,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    document = json.loads(temper("plan", path, "--json").stdout)
    (entry,) = document["attacks"]
    assert entry["search"]["trials"] == 5
    assert entry["search"]["flops"] == pytest.approx(2 * 5 * entry["each"]["flops"])
    assert entry["flops"] == document["flops"] == pytest.approx(2 * 6 * entry["each"]["flops"])
    shown = temper("plan", path).stdout
    assert "FLOPs of search" in shown
    assert "of it for searching at most" in shown
    path.write_text(yaml.safe_dump({**study, "search": None}))
    plain = temper("plan", path).stdout
    assert "FLOPs of search" not in plain
    assert "for searching" not in plain


def test_the_threat_model_decides_what_is_run_and_an_unknown_one_names_the_known(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = error_line(temper(*toy_arguments(folder), "--threat-model", "query-only", "--out", out))
    assert "no attack is left to run" in line
    assert "which the threat model 'query-only' does not allow" in line
    line = error_line(temper(*toy_arguments(folder), "--threat-model", "guessing", "--out", out))
    assert line.startswith("error: --threat-model guessing: there is no threat model 'guessing'; known: open-weights,")
    assert not out.exists()


def test_a_second_audit_uses_what_is_there(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "units").rglob("*")}
    result = temper(*toy_arguments(folder), "--out", folder / "out", "--workers", "0", "--json")
    assert result.exit_code == 0
    assert "reused" in result.stderr
    assert json.loads(result.stdout)["attacks"] == json.loads((folder / "stdout.json").read_text())["attacks"]
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "units").rglob("*")} == before


def test_a_report_can_be_read_anew_with_another_threshold(folder: Path) -> None:
    changed = json.loads(
        temper("report", folder / "out", "--tau", "0.01", "--epsilon", "0.3", "--accelerator", "A100-80GB", "--json").stdout
    )
    assert changed["threshold"] == {"tau": 0.01, "epsilon": 0.3}
    opened = tempering.open_run(folder / "out")
    assert (opened.study.threshold.tau, opened.summary) == (0.01, changed)
    restored = json.loads(temper("report", folder / "out", "--json").stdout)
    assert restored == json.loads((folder / "stdout.json").read_text())
    hours = [entry["attacks"][0]["cost_to_break"]["gpu_hours"]["low"] for entry in (changed, restored)]
    assert hours[0] > hours[1] > 0


@pytest.mark.parametrize(
    ("flag", "value"), [("--tau", "2"), ("--epsilon", "-1"), ("--accelerator", "H1000"), ("--price-book", "none.yaml")]
)
def test_a_report_that_cannot_be_made_changes_nothing(folder: Path, flag: str, value: str) -> None:
    before = (folder / "out" / "summary.json").read_bytes()
    assert value in error_line(temper("report", folder / "out", flag, value))
    assert (folder / "out" / "summary.json").read_bytes() == before


def test_another_study_does_not_go_into_the_directory(folder: Path) -> None:
    before = sorted(path.name for path in (folder / "out" / "units").iterdir())
    result = temper(*toy_arguments(folder, seeds=3), "--out", folder / "out", "--workers", "0")
    assert "another study" in error_line(result)
    assert result.exit_code == 3
    assert sorted(path.name for path in (folder / "out" / "units").iterdir()) == before


def test_the_default_directory_is_named_after_the_model_and_the_study(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = temper(*toy_arguments(folder, seeds=1), "--workers", "0", "--json")
    assert result.exit_code == 0, result.stderr
    digest = json.loads(result.stdout)["study_digest"]
    assert [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "runs").iterdir()] == [f"runs/guarded-{digest}"]


def test_a_notebook_gets_tables_and_a_page_without_markup_of_others(folder: Path) -> None:
    run = tempering.open_run(folder / "out")
    assert all(isinstance(table, pd.DataFrame) for table in (run.trajectories, run.units, run.breaks, run.prices, run.survival))
    assert {"recovered", "harm", "utility", "flops"} <= set(run.trajectories)
    assert len(run.breaks) == 2
    assert run.report_path.is_file()
    assert f"<code>{run.report_path}</code>" in run._repr_html_()
    assert "units=" not in repr(run)
    hostile = run.prices.assign(attack="<script>alert(1)</script>")
    tables = {name: getattr(run, name) for name in ("trajectories", "breaks", "survival")}
    assessment = type(run.assessment)(**tables, prices=hostile, cheapest=None)
    changed = tempering.Run(run.directory, run.study, run.units, assessment, run.conclusions, run.summary)
    assert "<script>" not in changed._repr_html_()
    assert "&lt;script&gt;" in changed._repr_html_()


def test_a_run_without_a_report_is_not_opened(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreProblem, match="holds no run"):
        tempering.open_run(tmp_path)
    (tmp_path / "study.json").write_text((folder / "out" / "study.json").read_text())
    with pytest.raises(StoreProblem, match=r"has no report yet; finish it with: temper resume"):
        tempering.open_run(tmp_path)


def test_a_study_file_is_planned_and_run(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "out" / "study.json").read_text()) | {"seeds": [7]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    planned = json.loads(temper("plan", tmp_path / "study.yaml", "--json").stdout)
    assert planned["units"] == 2
    assert [(entry["attack"], entry["units"], entry["each"]["steps"]) for entry in planned["attacks"]] == [(ATTACK, 1, 4)]
    assert planned["usd"] == pytest.approx(sum(entry["usd"] for entry in planned["attacks"]))
    assert planned["flops"] > 0
    assert "2 units" in temper("plan", tmp_path / "study.yaml").stdout
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    result = temper("run", tmp_path / "study.yaml", "--out", tmp_path / "out", "--workers", "0", "--json")
    assert result.exit_code == 0, result.stderr
    run = tempering.open_run(tmp_path / "out")
    assert run.breaks["seed"].tolist() == [7]
    attacked = run.units[run.units["kind"] == "attack"].iloc[0]
    assert attacked["flops"] == pytest.approx(planned["attacks"][0]["each"]["flops"])


def test_streams_of_a_piped_audit(folder: Path) -> None:
    """Standard output holds the document alone; standard error holds our own lines alone, the first before anything is loaded."""
    finished = temper_apart(*toy_arguments(folder), "--out", "piped", "--workers", "1", "--json", folder=folder)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["schema"] == 1
    lines = finished.stderr.splitlines()
    assert lines[0] == f"auditing {folder / 'guarded'} ..."
    assert lines[1] == "3 runs planned"
    assert lines[-1].startswith("3 of 3 runs done in ")
    assert all(line.startswith("[") for line in lines[2:-1]), finished.stderr
    assert "\x1b" not in finished.stderr


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(folder: Path) -> None:
    """A real SIGINT after the first finished unit; resuming gives the rows of an audit that nobody interrupted."""
    command = [*COMMAND, *map(str, toy_arguments(folder, seeds=30)), "--out", "stopped", "--workers", "1"]
    # a suite that runs in the background of a shell has SIGINT ignored, and its children would inherit that
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("[ 1/31]"):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, "".join(lines) + rest
    assert rest.splitlines()[-1] == "interrupted; resume with: temper resume stopped"
    assert "Traceback" not in rest
    done = len([path for path in (folder / "stopped" / "units").iterdir() if not path.name.startswith(".")])
    assert 1 <= done < 31
    resumed = temper("resume", folder / "stopped", "--workers", "0", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.stderr.count("reused") >= done
    whole = tempering.open_run(folder / "stopped")
    two = tempering.open_run(folder / "out")
    columns = ["seed", "probe", "harm", "utility", "tokens", "flops"]
    same = whole.trajectories[whole.trajectories["seed"].isin([0, 1])]
    pd.testing.assert_frame_equal(
        same[columns].sort_values(["seed", "probe"], ignore_index=True),
        two.trajectories[columns].sort_values(["seed", "probe"], ignore_index=True),
    )


def test_ctrl_c_before_anything_is_stored(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(study: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempering.running.validate_study", interrupt)
    result = temper(*toy_arguments(folder), "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1] == "interrupted; nothing was kept"
    assert list(tmp_path.iterdir()) == []
