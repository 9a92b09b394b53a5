"""Tries the promises: ``python -m torture [--short] [--only NAME] [--mutations] [--json]``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from tempering.engine.environment import describe_environment
from tempering.engine.files import replace_file
from torture.code import code_now, of_one_row
from torture.mutations import ROOT, Unfit, caught
from torture.page import SHORT_S, as_json, as_markdown, merged, read
from torture.promise import Promise, all_promises, tried

DOCS = ROOT / "docs"


def main() -> int:
    """Try what was asked for; not zero where a promise is broken or a mutation was not found."""
    arguments = _arguments()
    chosen, order = _chosen(arguments.only), [promise.name for promise in all_promises()]
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as place:
        for number, promise in enumerate(chosen):
            row = _row(promise, arguments.short, Path(place) / str(number))
            rows.append(row)
            print(_line(row), file=sys.stderr if arguments.json else sys.stdout, flush=True)
            keep: Callable[[], None] = partial(_write, row, order) if not arguments.short and not arguments.json else lambda: None
            keep()  # after each, and before its mutations, so that hours are not lost with whatever comes next
            if arguments.mutations:
                _try_mutations(promise, row, Path(place) / str(number), keep)
    if arguments.json:
        print(json.dumps(as_json(rows, "short" if arguments.short else "long", code_now())))
    elif arguments.short and not arguments.only and not arguments.mutations:
        _write_short(rows, time.monotonic() - began, order)
    missed = [mutation for row in rows for mutation in row["mutations"] if mutation["caught"] is False]
    return 1 if missed or any(row["failures"] for row in rows) else 0


def _write(row: dict[str, Any], order: list[str]) -> None:
    """Put a row in the place of the one that the page holds of the same promise."""
    earlier = read(DOCS / "reliability.json")
    _put(as_json(merged(earlier.get("promises", []), [row], order), "long", code_now(), earlier.get("short")), order)


def _write_short(rows: list[dict[str, Any]], seconds: float, order: list[str]) -> None:
    """Put into the page how long all short forms together took; its figures stay those of the long ones."""
    earlier, code = read(DOCS / "reliability.json"), code_now()
    short = {
        "seconds": round(seconds, 1),
        "promises": len(rows),
        "failures": sum(row["failures"] for row in rows),
        "tried": date.today().isoformat(),
        "machine": _machine(),
        "code": code,
    }
    print(f"{len(rows)} short forms in {seconds:.0f} s" + (f": more than {SHORT_S} s" if seconds > SHORT_S else ""))
    _put(as_json(earlier.get("promises", []), "long", code, short), order)


def _put(content: dict[str, Any], order: list[str]) -> None:
    replace_file(DOCS / "reliability.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    replace_file(DOCS / "reliability.md", as_markdown(content, order).encode())


def _row(promise: Promise, short: bool, folder: Path) -> dict[str, Any]:
    began, code = time.monotonic(), code_now()
    tally = tried(promise, not short, folder / "trials")
    return {
        "promise": promise.name,
        "group": promise.group,
        "sentence": promise.sentence,
        "trials": tally.trials,
        "failures": tally.failures,
        "examples": tally.examples,
        "notes": tally.notes,
        "seconds": round(time.monotonic() - began, 1),
        "tried": date.today().isoformat(),
        "machine": _machine(),
        "code": of_one_row(code, code_now()),
        "mutations": [{"file": mutation.file, "breaks": mutation.breaks, "caught": None} for mutation in promise.mutations],
    }


def _try_mutations(promise: Promise, row: dict[str, Any], folder: Path, keep: Callable[[], None]) -> None:
    """Try every mutation of a promise and put into its row what came of it; one of which nothing comes is not found, and says why."""
    for number, mutation in enumerate(promise.mutations):
        told, place = row["mutations"][number], folder / f"mutation-{number}"
        try:
            told["caught"] = caught(promise, mutation, place)
        except Exception as problem:  # whatever it is, the next mutation and the next promise are tried
            told.update(caught=False, why=problem_of(problem))
        if told["caught"] is False:
            print(f"  not found: {told['breaks']}{': ' + told['why'] if 'why' in told else ''}", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        keep()


def problem_of(error: Exception) -> str:
    """An exception in a line: as it stands where it was foreseen, with its kind otherwise."""
    words = str(error) if isinstance(error, Unfit) else f"{type(error).__name__}: {error}"
    return " ".join(words.split())[:400]


def _line(row: dict[str, Any]) -> str:
    line = f"{row['promise']}: {row['trials']:,} trials, {row['failures']:,} failures ({row['seconds']:.0f} s)"
    return "\n".join([line, *(f"  failed: {example}" for example in row["examples"])])


def _chosen(only: list[str]) -> list[Promise]:
    promises = all_promises()
    unknown = set(only) - {promise.name for promise in promises}
    if unknown:
        sys.exit(f"error: no promise {sorted(unknown)[0]!r}; known: {', '.join(promise.name for promise in promises)}")
    chosen = [promise for promise in promises if not only or promise.name in only]
    missing = {promise.name: [need for need in promise.needs if importlib.util.find_spec(need) is None] for promise in chosen}
    for name, needs in missing.items():
        if needs:
            print(f"{name}: left out, {', '.join(needs)} is not installed", file=sys.stderr)
    return [promise for promise in chosen if not missing[promise.name]]


def _machine() -> str:
    seen = describe_environment()
    hardware = f"{seen['cpu']}, {seen['cores']} cores, {seen['memory_gib']} GiB"
    return f"{hardware}, {seen['system']}, Python {seen['python']}, torch {seen['torch']}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torture", description="Tries the promises of reliability and security with real faults.")
    parser.add_argument(
        "--short", action="store_true", help="the form of the test suite; of the page it writes only how long it took, where all are tried"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this one alone; may be repeated; the page keeps the others"
    )
    parser.add_argument("--mutations", action="store_true", help="also put faults into copies of the sources and see that they are found")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, the lines to stderr; writes no page")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
