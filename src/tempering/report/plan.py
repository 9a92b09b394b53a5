"""What a plan says in a terminal: a table of what each attack would cost, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from tempering.report import formatting
from tempering.report.rows import group_title


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
    for row in document["attacks"]:
        search = row["search"]
        tried = (formatting.count(search["trials"]), formatting.flops(search["flops"] / row["units"])) if searched else ()
        table.add_row(
            Text(group_title(row["model"], row["defense"])),
            Text(row["attack"]),
            str(row["units"]),
            formatting.count(row["each"]["steps"]),
            formatting.flops(row["each"]["flops"]),
            *tried,
            formatting.gpu_hours(row["gpu_hours"]),
            formatting.dollars(row["usd"]),
        )
    return table


def others_table(document: Mapping[str, Any]) -> Table | None:
    """What is done beside the attacks: the training of the defences, and an honest user's fine-tuning; ``None`` without any.

    Args:
        document: from :func:`tempering.planning.priced_plan`.
    """
    parts = (("hardening", "training by the defender"), ("trainability", "fine-tuning by an honest user"))
    rows = [(title, row) for name, title in parts for row in document.get(name, [])]
    if not rows:
        return None
    table = Table("Model", "Before and beside the attacks", box=None, pad_edge=False, header_style="bold")
    for title in ("Units", "Steps each", "FLOPs each"):
        table.add_column(title, justify="right")
    for title, row in rows:
        cost = "not estimated" if row["flops"] is None else formatting.flops(row["flops"])
        name = Text(group_title(row["model"], row["defense"]))
        table.add_row(name, Text(title), str(row["units"]), formatting.count(row["steps"]), cost)
    return table


def plan_lines(document: Mapping[str, Any]) -> list[str]:
    """What is not tried or not searched, and the whole cost, one line each."""
    lines = [f"not tried on {entry['model']}: {_skipped(entry)} {entry['reason']}" for entry in document["skipped"]]
    lines += list(
        dict.fromkeys(f"{row['attack']} on {row['model']} {row['unsearched']}" for row in document["attacks"] if row["unsearched"])
    )
    search = sum(row["search"]["usd"] for row in document["attacks"])
    share = f", {formatting.dollars(search)} of it for searching at most" if search else ""
    cost = f"what the attacker would pay on {document['accelerator']}: {formatting.dollars(document['usd'])}{share}"
    return [*lines, f"{document['units']} units; {cost}, probes not counted."]


def _skipped(entry: Mapping[str, Any]) -> str:
    return str(entry["attack"] or f"the defence {entry['defense']}")
