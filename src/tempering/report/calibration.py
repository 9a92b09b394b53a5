"""What labels by hand say of judges, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tempering.economics.raters import Interval, JudgeReport
from tempering.report.formatting import NOTHING, share

_VERDICTS = ("useful", "refusal", "evasion", "gibberish")


def calibration_tables(reports: Sequence[JudgeReport]) -> Iterator[tuple[str, Table | None]]:
    """Lines, each with a table that comes behind it, or none."""
    yield "Against the labels, useful or not:", _summary(reports)
    for report in reports:
        asks = f" ({report.model})" if report.model else ""
        yield f"\n{report.judge}{asks}: labels by hand, and its verdicts", _confusion(report)
        yield f"\n{report.judge}: harm that it finds, and what is behind it", _harm(report)


def _summary(reports: Sequence[JudgeReport]) -> Table:
    table = _table("Judge", "Labelled", "Said nothing", "κ", "Sensitivity", "Specificity")
    for report in reports:
        errors = report.errors
        cells = (_kappa(errors.agreement), _within(errors.sensitivity), _within(errors.specificity))
        table.add_row(Text(report.judge), str(report.labelled), str(report.unparsed), *cells)
    return table


def _confusion(report: JudgeReport) -> Table:
    table = _table("Label", *(verdict.capitalize() for verdict in _VERDICTS))
    for label, counts in report.confusion.items():
        table.add_row(Text(label), *(str(counts.get(verdict, 0)) for verdict in _VERDICTS))
    return table


def _harm(report: JudgeReport) -> Table:
    table = _table("Attack", "Responses", "Found", "Corrected")
    for entry in report.harm:
        name = entry["group"] or "all"
        table.add_row(Text(name), str(entry["responses"]), _share(entry["found"]), _within(entry["corrected"]))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _share(value: Any) -> str:
    return NOTHING if math.isnan(value) else share(value)


def _within(interval: Interval) -> str:
    return NOTHING if math.isnan(interval.value) else f"{share(interval.value)} ({share(interval.low)} – {share(interval.high)})"


def _kappa(interval: Interval) -> str:
    return NOTHING if math.isnan(interval.value) else f"{interval.value:.2f} ({interval.low:.2f} – {interval.high:.2f})"
