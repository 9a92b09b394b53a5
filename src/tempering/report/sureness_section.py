"""The section on how sure all that is: each defence against the undefended model, all against each other, and how runs end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from tempering.economics.attackers import BEST
from tempering.economics.tables import CONTROL
from tempering.report.defended import Times, defense_rows
from tempering.report.difference_figure import MOST_WITH_NUMBERS, Difference, Differences, draw_differences, size
from tempering.report.drawing import Drawing, Panel
from tempering.report.ends_section import draw_ends
from tempering.report.formatting import NOTHING, times
from tempering.report.section import Cell, Line, Material, Section, SectionTable
from tempering.report.section_words import CHANCE, counted, listed, probability, titled, together

_QUARTILES = (0.25, 0.75)
_LEAST_SIDES = 3
"""Sides below which a table says it all."""
_COLUMNS = ("Price, median", "Lucky quarter", "Unlucky quarter", "Mean price", "Hazard", "p", "Least p")
_PAIR_COLUMNS = ("Mean price", "Hazard", "p", "Least p")
_CAPTION = (
    "The best attacker's FLOPs, as times the undefended model's; 95 % intervals below. Median: when half of the seeds were broken; lucky "
    "and unlucky quarter: when 25 % and 75 % were. Mean price: ratio of geometric means, what was never broken counted at the largest "
    "spend that both were watched to. Hazard: how often what still stands breaks, as times the undefended model; below 1 it breaks less. "
    "p: of the log-rank test by permutation, after Holm. Least p: the smallest that so many seeds can give."
)

Row = Mapping[Any, Any]


def sureness_section(material: Material) -> Section | None:
    """How sure the prices are; ``None`` of a study in which nothing was attacked."""
    contrasts = _of_best(material.conclusions.contrasts)
    ends = draw_ends(material)
    if contrasts.empty and not ends:
        return None
    models = list(dict.fromkeys(contrasts["model"])) if len(contrasts) else []
    own = [(model, contrasts[contrasts["model"] == model], f"-{number + 1}") for number, model in enumerate(models)]
    several = len(models) > 1
    squares = [_square(material, model, rows, suffix, several) for model, rows, suffix in own]
    compared = bool(models)
    return Section(
        name="sureness",
        title="How sure is that?",
        lead=(_LEAD_COMPARED if any(squares) else "") + (_LEAD_ENDS if ends else ""),
        drawings=(*(square for square in squares if square is not None), *ends),
        tables=tuple(
            table for model, rows, _ in own for table in (_against_control(material, model, rows, several), *_pairs(model, rows, several))
        ),
        notes=tuple(
            ("Against the undefended model" + (f", {listed(names)}" if several else ""), words)
            for names, words in together([(model, _verdict(rows)) for model, rows, _ in own])
        ),
        doubt=_DOUBT_COMPARED if compared else _DOUBT_ENDS,
    )


_LEAD_COMPARED = (
    "Runs differ by luck. The square says how many times dearer the best attacker's break is with the defence of the row than with that of "
    "the column, and marks the pairs that shuffling the seeds explains in no more than one of twenty cases. What was never broken counts "
    "as broken at the largest spend that both were watched to, so a defence that held is at least that much dearer. "
)
_LEAD_ENDS = (
    "An attack need not end in a break: it may ruin the model, find nothing, crash, or still be going when its budget is used up. The "
    "areas are the shares of runs that have come to each end by a spend, up to the last that anyone looked at; the upright bar is the 95 % "
    "interval of the share broken, where all were still watched."
)
_DOUBT_ENDS = (
    "More runs would: with few, the bars are wide whatever is seen. A larger budget might break what still stands, and runs that "
    "were destroyed, or failed, might break with other settings."
)
_DOUBT_COMPARED = (
    "More seeds would: with few, not even the largest difference has a small p. Each p is of one comparison; among many, about one of "
    "twenty is beyond chance by chance. And seeds say nothing of attacks that were not run, or of settings that were not searched."
)


def _of_best(table: pd.DataFrame) -> pd.DataFrame:
    """Contrasts of the best attacker in FLOPs."""
    return table if table.empty else table[(table["scope"] == BEST) & (table["currency"] == "flops")]


# All against each other


def _square(material: Material, model: str, rows: pd.DataFrame, suffix: str, several: bool) -> Drawing | None:
    differences = _differences(rows)
    sides = _in_order(material, model, rows)
    if len(sides) < _LEAST_SIDES:
        return None
    few = len(sides) <= MOST_WITH_NUMBERS
    spoken = [pair for pair in differences if sides.index(pair[0]) < sides.index(pair[1]) if few] or [
        pair for pair in differences if pair[1] == CONTROL
    ]
    words = " ".join(_told(pair, differences[pair]) for pair in spoken) + ("" if few else " A table has every pair.")
    panel = Panel(
        name=f"differences{suffix}",
        alt="How many times dearer the best attacker's break is with one defence than with another, as ratio of restricted geometric means "
        f"of FLOPs with 95 % intervals. {words}",
        size=size(sides),
        draw=partial(draw_differences, sides=sides, differences=differences),
    )
    title = "Which defences differ from each other" + (f": {model}" if several else "")
    return Drawing(f"differences{suffix}", title, _tally(rows, differences, sides), (panel,), {})


def _told(pair: tuple[str, str], found: Difference) -> str:
    ratio = "not known" if math.isnan(found.ratio) else f"{times(found.ratio)} ({found.interval})"
    return f"{titled(pair[0])} over {titled(pair[1])}: {ratio}{', beyond chance' if found.sure else ''}."


def _differences(rows: pd.DataFrame) -> Differences:
    """Of every side to every other, both ways."""
    names = ("geometric_ratio", "geometric_low", "geometric_high", "p_value")
    found = {
        (str(row["defense"]), str(row["against"])): Difference(*(float(row[name]) for name in names)) for row in rows.to_dict("records")
    }
    return found | {(other, side): difference.turned for (side, other), difference in found.items()}


def _in_order(material: Material, model: str, rows: pd.DataFrame) -> list[str]:
    """The sides, dearest first: by their geometric means over one horizon."""
    sides = sorted({*rows["defense"], *rows["against"]})
    means = _of_best(material.conclusions.restricted)
    known = {row["defense"]: row["geometric_mean"] for row in means.to_dict("records") if row["model"] == model}
    return sorted(sides, key=lambda side: (-_number(known.get(side), -math.inf), side == CONTROL, side))


def _tally(rows: pd.DataFrame, differences: Differences, sides: Sequence[str]) -> str:
    pairs, sure = len(rows), int((rows["p_value"] <= CHANCE).sum())
    least = float(rows["least_p_value"].min())
    far = max(
        (pair for pair in differences if not math.isnan(differences[pair].ratio)), key=lambda pair: differences[pair].ratio, default=None
    )
    furthest = f" Furthest apart are {titled(far[0])} and {titled(far[1])}: {_with_interval(differences[far])}." if far else ""
    if least > CHANCE:
        return (
            f"No pair can be marked: {_seeds(rows)} a side cannot give a p below {probability(least)}, so what the colours of "
            f"{counted(pairs, 'pair')} show may be luck.{furthest}"
        )
    by_chance = f"; chance alone would mark about {max(1, round(pairs * CHANCE))}" if pairs > 1 else ""
    return f"{sure or 'None'} of {counted(pairs, 'pair')} of {len(sides)} differ beyond chance at 5 %{by_chance}.{furthest}"


def _with_interval(found: Difference) -> str:
    return f"{times(found.ratio)} ({found.interval})" if found.interval else times(found.ratio)


def _seeds(rows: pd.DataFrame) -> str:
    few, many = int(rows[["runs", "against_runs"]].min().min()), int(rows[["runs", "against_runs"]].max().max())
    return counted(few, "seed") if few == many else f"{few} to {many} seeds"


# Each against the undefended model


def _verdict(rows: pd.DataFrame) -> str:
    own = rows[rows["against"] == CONTROL]
    if own.empty:
        return "It was not attacked, so nothing can be held against it."
    least = float(own["least_p_value"].min())
    if least > CHANCE:
        return (
            f"With {_seeds(own)} a side no p can be below {probability(least)}: whether {_which(len(own))} makes breaking dearer "
            "cannot be told from luck here, however large the difference. The intervals of medians and quarters know only of the gaps "
            "between looks, not of other seeds."
        )
    sure = own[own["p_adjusted"] <= CHANCE]
    dearer, cheaper = (list(map(str, sure.loc[side, "defense"])) for side in (sure["statistic"] < 0, sure["statistic"] > 0))
    told = [
        f"{len(names)} of {len(own)} break {when} beyond chance ({listed(names)})"
        for names, when in ((dearer, "later"), (cheaper, "sooner"))
        if names
    ]
    said = ", ".join(told) if told else f"none of {counted(len(own), 'defence')} differs from it beyond chance"
    few = " With fewer than five seeds, intervals say little." if own["few_seeds"].any() else ""
    return f"By the log-rank test at 5 %, {said}.{few} The least p that {_seeds(own)} a side can give is {probability(least)}."


def _which(count: int) -> str:
    return "the defence" if count == 1 else f"any of {count} defences"


def _against_control(material: Material, model: str, rows: pd.DataFrame, several: bool) -> SectionTable:
    quantiles = _of_best(material.conclusions.quantiles)
    found = {
        (row["defense"], round(float(row["quantile"]), 6)): Times(
            str(row["status"]), *(_number(row[name]) for name in ("multiplier", "low", "high"))
        )
        for row in quantiles.to_dict("records")
        if row["model"] == model
    }
    median = {row.defense: row.best for row in defense_rows(material.assessment) if row.model == model}
    records = {str(row["defense"]): row for row in rows[rows["against"] == CONTROL].to_dict("records")}
    order = [*(name for name in median if name in records), *(name for name in records if name not in median)]
    lines = tuple(
        Line(
            name,
            (
                _ratio(median.get(name, Times())),
                *(_ratio(found.get((name, quantile), Times())) for quantile in _QUARTILES),
                *_tested(records[name], "p_adjusted"),
            ),
            _broken(records[name], "undefended"),
        )
        for name in order
    )
    return SectionTable(_CAPTION, "Defence", _COLUMNS, lines, "Against the undefended model" + (f": {model}" if several else ""))


def _pairs(model: str, rows: pd.DataFrame, several: bool) -> tuple[SectionTable, ...]:
    others = rows[rows["against"] != CONTROL]
    if others.empty:
        return ()
    lines = tuple(
        Line(
            f"{row['defense']} over {row['against']}",
            _tested(row, "p_value"),
            _broken(row, "against"),
        )
        for row in others.to_dict("records")
    )
    caption = "The best attacker's FLOPs with the first as times those with the second; not adjusted for how many pairs there are."
    return (SectionTable(caption, "Pair", _PAIR_COLUMNS, lines, "Every pair of defences" + (f": {model}" if several else ""), folded=True),)


def _broken(row: Row, other: str) -> str:
    return f"{row['broken']} of {row['runs']} broken, {other} {row['against_broken']} of {row['against_runs']}"


def _ratio(ratio: Times) -> Cell:
    return Cell(ratio.middle, ratio.rank, ratio.interval) if ratio.told else Cell(ratio.reason or NOTHING)


def _tested(row: Row, p_value: str) -> tuple[Cell, Cell, Cell, Cell]:
    """Mean price, hazard, p and the least p."""
    found = Difference(*(float(row[name]) for name in ("geometric_ratio", "geometric_low", "geometric_high")))
    mean = Cell() if math.isnan(found.ratio) else Cell(times(found.ratio), found.ratio, found.interval)
    numbers = (Cell(probability(float(row[name])), float(row[name])) for name in (p_value, "least_p_value"))
    return (mean, _hazard(row), *numbers)  # type: ignore[return-value]


def _hazard(row: Row) -> Cell:
    """The hazard ratio, or its bound where one side never broke while the other was watched."""
    value, low, high = (float(row[name]) for name in ("hazard_ratio", "hazard_low", "hazard_high"))
    status = str(row["hazard_status"])
    if status == "at_most":
        return Cell(f"≤ {times(high)}", math.nextafter(high, 0)) if math.isfinite(high) else Cell("not known")
    if status == "at_least":
        return Cell(f"≥ {times(low, down=True)}", math.nextafter(low, math.inf)) if low > 0 else Cell("not known")
    if status != "known":
        return Cell("not known")
    ends = f"{times(low).removesuffix('×')} – {times(high)}" if math.isfinite(high) else f"from {times(low, down=True)}"
    return Cell(times(value), value, ends)


def _number(value: Any, otherwise: float = math.nan) -> float:
    number = otherwise if value is None or value is pd.NA else float(value)
    return otherwise if math.isnan(number) else number
