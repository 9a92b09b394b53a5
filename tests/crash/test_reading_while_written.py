"""Whoever reads a run that another process is computing, or a report that is written anew, is told one thing, whole, or one line."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command_line import error_line, temper
from support.toy_study import toy_study
from tempering import rereading
from tempering.engine.plan import make_plan
from tempering.engine.run import drive
from tempering.engine.store import COMMIT_STAGES, RunStore
from tempering.errors import StoreProblem
from tempering.report import checksums, tables, write
from tempering.result import Run
from tempering.running import make_report, open_run
from tempering.study import Budget, ProbeSettings, Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # on a busy machine; alone it takes a quarter of a minute

CLOCKS = ["wall_s", "device_seconds", "search_device_seconds"]
LITTLE: dict[str, Any] = {
    "budget": Budget(steps=2),
    "probes": ProbeSettings(prompts=2, max_new_tokens=2, evaluators=("harm", "utility")),
}
DRIVER = """
import sys
from pathlib import Path
from test_reading_while_written import small
from tempering.engine.plan import make_plan
from tempering.engine.run import execute

def told(event):
    if event.kind == "unit_finished":
        print(event.done, flush=True)
        sys.stdin.readline()

execute(make_plan(small(Path(sys.argv[1]))), sys.argv[2], workers=0, on_event=told)
"""
"""Computes a study, and after every unit says so and waits for a line."""


def small(folder: Path) -> Study:
    return toy_study(folder, {"steps": 2}, seeds=3, **LITTLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read")
    small(folder)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A run with its report at the study's own threshold."""
    directory = folder / "finished"
    drive(make_plan(small(folder)), RunStore(directory), workers=0)
    make_report(directory)
    return directory


def rows(store: RunStore) -> dict[str, list[str]]:
    """What the tables hold of every unit, without clocks, as text."""
    found: dict[str, list[str]] = {}
    read = store.tables()
    for frame in (read.units, read.trajectories):
        for unit, own in frame.drop(columns=[clock for clock in CLOCKS if clock in frame]).groupby("unit"):
            found.setdefault(str(unit), []).append(own.to_json(orient="records", double_precision=15))
    return found


def test_at_every_moment_of_a_run_a_reader_has_the_units_that_are_done_whole(
    folder: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory, seen = tmp_path / "run", []
    truth = rows(RunStore(finished))

    def look(moment: str) -> None:
        found = rows(RunStore(directory))
        assert found == {unit: truth[unit] for unit in found}
        if found:
            assert set(rereading.reread_run(directory).tables.units["unit"]) == set(found)
        else:
            with pytest.raises(StoreProblem, match=r"^no unit of the run in .* is done; compute them with: temper resume"):
                rereading.reread_run(directory)
        seen.append((moment, len(found)))

    with caplog.at_level(logging.WARNING):
        drive(make_plan(small(folder)), RunStore(directory, reached=look), workers=0)
    assert [moment for moment, _ in seen] == [*COMMIT_STAGES] * 4
    placed = COMMIT_STAGES.index("in place")
    assert [count for _, count in seen] == [unit + (stage >= placed) for unit in range(4) for stage in range(len(COMMIT_STAGES))]
    assert caplog.messages == []


@pytest.fixture
def driver(folder: Path, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A process that computes; called, it goes on to the end of its next unit, and says how many are done."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), str(tmp_path / "run")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        begun = [False]

        def step() -> str:
            if begun[0]:
                process.stdin.write("\n")
                process.stdin.flush()
            begun[0] = True
            return process.stdout.readline().strip()

        yield step
        process.kill()


def test_a_report_of_a_run_that_another_process_computes_says_that_it_is_unfinished(driver: Callable[[], str], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert "holds no run" in error_line(temper("report", directory))
    assert driver() == "1"
    with pytest.raises(StoreProblem, match="has no report yet; finish it with: temper resume"):
        open_run(directory)
    assert temper("report", directory).exit_code == 0
    first = open_run(directory)
    assert len(first.units) == first.breaks["unit"].nunique() == 1
    assert "This report was written before the study was done" in (directory / "report.html").read_text(encoding="utf-8")
    assert driver() == "2"
    assert len(open_run(directory).units) == 1  # as its report shows it
    assert temper("report", directory, "--json").exit_code == 0
    assert len(open_run(directory).units) == 2
    assert error_line(temper("resume", directory)).startswith("error: another process is writing to")
    assert driver() == "3"
    assert driver() == "4"


def shows(run: Run) -> str:
    """Which of the reports this is; each part of it has to say the same."""
    tau = run.summary["threshold"]["tau"]
    assert run.study.threshold.tau == tau
    expected = {0.5: "broken", 0.9: "held"}[tau]
    assert set(run.breaks["outcome"]) == {expected}
    assert run.prices[expected].tolist() == run.prices["trials"].tolist()
    assert run.summary["threshold"]["tau"] == tau
    return expected


@pytest.fixture
def between(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of which the reports at τ = 0.5 and 0.9 differ in everything: its attacks recover 0.7."""
    real = rereading.RunStore.tables

    def made_up(self: RunStore, plan: Any = None) -> Any:
        found = real(self, plan)
        found.trajectories["harm"] = found.trajectories["harm"].where(
            found.units.set_index("unit").loc[found.trajectories["unit"], "kind"].eq("reference").to_numpy(), 0.7
        )
        found.trajectories.loc[found.trajectories["probe"] == 0, "harm"] = 0.0
        found.trajectories["utility"] = 1.0
        return found

    monkeypatch.setattr(rereading.RunStore, "tables", made_up)
    monkeypatch.setattr(checksums, "PAUSE_S", 0.0)
    monkeypatch.setattr(write, "draw_all", lambda *rest: [])  # pictures take seconds, and are read by nobody here
    monkeypatch.setattr(write, "SECTIONS", ())
    make_report(finished, tau=0.5)
    return finished


def test_while_a_report_is_written_anew_it_is_the_old_one_or_the_new_one_or_a_line(between: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shows(open_run(between)) == "broken"
    seen: list[str] = []
    told: list[str] = []

    def looking(real: Callable[..., None]) -> Callable[..., None]:
        def put(path: Path, content: bytes) -> None:
            for moment in (lambda: None, lambda: real(path, content)):
                moment()
                seen.append(opened())

        return put

    def opened() -> str:
        try:
            return shows(open_run(between))
        except StoreProblem as problem:
            told.append(str(problem))
            return ""

    for module in (write, tables, checksums):
        monkeypatch.setattr(module, "replace_file", looking(module.replace_file))
    make_report(between, tau=0.9)
    assert seen[0] == "broken"
    assert seen[-1] == "held"
    shown = [what for what in seen if what]
    assert shown == sorted(shown)  # never the old one again
    assert all("is damaged: " in line and "; write it anew with: temper report" in line for line in told)


def test_a_report_written_while_it_is_read_is_read_again(between: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, times = rereading.read_tables, [0]

    def interrupted(directory: Path) -> Any:
        times[0] += 1
        if times[0] == 1:
            make_report(between, tau=0.9)
        return real(directory)

    monkeypatch.setattr(rereading, "read_tables", interrupted)
    assert shows(open_run(between)) == "held"
    assert times == [2]


def test_one_process_at_a_time_writes_a_report(between: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, held = write.replace_file, []

    def is_held() -> bool:
        handle = os.open(between / "tables", os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def looking(path: Path, content: bytes) -> None:
        held.append(is_held())
        real(path, content)

    for module in (write, tables, checksums):
        monkeypatch.setattr(module, "replace_file", looking)
    make_report(between, tau=0.9)
    assert len(held) > 5
    assert all(held)
    assert not is_held()


def test_a_file_system_that_knows_no_such_lock_goes_without(between: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(handle: int, operation: int) -> None:
        raise OSError(9, os.strerror(9))

    monkeypatch.setattr(checksums.fcntl, "flock", unknown)
    make_report(between, tau=0.9)
    assert shows(open_run(between)) == "held"
    assert json.loads((between / "summary.json").read_bytes())["threshold"]["tau"] == 0.9
