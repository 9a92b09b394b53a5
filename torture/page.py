"""``docs/reliability.json`` and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torture.promise import GROUPS

HEAD = """# Reliability and security: the figures

Each line is a promise, tried with real faults. `make torture` tries all of them anew, writes this page and ends with an error where one
is broken; `make torture SHORT=1` is the short form, which the test suite runs on every change, and `python -m torture --only NAME
--mutations` tries one and puts its figures here. Below each promise stand the faults that were put into Tempering's own code to see
whether trying it, in its short form, would find them.

"""


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier ``docs/reliability.json``; none where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["promises"] if path.is_file() else []


def merged(earlier: Iterable[dict[str, Any]], later: Iterable[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """One row a promise: what was tried last of it.

    Args:
        earlier: rows that a page holds.
        later: rows that take their places.
        order: the names of all promises there are; a row of any other is dropped.
    """
    rows = {row["promise"]: row for row in (*earlier, *later)}
    return [rows[name] for name in order if name in rows]


def as_json(rows: list[dict[str, Any]], form: str) -> dict[str, Any]:
    """What ``docs/reliability.json`` holds."""
    return {"form": form, "command": "make torture" + ("" if form == "long" else " SHORT=1"), "promises": rows}


def as_markdown(content: dict[str, Any], order: Sequence[str]) -> str:
    """The page, from :func:`as_json`.

    Args:
        content: the figures.
        order: the names of all promises; those without figures are said to have none.
    """
    rows = content["promises"]
    trials, failures = (sum(row[key] for row in rows) for key in ("trials", "failures"))
    machines = "; ".join(dict.fromkeys(row["machine"] for row in rows))
    parts = [HEAD, f"{len(rows)} promises, {trials:,} trials, {failures:,} failures. Machine: {machines}.\n"]
    if untried := [name for name in order if name not in {row["promise"] for row in rows}]:
        parts.append(f"\nWithout figures so far: {', '.join(untried)}.\n")
    for group in GROUPS:
        of_group = [row for row in rows if row["group"] == group]
        if of_group:
            parts.append(f"\n## {group}\n\n| Promise | Trials | Failures |\n| :-- | --: | --: |\n")
            parts += [f"| {row['sentence']} | {row['trials']:,} | {row['failures']:,} |\n" for row in of_group]
            parts += [_details(row) for row in of_group]
    return "".join(parts)


def _details(row: dict[str, Any]) -> str:
    lines = [f"\n### {row['promise']}\n\nTried on {row['tried']}, for {row['seconds']:,.0f} s.\n\n"]
    if row["notes"]:
        lines.append("; ".join(f"{name}: {value}" for name, value in row["notes"].items()) + ".\n\n")
    lines += [f"- **Failed:** {example}\n" for example in row["examples"]]
    for mutation in row["mutations"]:
        verdict = {True: "found", False: "**not found**", None: "not tried"}[mutation["caught"]]
        lines.append(f"- {verdict}: {mutation['breaks']} (`{mutation['file']}`)\n")
    return "".join(lines)
