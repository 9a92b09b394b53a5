"""Makes every result in benchmarks/results anew, and prints them as a table.

    make bench                       all: some hours
    make bench ONLY=plan-growth      one
    python benchmarks/bench.py --table     only the table, of what is there

Each result has its command here, in the sizes that the goals were set for, made to fit into ten to twenty minutes on two idle cores;
what was sized down for that stands in the result's note. Where a command fails (a program to compare with is not installed), its old
figures stay, and the table and the exit code say so.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import read_results, spread

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "adversaries-organism": "adversaries.py --model tiny --turns 6 --seeds 8 --theirs 1",
    "adversaries-smollm2": "adversaries.py --model smollm2 --turns 2 --seeds 2 --theirs 1",
    "abliteration-heretic": "abliteration.py --trials 8 --turns 3 --whole 60",
    "matmul-share": "matmul_share.py --rows 32 --turns 7",
    "engine-overhead": "engine_overhead.py --turns 9 --units 40",
    "plan-growth": "plan_growth.py --units 1000 10000 100000 --comparison 1000 10000 30000",
    "memory-peak": "memory_peak.py --models organism:tiny organism:smollm2",
    "tar-floor": "tar_floor.py --repeats 15",
    "ray": "ray_efficiency.py --turns 5 --units 15",
}
"""What makes each result that there should be; others that lie beside them are shown, and made by the command that they name."""
NAMES = tuple(COMMANDS)


def command_of(name: str, cases: list[dict[str, Any]]) -> list[str]:
    """What makes a result.

    Args:
        name: of the result.
        cases: what its file holds; empty where there is none.

    Returns:
        The arguments after ``python``; empty where nothing is known to make it.
    """
    if name in COMMANDS:
        script, *arguments = shlex.split(COMMANDS[name])
        return [f"benchmarks/{script}", *arguments]
    words = shlex.split(cases[0]["command"]) if cases else []
    script_there = len(words) > 1 and (ROOT / words[1]).is_file() and (ROOT / words[1]).parent == ROOT / "benchmarks"
    return words[1:] if words[:1] == ["python"] and script_there else []


def remake(names: list[str]) -> list[str]:
    """Run what makes these results, and return the names of those that could not be made."""
    found, failed = read_results(), []
    for name in names:
        command = command_of(name, found.get(name, []))
        print(f"{name}: {shlex.join(['python', *command])}" if command else f"{name}: nothing is known to make it", flush=True)
        modules = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))))}
        if not command or subprocess.run([sys.executable, *command], cwd=ROOT, env={**os.environ, **modules}, check=False).returncode:
            failed.append(name)
    return failed


def table(failed: list[str]) -> Table:
    """Every result there is, and the names of those there should be.

    Args:
        failed: those that could not be made anew just now.
    """
    shown = Table("Result", box=None, pad_edge=False, header_style="bold", caption="A ratio of 2 means twice as good as the other side.")
    for title in ("Ratio, median and 95 % interval", "Goal", "Met"):
        shown.add_column(title, justify="right", no_wrap=True)
    found = read_results()
    for name in (*NAMES, *sorted(set(found) - set(NAMES))):
        for case in found.get(name, []):
            old = " (not made anew)" if name in failed else ""
            met = Text("yes", style="green") if case["met"] else Text("no", style="red")
            shown.add_row(Text(case["name"] + old), spread(case["ratio"]), f"{case['goal']:g}", met)
        if name not in found:
            shown.add_row(Text(name), Text("not measured", style="dim"), "", "")
    return shown


def main() -> None:
    """Make anew what was asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", default="", help="make this one anew; all without it")
    parser.add_argument("--table", action="store_true", help="make nothing, print what is there")
    arguments = parser.parse_args()
    known = list(dict.fromkeys((*NAMES, *read_results())))
    if arguments.only and arguments.only not in known:
        sys.exit(f"error: there is no result {arguments.only!r}; choose one of {', '.join(known)}")
    failed = [] if arguments.table else remake([arguments.only] if arguments.only else known)
    Console(width=None if sys.stdout.isatty() else 140).print(table(failed))
    if failed:
        sys.exit(f"error: not made anew: {', '.join(failed)}; what went wrong stands above")


if __name__ == "__main__":
    main()
