"""Tries the promises: ``python -m torture [--short] [--only NAME] [--mutations] [--json]``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from tempering.engine.environment import describe_environment
from tempering.engine.files import replace_file
from torture.mutations import ROOT, Unfit, caught
from torture.page import as_json, as_markdown, merged, read
from torture.promise import Promise, all_promises, tried

DOCS = ROOT / "docs"


def main() -> int:
    """Try what was asked for; not zero where a promise is broken or a mutation was not found."""
    arguments = _arguments()
    chosen, order = _chosen(arguments.only), [promise.name for promise in all_promises()]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        for number, promise in enumerate(chosen):
            row = _row(promise, arguments, Path(place) / str(number))
            rows.append(row)
            print(_line(row), file=sys.stderr if arguments.json else sys.stdout, flush=True)
            if not arguments.short and not arguments.json:
                _write([row], order)  # after each, so that hours are not lost with the last of them
    if arguments.json:
        print(json.dumps(as_json(rows, "short" if arguments.short else "long")))
    missed = [mutation for row in rows for mutation in row["mutations"] if mutation["caught"] is False]
    return 1 if missed or any(row["failures"] for row in rows) else 0


def _write(rows: list[dict[str, Any]], order: list[str]) -> None:
    """Put rows in the places of those that the page holds of the same promises."""
    content = as_json(merged(read(DOCS / "reliability.json"), rows, order), "long")
    replace_file(DOCS / "reliability.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    replace_file(DOCS / "reliability.md", as_markdown(content, order).encode())


def _row(promise: Promise, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    tally = tried(promise, not arguments.short, folder / "trials")
    seconds = time.monotonic() - began
    mutations = []
    for number, mutation in enumerate(promise.mutations):
        found = caught(promise, mutation, folder / f"mutation-{number}") if arguments.mutations else None
        mutations.append({"file": mutation.file, "breaks": mutation.breaks, "caught": found})
    return {
        "promise": promise.name,
        "group": promise.group,
        "sentence": promise.sentence,
        "trials": tally.trials,
        "failures": tally.failures,
        "examples": tally.examples,
        "notes": tally.notes,
        "seconds": round(seconds, 1),
        "tried": date.today().isoformat(),
        "machine": _machine(),
        "mutations": mutations,
    }


def _line(row: dict[str, Any]) -> str:
    line = f"{row['promise']}: {row['trials']:,} trials, {row['failures']:,} failures ({row['seconds']:.0f} s)"
    missed = [mutation["breaks"] for mutation in row["mutations"] if mutation["caught"] is False]
    return "\n".join([line, *(f"  failed: {example}" for example in row["examples"]), *(f"  not found: {fault}" for fault in missed)])


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
    parser.add_argument("--short", action="store_true", help="the form of the test suite; writes no page")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this one alone; may be repeated; the page keeps the others"
    )
    parser.add_argument("--mutations", action="store_true", help="also put faults into copies of the sources and see that they are found")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, the lines to stderr; writes no page")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unfit as problem:
        sys.exit(f"error: {problem}")
