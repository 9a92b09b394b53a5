"""The section on what size does to the price: the line over measured models, and where it would go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from tempering.economics.attackers import BEST
from tempering.economics.ladder import series_of
from tempering.economics.scaling import LEAST_SERIES, LEAST_SIZES
from tempering.economics.tables import CONTROL
from tempering.report.drawing import Drawing, Panel
from tempering.report.formatting import NOTHING, flops, significant, times
from tempering.report.scaling_figure import PANEL, Foretold, Ladder, Measured, draw_ladder, sized
from tempering.report.section import Cell, Line, Material, Section, SectionTable
from tempering.report.section_words import capital, chance, counted, flops_between, probability, titled

MOST_PANELS = 12
"""Defences that are drawn, the undefended model first; the others are in the table."""
_REASONS = {
    "too_few_sizes": "no line: fewer than three sizes",
    "too_few_prices": "no line: fewer than three models broke",
}
_LEARNED = {
    "too_few_series": f"fewer than {LEAST_SERIES} series of models",
    "unidentified": "no series has two sizes",
}
_TENFOLD = math.log(10)

Row = Mapping[Any, Any]


def scaling_section(material: Material) -> Section | None:
    """What size does to the price; ``None`` of a study of fewer than three sizes."""
    found = material.conclusions
    if found.sizes.empty or found.sizes["parameters"].nunique() < LEAST_SIZES:
        return None
    best = _ladders(found.sizes, found.size_fits, found.size_curve)
    shown = best[:MOST_PANELS]
    drawings = (_drawing(shown, best, found.size_fits),) if shown else ()
    asked = sorted({place.parameters for ladder in best for place in ladder.curve if place.extrapolated})
    return Section(
        name="scaling",
        title="What size does to the price",
        lead="Both axes are logarithmic, so a price that grows in proportion to the size is a line that rises by as much as it goes to the "
        "right: a slope of 1. A dot is the median of one model over its seeds, a hollow one with an arrow a bound. The band is where the "
        "price of one more model would lie in 95 of 100 cases; beyond the largest model it is dashed, in another colour, and a guess that "
        "nothing here can test.",
        drawings=drawings,
        tables=(
            _fits(found.size_fits[found.size_fits["name"] == BEST], found.size_curve, asked),
            *_every_attack(found.size_fits, found.size_curve, asked),
            *_learned_table(found.learned),
        ),
        notes=(*_made_alike(found.sizes), *_learned_note(found.learned)),
        doubt="One measured model of the size that was extrapolated to would, whichever way it fell. The line assumes that models between "
        "and beyond those that were measured behave like them; another family, other data or other training may not.",
    )


# The ladders


def _ladders(sizes: pd.DataFrame, fits: pd.DataFrame, curve: pd.DataFrame) -> list[Ladder]:
    """Of the best attacker, the undefended model first."""
    own = [table[table["name"] == BEST] for table in (sizes, fits, curve)]
    defenses = sorted(own[0]["defense"].unique(), key=lambda defense: (defense != CONTROL, defense))
    return [_ladder(str(defense), *(table[table["defense"] == defense] for table in own)) for defense in defenses]


def _ladder(defense: str, sizes: pd.DataFrame, fits: pd.DataFrame, curve: pd.DataFrame) -> Ladder:
    status = str(fits["status"].iloc[0]) if len(fits) else "too_few_sizes"
    models = tuple(
        Measured(str(row["model"]), float(row["parameters"]), float(row["lower"]), float(row["upper"]), int(row["seeds"]))
        for row in sizes.sort_values("parameters").to_dict("records")
    )
    places = tuple(_foretold(row) for row in curve.sort_values("parameters").to_dict("records"))
    return Ladder(capital(titled(defense)) if defense == CONTROL else defense, models, places, _reason(status))


def _foretold(row: Row) -> Foretold:
    size, price, low, high = (float(row[name]) for name in ("parameters", "price", "low", "high"))
    return Foretold(size, price, low, high, bool(row["extrapolated"]), float(row["decades"]))


def _reason(status: str) -> str:
    return "" if status == "known" else _REASONS.get(status, "no line")


def _drawing(shown: Sequence[Ladder], every: Sequence[Ladder], fits: pd.DataFrame) -> Drawing:
    panels = tuple(
        Panel(
            name=f"scaling-{number + 1}",
            alt=f"{ladder.title}: FLOPs at the best attacker's median break over the size of the model. {_alt(ladder)}",
            size=PANEL,
            draw=partial(draw_ladder, ladder=ladder, ladders=shown),
        )
        for number, ladder in enumerate(shown)
    )
    return Drawing("scaling", "The best attacker's price over the size of the model", _sentence(shown, every, fits), panels, {})


# In words


def _sentence(shown: Sequence[Ladder], every: Sequence[Ladder], fits: pd.DataFrame) -> str:
    best = {str(row["defense"]): row for row in fits[fits["name"] == BEST].to_dict("records")}
    first = next((ladder for ladder in every if not ladder.reason), None)
    without = [ladder for ladder in every if ladder.reason]
    if first is None:
        why = sorted({ladder.reason.removeprefix("no line: ") for ladder in without})
        return f"No line can be drawn: {' and '.join(why)}. {_bounds(shown[0])}"
    row = best[CONTROL if first.title == capital(titled(CONTROL)) else first.title]
    rest = f" {len(without)} of {len(every)} have no line." if without else ""
    left_out = f" Drawn are {len(shown)} of {len(every)}; the table has all." if len(shown) < len(every) else ""
    return f"{first.title}: {_slope_words(row)}. {_further(first)}{rest}{left_out}"


def _slope_words(row: Row) -> str:
    slope, low, high = (float(row[name]) for name in ("slope", "slope_low", "slope_high"))
    if low > 0:
        says = "the price rises with size"
    elif high < 0:
        says = "the price falls with size"
    else:
        says = "whether the price rises or falls with size cannot be told"
    return (
        f"{says}, by a slope of {_decimal(slope)} (95 % interval {_decimal(low)} to {_decimal(high)}) over {row['models']} models from "
        f"{sized(float(row['smallest']))} to {sized(float(row['largest']))} parameters"
    )


def _further(ladder: Ladder) -> str:
    """What the line says of sizes that nobody measured, and how far off they are."""
    told = [f"{_price(place)} at {sized(place.parameters)}, {_far(place, ladder)}" for place in ladder.curve if place.extrapolated]
    return f"If the line goes on, which nothing here can test, the median break costs {', and '.join(told)}." if told else ""


def _price(place: Foretold) -> str:
    return f"{flops(place.price)} (95 %: {flops_between(place.low, place.high)})"


def _far(place: Foretold, ladder: Ladder) -> str:
    """How far a size lies beyond those that were measured."""
    if not ladder.models or place.parameters < ladder.models[-1].parameters:
        return f"{_decades(place.decades)} below the smallest that was measured"
    return f"{times(place.parameters / ladder.models[-1].parameters)} the largest that was measured ({_decades(place.decades)} beyond)"


def _decades(value: float) -> str:
    return f"{significant(value, 2)} decades" if value >= 0.095 else "under a tenth of a decade"


def _bounds(ladder: Ladder) -> str:
    return f"{ladder.title}: " + ", ".join(f"{_told(model)} at {sized(model.parameters)}" for model in ladder.models) + "."


def _told(model: Measured) -> str:
    return f"> {flops(model.lower)}" if model.held else flops_between(model.lower, model.upper)


def _alt(ladder: Ladder) -> str:
    line = ladder.reason or "; ".join(
        f"the line at {sized(place.parameters)}{' (extrapolated)' if place.extrapolated else ''}: {_price(place)}" for place in ladder.curve
    )
    measured = "; ".join(
        f"{model.model} ({sized(model.parameters)}, {counted(model.seeds, 'seed')}): {_told(model)}" for model in ladder.models
    )
    return f"Measured: {measured}. {capital(line)}."


# Tables


def _fits(fits: pd.DataFrame, curve: pd.DataFrame, asked: Sequence[float], title: str = "", folded: bool = False) -> SectionTable:
    columns = ("Models that broke", "Slope", *(f"At {sized(size)}" for size in asked))
    caption = (
        "Slope: 1 is a price in proportion to the size. FLOPs at sizes that were not measured are extrapolated, with the 95 % interval for "
        "the median of one more model."
    )
    places = {(row["defense"], row["name"], row["parameters"]): _foretold(row) for row in curve.to_dict("records")}
    lines = tuple(
        Line(
            f"{row['name']} on {titled(str(row['defense']))}"
            if folded
            else capital(titled(str(row["defense"])))
            if row["defense"] == CONTROL
            else str(row["defense"]),
            (
                Cell(f"{row['seen']} of {row['models']}", float(row["seen"])),
                _slope(row),
                *(_asked(places.get((row["defense"], row["name"], size))) for size in asked),
            ),
            _reason(str(row["status"])),
        )
        for row in sorted(fits.to_dict("records"), key=lambda row: (row["defense"] != CONTROL, row["defense"], row["name"]))
    )
    return SectionTable(caption, "Attack" if folded else "Defence", columns, lines, title, folded)


def _every_attack(fits: pd.DataFrame, curve: pd.DataFrame, asked: Sequence[float]) -> tuple[SectionTable, ...]:
    others = fits[fits["name"] != BEST]
    return (_fits(others, curve, asked, "Attack by attack", folded=True),) if len(others) else ()


def _slope(row: Row) -> Cell:
    slope = float(row["slope"])
    return Cell() if math.isnan(slope) else Cell(_decimal(slope), slope, f"{_decimal(row['slope_low'])} to {_decimal(row['slope_high'])}")


def _asked(place: Foretold | None) -> Cell:
    if place is None or math.isnan(place.price):
        return Cell()
    far = f"{_decades(place.decades)} beyond" if place.extrapolated else "measured"
    return Cell(flops(place.price), place.price, f"{flops_between(place.low, place.high)}, {far}")


# What larger models learn


def _learned_note(learned: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    if learned.empty:
        return ()
    row = learned.iloc[0]
    runs = (
        f"{counted(int(row['rows']), 'run')} of {counted(int(row['models']), 'model')} in {counted(int(row['series']), 'series', 'series')}"
    )
    if row["status"] != "known":
        why = {
            "too_few_series": f"errors go together within a series, and {LEAST_SERIES} series are the least that tell how far one departs",
            "unidentified": "no series has two sizes, so size and series cannot be told apart",
        }.get(str(row["status"]), "the regression could not be made")
        return (("What larger models learn from poison", f"It cannot be told from {runs}: {why}."),)
    beta, low, high = (float(row[name]) * _TENFOLD * 100 for name in ("beta", "low", "high"))
    unsure = "" if low > 0 or high < 0 else " That it learns no more is not ruled out."
    slope = f"{_decimal(beta, 1)} percentage points more harm from the same share of poison"
    interval = f"95 % interval {_decimal(low, 1)} to {_decimal(high, 1)}, {chance(float(row['p_value']))}"
    text = f"A model ten times as large learns {slope} ({interval}).{unsure} From {runs}, by the regression of Bowen et al. (2024)."
    return (("What larger models learn from poison", text),)


def _learned_table(learned: pd.DataFrame) -> tuple[SectionTable, ...]:
    if learned.empty:
        return ()
    row = learned.iloc[0]
    slope, low, high = (float(row[name]) * _TENFOLD * 100 for name in ("beta", "low", "high"))
    known = Cell() if math.isnan(slope) else Cell(_decimal(slope, 1), slope, f"{_decimal(low, 1)} to {_decimal(high, 1)}")
    numbers = tuple(Cell(str(int(row[name])), float(row[name])) for name in ("series", "models", "rows", "unmeasured"))
    degrees = Cell() if math.isnan(row["freedom"]) else Cell(_decimal(row["freedom"], 1), float(row["freedom"]))
    cells = (known, Cell(probability(float(row["p_value"])), float(row["p_value"])), degrees, *numbers)
    columns = ("Points per tenfold size", "p", "Degrees of freedom", "Series", "Models", "Runs", "Not measured")
    caption = "Harm learnt over the logarithm of parameters, series by series, in percentage points; errors clustered by series."
    line = Line("harm learnt from poison", cells, _LEARNED.get(str(row["status"]), ""))
    return (SectionTable(caption, "What", columns, (line,), "What larger models learn from poison"),)


def _made_alike(sizes: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Sizes of one make are not so many makes."""
    series = {series_of(str(model)) for model in sizes["model"]}
    if len(series) != 1:
        return ()
    return (("One series", "All models are of one make, by their names. Another make may lie on another line altogether."),)


def _decimal(value: float, digits: int = 2) -> str:
    if math.isnan(value):
        return NOTHING
    shown = f"{value:.{digits}f}"
    return (shown.removeprefix("-") if float(shown) == 0 else shown).replace("-", "−")
