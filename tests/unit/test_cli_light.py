"""Commands that load no model: help, version, lists, validation, and what is said of bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import COMMAND, error_line, temper
from support.toy_study import ATTACK
from tempering import __version__, organisms, registry

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_version() -> None:
    result = temper("--version")
    assert (result.exit_code, result.stdout) == (0, f"temper {__version__}\n")


def test_help_names_every_command_and_gives_examples() -> None:
    text = temper("--help").stdout
    for word in ("audit", "run", "resume", "report", "export", "card", "plan", "validate", "ls", "organism", "Examples"):
        assert word in text
    for flag in ("--data", "--attacks", "--seeds", "--budget", "--tau", "--epsilon", "--out", "--json", "--chat-template", "--unguarded"):
        assert flag in temper("audit", "--help").stdout
    assert "build" in temper("organism", "--help").stdout


def test_help_and_lists_of_models_do_without_torch() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tempering.cli import app\n"
        "for arguments in (['--help'], ['--version'], ['audit', '--help'], ['ls', 'models']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "import tempering\nassert 'audit' in dir(tempering)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("kind", sorted(registry.KINDS))
def test_methods_are_listed_by_their_registry_names(kind: str) -> None:
    listed = json.loads(temper("ls", kind, "--json").stdout)
    assert [row["name"] for row in listed] == registry.names(kind)
    assert all(list(row) == ["name", "summary", "source", "needs"] for row in listed)
    assert all(row["summary"] and row["source"] for row in listed)
    shown = temper("ls", kind).stdout
    assert all(row["name"] in shown for row in listed)


def test_models_are_listed_with_their_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path))
    name = organisms.OrganismName("small", "base")
    states = {row["name"]: row["state"] for row in json.loads(temper("ls", "models", "--json").stdout)}
    assert states[name.reference] == "not built"
    organisms.cached_location(name).mkdir(parents=True)
    (organisms.cached_location(name) / "config.json").write_text("{}")
    states = {row["name"]: row["state"] for row in json.loads(temper("ls", "models", "--json").stdout)}
    assert states[name.reference] == "built"
    assert set(states) == {
        organisms.OrganismName(size, variant).reference for size, about in organisms.SIZES.items() for variant in about.variants
    }


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    result = temper("validate", path)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"is valid: \d+ models? × (\d+ defences? and none × )?\d+ attacks? × \d+ seeds?", result.stdout)


BAD_STUDIES = [
    ("attacks: [refusal_ablation]\nmodels: [organism:tiny]\nseed: 3\n", "study.yaml:3: unknown key 'seed'; did you mean 'seeds'?"),
    ("attacks: [refusal_ablatoin]\nmodels: [organism:tiny]\n", "no attack named 'refusal_ablatoin'; did you mean 'refusal_ablation'?"),
    ("attacks: [{name: refusal_ablation, config: {nonsense: 1}}]\nmodels: [organism:tiny]\n", "setting 'nonsense'"),
    ("attacks: [refusal_ablation]\nmodels: [organism:tniy]\n", "no organism named 'tniy'; did you mean 'tiny'?"),
    ("attacks: [refusal_ablation]\nmodels: [organism:tiny/bse]\n", "did you mean 'base'?"),
    ("attacks: [refusal_ablation]\nmodels: [./no-such-model]\n", "no model at './no-such-model'"),
    ("attacks: [refusal_ablation]\nmodels: [org/name]\n", "no data to audit org/name with"),
    ("attacks: [refusal_ablation]\nmodels: [organism:tiny]\ndata: {reference: none.jsonl}\n", "none.jsonl"),
    ("attacks: [refusal_ablation]\nmodels: [organism:tiny]\naccelerator: H1000\n", "no accelerator named 'H1000'"),
    ("attacks: [refusal_ablation]\nmodels: [organism:tiny]\nprice_book: none.yaml\n", "cannot read the price book none.yaml"),
    (
        "attacks: [refusal_ablation]\nmodels: [organism:tiny]\nprobes: {evaluators: [harms]}\n",
        "no evaluator named 'harms'; did you mean 'harm'?",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD_STUDIES)
@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_a_bad_study_gets_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(organisms.catalogue, "cache_directory", lambda: tmp_path / "none")
    (tmp_path / "study.yaml").write_text(text)
    result = temper(command, "study.yaml")
    assert expected in error_line(result)
    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


BAD_ARGUMENTS = [
    (["--budget", "steps=0"], "--budget: the budget 'steps=0' is not usable: steps: Input should be greater than 0"),
    (["--budget", "minutes=3"], "--budget: cannot read the budget 'minutes=3'; write name=number, with a name out of steps"),
    (["--tau", "0"], "--tau 0.0: it should be greater than or equal to 0.001"),
    (["--tau", "1.5"], "--tau 1.5: it should be less than or equal to 1"),
    (["--tau", "1e-9"], "--tau 1e-09: it should be greater than or equal to 0.001"),
    (["--epsilon", "1"], "--epsilon 1.0: it should be less than 1"),
    (["--tau", "nan"], "--tau nan: it should be"),
    (["--seeds", "0"], "--seeds 0: give at least one seed"),
    (["--seeds", "-1"], "--seeds -1: give at least one seed"),
    (["--prompts", "0"], "--prompts 0: it should be greater than 0"),
    (["--dtype", "bf16"], "--dtype bf16: it should be 'float32', 'bfloat16' or 'float16'"),
    (["--accelerator", "H1000"], "no accelerator named 'H1000'"),
    (["--price-book", "none.yaml"], "cannot read the price book none.yaml: No such file or directory"),
    (["--attacks", "refusal_ablatoin"], "no attack named 'refusal_ablatoin'; did you mean 'refusal_ablation'?"),
    (["--attacks", " , "], "--attacks names no attack; write quick, all, or names separated by commas"),
    (["--attacks", "mine.py:Mine"], "no file mine.py for the attack"),
    (["--data", "none.jsonl"], "none.jsonl"),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD_ARGUMENTS)
def test_a_bad_flag_gets_one_line_that_names_it_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments if "--attacks" in arguments else [*arguments, "--attacks", ATTACK]
    result = temper("audit", *given, "--out", "out")
    assert expected in error_line(result)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["resume", "none"], 3, "none holds no run"),
        (["report", "none"], 3, "none holds no run"),
        (["report", "."], 3, ". holds no run"),
        (["validate", "none.yaml"], 2, "cannot read the study none.yaml: No such file or directory"),
        (["organism", "build", "tniy"], 2, "no organism named 'tniy'; did you mean 'tiny'?"),
        (["organism", "build", "tiny", "--variant", "bse"], 2, "no variant of organism:tiny named 'bse'; did you mean 'base'?"),
        (["organism", "build", "tiny/base", "--variant", "base"], 2, "'tiny/base' names a variant already"),
        (["organism", "build", "nano", "--source", "here"], 2, "nano is grown from nothing; leave --source out"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = temper(*arguments)
    assert expected in error_line(result)
    assert result.exit_code == code
    assert list(tmp_path.iterdir()) == []


def test_a_plan_grows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "study.yaml").write_text("models: [organism:small]\nattacks: [refusal_ablation]\n")
    assert "organism:small has not been built on this machine yet; build it: temper organism build small" in error_line(
        temper("plan", tmp_path / "study.yaml")
    )
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("arguments", [["ls", "atacks"], ["audit", "--seeds", "many"], ["audit", "--workers", "-1"], ["adit"], ["ls"]])
def test_what_is_no_command_exits_with_two(arguments: list[str]) -> None:
    result = temper(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        finished = subprocess.run([*COMMAND, "ls", "models", "--json"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert finished.stderr == ""
