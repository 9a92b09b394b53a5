"""``docs/reliability.json`` and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torture.promise import GROUPS

HEAD = """# Reliability and security: the figures

Each line is a promise, tried with real faults; a trial is one comparison with what should have come of it. `make torture` tries all
anew, writes this page and ends with an error where one is broken; `make torture SHORT=1` is the short form, which the test suite runs on
every change and of which only the time stands here, and `python -m torture --only NAME --mutations` tries one and puts its figures here.
Each row says of which code it is. Below each promise stand the faults that were put into Tempering's own code to see whether trying it,
in its short form, would find them: by a broken promise, or because the process died or hung.

"""


SHORT_S = 300
"""Seconds that the short forms of all promises may take together."""


def read(path: Path) -> dict[str, Any]:
    """What an earlier ``docs/reliability.json`` holds; nothing where there is no such file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def merged(earlier: Iterable[dict[str, Any]], later: Iterable[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """One row a promise: what was tried last of it.

    Args:
        earlier: rows that a page holds.
        later: rows that take their places.
        order: the names of all promises there are; a row of any other is dropped.
    """
    rows = {row["promise"]: row for row in (*earlier, *later)}
    return [rows[name] for name in order if name in rows]


def as_json(
    rows: list[dict[str, Any]], form: str, code: dict[str, Any] | None = None, short: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What ``docs/reliability.json`` holds.

    Args:
        rows: one a promise.
        form: ``long`` or ``short``, that of the rows.
        code: that which is there now, from :func:`torture.code.code_now`; rows of any other are marked on the page.
        short: how long the short forms took together, where that is known.
    """
    command = "make torture" + ("" if form == "long" else " SHORT=1")
    optional = {name: value for name, value in (("code", code), ("short", short)) if value is not None}
    return {"form": form, "command": command, **optional, "promises": rows}


def as_markdown(content: dict[str, Any], order: Sequence[str]) -> str:
    """The page, from :func:`as_json`.

    Args:
        content: the figures.
        order: the names of all promises; those without figures are said to have none.
    """
    rows = content["promises"]
    trials, failures = (sum(row[key] for row in rows) for key in ("trials", "failures"))
    machines = "; ".join(dict.fromkeys(row["machine"] for row in rows))
    parts = [HEAD, f"{len(rows)} promises, {trials:,} trials, {failures:,} failures. Machine: {machines or 'none so far'}.\n"]
    parts += [_short_form(content["short"])] if content.get("short") else []
    now = content.get("code", {}).get("digest")
    if others := [row["promise"] for row in rows if now is None or row.get("code", {}).get("digest") != now]:
        parts.append(f"\n**† Tried on other code than that of this page ({_code(content)}): {', '.join(others)}.**\n")
    if untried := [name for name in order if name not in {row["promise"] for row in rows}]:
        parts.append(f"\nWithout figures so far: {', '.join(untried)}.\n")
    for group in GROUPS:
        of_group = [row for row in rows if row["group"] == group]
        if of_group:
            parts.append(f"\n## {group}\n\n| Promise | Trials | Failures |\n| :-- | --: | --: |\n")
            for row in of_group:
                parts.append(f"| {row['sentence']}{' †' * (row['promise'] in others)} | {row['trials']:,} | {row['failures']:,} |\n")
            parts += [_details(row, row["promise"] in others) for row in of_group]
    return "".join(parts)


def _short_form(short: dict[str, Any]) -> str:
    late = f", **more than the {SHORT_S} s that they may take**" if short["seconds"] > SHORT_S else f" ({SHORT_S} s are allowed)"
    return (
        f"\nThe short forms of {short['promises']} promises together took {short['seconds']:,.0f} s{late}, with "
        f"{short['failures']:,} failures: {short['tried']}, {short['machine']}, {_code(short)}.\n"
    )


def _code(row: dict[str, Any]) -> str:
    """The code of a row, in words."""
    code = row.get("code", {})
    commit = f"commit {code['commit']}" if code.get("commit") else "a commit that nobody noted"
    return commit + {True: "", False: " with changes of its own", None: ""}[code.get("clean")]


def _details(row: dict[str, Any], other: bool) -> str:
    lines = [f"\n### {row['promise']}\n\nTried on {row['tried']}, for {row['seconds']:,.0f} s, at {_code(row)}{' †' * other}.\n\n"]
    if row["notes"]:
        lines.append("; ".join(f"{name}: {value}" for name, value in row["notes"].items()) + ".\n\n")
    lines += [f"- **Failed:** {example}\n" for example in row["examples"]]
    for mutation in row["mutations"]:
        verdict = {True: "found", False: "**not found**", None: "not tried"}[mutation["caught"]]
        why = f": {mutation['why']}" if mutation.get("why") else ""
        lines.append(f"- {verdict}: {mutation['breaks']} (`{mutation['file']}`){why}\n")
    return "".join(lines)
