"""Folders that replace others, where the process was killed between the two renames: the old one comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tempering.engine.store import RunStore
from tempering.errors import StoreProblem
from tempering.models import saving
from tempering.partial import sweep
from tempering.report import folder as report_folder
from tempering.report.folder import write_folder


class Killed(BaseException):
    """In place of a signal: nothing after it is done."""


def make(directory: Path, content: str) -> None:
    saving.put(directory, lambda aside: (aside / "file").write_text(content) and None, replace=True)


def interrupted(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a directory, and be killed when the old one has been moved away."""
    rename = os.replace

    def killed(source: Path, destination: Path) -> None:
        if Path(source).name == "model":
            raise Killed
        rename(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(saving.os, "replace", killed)
        patch.setattr(saving.shutil, "rmtree", lambda *arguments, **more: None)
        with pytest.raises(Killed):
            make(directory, "new")
    assert not directory.exists()


def test_the_next_writer_puts_the_old_one_back_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "it", "old")
    interrupted(tmp_path / "it", monkeypatch)
    with pytest.raises(StoreProblem, match="exists already"):
        saving.put(tmp_path / "it", lambda aside: None)
    assert (tmp_path / "it" / "file").read_text() == "old"
    make(tmp_path / "it", "new")
    assert (tmp_path / "it" / "file").read_text() == "new"


def test_a_sweep_puts_it_back_and_removes_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.b", "c"):
        make(tmp_path / name, f"old {name}")
        interrupted(tmp_path / name, monkeypatch)
    sweep(tmp_path, "c")
    assert not (tmp_path / "a.b").exists()
    sweep(tmp_path)
    assert {path.name: (path / "file").read_text() for path in tmp_path.iterdir()} == {"a.b": "old a.b", "c": "old c"}


@pytest.mark.parametrize("name", ["kept", "models"])
def test_the_next_driver_of_a_run_puts_back_what_was_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / name / "unit", "old")
    interrupted(tmp_path / name / "unit", monkeypatch)
    RunStore(tmp_path)._sweep()
    assert [path.name for path in (tmp_path / name).iterdir()] == ["unit"]
    assert (tmp_path / name / "unit" / "file").read_text() == "old"


def test_one_that_is_in_its_place_is_not_replaced_by_an_older(tmp_path: Path) -> None:
    make(tmp_path / "model", "new")
    (tmp_path / ".model.abcdefgh.partial" / "replaced").mkdir(parents=True)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "new"


KILL = """
import os, sys
from pathlib import Path
from tempering.report import folder
out, moment = Path(sys.argv[1]), int(sys.argv[2])
rename, calls = Path.rename, []
def counted(self, to):
    calls.append(1)
    if len(calls) == moment:
        os._exit(9)
    return rename(self, to)
Path.rename = counted
folder.write_folder(out, {"a": b"new"}, earlier=["a"])
"""


@pytest.mark.parametrize("moment", [1, 2])
def test_an_export_that_was_killed_leaves_nothing_for_good(moment: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, {"a": b"old"}, earlier=None)
    finished = subprocess.run(
        [sys.executable, "-c", KILL, str(out), str(moment)], check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert finished.returncode == 9
    assert out.exists() == (moment == 1)
    with pytest.raises(StoreProblem, match="holds something else"):
        write_folder(out, {"a": b"other"}, earlier=None)
    assert (out / "a").read_bytes() == b"old", "what stood there came back before anything else"
    write_folder(out, {"a": b"newer"}, earlier=["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "a").read_bytes() == b"newer"


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f".out.{os.getppid()}.tmp"
    other.mkdir()
    write_folder(tmp_path / "out", {"a": b""}, earlier=None)
    assert other.is_dir()
    assert not report_folder._is_alive(2**22 + 12345)
