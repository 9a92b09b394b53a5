"""The section on what a broken or a hardened model can still do, by the benchmarks that the study asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tempering.report.formatting import NOTHING
from tempering.report.rows import group_title
from tempering.report.section import Cell, Line, Material, Section, SectionTable


def capability_section(material: Material) -> Section | None:
    """Benchmarks before and after; ``None`` of a study that asked for none."""
    table = material.conclusions.capability
    if table.empty:
        return None
    measures = tuple(dict.fromkeys(table["measure"]))
    lines = []
    for (model, defense, attack), rows in table.groupby(["model", "defense", "attack"], sort=False):
        by_measure = {str(row["measure"]): row for row in rows.to_dict("records")}
        cells = tuple(_cell(by_measure.get(measure)) for measure in measures)
        lines.append(Line(_name(str(model), str(defense), str(attack)), cells, _note(rows)))
    return Section(
        name="capability",
        title="What is left of its abilities",
        lead="Utility asks whether the benign prompts of the audit are answered as before. Benchmarks ask the same of abilities that the "
        "audit's own prompts do not reach: a break that leaves a model unable to reason is worth less to an attacker, and a defence that "
        "does so costs everybody.",
        tables=(
            SectionTable(
                "The benchmark's own score of the model as it was and after it; below, the mean change with its 95 % interval over seeds.",
                "After",
                measures,
                tuple(lines),
            ),
        ),
        doubt="Benchmarks are put to the untouched model, to what a defence made, and to checkpoints that do more harm than the target; of "
        "a run that did not break, the checkpoint with the most harm counts. A benchmark that is cut to a few questions has an error of "
        "its own, which the interval over seeds does not show: a share of 100 questions is known to ten points at best.",
    )


def capability_lines(table: pd.DataFrame) -> list[str]:
    """The same for a terminal, a line for every row and benchmark."""
    return [
        f"{row['measure']} after {_name(str(row['model']), str(row['defense']), str(row['attack']))}: {_change(row)}"
        for row in table.to_dict("records")
    ]


def _name(model: str, defense: str, attack: str) -> str:
    return f"{attack} on {group_title(model, defense)}" if attack else f"hardening of {model} by {defense}"


def _note(rows: pd.DataFrame) -> str:
    runs, broken = int(rows["runs"].max()), int(rows["broken"].max())
    if not runs:
        return "no run got more harm out of it"
    if rows["attack"].iloc[0] == "":
        return "one seed" if runs == 1 else f"{runs} seeds"
    counted = "one run" if runs == 1 else f"{runs} runs"
    return f"{counted}, all at the break" if broken == runs else f"{counted}, {broken} at the break"


def _cell(row: Mapping[Any, Any] | None) -> Cell:
    if row is None:
        return Cell()
    interval = ""
    if not math.isnan(row["change"]):
        interval = signed(row["change"])
        if row["runs"] > 1:
            interval += f" ({signed(row['change_low'])} to {signed(row['change_high'])})"
    return Cell(_change(row), float(row["change"]), interval)


def _change(row: Mapping[Any, Any]) -> str:
    return f"{score(row['before'])} → {score(row['after'])}"


def score(value: float) -> str:
    """A score to three digits: "0.65", "0.648", "37.2"."""
    return NOTHING if math.isnan(value) else f"{value:.3g}"


def signed(value: float) -> str:
    """A change, with a sign: "−0.04", "+0.01", "±0"."""
    text = score(abs(value))
    return "±0" if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"
