"""torture/mutations.py and the order of torture/__main__.py: nothing of a long trial is lost with a mutation that tells nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from torture import __main__ as torture
from torture import mutations
from torture.mutations import Unfit, _marked, caught, ended
from torture.promise import Mutation, Promise, Tally

MUTATION = Mutation("errors.py", "class TemperingError", "class TemperingError", "nothing")


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    tally.count(True)


def promise(*found: Mutation) -> Promise:
    return Promise("made-up", "Nothing lost", "It holds.", attempt, found)


def python(program: str, patience: float = 60.0) -> tuple[int | None, str, str]:
    return ended([sys.executable, "-c", program], dict(os.environ), patience)


@pytest.mark.parametrize(
    ("came_of_it", "found"),
    [
        ((-9, "", ""), True),
        ((None, "", ""), True),
        ((0, "", ""), False),
        ((1, json.dumps({"promises": [{"failures": 3}]}), ""), True),
        ((1, json.dumps({"promises": [{"failures": 0}]}), ""), False),
    ],
)
def test_a_process_that_a_signal_ended_or_that_hangs_has_found_the_fault(
    came_of_it: tuple[int | None, str, str], found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations, "ended", lambda *arguments: came_of_it)
    assert caught(promise(MUTATION), MUTATION, tmp_path) is found


def test_one_that_ends_by_itself_without_figures_has_found_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "ended", lambda *arguments: (1, "", "ModuleNotFoundError: No module named 'atheris'\n"))
    with pytest.raises(Unfit, match="trying made-up ended with 1 and no figures: ModuleNotFoundError"):
        caught(promise(MUTATION), MUTATION, tmp_path)


@pytest.mark.parametrize(("file", "says"), [("gone.py", "there is no such file"), ("errors.py", "stands there 0 times")])
def test_a_fault_that_does_not_fit_is_said_to(file: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=says):
        caught(promise(), Mutation(file, "such a text stands nowhere", "", "nothing"), tmp_path)


def test_what_a_command_wrote_is_given_back() -> None:
    assert python("import sys; print('a'); sys.exit('b')") == (1, "a\n", "b\n")


GRANDCHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session={session})
print(child.pid, flush=True)
time.sleep({seconds})
"""


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize(("seconds", "patience", "code"), [(600, 2.0, None), (0, 60.0, 0)])
def test_nothing_that_it_started_outlives_a_command(session: bool, seconds: int, patience: float, code: int | None) -> None:
    ended_with, out, _ = python(GRANDCHILD.format(session=session, seconds=seconds), patience)
    assert ended_with == code
    state = Path(f"/proc/{int(out)}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_processes_are_found_by_their_mark() -> None:
    with subprocess.Popen(["sleep", "600"], env={**os.environ, mutations.MARK: "mine"}) as process:
        try:
            # Popen returns when the command begins to take the process over; it shows its environment a moment later.
            while process.poll() is None and not Path(f"/proc/{process.pid}/environ").read_bytes():
                time.sleep(0.01)
            assert process.pid in _marked("mine")
            assert process.pid not in _marked("another's")
        finally:
            process.kill()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``main`` with two promises of which the first has a mutation that tells nothing; what it writes goes here."""
    unfit = Mutation("errors.py", "such a text stands nowhere", "", "a text that is gone")
    promises = [promise(unfit, MUTATION), Promise("the-next", "Nothing lost", "It holds too.", attempt, (MUTATION,))]
    monkeypatch.setattr(torture, "all_promises", lambda: promises)
    monkeypatch.setattr(torture, "DOCS", tmp_path)
    return tmp_path / "reliability.json"


def test_a_mutation_that_tells_nothing_is_a_failure_and_the_rest_is_tried(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing: list[dict[str, Any]] = []

    def tried(promise: Promise, mutation: Mutation, folder: Path) -> bool:
        standing.append({row["promise"]: row for row in json.loads(written.read_text())["promises"]})
        return caught(promise, mutation, folder)

    monkeypatch.setattr(mutations, "ended", lambda *arguments: (-11, "", ""))
    monkeypatch.setattr(torture, "caught", tried)
    monkeypatch.setattr(sys, "argv", ["torture", "--mutations"])
    assert torture.main() == 1
    first, second = json.loads(written.read_text())["promises"]
    assert [mutation["caught"] for mutation in first["mutations"]] == [False, True]
    assert "stands there 0 times" in first["mutations"][0]["why"]
    assert [mutation["caught"] for mutation in second["mutations"]] == [True]
    assert [set(rows) for rows in standing] == [
        {"made-up"},
        {"made-up"},
        {"made-up", "the-next"},
    ]  # the trials stand before their mutations
    assert standing[0]["made-up"]["trials"] == 1
    assert "stands there 0 times" in written.with_suffix(".md").read_text()


def test_whatever_trying_a_mutation_raises_the_rest_is_tried(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> bool:
        raise OSError("No space left on device")

    monkeypatch.setattr(torture, "caught", full)
    monkeypatch.setattr(sys, "argv", ["torture", "--mutations"])
    assert torture.main() == 1
    rows = json.loads(written.read_text())["promises"]
    assert [mutation["why"] for row in rows for mutation in row["mutations"]] == ["OSError: No space left on device"] * 3


def test_the_short_forms_leave_how_long_they_took_and_no_other_figures(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["torture", "--short", "--only", "the-next"])
    assert torture.main() == 0
    assert not written.exists()  # of one alone there is nothing to tell
    monkeypatch.setattr(sys, "argv", ["torture", "--short"])
    assert torture.main() == 0
    content = json.loads(written.read_text())
    assert content["promises"] == []
    assert (content["short"]["promises"], content["short"]["failures"]) == (2, 0)
    monkeypatch.setattr(sys, "argv", ["torture", "--only", "the-next"])
    assert torture.main() == 0
    content = json.loads(written.read_text())
    assert [row["promise"] for row in content["promises"]] == ["the-next"]
    assert content["short"]["promises"] == 2  # stays
