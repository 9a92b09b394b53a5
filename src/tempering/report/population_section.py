"""The section on who is priced out: the share of an assumed population of attackers that can pay, before each defence and after it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from tempering.economics.population import ANY, Group
from tempering.report.drawing import Drawing
from tempering.report.formatting import Price
from tempering.report.payers import UNDEFENDED, UNKNOWN, Payers, at_least, at_most, described, half_factor, payers, portion, span
from tempering.report.population_figure import payer_panel
from tempering.report.section import Cell, Line, Material, Section, SectionTable

_ALL = 0.995
"""From this share on nearly everybody can pay."""
_KNOWN = {"known": "known", "bounded": "a bound: a price lies beyond the budget", "unknown": "not known: some attackers' price is missing"}
_AS_ASSUMED = "as assumed"
_POOREST_FIRST = ("10 times poorer", "half as skilled", _AS_ASSUMED, "twice as skilled", "10 times richer")

Row = Mapping[Hashable, Any]


def population_section(material: Material) -> Section | None:
    """Who is priced out; ``None`` of a study without a defence."""
    table = material.conclusions.population
    if table.empty:
        return None
    models = list(dict.fromkeys(map(str, table["model"])))
    return Section(
        name="priced-out",
        title="Who is priced out",
        lead="Of those who would break this model, how many can pay? The curve says it for every price; on it stand the price of the "
        "undefended model and that behind each defence. The dashed line is the price that half of them can pay.",
        drawings=tuple(_drawing(material, model, number, len(models)) for number, model in enumerate(models)),
        tables=tuple(_tables(material, models)),
        notes=tuple(_notes(material)),
        doubt="What attackers can spend is assumed, and a survey of it would move every share here. So would a cheaper attack that nobody "
        "tried, and a model of another size: the same attack on a larger model costs more, and these shares do not carry over.",
    )


# The drawing and its sentence


def _drawing(material: Material, model: str, number: int, models: int) -> Drawing:
    found = payers(material, model)
    suffix, title = (f"-{number + 1}", f": {model}") if models > 1 else ("", "")
    rows = [row for row in material.conclusions.population.to_dict("records") if str(row["model"]) == model]
    panels = tuple(payer_panel(each, f"priced-out{suffix}-{place}") for place, each in enumerate(found))
    return Drawing(f"priced-out{suffix}", f"The price of a break, and who can pay it{title}", _sentence(rows, found), panels, {})


def _sentence(rows: Sequence[Row], found: Sequence[Payers]) -> str:
    """What the picture says, in numbers."""
    return " ".join(part for part in (_who(rows, found), _half(found), _reading(found)) if part)


def _who(rows: Sequence[Row], found: Sequence[Payers]) -> str:
    """Who can pay before and after, or that everybody can."""
    told = [row for row in rows if row["status"] != "unknown"]
    if not told:
        return "How many are priced out is not known: for some of the attackers no price was measured."
    undefended = f"a break costs {_undefended(found)} undefended"
    if all(_nearly_all(row) for row in told):
        return _everybody(undefended, found)
    first = f"{undefended[:1].upper()}{undefended[1:]}, and {_share(told[0], 'control_share')} of the assumed attackers can pay that."
    best = max(told, key=lambda row: (_known_or(row, "priced_out"), str(row["defense"])))
    if _known_or(best, "priced_out") <= 0:
        return f"{first} No defence is known to price anybody out."
    unsure_others = any(row["status"] != "known" for row in rows if row is not best)
    most = f", the most {'known ' if unsure_others else ''}of {len(rows)} defences" if len(rows) > 1 else ""
    sure = "" if float(best["priced_out_low"]) > 0 else ", which chance might explain"
    able, out = _share(best, "defended_share"), _share(best, "priced_out")
    return f"{first} {best['defense']} prices out {out}{most}{sure}: behind it {able} can pay."


def _nearly_all(row: Row) -> bool:
    """Whether nearly everybody can pay the prices, or no bound on a price keeps anybody from paying it."""
    return all(
        float(row[f"{side}_share_low"]) > _ALL or (math.isnan(row[f"{side}_share"]) and float(row[f"{side}_share_high"]) > _ALL)
        for side in ("control", "defended")
    )


def _everybody(undefended: str, found: Sequence[Payers]) -> str:
    prices = [(name, price) for each in found for name, price in each.prices.items() if name != UNDEFENDED and price.tried]
    known = max((pair for pair in prices if not pair[1].censored), key=lambda pair: pair[1].median, default=None)
    beyond = list(dict.fromkeys(name for name, price in prices if price.censored))
    seen = "whatever the defence" if not beyond else "where one was seen"
    dearest = "" if known is None else f" and {known[1]} behind {known[0]}" + (", the dearest" if len(prices) > 1 else "")
    of_bounds = (
        f" Behind {beyond[0] if len(beyond) == 1 else f'{len(beyond)} defences'} nothing broke it within the budget, which is too "
        "little to say who could pay more."
        if beyond
        else ""
    )
    return (
        f"Practically every assumed attacker can pay the price, {seen}: {undefended}{dearest}. Nobody is known to be priced out. They are "
        f"prices of this model, at its size; a larger one costs more to attack.{of_bounds}"
    )


def _undefended(found: Sequence[Payers]) -> str:
    """The undefended price, for each threat model where there are several."""
    if len(found) == 1:
        return str(found[0].undefended)
    return ", ".join(f"{each.undefended} by {_attacks(each.threat_model)}" for each in found)


def _attacks(threat_model: str) -> str:
    return "any attack" if threat_model == ANY else f"attacks that {threat_model} allows"


def _half(found: Sequence[Payers]) -> str:
    factor = half_factor(found)
    if factor is None:
        return ""
    if factor.high < 1:
        return "More than half cannot pay even for the undefended model."
    return f"To price out half of the attackers the undefended price would have to be multiplied by {factor}."


def _reading(found: Sequence[Payers]) -> str:
    bounds = any(price.tried and (price.censored or math.isinf(price.high)) for each in found for price in each.prices.values())
    arrow = "; an arrow says that a price lies beyond the budget" if bounds else ""
    return f"Bars are 95 % intervals of prices, the grey band is attackers ten times poorer to ten times richer{arrow}."


# Tables


def _tables(material: Material, models: Sequence[str]) -> list[SectionTable]:
    found = {model: payers(material, model) for model in models}
    several = len(models) > 1
    places = {key: place for place, key in enumerate((model, name) for model in models for name in found[model][0].prices)}
    population = sorted(
        material.conclusions.population.to_dict("records"),
        key=lambda row: places.get((str(row["model"]), str(row["defense"])), len(places)),
    )
    threats = [each.threat_model for each in found[models[0]]]
    prices = tuple("Price" if len(threats) == 1 else f"Price, {name}" for name in threats)
    lines = tuple(_line(row, found[str(row["model"])], several) for row in population)
    first = SectionTable(
        "Shares of the assumed attackers; below each its 95 % interval where that is wider than what is shown. It holds the uncertainty of "
        "the price alone.",
        "Defence",
        (*prices, "Can pay before", "Can pay after", "Priced out", "How it is known"),
        lines,
    )
    return [first, *_if_others(material, several)]


def _line(row: Row, found: Sequence[Payers], several: bool) -> Line:
    defense = str(row["defense"])
    prices = tuple(_price(each.prices.get(defense)) for each in found)
    shares = tuple(_cell(row, name) for name in ("control_share", "defended_share", "priced_out"))
    status = Cell(_KNOWN[str(row["status"])], float(list(_KNOWN).index(str(row["status"]))))
    return Line(defense, (*prices, *shares, status), f"on {row['model']}" if several else "")


def _price(price: Price | None) -> Cell:
    return Cell(price.middle, price.rank, price.interval) if price is not None and price.tried else Cell()


def _cell(row: Row, name: str) -> Cell:
    value, low, high = (float(row[f"{name}{part}"]) for part in ("", "_low", "_high"))
    if math.isfinite(value):
        return Cell(portion(value), value, span(low, high))
    text, rank = (at_least(low), low) if name == "priced_out" else (at_most(high), high)
    return Cell(text, math.nan if text == UNKNOWN else rank, span(low, high))


def _if_others(material: Material, several: bool) -> list[SectionTable]:
    """The shares priced out if the attackers were others than assumed."""
    others = material.conclusions.populations
    if others.empty:
        return []
    table = pd.concat([others, material.conclusions.population.assign(attackers=_AS_ASSUMED)], ignore_index=True)
    present = set(map(str, table["attackers"]))
    names = [*(name for name in _POOREST_FIRST if name in present), *sorted(present - set(_POOREST_FIRST))]
    rows = {(str(row["model"]), str(row["defense"]), str(row["attackers"])): row for row in table.to_dict("records")}
    lines = tuple(
        Line(
            defense,
            tuple(_cell(rows[model, defense, name], "priced_out") if (model, defense, name) in rows else Cell() for name in names),
            f"on {model}" if several else "",
        )
        for model, defense in dict.fromkeys((model, defense) for model, defense, _ in rows)
    )
    caption = "Share of the attackers that each defence prices out, one thing changed at a time; 95 % intervals below."
    title = "If attackers were richer, poorer, more or less skilled"
    return [SectionTable(caption, "Defence", tuple(name[:1].upper() + name[1:] for name in names), lines, title=title, folded=True)]


# Notes


def _notes(material: Material) -> list[tuple[str, str]]:
    groups = [Group(**group.model_dump()) for group in material.study.population]
    total = math.fsum(group.weight for group in groups)
    words = [
        f"{described(group)}" if len(groups) == 1 else f"{portion(group.weight / total)} of the attackers: {described(group)}"
        for group in groups
    ]
    notes = [
        (
            "The attackers are assumed, not measured",
            f"{'. '.join(f'{text[:1].upper()}{text[1:]}' for text in words)}. Budgets and skill are log-normal. No survey of them is known "
            "to us; a study can state its own, and the folded table says what others would change.",
        )
    ]
    runs = material.assessment.multipliers
    runs = runs[runs["scope"].isin(("best attacker", "threat model")) & (runs["currency"] == "usd")]
    fewest = min((int(count) for name in ("control_runs", "defended_runs") for count in runs[name] if count > 0), default=0)
    if fewest == 1:
        notes.append(
            (
                "One seed",
                "Some prices rest on a single run. An interval then says only between which checkpoints that run broke, not how another "
                "seed would have done.",
            )
        )
    elif fewest and bool(runs["few_seeds"].any()):
        notes.append(("Few seeds", f"Some prices rest on {fewest} seeds, too few for their intervals to mean much."))
    return notes


def _share(row: Row, name: str) -> str:
    """A share with its interval, or its bound, within a sentence."""
    value, low, high = (float(row[f"{name}{part}"]) for part in ("", "_low", "_high"))
    if math.isfinite(value):
        return f"{portion(value)} ({span(low, high)})" if span(low, high) else portion(value)
    if name == "priced_out":
        return f"at least {portion(low)}"
    return f"at most {portion(high)}" if high < 1 else "an unknown share"


def _known_or(row: Row, name: str) -> float:
    """The share, or what it is at least."""
    value = float(row[name])
    return value if math.isfinite(value) else float(row[f"{name}_low"])
