"""Shell habits: one precedence of settings, how much is said, examples, completion, colours, and exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from support.command_line import COMMAND, error_line, temper, temper_apart, toy_arguments
from tempering import errors
from tempering.cli import app
from tempering.cli_completion import put_together
from tempering.cli_examples import EXAMPLES
from tempering.cli_options import CONSENT

DOCS = Path(__file__).parents[2] / "docs"
ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by what is typed."""
    for name, command in group.commands.items():
        called = f"{above} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, called)
        else:
            yield called, command


COMMANDS = dict(commands())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What an audit would have been asked, which is not run."""
    taken: dict[str, Any] = {}

    def take(model: str, **settings: Any) -> None:
        taken.update(settings, model=model)
        raise errors.InvalidStudy("taken")

    monkeypatch.setattr("tempering.api.make_study", take)
    monkeypatch.chdir(tmp_path)
    return taken


def test_a_file_the_environment_and_flags_in_one_precedence(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("s.yaml").write_text(
        "seeds: 2\nbudget: {steps: 7, flops: 1e15}\nattacks: [prefilling, gcg]\nthreat-model: query-only\ntau: 0.75\n"
    )
    assert "taken" in error_line(temper("audit", "--settings", "s.yaml"))
    assert (asked["seeds"], asked["tau"], asked["model"]) == (2, 0.75, "organism:tiny")
    assert (asked["attacks"], asked["budget"], asked["threat_model"]) == ("prefilling,gcg", "steps=7,flops=1e15", "query-only")
    monkeypatch.setenv("TEMPERING_AUDIT_SEEDS", "3")
    monkeypatch.setenv("TEMPERING_AUDIT_MODEL", "organism:nano")
    monkeypatch.setenv("TEMPERING_BASE_CHECK_SEEDS", "9")
    temper("audit", "--settings", "s.yaml")
    assert (asked["seeds"], asked["tau"], asked["model"]) == (3, 0.75, "organism:nano")
    temper("audit", "--seeds", "4", "organism:small", "--settings", "s.yaml")
    assert (asked["seeds"], asked["tau"], asked["model"]) == (4, 0.75, "organism:small")
    monkeypatch.delenv("TEMPERING_AUDIT_SEEDS")
    monkeypatch.setenv("TEMPERING_AUDIT_SETTINGS", "s.yaml")
    temper("audit")
    assert asked["seeds"] == 2


def test_the_flag_names_a_setting_and_not_what_the_code_calls_it(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.comparison.make_study", lambda model, **settings: asked.update(settings) or 1 / 0)
    monkeypatch.setenv("TEMPERING_COMPARE_UTILITY_FLOOR", "0.5")
    assert isinstance(temper("compare").exception, ZeroDivisionError)
    assert asked["utility_floor"] == 0.5
    monkeypatch.setenv("TEMPERING_LS_JSON", "yes")
    assert json.loads(temper("ls", "models").stdout)
    monkeypatch.setenv("TEMPERING_LS_JSON", "off")
    assert not temper("ls", "models").stdout.startswith("[")


BAD = [
    ("seed: 1\n", {}, "no setting in s.yaml named 'seed'; did you mean 'seeds'?"),
    ("seeds: true\n", {}, "seeds of s.yaml is true; give seeds a value"),
    ("seeds:\n", {}, "seeds of s.yaml is empty; give seeds a value"),
    ("json: maybe\n", {}, "json of s.yaml is 'maybe'; write true or false"),
    ("settings: s.yaml\n", {}, "no setting in s.yaml named 'settings'"),
    ("seeds: 1\nseeds: 2\n", {}, "s.yaml:2: the key 'seeds' stands twice"),
    ("- seeds\n", {}, "s.yaml holds no mapping"),
    ("allow-code: true\n", {}, "allow_code of s.yaml allows what only the command itself can; write --allow-code on the command line"),
    (
        "",
        {"TEMPERING_AUDIT_SEED": "1"},
        "no setting in the environment named 'TEMPERING_AUDIT_SEED'; did you mean 'TEMPERING_AUDIT_SEEDS'?",
    ),
    ("", {"TEMPERING_AUDIT_JSON": "maybe"}, "TEMPERING_AUDIT_JSON of the environment is 'maybe'; write true or false"),
]


@pytest.mark.parametrize(("text", "environment", "line"), BAD)
def test_a_setting_that_is_none_is_one_line(
    text: str, environment: dict[str, str], line: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Path("s.yaml").write_text(text)
    arguments = ["--settings", "s.yaml"] if text else []
    result = temper("audit", *arguments)
    assert line in error_line(result)
    assert result.exit_code == 2
    assert not asked


@pytest.mark.parametrize(
    ("command", "flag"),
    sorted(
        (called, parameter.opts[0])
        for called, command in COMMANDS.items()
        for parameter in command.params
        if getattr(parameter, "rich_help_panel", None) == CONSENT
    ),
)
def test_no_consent_is_given_by_a_file_or_the_environment(command: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    (tmp_path / "s.yaml").write_text(f"{name}: true\n")
    arguments = {"harden": ["--defense", "x", "--out", "y"], "push": ["a", "b"]}.get(command, ["x.yaml"])
    assert f"write {flag} on the command line" in error_line(temper(*command.split(), *arguments, "--settings", tmp_path / "s.yaml"))
    monkeypatch.setenv(f"TEMPERING_{command.upper().replace('-', '_')}_{name.upper()}", "1")
    assert f"write {flag} on the command line" in error_line(temper(*command.split(), *arguments))


def test_every_flag_that_allows_something_is_a_consent() -> None:
    consents = {
        parameter.opts[0]
        for command in COMMANDS.values()
        for parameter in command.params
        if getattr(parameter, "rich_help_panel", 0) == CONSENT
    }
    assert consents == {"--allow-code", "--trust-remote-code", "--keep-weights", "--keep-completions", "--public"}


def test_every_command_has_examples_that_can_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    for called, examples in EXAMPLES.items():
        text = " ".join(temper(*called.split(), "--help").stdout.split())
        assert "Examples" in text, called
        for line, comment in examples:
            words = shlex.split(line)
            shown = next(name for name in COMMANDS if words[1 : 1 + len(name.split())] == name.split())  # another's, where that comes next
            assert line in text
            assert comment in text
            arguments = [word for word in words[1 + len(shown.split()) :] if word not in ("--settings", "audit.yaml")]
            COMMANDS[shown].make_context(shown, arguments, parent=ROOT.make_context("temper", ["ls"]))  # raises where it cannot be parsed


def test_examples_in_help_are_whole_in_a_wide_terminal(tmp_path: Path) -> None:
    finished = temper_apart("push", "--help", folder=tmp_path, COLUMNS="160")
    assert "temper push runs/refat org/model-hardened --dry-run  # what would be sent; asks no network" in finished.stdout


def test_quiet_says_warnings_only_and_verbose_every_probe(tmp_path: Path) -> None:
    arguments = toy_arguments(tmp_path, seeds=1)
    quiet = temper(*arguments, "--workers", "0", "--out", tmp_path / "a", "--quiet", "--json")
    assert quiet.exit_code == 0, quiet.stderr
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["schema"] == 1
    verbose = temper(*arguments, "--workers", "0", "--out", tmp_path / "b", "--verbose", "--json")
    assert len(re.findall(r"Nudge seed 0 at \d+ steps: harm ", verbose.stderr)) >= 2
    assert json.loads(verbose.stdout)["schema"] == 1
    kept = temper(*arguments, "--workers", "0", "--out", tmp_path / "c", "--quiet", "--keep-completions")
    assert [line.partition(":")[0] for line in kept.stderr.splitlines()] == ["warning"]


def test_verbose_says_where_an_error_arose_and_where_settings_come_from(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_AUDIT_TAU", "0.3")
    result = temper("audit", "--verbose")
    assert "info: tau = 0.3, from the environment" in result.stderr
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: taken"
    assert "Traceback" not in temper("audit").stderr  # the next command in this process is as it was


def test_completion_knows_commands_flags_and_names(tmp_path: Path) -> None:
    def completed(*words: str) -> list[str]:
        environment = {"_TEMPER_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["temper", *words]), "COMP_CWORD": str(len(words))}
        return temper_apart(folder=tmp_path, **environment).stdout.split()

    assert completed("base") == ["base-check"]
    assert "--settings" in completed("audit", "--s")
    assert completed("audit", "--attacks", "refusal_ab") == ["refusal_ablation"]
    assert completed("audit", "--attacks", "prefilling,refusal_ab") == ["prefilling,refusal_ablation"]
    assert completed("harden", "--defense", "undo+ref") == ["undo+refat", "undo+refusal_sft"]
    assert completed("run", "--track", "ml") == ["mlflow"]
    assert completed("audit", "--judge", "text+wild") == ["text+wildguard"]
    assert completed("audit", "--evaluator", "lm") == ["lm_eval"]
    assert completed("audit", "--data", "strongreject+alp") == ["strongreject+alpaca"]
    assert completed("audit", "org")[0].startswith("organism:")


@pytest.mark.parametrize(
    ("pieces", "whole", "begun"),
    [
        (["temper", "audit", "organism", ":", "t"], ["temper", "audit", "organism:t"], "organism:"),
        (["temper", "audit", "organism", ":"], ["temper", "audit", "organism:"], "organism:"),
        (["temper", "audit", "organism:t"], ["temper", "audit", "organism:t"], ""),  # COMP_WORDBREAKS without a colon
        (["temper", "--data", "a+organism", ":", "ti"], ["temper", "--data", "a+organism:ti"], "a+organism:"),
        (["temper", "--data", "organism", ":", "tiny", "--se"], ["temper", "--data", "organism:tiny", "--se"], ""),
        (["temper", "--data", "organism", ":", ""], ["temper", "--data", "organism:", ""], ""),
        (["temper", "harden", "--defense", "=", "ref"], ["temper", "harden", "--defense=ref"], ""),
        (["temper", "--data", "=", "organism", ":", "t"], ["temper", "--data=organism:t"], "organism:"),
        (["temper", ""], ["temper", ""], ""),
    ],
)
def test_pieces_become_the_words_that_were_typed(pieces: list[str], whole: list[str], begun: str) -> None:
    assert put_together(pieces) == (whole, len(whole) - 1, begun)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes_behind_a_colon(tmp_path: Path) -> None:
    script = temper_apart("--show-completion", "bash", folder=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    function = re.search(r"-F (\w+) temper", script)
    assert function is not None
    command = f'#!/bin/sh\nexec {sys.executable} -m tempering "$@"\n'
    (tmp_path / "temper").write_text(command)
    (tmp_path / "temper").chmod(0o755)

    def completed(*pieces: str) -> list[str]:
        cursor = f"COMP_WORDS=({shlex.join(pieces)}); COMP_CWORD={len(pieces) - 1}"
        asked = f"{script}\n{cursor}; {function[1]} temper; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        finished = subprocess.run(["bash", "--norc", "-c", asked], env=environment, capture_output=True, text=True, check=True)
        return finished.stdout.split()

    assert completed("temper", "audit", "organism", ":", "t") == ["tiny"]
    assert "tiny" in completed("temper", "audit", "organism", ":")
    assert "organism:tiny" in completed("temper", "audit", "org")
    assert completed("temper", "harden", "--defense", "=", "refat") == ["refat"]
    assert completed("temper", "audit", "--data", "=", "organism", ":", "t") == ["tiny"]


@pytest.mark.parametrize(("shell", "sign"), [("bash", "COMPREPLY"), ("zsh", "#compdef temper"), ("fish", "complete --command temper")])
def test_a_completion_script_is_printed(shell: str, sign: str, tmp_path: Path) -> None:
    # Which shell asks is found out from the process above, which here is whatever started pytest: told instead.
    finished = temper_apart("--show-completion", shell, folder=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert finished.returncode == 0, finished.stderr
    assert sign in finished.stdout


def test_no_color_is_obeyed(tmp_path: Path) -> None:
    coloured = temper_apart("audit", "--help", folder=tmp_path, FORCE_COLOR="1", TERM="xterm-256color")
    plain = temper_apart("audit", "--help", folder=tmp_path, FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1")
    colours = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    assert colours.search(coloured.stdout)
    assert not colours.search(plain.stdout)
    listed = temper_apart("ls", "models", folder=tmp_path, NO_COLOR="1")
    assert "\x1b" not in listed.stdout


def documented() -> dict[int, str]:
    """The exit codes of the documentation."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    return {int(code): meaning for code, meaning in rows}


def test_exit_codes_are_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = documented()
    every = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TemperingError)}
    assert every | {0, 1, 130} == set(codes)
    assert temper("--version").exit_code == 0
    assert temper("ls", "nonsense").exit_code == 2
    assert temper("validate", "none.yaml").exit_code == 2
    assert temper("push", tmp_path, "a/b").exit_code == 2
    assert temper("resume", tmp_path).exit_code == 3
    monkeypatch.setattr("tempering.api.list_models", lambda: 1 / 0)
    assert isinstance(temper("ls", "models").exception, ZeroDivisionError)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempering.api.list_models", interrupt)
    assert temper("ls", "models").exit_code == 130


def test_a_defect_exits_with_one_and_its_traceback(tmp_path: Path) -> None:
    program = "import sys, tempering.api\ntempering.api.list_models = lambda: 1 / 0\nfrom tempering.cli import main\n"
    program += "sys.argv = ['temper', 'ls', 'models']\nmain()\n"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "ZeroDivisionError" in finished.stderr


def test_results_go_to_standard_output_and_all_else_to_standard_error(tmp_path: Path) -> None:
    finished = subprocess.run(
        [*COMMAND, "validate", "none.yaml"], capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "TERM": "dumb"}
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("error: ")
