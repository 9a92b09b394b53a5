"""The section on the defender's frontier: which defences are worth their tax, which are dominated, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from tempering.economics.comparison import BEST
from tempering.economics.tables import CONTROL
from tempering.report.drawing import Drawing
from tempering.report.formatting import share
from tempering.report.frontier_figures import tax_panel
from tempering.report.frontier_rows import LESSON, TAXES, TRAINING, FrontierRow, Tax, frontier_rows, measured
from tempering.report.section import Cell, Line, Material, Section, SectionTable

_LEAD = (
    "Each mark is a defence: how many times the undefended price its best attacker pays, in FLOPs (upwards), against one thing that the "
    "defence takes (to the right). Up and to the left is better. Blue dots with names are the frontier: nothing here is known to beat them "
    "in everything. Grey crosses are dominated: another defence, or none at all, is at least as good in the price and in every tax, and "
    "better in one. The diamond is the undefended model, bars are 95 % intervals, an arrow means that only a bound is known, and the "
    "dotted stairs join the most that so much of one tax buys."
)
_LEAD_WITHOUT_PRICES = "What each defence takes. What it multiplies the price by is not known, so that none can be called the better."
_MOST_NAMES = 5
_SELDOM = 0.95
"""Dominated in less than this share of the resamples: other seeds could turn it."""
_MOSTLY = 0.5
"""Not dominated, but in more than this share of the resamples: it hardly stands on the frontier."""


def frontier_section(material: Material) -> Section | None:
    """What each defence multiplies the price by, against what it takes; ``None`` of a study without a defence."""
    rows = frontier_rows(material.conclusions.frontier)
    if not rows:
        return None
    models = list(dict.fromkeys(row.model for row in rows))
    drawings: list[Drawing] = []
    for index, model in enumerate(models):
        suffix, title = (f"-{index + 1}", f": {model}") if len(models) > 1 else ("", "")
        drawings += _drawings([row for row in rows if row.model == model], suffix, title)
    return Section(
        name="frontier",
        title="The defender's frontier",
        lead=_LEAD if drawings else _LEAD_WITHOUT_PRICES,
        drawings=tuple(drawings),
        tables=(_table(rows, several=len(models) > 1),),
        notes=tuple(_notes(rows, _seeds(material.assessment.multipliers))),
        doubt=_doubt(rows),
    )


# Pictures


def _drawings(rows: Sequence[FrontierRow], suffix: str, title: str) -> list[Drawing]:
    """Multiplier against the first tax that was measured, large, and against those of the others that some defence takes, small."""
    drawn = [row for row in rows if row.drawn]
    taxes = measured(drawn)
    if not taxes:
        return []
    first, *others = taxes
    panel = tax_panel(drawn, first, f"defenses-tax{suffix}", large=True)
    made = [Drawing(f"defenses-tax{suffix}", f"Price against tax{title}", _frontier_sentence(rows), (panel,), {})]
    panels = tuple(tax_panel(drawn, tax, f"defenses-tax{suffix}-{_slug(tax)}") for tax in others if _taken_by_some(drawn, tax))
    if panels:
        name, heading = f"defenses-other-taxes{suffix}", f"Price against the other taxes{title}"
        made.append(Drawing(name, heading, _taxes_sentence(drawn, others), panels, {}))
    return made


def _slug(tax: Tax) -> str:
    return tax.key.replace("_", "-")


def _taken_by_some(rows: Sequence[FrontierRow], tax: Tax) -> bool:
    return any(row.taken[tax.key].told and row.taken[tax.key].value != tax.nothing for row in rows)


def _frontier_sentence(rows: Sequence[FrontierRow]) -> str:
    """Who is on the frontier with what multiplier, and how many are not."""
    told = [row for row in rows if row.multiplier.told]
    best, dominated = [row for row in told if not row.dominated], [row for row in told if row.dominated]
    if len(told) == 1:
        (row,) = told
        ends = "which dominates it" if dominated else "which does not dominate it"
        sure = ", beyond doubt" if row.beyond_doubt else ""
        return f"{row.defense} multiplies the price by {row.multiplier}; its one rival is no defence at all, {ends}{sure}."
    tops = _and(f"{row.defense} at {row.multiplier}" for row in best)
    if not dominated:
        return f"All {len(told)} defences are on the frontier, none dominated: {tops}."
    first = (
        f"{len(best)} of {len(told)} defences {'is' if len(best) == 1 else 'are'} on the frontier: {tops}"
        if best
        else "No defence is on it"
    )
    surely = sum(row.beyond_doubt for row in dominated)
    others = "The other is" if len(dominated) == 1 else f"The other {len(dominated)} are"
    return f"{first}. {others if best else f'All {len(told)} are'} dominated, {_of_them(surely, len(dominated))}beyond doubt."


def _of_them(surely: int, dominated: int) -> str:
    return ("" if surely else "not ") if dominated == 1 else f"{surely or 'none'} of them "


def _taxes_sentence(rows: Sequence[FrontierRow], taxes: Sequence[Tax]) -> str:
    """What the dearest defence takes, and the most that is had without each tax."""
    dearest = max(rows, key=lambda row: row.multiplier.rank)
    lead = f"{dearest.defense}, the dearest to break," if len(rows) > 1 else dearest.defense
    words = f"{lead} {_and(_takes(dearest, tax) for tax in taxes if dearest.taken[tax.key].told)}." if _any_told(dearest, taxes) else ""
    free = [part for tax in taxes if tax.key != TRAINING and (part := _without(rows, tax))] if len(rows) > 1 else []
    return f"{words} The most that is had {_and(free)}.".strip() if free else words


def _any_told(row: FrontierRow, taxes: Sequence[Tax]) -> bool:
    return any(row.taken[tax.key].told for tax in taxes)


def _takes(row: FrontierRow, tax: Tax) -> str:
    """What a defence takes of one tax, for a sentence that begins with its name: "takes 2.6 TFLOP to train"."""
    taken = row.taken[tax.key]
    none = taken.told and taken.value <= tax.nothing  # whoever gains a little by luck has not lost minus a little
    return {
        "utility_lost": "loses no utility" if none else f"loses {taken} of utility",
        "borderline_lost": "loses no borderline answer" if none else f"loses {taken} of borderline answers",
        "over_refusal_gained": f"refuses {taken} more of borderline prompts",
        LESSON: f"makes an honest user take {taken} the steps",
        TRAINING: f"takes {taken} to train",
    }[tax.key]


def _without(rows: Sequence[FrontierRow], tax: Tax) -> str:
    """The highest multiplier among defences that take nothing of a tax."""
    free = [row for row in rows if row.taken[tax.key].told and not row.taken[tax.key].bound and row.taken[tax.key].value <= tax.nothing]
    best = max(free, key=lambda row: row.multiplier.rank, default=None)
    return f"without {tax.without} is {best.defense}'s {best.multiplier}" if best else ""


# The table


def _table(rows: Sequence[FrontierRow], *, several: bool) -> SectionTable:
    taxes = measured(rows)
    return SectionTable(
        caption="What each defence multiplies the best attacker's FLOPs by, and what it takes: utility, borderline prompts answered well, "
        "borderline prompts refused, how many times the steps an honest user's lesson takes, and FLOPs of training; 95 % intervals below. "
        "First the frontier, then the dominated, the dearest first. Resamples: the share over seeds in which it is dominated. Beyond "
        "doubt: by whom even where the intervals are believed.",
        first="Defence",
        columns=("Multiplier", *(tax.title for tax in taxes), "Dominated by", "Resamples", "Beyond doubt"),
        lines=tuple(_line(row, taxes, several=several, all_few=all(row.few_seeds for row in rows)) for row in rows),
        title="Every defence against every tax",
    )


def _line(row: FrontierRow, taxes: Sequence[Tax], *, several: bool, all_few: bool) -> Line:
    multiplier = row.multiplier
    cells = (
        Cell(multiplier.middle, multiplier.rank, multiplier.interval) if multiplier.told else Cell(multiplier.reason),
        *(Cell(taken.text, taken.rank, taken.interval) for taken in (row.taken[tax.key] for tax in taxes)),
        _dominated(row),
        Cell(share(row.share), row.share),
        _beyond_doubt(row),
    )
    return Line(f"{row.defense} on {row.model}" if several else row.defense, cells, "few seeds" if row.few_seeds and not all_few else "")


def _dominated(row: FrontierRow) -> Cell:
    if not row.multiplier.told:
        return Cell("not compared")
    return _rivals(row.by) if row.dominated else Cell("on the frontier", 0.0)


def _beyond_doubt(row: FrontierRow) -> Cell:
    if not row.dominated:
        return Cell()
    return _rivals(row.surely_by) if row.beyond_doubt else Cell("no", 0.0)


def _rivals(names: Sequence[str]) -> Cell:
    first, *others = (rival(name) for name in names)
    return Cell(first, float(len(names)), f"and {len(others)} more" if others else "")


def rival(name: str) -> str:
    """A defence that dominates, as a reader meets it."""
    return "no defence at all" if name == CONTROL else name


# What else is to be known


def _notes(rows: Sequence[FrontierRow], seeds: dict[tuple[str, str], int]) -> Iterable[tuple[str, str]]:
    few = [row for row in rows if row.few_seeds]
    if few:
        numbers = sorted({seeds[row.model, row.defense] for row in few if (row.model, row.defense) in seeds})
        names = "Every defence" if len(few) == len(rows) > 1 else _and(row.defense for row in few)
        yield (
            "Few seeds",
            f"{names} had {_counted(numbers)}. Intervals from so few are too narrow, and nothing of theirs is called beyond doubt.",
        )
    held = [row.defense for row in rows if row.multiplier.bound and not row.dominated]
    if len(held) > 1:
        text = f"Within the budget nothing broke half of the runs of {_and(held)}. Which of them is the dearest is not known, so none "
        yield "Bounds", f"{text}dominates another, whatever they take; a larger budget would tell."
    missing = [tax.axis for tax in _unmeasured(rows)]
    if missing:
        yield "Not measured", f"{_and(missing)}. No defence was compared in what nobody measured."
    silent = [f"{row.defense} ({row.multiplier.reason})" for row in rows if not row.multiplier.told]
    if silent:
        yield "Without a multiplier", f"{_and(silent)}. Such a defence is compared with none."


def _seeds(multipliers: pd.DataFrame) -> dict[tuple[str, str], int]:
    """In how many seeds each defence was attacked."""
    if multipliers.empty:
        return {}
    best = multipliers[(multipliers["scope"] == BEST) & (multipliers["currency"] == "flops")]
    return {(str(row["model"]), str(row["defense"])): int(row["defended_runs"]) for row in best.to_dict("records")}


def _counted(numbers: Sequence[int]) -> str:
    if not numbers:
        return "few seeds"
    low, high = numbers[0], numbers[-1]
    return f"{low} to {high} seeds" if low < high else "one seed" if low == 1 else f"{low} seeds"


def _unmeasured(rows: Sequence[FrontierRow]) -> list[Tax]:
    return [tax for tax in TAXES if tax not in measured(rows)]


def _doubt(rows: Sequence[FrontierRow]) -> str:
    dominated = [row for row in rows if row.dominated]
    back = [f"{row.defense} (dominated in {share(row.share)} of the resamples)" for row in dominated if row.share < _SELDOM]
    gone = [f"{row.defense} (in {share(row.share)})" for row in rows if not row.dominated and row.share > _MOSTLY]
    said = [f"Other seeds could bring back {_and(back)}."] if back else []
    if gone:
        said.append(f"On the frontier by these seeds, but dominated in most resamples of them: {_and(gone)}.")
    if dominated and not said:
        said.append("In nearly all resamples over seeds the same defences are dominated.")
    said.append("An attack that was not tried can pull down any multiplier, and a bound may hide a far larger one.")
    said.append("Whoever does not mind one of these taxes may leave it out.")
    return " ".join(said)


def _and(words: Iterable[str]) -> str:
    """As a sentence lists them, the rest counted."""
    unique = list(dict.fromkeys(words))
    shown = unique if len(unique) <= _MOST_NAMES + 1 else [*unique[:_MOST_NAMES], f"{len(unique) - _MOST_NAMES} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
