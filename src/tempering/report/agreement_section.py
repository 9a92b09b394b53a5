"""The section on whether a defence that resists one kind of attack resists another kind too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from tempering.economics.agreement import LEAST_DEFENSES
from tempering.report.agreement_figure import PANEL, Known, Point, draw_points
from tempering.report.drawing import Drawing, Panel
from tempering.report.formatting import NOTHING, flops, share
from tempering.report.section import Cell, Line, Material, Section, SectionTable
from tempering.report.section_words import CHANCE, capital, chance, counted, flops_between, listed, probability, together
from tempering.report.style import looks

_MOST_TOLD_APART = 8
"""Defences up to which each has a mark of its own."""

Row = Mapping[Any, Any]


def agreement_section(material: Material) -> Section | None:
    """Whether resistances go together; ``None`` of a study without defences."""
    table, points = material.conclusions.agreement, material.conclusions.resistances
    if table.empty:
        return None
    models = list(dict.fromkeys(map(str, table["model"])))
    several = len(models) > 1
    drawn = [
        _drawing(model, f"-{number + 1}" if several else "", table[table["model"] == model], points) for number, model in enumerate(models)
    ]
    return Section(
        name="agreement",
        title="Does resistance go together?",
        lead="Does a defence that makes one kind of attack dear make another kind dear too? Each mark is one defence in one seed, placed "
        "at what the cheapest attack of either kind had spent when it was seen to have broken the safeguard; the line behind it goes back "
        "to the last look before. A hollow mark held: its arrows say in which direction its price lies. Kendall's τ counts pairs of "
        "defences: 1 where both kinds put them all in the same order, 0 where one order says nothing about the other, −1 where they are "
        "reversed.",
        drawings=tuple(drawing for drawing in drawn if drawing is not None),
        tables=(_measures(table, several), *_prices(points, several)),
        notes=(*_untried(table, points), *_one_seed(table)),
        doubt="More defences would: a few that agree, or disagree, move τ far. So would a larger budget: where a defence held, nobody "
        "knows whether it lies above the others that held. And a price is that of the attacks that were run; others may be cheaper.",
    )


def _drawing(model: str, suffix: str, rows: pd.DataFrame, points: pd.DataFrame) -> Drawing | None:
    """The pairs of kinds that both were tried on one model, side by side."""
    marks = [(row, _points(points, model, (row["first"], row["second"]))) for row in rows.to_dict("records")]
    marks = [(row, own) for row, own in marks if own]
    if not marks:
        return None
    names = list(dict.fromkeys(point.defense for _, own in marks for point in own))
    look = looks(names) if len(names) <= _MOST_TOLD_APART else {}
    panels = tuple(
        Panel(
            name=f"agreement{suffix}-{number + 1}",
            alt=_alt(row, own),
            size=PANEL,
            draw=partial(draw_points, points=own, looks=look, axes_of=(row["first"], row["second"])),
        )
        for number, (row, own) in enumerate(marks)
    )
    sentence = " ".join(_sentence(row, own) for row, own in marks) + ("" if look else " Only the extremes have their names.")
    title = "One kind of attack against another" + (f": {model}" if suffix else "")
    return Drawing(f"agreement{suffix}", title, sentence, panels, look)


def _points(points: pd.DataFrame, model: str, pair: tuple[str, str]) -> list[Point]:
    """The points that have both kinds, in the order of defences and seeds."""
    sides = [
        {(row["defense"], row["seed"]): Known(float(row["lower"]), float(row["upper"])) for row in own.to_dict("records")}
        for own in (points[(points["model"] == model) & (points["group"] == group)] for group in pair)
    ]
    return [Point(str(key[0]), sides[0][key], sides[1][key]) for key in sorted(sides[0]) if key in sides[1]]


# In words


def _sentence(row: Row, points: Sequence[Point]) -> str:
    return " ".join(part for part in (f"{_says(row)}.", _held(row, points)) if part)


def _says(row: Row) -> str:
    first, second, status = row["first"], row["second"], row["status"]
    question = f"whether defences that resist {first} also resist {second}"
    seen = "" if math.isnan(row["tau"]) else f"; in what was seen τ is {_tau(row['tau'])}, and anything from −1 to 1 may be true"
    if status == "untried":
        return f"{capital(question)} cannot be told: no attack of one of the two kinds was run against every defence"
    if status == "too_few_defenses":
        said = f"{capital(question)} cannot be told from {counted(row['defenses'], 'defence')}: with fewer than {LEAST_DEFENSES}, "
        return f"{said}chance alone puts them in the same order too often{seen}"
    if status == "too_censored":
        known = "of too few pairs" if math.isnan(row["ordered"]) else f"of only {share(row['ordered'])} of pairs"
        return f"{capital(question)} cannot be told: {known} the order is known for both kinds, because so much held{seen}"
    return f"{_known(row, question)}: {_measure(row)}. For {share(row['ordered'])} of pairs the order is known for both kinds"


def _known(row: Row, question: str) -> str:
    sure = row["p_value"] <= CHANCE
    if sure and row["low"] > 0:
        return f"Defences that resist {row['first']} also tend to resist {row['second']}"
    if sure and row["high"] < 0:
        return f"Defences that resist {row['first']} tend to resist {row['second']} less"
    return f"{capital(question)} cannot be told from {counted(row['defenses'], 'defence')}"


def _measure(row: Row) -> str:
    often = f"dealing the defences out at random agrees, or disagrees, as much in {_percent(row['p_value'])} of cases"
    interval = f"95 % interval {_tau(row['low'])} to {_tau(row['high'])}"
    return f"Kendall's τ is {_tau(row['tau'])} ({interval}), and {often} ({chance(row['p_value'])})"


def _held(row: Row, points: Sequence[Point]) -> str:
    """How many marks hold, kind by kind; nothing where all broke."""
    counts = [(kind, sum(known.held for known in side)) for kind, side in zip((row["first"], row["second"]), _sides(points), strict=True)]
    told = [f"{count} of {len(points)} marks held against {kind}" for kind, count in counts if count]
    return f"{capital(' and '.join(told))}." if told else ""


def _sides(points: Sequence[Point]) -> tuple[list[Known], list[Known]]:
    return [point.first for point in points], [point.second for point in points]


def _untried(table: pd.DataFrame, points: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Pairs that no picture shows, since one of the kinds was not run against every defence."""
    rows = [row for row in table.to_dict("records") if not _points(points, str(row["model"]), (row["first"], row["second"]))]
    said = [(str(row["model"]), f"{capital(row['first'])} and {row['second']}", f"{_says(row)}.") for row in rows]
    heads = dict.fromkeys(head for _, head, _ in said)
    return tuple(
        (head, words if table["model"].nunique() == len(names) else f"{listed(names)}: {words}")
        for head in heads
        for names, words in together([(model, words) for model, of, words in said if of == head])
    )


def _one_seed(table: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    single = table[(table["points"] == table["defenses"]) & (table["points"] > 0)]
    if single.empty:
        return ()
    return (
        (
            "One seed",
            "Each defence was trained and attacked once. Another seed may move its mark, and the interval knows only of defences.",
        ),
    )


def _alt(row: Row, points: Sequence[Point]) -> str:
    names = list(dict.fromkeys(point.defense for point in points))
    words = []
    for name in names:
        sides = _sides([point for point in points if point.defense == name])
        words.append(f"{name}: " + " and ".join(_range(side).text + _brackets(_range(side).interval) for side in sides) + ".")
    what = f"FLOPs of the cheapest break by {row['first']} (across) and by {row['second']} (up), a mark for each defence and seed."
    return f"{what} {' '.join(words)}"


def _brackets(text: str) -> str:
    return f" ({text})" if text else ""


# Tables


def _measures(table: pd.DataFrame, several: bool) -> SectionTable:
    caption = "Kendall's τ with its 95 % interval; p is the share of random orders of the defences that agree, or disagree, as much."
    columns = ("Kendall's τ", "p", "Defences", "Marks", "Pairs with a known order")
    return SectionTable(caption, "Kinds of attack", columns, tuple(_measure_line(row, several) for row in table.to_dict("records")))


_SHORT = {"known": "", "too_few_defenses": "too few defences", "too_censored": "too much held", "untried": "not run against all"}


def _measure_line(row: Row, several: bool) -> Line:
    known = row["status"] == "known"
    interval = f"{_tau(row['low'])} to {_tau(row['high'])}"
    note = ", ".join(part for part in (str(row["model"]) if several else "", _SHORT[row["status"]]) if part)
    return Line(
        f"{row['first']} and {row['second']}",
        (
            Cell(_tau(row["tau"]), row["tau"], interval) if not math.isnan(row["tau"]) else Cell(),
            Cell(probability(row["p_value"]), row["p_value"]) if known else Cell(),
            Cell(str(row["defenses"]), float(row["defenses"])),
            Cell(str(row["points"]), float(row["points"])),
            Cell(share(row["ordered"]), row["ordered"]),
        ),
        note,
    )


def _prices(points: pd.DataFrame, several: bool) -> tuple[SectionTable, ...]:
    if points.empty:
        return ()
    groups = list(dict.fromkeys(points["group"]))
    lines = []
    for (model, defense), own in points.groupby(["model", "defense"], sort=True):
        sides = {name: [Known(*ends) for ends in side[["lower", "upper"]].to_numpy()] for name, side in own.groupby("group")}
        lines.append(Line(str(defense), tuple(_range(sides.get(name, [])) for name in groups), str(model) if several else ""))
    caption = "FLOPs of the cheapest attack of each kind: from the last look with no seed broken to the first with all that ever broke."
    return (SectionTable(caption, "Defence", tuple(map(capital, groups)), tuple(lines), "The prices behind the marks", folded=True),)


def _range(side: Sequence[Known]) -> Cell:
    """Over seeds: between which spends it broke, and how many held."""
    if not side:
        return Cell()
    broken, held = [known for known in side if not known.held], [known for known in side if known.held]
    bound = min((known.lower for known in held), default=math.nan)
    if not broken:
        return Cell(f"> {flops(bound)}", bound, f"held in {len(held)} of {len(side)} seeds" if len(side) > 1 else "")
    low, high = min(known.lower for known in broken), max(known.upper for known in broken)
    rest = f"held in {len(held)} of {len(side)}, beyond {flops(bound)}" if held else ""
    return Cell("0, at once" if high == 0 else flops_between(low, high), high, rest)


def _tau(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def _percent(value: float) -> str:
    return "under 0.1 %" if value < 0.001 else share(value)
