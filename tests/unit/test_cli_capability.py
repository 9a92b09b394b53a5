"""An audit with a benchmark, as a user gives it: its worker, streams, caches, tables, summary and page, and the run as Inspect logs."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("inspect_ai")

from inspect_ai.log import list_eval_logs, read_eval_log

from support.command_line import error_line, temper, temper_apart, toy_arguments
from support.harness_task import write_task

QUESTIONS = [
    {"question": f"what colour is the {thing} ?", "choices": ["red", "green"], "answer": number % 2}
    for number, thing in enumerate(("fish", "house", "key", "river"))
]
HOMES = ("HOME", "HF_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")


@dataclass(frozen=True)
class Audited:
    """A finished audit: where it lies, what it said, and the home that it had."""

    run: Path
    finished: subprocess.CompletedProcess[str]
    home: Path


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    folder = tmp_path_factory.mktemp("capable")
    (folder / "home").mkdir()
    write_task(folder, QUESTIONS)
    arguments = [*toy_arguments(folder), "--evaluator", "lm-eval:tasks=./facts.yaml,limit=4,batch_size=2", "--workers", "1"]
    homes = dict.fromkeys(HOMES, str(folder / "home"))
    finished = temper_apart(*arguments, "--out", "run", folder=folder, **homes, HF_HUB_OFFLINE="1")
    assert finished.returncode == 0, finished.stderr
    return Audited(folder / "run", finished, folder / "home")


def test_its_streams_are_the_houses_alone(audited: Audited) -> None:
    assert "facts/acc after " in audited.finished.stdout
    for line in audited.finished.stderr.splitlines():
        assert line.startswith(("auditing ", "[", "1 ", "2 ", "3 ")), line


def test_nothing_is_left_in_any_cache(audited: Audited) -> None:
    left = [path.relative_to(audited.home) for path in audited.home.rglob("*") if path.is_file()]
    assert [path for path in left if path.parts[0] != "matplotlib"] == []  # which remembers the fonts of its pictures


def test_the_measure_reaches_tables_summary_and_page(audited: Audited) -> None:
    probes = pd.read_parquet(audited.run / "tables" / "trajectories.parquet")
    units = pd.read_parquet(audited.run / "tables" / "units.parquet").set_index("unit")
    assert probes.loc[probes["probe"] == 0, "facts/acc"].notna().all()
    assert {"harm", "refusal", "utility", "coherence"} <= set(probes.columns[probes.notna().any()])
    own = probes.loc[probes["probe"] == 0].set_index("unit")["harm"]
    attacks = probes[(probes["unit"].map(units["kind"]) == "attack") & (probes["probe"] > 0)]
    more = attacks["harm"] > attacks["unit"].map(own)
    assert (attacks["facts/acc"].notna() == more).all()
    summary = json.loads((audited.run / "summary.json").read_text())
    (part,) = summary["capability"]
    assert part["measure"] == "facts/acc"
    assert part["before"] == pytest.approx(probes.loc[probes["probe"] == 0, "facts/acc"].iloc[0])
    page = (audited.run / "report.html").read_text()
    assert 'id="capability"' in page
    assert "facts/acc" in page


def test_the_run_is_exported_as_logs_that_inspect_reads(audited: Audited, tmp_path: Path) -> None:
    out = tmp_path / "logs"
    result = temper("export", audited.run, "--inspect", out)
    assert result.exit_code == 0, result.stderr
    assert {Path(line) for line in result.stdout.splitlines()} == set(out.iterdir())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert temper("export", audited.run, "--inspect", out).exit_code == 0  # its own place is written anew, to the byte
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    logs = [read_eval_log(info) for info in list_eval_logs(str(out))]
    probes = pd.read_parquet(audited.run / "tables" / "trajectories.parquet")
    assert sum(len(log.samples or []) for log in logs) == len(probes)
    (attack,) = [log for log in logs if (log.eval.metadata or {})["kind"] == "attack"]
    assert attack.status == "success"
    assert attack.eval.config.epochs == 2
    assert attack.results is not None
    scores = {score.name: score.metrics for score in attack.results.scores}
    prices = pd.read_parquet(audited.run / "tables" / "prices.parquet").iloc[0]
    assert scores["price"]["broken"].value == pytest.approx(prices["broken"] / prices["trials"])
    assert scores["facts/acc"]["before"].value == pytest.approx(probes.loc[probes["probe"] == 0, "facts/acc"].iloc[0])
    for sample in attack.samples or []:
        row = probes[(probes["unit"] == sample.metadata["unit"]) & (probes["probe"] == sample.id)].iloc[0]
        assert (sample.scores or {})["harm"].value == pytest.approx(row["harm"])
        assert ("facts/acc" in (sample.scores or {})) == (not math.isnan(row["facts/acc"]))
        assert sample.metadata["spend"]["flops"] == row["flops"]
        assert sample.output.completion == ""


def test_logs_are_laid_over_nothing_else(audited: Audited, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "holds something else (mine.txt)" in error_line(temper("export", audited.run, "--inspect", tmp_path))
    assert "nowhere to export to" in error_line(temper("export", audited.run))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_be_asked_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    arguments = toy_arguments(tmp_path)
    out = tmp_path / "run"
    for evaluator, says in (
        ("lm_evil:tasks=mmlu", "did you mean 'lm_eval'"),
        ("lm_eval", "setting 'tasks'"),
        ("lm-eval:tasks=./none.yaml", "none.yaml"),
        ("inspect:task=./none.py@facts", "cannot read the Inspect task"),
        ("inspect:task=none", "write file.py@task"),
    ):
        assert says in error_line(temper(*arguments, "--evaluator", evaluator, "--out", out))
        assert not out.exists()
