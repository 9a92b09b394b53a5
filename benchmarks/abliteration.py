"""Time a trial of searched abliteration, ours and heretic's own program taking turns on the same model, prompts and core.

heretic (AGPL) is run, not read; see ``heretic_comparison.py``, whose ``prepare`` writes FOLDER and whose ``report`` compares what the
searches find. Here both run few trials, turn by turn, so that a machine that gets busier slows both. A turn's trials are timed from the
beginning of the first to the end of the last: loading a model and reading directions are left out on both sides.

    python -m venv .venv-heretic && .venv-heretic/bin/pip install torch==2.13.0 heretic-llm==1.4.0
    python benchmarks/abliteration.py            a quarter of an hour on one core; needs ``temper organism build smollm2``

The folder is prepared where it is not there yet. The program is looked for as ``$HERETIC``, in ``.venv-heretic/bin`` and on the path.
Written to benchmarks/results/abliteration-heretic.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of both sides: heretic's process has this one's environment
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import figure, median_interval, result, write_result
from heretic_comparison import RESULTS as FULL_SEARCHES
from heretic_comparison import SPACES, compared, covered, prepare, prepared
from heretic_program import Point, Search, on_terminal

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "runs" / "heretic"
PROGRAM = ROOT / ".venv-heretic" / "bin" / "heretic"
PREPARED = ("smollm2", 60, 20)
"""The world of the prompts, and trials and random ones of a whole search."""
GOAL = 5.0
TRIALS, TURNS, WHOLE = 8, 3, 60
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


def in_turns(folder: Path, program: Path, trials: int, turns: int) -> list[tuple[Turn, Turn]]:
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


def quality(folder: Path, trials: int, full_searches: Path = FULL_SEARCHES) -> dict[str, Any]:
    """What a whole search of ours finds, against heretic's whole searches of the committed comparison.

    Args:
        folder: as it was prepared.
        trials: of our search.
        full_searches: the file of that comparison.
    """
    search, _ = prepared(folder, SPACES["ours"], 0)
    began, began_cpu = time.perf_counter(), time.process_time()
    done = list(search.run(trials))
    wall, processor = (time.perf_counter() - began) / trials, (time.process_time() - began_cpu) / trials
    points: list[Point] = [(trial.refusals, trial.divergence) for trial in done]
    ours = Search(0, points, wall, processor, [trial.parameters.as_json() for trial in done])
    theirs = [searched(one) for one in json.loads(full_searches.read_text(encoding="utf-8"))["heretic"]]
    return {
        "trials": trials,
        "seconds_a_trial": figure(wall),
        "cpu_seconds_a_trial": figure(processor),
        "best": list(min(points)),
        "hypervolume": figure(covered(points, search.asked)),
        "heretics_best": [list(min(one.trials)) for one in theirs],
        "heretics_hypervolume": [figure(covered(one.trials, search.asked)) for one in theirs],
        "levels_against_every_heretic_seed": [compared(ours, one, search.asked) for one in theirs],
    }


def searched(one: dict[str, Any]) -> Search:
    """A search as the committed comparison holds it; its parameters are not kept there."""
    points: list[Point] = [(int(refusals), float(kl)) for refusals, kl in one["trials"]]
    return Search(int(one["seed"]), points, float(one["seconds_a_trial"]), one["cpu_seconds_a_trial"], [])


def summary(taken: Sequence[tuple[Turn, Turn]], found: dict[str, Any] | None, trials: int, whole: int) -> dict[str, Any]:
    """The result in the form that all benchmarks share; a ratio above one is in our favour."""
    return result(
        "abliteration-heretic",
        median_interval([theirs.seconds / ours.seconds for ours, theirs in taken]),
        goal=GOAL,
        ours=statistics.median(ours.seconds for ours, _ in taken),
        theirs=statistics.median(theirs.seconds for _, theirs in taken),
        command=f"python benchmarks/abliteration.py --trials {trials} --turns {len(taken)} --whole {whole}",
        note=(
            f"wall seconds a trial of {trials} random trials, {len(taken)} turns, heretic 1.4.0, one thread a side; 48 + 48 prompts, 16 "
            "tokens an answer, bfloat16. cpu_ratio: of processor time. turns: wall seconds of ours and of heretic's, then of processor. "
            "quality: a whole search of ours against heretic's of heretic_smollm2.json; levels are the numbers of refusals at which "
            "our least KL is lower, the same or higher. Sized down: so few trials a turn, and no new whole search of heretic's"
        ),
        cpu_ratio=median_interval([theirs.cpu_seconds / ours.cpu_seconds for ours, theirs in taken]),
        turns=[[figure(value) for value in (o.seconds, t.seconds, o.cpu_seconds, t.cpu_seconds)] for o, t in taken],
        quality=found,
    )


def program_of(asked: Path | None) -> Path:
    """heretic's executable, or the end with a line that says how to install it."""
    named = asked or Path(os.environ.get("HERETIC") or (PROGRAM if PROGRAM.is_file() else shutil.which("heretic") or PROGRAM))
    if not named.is_file():
        raise SystemExit(
            f"error: heretic is not at {named}; install it in an environment of its own: "
            "python -m venv .venv-heretic && .venv-heretic/bin/pip install torch==2.13.0 heretic-llm==1.4.0"
        )
    return named.resolve()


def guarded_model() -> Path:
    """The directory of the SmolLM2 that refuses."""
    from tempering.models.references import resolve

    return resolve("organism:smollm2").path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=FOLDER, help="as heretic_comparison.py prepare writes it; made where absent"
    )
    parser.add_argument("--program", type=Path, help="heretic's executable")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--whole", type=int, default=WHOLE, help="trials of the search whose quality is compared; 0 for none")
    options = parser.parse_args()
    program, folder = program_of(options.program), options.folder.resolve()
    if not (folder / "settings.json").is_file():
        prepare(folder, guarded_model(), *PREPARED)
    # first what needs no heretic, so that what fails there fails before hours are spent
    found = quality(folder, options.whole) if options.whole else None
    taken = in_turns(folder, program, options.trials, options.turns)
    write_result("abliteration-heretic", summary(taken, found, options.trials, options.whole))


if __name__ == "__main__":
    main()
