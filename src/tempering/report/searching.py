"""The section on what it costs to find an attack's settings: by chance with restarts, beside the search that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tempering.report.formatting import NOTHING, amount, share
from tempering.report.rows import group_title
from tempering.report.section import Cell, Line, Material, Section, SectionTable

_COLUMNS = ("Trials", "Expected cost", "Give up at", "Trials that break by then", "Without giving up", "Measured search")


def search_section(material: Material) -> Section | None:
    """What a search at random costs; ``None`` of a study without a search."""
    table = material.conclusions.search_costs
    if table.empty:
        return None
    lines = tuple(_line(row) for row in table[table["currency"] == "flops"].to_dict("records"))
    caption = "FLOPs; 95 % intervals over seeds and trials below. The measured search is its median with the run that followed it."
    return Section(
        name="search-cost",
        title="What finding the settings costs",
        lead="An attacker who knows nothing tries settings at random, gives a trial up once it has cost so much, and tries others, until "
        "one breaks the safeguard. The expected cost is that of the best point to give up; nobody who searches blindly pays less.",
        tables=(SectionTable(caption, "Attack", _COLUMNS, lines),),
        doubt="A search that learns from its trials can be cheaper than this, and so can an attacker who has broken a like model before. "
        "Where few trials broke, the best point to give up is little known; the intervals say how little.",
    )


def _line(row: Mapping[Any, Any]) -> Line:
    few = "few trials broke" if row["few_breaks"] and row["broken"] else ""
    return Line(
        f"{row['attack']} on {group_title(str(row['model']), str(row['defense']))}",
        (
            Cell(f"{row['broken']} of {row['trials']} broke", float(row["broken"]) / max(1, float(row["trials"]))),
            _expected(row),
            _flops(row["cutoff"]),
            Cell(NOTHING if math.isnan(row["success"]) else share(row["success"]), row["success"]),
            _flops(row["naive"], row["naive_low"], row["naive_high"]),
            _measured(row),
        ),
        few,
    )


def _expected(row: Mapping[Any, Any]) -> Cell:
    if row["status"] == "beyond":
        return Cell(f"> {amount(row['low'], 'flops')}", float(row["low"]))
    cell = _flops(row["expected"], row["low"], row["high"])
    return Cell(f"≤ {cell.text}", cell.rank, cell.interval) if row["status"] == "at_most" else cell


def _measured(row: Mapping[Any, Any]) -> Cell:
    if row["adaptive_censored"]:
        return Cell(f"> {amount(row['adaptive_low'], 'flops')}", float(row["adaptive_low"]))
    return _flops(row["adaptive_median"], row["adaptive_low"], row["adaptive_high"])


def _flops(value: float, low: float = math.nan, high: float = math.nan) -> Cell:
    if math.isnan(value):
        return Cell()
    if math.isinf(value):
        return Cell("unbounded", value)
    ends = [NOTHING if math.isnan(end) else "∞" if math.isinf(end) else amount(end, "flops") for end in (low, high)]
    return Cell(amount(value, "flops"), float(value), "" if math.isnan(low) else f"{ends[0]} – {ends[1]}")
