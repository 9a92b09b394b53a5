"""A finished run, as a notebook holds it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tempering.economics.assess import Assessment
from tempering.economics.conclusions import Conclusions
from tempering.report.defended import is_comparison
from tempering.report.defense_words import comparison_lines
from tempering.report.formatting import share
from tempering.report.rows import PriceRow, group_title, groups, price_columns, price_rows
from tempering.report.terminal import sentence
from tempering.rereading import stored_tables
from tempering.study import Study


@dataclass(frozen=True)
class Run:
    """A run with its report.

    Attributes:
        directory: where everything lies.
        study: what was asked for, with the thresholds of the report.
        units: one row a unit of work: what it was, how it ended, what it spent.
        assessment: what attacks cost, and what defences multiply that by.
        conclusions: what follows from that: envelope, frontier, agreement, scaling, who is priced out, and how sure it is.
        summary: the content of ``summary.json``.
    """

    directory: Path
    study: Study
    units: pd.DataFrame = field(repr=False)
    assessment: Assessment = field(repr=False)
    conclusions: Conclusions = field(repr=False)
    summary: dict[str, Any] = field(repr=False)

    @property
    def trajectories(self) -> pd.DataFrame:
        """One row a probe: cumulative spend, measurements, recovered harm, utility kept."""
        return self.assessment.trajectories

    @property
    def breaks(self) -> pd.DataFrame:
        """One row a unit: its outcome, and for every currency the interval in which it broke."""
        return self.assessment.breaks

    @property
    def survival(self) -> pd.DataFrame:
        """One row a point of a survival curve: the share of runs still unbroken after a spend."""
        return self.assessment.survival

    @property
    def prices(self) -> pd.DataFrame:
        """One row an attack: outcomes, and for every currency the median break with its 95 % interval."""
        return self.assessment.prices

    @property
    def multipliers(self) -> pd.DataFrame:
        """What each defence multiplies the price by, one row a scope (an attack, a family, the best attacker) and currency."""
        return self.assessment.multipliers

    @property
    def tax(self) -> pd.DataFrame:
        """What each defence takes, one row each: utility, over-refusal, coherence, trainability, training."""
        return self.assessment.tax

    @property
    def absence(self) -> pd.DataFrame:
        """Whether what a defence withholds is gone, one row each, the undefended model among them."""
        return self.assessment.absence

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial of the searches: what it set, its outcome on the attacker's own prompts, its spend; empty without a search.

        Raises:
            StoreProblem: a table of the report is not as it was written.
        """
        return stored_tables(self.directory).get("trials", pd.DataFrame())

    @property
    def report_path(self) -> Path:
        """The self-contained page."""
        return self.directory / "report.html"

    def _repr_html_(self) -> str:
        """The price table, or that of the defences, and one plain sentence. Whatever a model's or a file's name holds, it is text here."""
        if is_comparison(self.assessment):
            titles, lines = comparison_lines(self.assessment)
            body = _cells([cells.get(title, "") for title in titles] for _, cells in lines)
        else:
            rows = price_rows(self.assessment)
            titles = ("Attack", "Outcome", *(title for title, _ in price_columns(rows)), "Utility kept")
            body = _html_rows(rows)
        head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f"<p>{html.escape(sentence(self.assessment))}</p><p>Report: <code>{html.escape(str(self.report_path))}</code></p>"
        )


def _html_rows(rows: list[PriceRow]) -> Iterator[str]:
    found, columns = groups(rows), price_columns(rows)
    for key, members in found.items():
        if len(found) > 1:
            yield f'<tr><th colspan="{len(columns) + 3}" style="text-align: left">{html.escape(group_title(*key))}</th></tr>'
        for row in members:
            cells = [row.attack, row.outcome_words, *(str(read(row)) for _, read in columns), share(row.utility_kept)]
            yield from _cells([cells])


def _cells(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows of a table, escaped."""
    for row in rows:
        yield f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
