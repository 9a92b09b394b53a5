"""What all benchmarks share: paired ratios with an interval, the machine in words, and results/NAME.json.

A result is ``{name, ratio {median, low, high}, goal, met, ours, theirs, command, machine, note}``, where ``ratio`` is so defined that
more is better: seconds of theirs by seconds of ours, or what we reach by what can be reached. A file holds one result, or a list of
them where one benchmark has several cases; ``command`` makes the file anew.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from tempering.engine.environment import describe_environment
from tempering.engine.files import replace_file

RESULTS = Path(__file__).resolve().parent / "results"
KEYS = ("name", "ratio", "goal", "met", "ours", "theirs", "command", "machine", "note")
CONFIDENCE = 0.95
_VERSIONS = ("torch", "transformers", "peft", "numpy")


def machine() -> str:
    """Processor, cores, memory, accelerator and versions, without names of hosts or paths."""
    seen = describe_environment()
    threads = os.environ.get("OMP_NUM_THREADS")
    parts = [
        f"{seen['cpu']} ({seen['machine']})",
        f"{seen['cores']} {'core' if seen['cores'] == 1 else 'cores'}",
        *([f"OMP_NUM_THREADS={threads}"] if threads else []),
        f"{seen['memory_gib']} GiB",
        *([seen["accelerator"]] if seen["accelerator"] != "none" else []),
        f"{seen['system']}, Python {seen['python']}",
        *(f"{name} {seen[name]}" for name in _VERSIONS if seen[name] != "absent"),
    ]
    return ", ".join(parts)


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """The median with its distribution-free interval.

    The interval lies between the order statistics that hold the median with :data:`CONFIDENCE`, by the binomial distribution of how many
    values fall below it (Conover, Practical Nonparametric Statistics, 3.2); with fewer than six values it is their whole range.

    Args:
        values: one of each turn; not empty.

    Returns:
        ``median``, ``low`` and ``high``, four digits each.
    """
    ordered = sorted(values)
    below = max(int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5)) - 1, 0)
    return {"median": figure(statistics.median(ordered)), "low": figure(ordered[below]), "high": figure(ordered[-1 - below])}


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times less than theirs ours takes, each turn against the other side's next to it.

    Args:
        ours: seconds, bytes or another cost of each turn.
        theirs: the same of the other side, turn by turn.
    """
    return median_interval([other / own for own, other in zip(ours, theirs, strict=True)])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of growth, by least squares over the logarithms.

    Args:
        sizes: above zero, at least two different ones.
        values: at each size.
    """
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def take_turns(ours: Callable[[], float], theirs: Callable[[], float], turns: int) -> Iterator[tuple[float, float]]:
    """Measure both sides so that a machine that gets busier in between slows both: one turn begins with ours, the next with theirs.

    Args:
        ours: does the work and returns its cost.
        theirs: the same.
        turns: how often.

    Yields:
        Both costs of each turn, ours first.
    """
    for turn in range(turns):
        if turn % 2:
            other, own = theirs(), ours()
        else:
            own, other = ours(), theirs()
        yield own, other


def result(
    name: str, ratio: dict[str, float], *, goal: float, ours: float, theirs: float, command: str, note: str, **details: Any
) -> dict[str, Any]:
    """One result.

    Args:
        name: of the file, with the case after a colon where there are several.
        ratio: from :func:`paired_ratio` or :func:`median_interval`; more is better.
        goal: what the median should reach.
        ours: median cost of ours.
        theirs: the same of the other side.
        command: what makes it anew, from the root of the repository.
        note: units, sizes, what was compared; where the goal is missed, why.
        **details: curves and profiles.
    """
    figures = {"ours": figure(ours), "theirs": figure(theirs)}
    met = bool(ratio["median"] >= goal)
    return {
        "name": name,
        "ratio": ratio,
        "goal": goal,
        "met": met,
        **figures,
        "command": command,
        "machine": machine(),
        "note": note,
        **details,
    }


def write_result(name: str, *cases: dict[str, Any]) -> Path:
    """Write ``results/NAME.json``, whole or not at all, and print it.

    Args:
        name: of the file.
        *cases: from :func:`result`.
    """
    path = RESULTS / f"{name}.json"
    replace_file(path, (json.dumps(cases[0] if len(cases) == 1 else list(cases), indent=1, ensure_ascii=False) + "\n").encode())
    for case in cases:
        print(line(case))
    return path


def read_results() -> dict[str, list[dict[str, Any]]]:
    """Every result that is there, by file name; what has another form is some other table and left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = content if isinstance(content, list) else [content]
        if cases and all(isinstance(case, dict) and set(KEYS) <= set(case) for case in cases):
            found[path.stem] = cases
    return found


def line(case: dict[str, Any]) -> str:
    """A result in one line."""
    return f"{case['name']}: {spread(case['ratio'])}, goal {case['goal']:g}: {'met' if case['met'] else 'missed'}"


def spread(ratio: dict[str, float]) -> str:
    """A ratio with its interval."""
    return f"{ratio['median']:g} [{ratio['low']:g}, {ratio['high']:g}]"


def figure(value: Any) -> float:
    """Four digits."""
    return float(f"{float(value):.4g}")
