"""What a plan says in a terminal: a table of what each attack would cost, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tempering.report import formatting
from tempering.report.data_sources import data_sentences, provenance_of
from tempering.report.rows import group_title

_Row = Mapping[str, Any]


def plan_table(document: Mapping[str, Any]) -> Table:
    """The attacks of a plan, in the order in which they are run.

    Args:
        document: from :func:`tempering.planning.priced_plan`.
    """
    searched = any(row["search"]["trials"] for row in document["attacks"])
    table = Table("Model", "Attack", box=None, pad_edge=False, header_style="bold")
    titles = ("Units", "Steps each", "FLOPs each", *(("Trials each", "FLOPs of search") if searched else ()))
    for title in (*titles, "GPU time in all", "Dollars in all"):
        table.add_column(title, justify="right")
    for rows in _alike(document["attacks"], lambda row: (row["attack"], row["units"], row["each"], row["search"])):
        row, search = rows[0], rows[0]["search"]
        tried = (formatting.count(search["trials"]), formatting.flops(search["flops"] / row["units"])) if searched else ()
        table.add_row(
            Text(_models(rows)),
            Text(row["attack"]),
            str(sum(each["units"] for each in rows)),
            formatting.count(row["each"]["steps"]),
            formatting.flops(row["each"]["flops"]),
            *tried,
            formatting.gpu_hours(sum(each["gpu_hours"] for each in rows)),
            formatting.dollars(sum(each["usd"] for each in rows)),
        )
    return table


def _alike(rows: Iterable[_Row], what: Callable[[_Row], Any]) -> list[list[_Row]]:
    """Rows of one model that are the same but for the defence, so that a plan of twenty defences is read at a glance."""
    together: dict[str, list[_Row]] = {}
    for row in rows:
        together.setdefault(repr((row["model"], what(row))), []).append(row)
    return list(together.values())


def _models(rows: Sequence[_Row]) -> str:
    """What rows that are told as one are about: "organism:tiny behind tar", "organism:tiny, and behind each of 18 defences"."""
    if len(rows) == 1:
        return group_title(rows[0]["model"], rows[0]["defense"])
    defenses = [row["defense"] for row in rows if row["defense"] not in ("", "none")]
    bare = ", and" if len(defenses) < len(rows) else ""
    return f"{rows[0]['model']}{bare} behind {defenses[0] if len(defenses) == 1 else f'each of {len(defenses)} defences'}"


def others_table(document: Mapping[str, Any]) -> Table | None:
    """What is done beside the attacks: the training of the defences, and an honest user's fine-tuning; ``None`` without any.

    Args:
        document: from :func:`tempering.planning.priced_plan`.
    """
    honest = _alike(document.get("trainability", []), lambda row: (row["units"], row["steps"], row["flops"]))
    groups = [("training by the defender", [row]) for row in document.get("hardening", [])]
    groups += [("fine-tuning by an honest user", rows) for rows in honest]
    if not groups:
        return None
    table = Table("Model", "Before and beside the attacks", box=None, pad_edge=False, header_style="bold")
    for title in ("Units", "Steps each", "FLOPs each"):
        table.add_column(title, justify="right")
    for title, rows in groups:
        row, units = rows[0], sum(each["units"] for each in rows)
        cost = "not estimated" if row["flops"] is None else formatting.flops(row["flops"])
        table.add_row(Text(_models(rows)), Text(title), str(units), formatting.count(row["steps"]), cost)
    return table


def plan_lines(document: Mapping[str, Any]) -> list[str]:
    """What is not tried or not searched, and the whole cost, one line each."""
    lines = data_sentences(provenance_of([{"provenance": document.get("data")}]))
    lines += [f"not tried on {entry['model']}: {_skipped(entry)} {entry['reason']}" for entry in document["skipped"]]
    lines += list(
        dict.fromkeys(f"{row['attack']} on {row['model']} {row['unsearched']}" for row in document["attacks"] if row["unsearched"])
    )
    search = sum(row["search"]["usd"] for row in document["attacks"])
    share = f", {formatting.dollars(search)} of it for searching at most" if search else ""
    cost = f"what the attacker would pay on {document['accelerator']}: {formatting.dollars(document['usd'])}{share}"
    return [*lines, f"{document['units']} units; {cost}, probes not counted."]


def _skipped(entry: Mapping[str, Any]) -> str:
    return str(entry["attack"] or f"the defence {entry['defense']}")
