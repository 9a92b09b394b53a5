"""Runs a toy study many times over, kills it in many ways, and prints what it saw as one JSON document.

Imports and planning take seconds, so this process does them once and forks a driver for every run. It never computes
itself: a process that has run threads must not fork.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from support.toy_study import toy_comparison, toy_study
from tempering.engine.events import Event
from tempering.engine.plan import make_plan
from tempering.engine.run import drive
from tempering.engine.store import COMMIT_STAGES, RunStore
from tempering.engine.units import Plan
from tempering.errors import StoreProblem

CLOCKS = ["wall_s", "device_seconds", "search_device_seconds"]


class Driver:
    """One forked driver process, whose events can be read."""

    def __init__(self, body: Callable[[Callable[[Event], None]], None]) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._reader)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                body(lambda event: os.write(writer, f"{event.kind}\n".encode()) and None)
                code = 0
            except KeyboardInterrupt:
                code = 130
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        self._rest = b""

    def wait_for(self, kind: str, times: int, limit: float = 300) -> None:
        seen, end = 0, time.monotonic() + limit
        while seen < times:
            if not select.select([self._reader], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(kind)
            content = os.read(self._reader, 4096)
            if not content:
                raise RuntimeError(f"the driver ended before {times} events {kind}")
            *lines, self._rest = (self._rest + content).split(b"\n")
            seen += lines.count(kind.encode())

    def end(self) -> int:
        """Its exit status; minus the signal where one killed it."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._reader)
        return status


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def gone(pids: list[int], limit: float = 10) -> bool:
    end = time.monotonic() + limit
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def run(plan: Plan, store: RunStore, workers: int) -> Driver:
    return Driver(lambda on_event: drive(plan, store, workers=workers, on_event=on_event) and None)


def rows(directory: Path) -> dict[str, Any]:
    """Both tables without clocks, and what else lies in the directory."""
    tables = RunStore(directory).tables()
    assert tables.trials is not None
    return {
        "trials": tables.trials.drop(columns=["device_seconds", "break_device_seconds", "check_device_seconds"]).to_dict("split"),
        "units": tables.units.drop(columns=CLOCKS).to_dict("split"),
        "trajectories": tables.trajectories.drop(columns=CLOCKS[1:2]).to_dict("split"),
        "leftovers": sorted(path.name for path in directory.rglob(".*") if path.name != ".lock"),
    }


def suicide_at(stage: str, commit: int) -> Callable[[str], None]:
    """A hook for the store that kills the process when a commit reaches a stage."""
    seen = 0

    def reached(moment: str) -> None:
        nonlocal seen
        seen += moment == stage
        if seen == commit:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def killed_in_commits(plan: Plan, directory: Path) -> dict[str, Any]:
    """One run that is killed at every stage of a commit, one after the other, and then finished."""
    ends = [run(plan, RunStore(directory, reached=suicide_at(stage, 2)), 0).end() for stage in COMMIT_STAGES]
    ends.append(run(plan, RunStore(directory), 0).end())
    return {"ends": ends, **rows(directory)}


def killed_in_attacks(plan: Plan, directory: Path) -> dict[str, Any]:
    """One run that is killed in the middle of several units, and then finished."""
    ends, done = [], []
    for probes in (2, 7, 13):
        driver = run(plan, RunStore(directory), 0)
        driver.wait_for("probe", probes)
        os.kill(driver.pid, signal.SIGKILL)
        ends.append(driver.end())
        done.append(len(RunStore(directory).tables().units))
    ends.append(run(plan, RunStore(directory), 0).end())
    return {"ends": ends, "done": done, **rows(directory)}


def killed_in_searches(plan: Plan, directory: Path) -> dict[str, Any]:
    """One run that is killed in the middle of two searches, the second time in a worker's, and then finished."""
    ends = []
    for workers, trials in ((0, 2), (1, 4)):
        driver = run(plan, RunStore(directory), workers)
        driver.wait_for("trial", trials)
        os.kill(driver.pid, signal.SIGKILL)
        ends.append(driver.end())
    ends.append(run(plan, RunStore(directory), 0).end())
    return {"ends": ends, **rows(directory)}


def killed_in_hardenings(plan: Plan, directory: Path, marker: Path) -> dict[str, Any]:
    """One comparison that dies in the middle of a hardening, is killed in another one of a worker, and is then finished."""
    ends = [run(plan, RunStore(directory), 0).end()]
    facts: dict[str, Any] = {"died at": marker.exists(), "done": len(RunStore(directory).tables().units)}
    driver = run(plan, RunStore(directory), 1)
    driver.wait_for("training", 2)
    workers = children(driver.pid)
    os.kill(driver.pid, signal.SIGKILL)
    ends.append(driver.end())
    facts["gone"] = gone(workers)
    ends.append(run(plan, RunStore(directory), 2).end())
    models = sorted(path.name for path in (directory / "models").iterdir())
    return {**facts, "ends": ends, "models": models, **rows(directory)}


def pooled(plan: Plan, directory: Path) -> dict[str, Any]:
    """One run with worker processes: interrupted from the keyboard, killed, and then finished."""
    facts: dict[str, Any] = {}
    for name, sent in (("interrupted", signal.SIGINT), ("killed", signal.SIGKILL)):
        driver = run(plan, RunStore(directory), 2)
        driver.wait_for("unit_finished", 2)
        workers = children(driver.pid)
        try:
            with RunStore(directory).driving(plan):
                facts["second driver"] = "let in"
        except StoreProblem as problem:
            facts["second driver"] = str(problem)
        os.kill(driver.pid, sent)
        facts[name] = {"end": driver.end(), "workers": len(workers), "gone": gone(workers)}
    facts["finished"] = run(plan, RunStore(directory), 1).end()
    return {**facts, **rows(directory)}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    marker = str(folder / "died")
    sound = make_plan(toy_study(folder, {}, {"adapters": True}, seeds=6))
    deadly = make_plan(toy_study(folder, {"die_on": (1,), "die_once_on": (0,), "marker": marker}, seeds=2))
    searching = make_plan(toy_study(folder, {}, seeds=2, search=3))
    report = {"whole": {"end": run(sound, RunStore(folder / "whole"), 0).end(), **rows(folder / "whole")}}
    report["killed in commits"] = killed_in_commits(sound, folder / "commits")
    report["killed in attacks"] = killed_in_attacks(sound, folder / "attacks")
    report["pooled"] = pooled(sound, folder / "pooled")
    report["deadly"] = {"end": run(deadly, RunStore(folder / "deadly"), 1).end(), **rows(folder / "deadly")}
    report["searched"] = {"end": run(searching, RunStore(folder / "searched"), 0).end(), **rows(folder / "searched")}
    report["killed in searches"] = killed_in_searches(searching, folder / "searches")
    hardening = make_plan(toy_comparison(folder, {"steps": 40, "die_once": str(folder / "hardening died")}, {"nan_on": (1,)}, seeds=2))
    report["killed in hardenings"] = killed_in_hardenings(hardening, folder / "hardenings", folder / "hardening died")
    report["hardened"] = {"end": run(hardening, RunStore(folder / "hardened"), 0).end(), **rows(folder / "hardened")}
    report["hardened"]["models"] = sorted(path.name for path in (folder / "hardened" / "models").iterdir())
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
