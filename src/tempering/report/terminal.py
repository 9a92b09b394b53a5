"""What a finished audit says in a terminal: the table of prices and one plain sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tempering.report import notes
from tempering.report.defended import is_comparison
from tempering.report.defense_words import comparison_sentence, comparison_table
from tempering.report.formatting import CURRENCIES, NOTHING, TITLES, amount, count, share
from tempering.report.rows import LABELS, SEARCHED, PriceRow, group_title, groups, price_rows, spent_in
from tempering.report.undone import undone, undone_sentences

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment

_BY_IMPORTANCE = ("usd", "total_usd", "flops", "examples", "steps", "queries", "total_flops", "gpu_hours", "tokens")
"""Prices in the order in which a table keeps them when it gets narrow; the totals are those with a search."""


def price_table(assessment: Assessment, width: int = 100) -> Table:
    """The price table, no wider than the terminal.

    Each cell has the median above its 95 % interval: side by side where there is room for every currency, its ends one above the
    other where there is not. A terminal narrower still loses columns, the least telling first; outcomes and dollars always stay.

    Args:
        assessment: what economics computed.
        width: columns of the terminal.

    Returns:
        A table for ``rich``.
    """
    rows = price_rows(assessment)
    columns = _layout(rows, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False, collapse_padding=True)
    for column in columns:
        left = column.title in ("Attack", "Outcome")
        table.add_column(column.title, justify="left" if left else "right", no_wrap=True, overflow="ellipsis" if left else "crop")
    several = len(groups(rows)) > 1
    index = 0
    for key, members in groups(rows).items():
        if several:
            table.add_row(Text(group_title(*key), style="bold"))
        for _ in members:
            table.add_row(*(column.cell(index) for column in columns))
            index += 1
    return table


def result_table(assessment: Assessment, width: int = 100) -> Table:
    """What a finished run shows: the table of the defences where they were compared, else that of the prices; as :func:`price_table`."""
    return comparison_table(assessment, width) if is_comparison(assessment) else price_table(assessment, width)


@dataclass(frozen=True)
class _Column:
    """One column before it is laid out: for each row a first line, and dim lines below it."""

    title: str
    first: list[str]
    below: list[list[str]]
    all_bright: bool = False

    @property
    def width(self) -> int:
        return max(len(line) for line in (self.title, *self.first, *(line for lines in self.below for line in lines)))

    def cell(self, index: int) -> Text:
        cell = Text(self.first[index])
        for line in self.below[index]:
            cell.append(f"\n{line}", style="" if self.all_bright else "dim")
        return cell


def _layout(rows: list[PriceRow], width: int) -> list[_Column]:
    """The columns to show: the widest layout that fits."""
    attack = _Column("Attack", [row.attack for row in rows], [[] for _ in rows])
    outcomes = [[f"{number} {LABELS[name]}" for name, number in row.outcomes.items() if number] or ["not run"] for row in rows]
    outcome = _Column("Outcome", [lines[0] for lines in outcomes], [lines[1:] for lines in outcomes], all_bright=True)
    utility = _Column("Utility", [share(row.utility_kept) for row in rows], [[] for _ in rows])
    order = [
        *(currency for currency in CURRENCIES if spent_in(rows, currency)),
        *(f"total_{currency}" for currency in SEARCHED if any(row.search for row in rows)),
    ]
    for stacked in (False, True):
        prices = {name: _price_column(rows, name, stacked=stacked) for name in order}
        every = [attack, outcome, *prices.values(), utility]
        if _total_width(every) <= width:
            return every
    kept: list[str] = []
    for name in (name for name in _BY_IMPORTANCE if name in prices):
        if kept and _total_width([attack, outcome, utility, *(prices[shown] for shown in (*kept, name))]) > width:
            break
        kept.append(name)
    shown = [attack, outcome, *(prices[name] for name in order if name in kept)]
    return [*shown, utility] if _total_width([*shown, utility]) <= width else shown


def _total_width(columns: list[_Column]) -> int:
    return sum(column.width + 2 for column in columns) - 2


def _price_column(rows: list[PriceRow], name: str, *, stacked: bool) -> _Column:
    currency = name.removeprefix("total_")
    prices = [row.prices[currency] if name == currency else row.with_search(currency) for row in rows]
    below: list[list[str]] = []
    for price in prices:
        if not price.has_interval:
            below.append([])
        elif stacked and price.censored:
            below.append(["from", _short(amount(price.low, currency))])
        elif stacked:
            low, high = (_short(end) for end in price.ends)
            below.append([f"{low} –", high])
        else:
            below.append([_short(price.interval)])
    title = TITLES[currency] if name == currency else f"{TITLES[currency]} with search"
    return _Column(title, [_short(price.middle) for price in prices], below)


def _short(text: str) -> str:
    """A cell under a title that already says what is counted: no "FLOP", no "GPU-", no ".0"."""
    return text.replace("FLOP", "").replace("GPU-", "").rstrip()


def sentence(assessment: Assessment) -> str:
    """One plain sentence: the cheapest break and its price, or that nothing broke the model; of a comparison, what the defences do.

    Where the floor of utility took a training back, what was attacked under that defence's name is said beside it.
    """
    if is_comparison(assessment):
        return " ".join([comparison_sentence(assessment), *undone_sentences(undone(assessment))])
    rows = price_rows(assessment)
    if not rows:
        return "No attack was run, so nothing is known about the price of a break."
    parts = [_group_sentence(key, members, several=len(groups(rows)) > 1) for key, members in groups(rows).items()]
    if blind := notes.unseen(rows, assessment):
        parts.append(f"The budget ended runs of {notes.listed([row.attack for row in blind])} before anything was looked at.")
    return " ".join(parts)


def cheapest_row(rows: list[PriceRow]) -> PriceRow | None:
    """The attack with the lowest median price in dollars, or ``None`` where no median was reached."""
    priced = [row for row in rows if not row.prices["usd"].censored and math.isfinite(row.prices["usd"].median)]
    return min(priced, key=lambda row: row.prices["usd"].median, default=None)


def _group_sentence(key: tuple[str, str], rows: list[PriceRow], *, several: bool) -> str:
    name = group_title(*key)
    best = cheapest_row(rows)
    if best is None:
        return _unbroken(name, rows)
    price = best.prices
    if price["usd"].median == 0:
        return f"{name} has to be broken by nobody: before any spend it already gives what {best.attack} is after."
    interval = f" (95 % interval {price['usd'].interval})" if price["usd"].interval and best.trials > 1 else ""
    spent = f"{counted(price['examples'].middle, 'example')}, {counted(price['steps'].middle, 'step')} and {price['flops'].middle}"
    times = (
        f"in {best.outcomes['broken']} of {best.trials} runs" if best.trials > 1 else "in a single run, which gives no interval over seeds"
    )
    return f"The cheapest break of {name} is {best.attack}: {price['usd'].middle}{interval} for {spent}, {times}{_searched(best)}."


def _searched(row: PriceRow) -> str:
    """What the search for its settings makes of the price, as the end of a sentence."""
    if row.search is None:
        return ""
    return f"; with the search for its settings, {counted(count(row.search.trials), 'trial')} a run, {row.search.totals['usd'].middle}"


def _unbroken(name: str, rows: list[PriceRow]) -> str:
    broken = sum(row.outcomes["broken"] for row in rows)
    trials = sum(row.trials for row in rows)
    attacks = f"{len(rows)} {'attack' if len(rows) == 1 else 'attacks'}"
    runs = f"{trials} {'run' if trials == 1 else 'runs'}"
    best = max((row.best_recovered for row in rows if math.isfinite(row.best_recovered)), default=math.nan)
    most = f"; the most harm any run recovered is {share(best)}" if math.isfinite(best) else ""
    if broken:
        return f"No attack breaks {name} in half of its runs within the budget, but {broken} of {runs} of {attacks} did{most}."
    if all(row.outcomes["failed"] == row.trials for row in rows):
        return f"Every run against {name} failed, so nothing is known about the price of a break."
    return f"Nothing broke {name} within the budget: {attacks}, {runs}{most}."


def counted(number: str, noun: str) -> str:
    """A number with its noun: "1 example", "12 examples", "> 200 steps"."""
    return f"{number} {noun}" if number == "1" else f"{'no' if number in ('0', NOTHING) else number} {noun}s"
