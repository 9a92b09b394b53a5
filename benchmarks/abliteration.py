"""Time a trial of searched abliteration, ours and heretic's own program taking turns on the same model, prompts and core.

heretic (AGPL) is run, not read; see ``heretic_comparison.py``, whose ``prepare`` writes FOLDER and whose ``report`` compares what the
searches find. Here both run few trials, turn by turn, so that a machine that gets busier slows both. A turn's trials are timed from the
beginning of the first to the end of the last: loading a model and reading directions are left out on both sides.

    taskset -c 1 python benchmarks/abliteration.py FOLDER --program HERETIC/bin/heretic
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heretic_comparison import RESULTS as FULL_SEARCHES
from heretic_comparison import SPACES, compared, covered, prepared
from heretic_program import on_terminal

from tempering.engine.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "abliteration-heretic.json"
GOAL = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Turn:
    """One side's trials of one turn.

    Attributes:
        seconds: of wall time a trial.
        cpu_seconds: of processor time a trial.
    """

    seconds: float
    cpu_seconds: float


@dataclass
class _Marks:
    """Wall and processor time at which a program says that a trial begins, and that all are done."""

    marks: list[tuple[float, float]] = field(default_factory=list)
    _seen: bytes = b""

    def __call__(self, child: int, data: bytes) -> None:
        """Look at what the program has written."""
        before = len(_BEGUN.findall(self._seen))
        self._seen += data
        for _ in range(len(_BEGUN.findall(self._seen)) - before):
            self.marks.append((time.perf_counter(), _processor_seconds(child)))

    def turn(self) -> Turn:
        """The trials between the first mark and the last."""
        (began, began_cpu), (ended, ended_cpu) = self.marks[0], self.marks[-1]
        trials = len(self.marks) - 1
        return Turn((ended - began) / trials, (ended_cpu - began_cpu) / trials)


_BEGUN = re.compile(rb"Running trial|Optimization finished")


def _processor_seconds(process: int) -> float:
    """User and system time of a running process, all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def heretics_turn(folder: Path, program: Path, trials: int, seed: int) -> Turn:
    """heretic's trials, in a process of its own."""
    work = folder / f"turn-{seed}"
    shutil.rmtree(work, ignore_errors=True)  # or it asks whether to go on with the search that it finds there
    work.mkdir()
    settings = (folder / "config.toml").read_text(encoding="utf-8")
    settings = re.sub(r"(?m)^n_(startup_)?trials = \d+$", lambda line: f"n_{line[1] or ''}trials = {trials}", settings)
    (work / "config.toml").write_text(f"seed = {seed}\n{settings}", encoding="utf-8")
    marks = _Marks()
    command = [str(program), "--model", str((folder / "model").resolve())]
    on_terminal(command, work, work / "log", until=b"Optimization finished", watch=marks)
    if len(marks.marks) != trials + 1:
        raise SystemExit(f"heretic did not come to the end of its {trials} trials; see {work / 'log'}")
    return marks.turn()


def our_turn(folder: Path, trials: int, seed: int) -> Turn:
    """Our trials, the first and slower ones among them, in which no answer is foreseen yet."""
    search, _ = prepared(folder, SPACES["ours"], seed)
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in search.run(trials):
        pass
    return Turn((time.perf_counter() - began) / trials, (time.process_time() - began_cpu) / trials)


def take_turns(folder: Path, program: Path, trials: int, turns: int) -> list[tuple[Turn, Turn]]:
    """Ours and heretic's, each side first in every other turn."""
    taken = []
    for turn in range(turns):
        if turn % 2:
            theirs, ours = heretics_turn(folder, program, trials, turn), our_turn(folder, trials, turn)
        else:
            ours, theirs = our_turn(folder, trials, turn), heretics_turn(folder, program, trials, turn)
        taken.append((ours, theirs))
        print(f"turn {turn}: ours {ours.seconds:.2f} s a trial, heretic {theirs.seconds:.2f}", flush=True)
    return taken


def quality(folder: Path, trials: int) -> dict[str, Any]:
    """What a whole search of ours finds, against heretic's whole searches of the committed comparison."""
    search, _ = prepared(folder, SPACES["ours"], 0)
    began, began_cpu = time.perf_counter(), time.process_time()
    points = [(trial.refusals, trial.divergence) for trial in search.run(trials)]
    wall, processor = (time.perf_counter() - began) / trials, (time.process_time() - began_cpu) / trials
    heretic = json.loads(FULL_SEARCHES.read_text(encoding="utf-8"))["heretic"]
    theirs = [[(int(refusals), float(kl)) for refusals, kl in one["trials"]] for one in heretic]
    return {
        "trials": trials,
        "seconds_a_trial": _figure(wall),
        "cpu_seconds_a_trial": _figure(processor),
        "best": list(min(points)),
        "hypervolume": _figure(covered(points, search.asked)),
        "heretics_best": [list(min(one)) for one in theirs],
        "heretics_hypervolume": [_figure(covered(one, search.asked)) for one in theirs],
        "levels_against_every_heretic_seed": [compared(points, one, search.asked) for one in theirs],
    }


def summary(taken: Sequence[tuple[Turn, Turn]], found: dict[str, Any] | None, trials: int) -> dict[str, Any]:
    """The result in the form that all benchmarks share; a ratio above one is in our favour."""
    ratios = [theirs.seconds / ours.seconds for ours, theirs in taken]
    processor = [theirs.cpu_seconds / ours.cpu_seconds for ours, theirs in taken]
    seen = describe_environment()
    program = "python benchmarks/abliteration.py FOLDER --program HERETIC/bin/heretic"
    return {
        "name": "abliteration-heretic",
        "ratio": _spread(ratios),
        "goal": GOAL,
        "met": statistics.median(ratios) >= GOAL,
        "ours": _figure(statistics.median(ours.seconds for ours, _ in taken)),
        "theirs": _figure(statistics.median(theirs.seconds for _, theirs in taken)),
        "command": f"OMP_NUM_THREADS=1 {program} --trials {trials} --turns {len(taken)}",
        "machine": f"{seen['cpu']} ({seen['machine']}), {seen['cores']} cores, torch {seen['torch']}, heretic 1.4.0, one thread a side",
        "note": (
            f"Wall seconds a trial of {trials} random trials, {len(taken)} turns, the machine busy with other work; low and high are the "
            "least and the greatest ratio of a turn. 48 + 48 prompts, 16 tokens an answer, bfloat16. cpu_ratio: of processor time. "
            "turns: wall seconds of ours and of heretic's, then processor seconds. quality: a whole search of ours against heretic's of "
            "heretic_smollm2.json; levels are the numbers of refusals at which our least KL is lower, the same or higher."
        ),
        "cpu_ratio": _spread(processor),
        "turns": [[_figure(value) for value in (o.seconds, t.seconds, o.cpu_seconds, t.cpu_seconds)] for o, t in taken],
        "quality": found,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": _figure(statistics.median(values)), "low": _figure(min(values)), "high": _figure(max(values))}


def _figure(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as heretic_comparison.py prepare has written it")
    parser.add_argument("--program", type=Path, required=True, help="heretic's executable")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--whole", type=int, default=60, help="trials of the search whose quality is compared; 0 for none")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    folder = options.folder.resolve()
    taken = take_turns(folder, options.program, options.trials, options.turns)
    result = summary(taken, quality(folder, options.whole) if options.whole else None, options.trials)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["ratio"]), "met" if result["met"] else "missed")


if __name__ == "__main__":
    main()
