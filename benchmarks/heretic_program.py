"""heretic's own program (github.com/p-e-w/heretic, AGPL), run and not read: driven through a pseudo-terminal, told by what it prints."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Point = tuple[int, float]


@dataclass(frozen=True)
class Search:
    """One search of either program.

    Attributes:
        seed: of the search.
        trials: (refusals, KL in nats) of every trial, in order.
        seconds: of wall time a trial, directions included and loading not.
        cpu_seconds: of processor time a trial, of the whole program; ``None`` where it was not measured.
        parameters: of every trial, where it has been asked for.
    """

    seed: int
    trials: list[Point]
    seconds: float
    cpu_seconds: float | None
    parameters: list[dict[str, Any]]


def run_heretic(folder: Path, program: Path, seed: int) -> None:
    """One search, logged; ended at the menu that follows it."""
    work = folder / f"heretic-{seed}"
    work.mkdir(exist_ok=True)
    settings = (folder / "config.toml").read_text(encoding="utf-8")
    (work / "config.toml").write_text(f"seed = {seed}\n{settings}", encoding="utf-8")
    on_terminal([str(program), "--model", str((folder / "model").resolve())], work, work / "log", until=b"Optimization finished")


def judged_by_heretic(folder: Path, program: Path, tampered: Path) -> Point:
    """Refusals and KL of a model as heretic measures them against the untouched one."""
    work = folder / "judge"
    work.mkdir(exist_ok=True)
    shutil.copy(folder / "config.toml", work)
    command = [str(program), "--model", str((folder / "model").resolve()), "--evaluate-model", str(tampered.resolve())]
    on_terminal(command, work, work / "log", until=b"\x00never")
    return _trials(_plain_text(work / "log"))[-1]


def on_terminal(command: list[str], work: Path, log: Path, until: bytes, watch: Callable[[int, bytes], None] | None = None) -> None:
    """Run a program on a pseudo-terminal until it ends or writes something; its processor time goes to the end of the log.

    Args:
        command: the program and its arguments.
        work: its folder.
        log: what it writes.
        until: it is ended when it writes this.
        watch: told its process and what it writes, as it comes.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(work)
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "COLUMNS": "200", "LINES": "50"}
        os.execvpe(command[0], command, {**os.environ, **offline})
    tail = b""
    with log.open("wb") as out:
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the terminal's other end is closed
                break
            out.write(data)
            out.flush()
            if watch is not None:
                watch(child, data)
            tail = (tail + data)[-4096:]
            if b"\x1b[6n" in data:  # it asks where the cursor is
                os.write(terminal, b"\x1b[1;1R")
            if until in tail or not data:
                os.kill(child, signal.SIGTERM)
                break
        used = os.wait4(child, 0)[2]
        out.write(f"\n@@cpu {used.ru_utime + used.ru_stime:.2f}\n".encode())


def read_heretic(folder: Path, seed: int) -> Search:
    """A search from its log, as far as it came; by its own clock."""
    text = _plain_text(folder / f"heretic-{seed}" / "log")
    trials = _trials(text)
    hours, minutes, seconds = (int(part or 0) for part in re.findall(r"Elapsed time: (?:(\d+)h )?(?:(\d+)m )?(\d+)s", text)[-1])
    processor = re.findall(r"@@cpu ([\d.]+)", text)
    elapsed = 3600 * hours + 60 * minutes + seconds
    return Search(
        seed, trials, elapsed / len(trials), float(processor[-1]) / len(trials) if processor else None, _drawn(text)[: len(trials)]
    )


def _plain_text(log: Path) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", log.read_text(encoding="utf-8", errors="replace"))


def _trials(text: str) -> list[Point]:
    return [(int(refusals), float(kl)) for kl, refusals in re.findall(r"KL divergence: ([\d.]+).*?\* Refusals: (\d+)/", text, re.DOTALL)]


def _drawn(text: str) -> list[dict[str, Any]]:
    """Parameters of every trial as it printed them, under our names."""
    drawn = []
    for block in re.split(r"Running trial \d+ of \d+", text)[1:]:
        values = dict(re.findall(r"\* ([\w.]+) = ([\w. -]+?)\s*[\r\n]", block))
        names = ("max_weight", "max_weight_position", "min_weight", "min_weight_distance")
        index = values["direction_index"]
        drawn.append(
            {
                "direction_index": None if index == "per layer" else float(index),
                **{ours: {name: float(values[f"{theirs}.{name}"]) for name in names} for ours, theirs in _COMPONENTS.items()},
                "preserved": 0,
            }
        )
    return drawn


_COMPONENTS = {"attention": "attn.o_proj", "mlp": "mlp.down_proj"}
