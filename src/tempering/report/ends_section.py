"""How runs end, as drawings: attack by attack where there is no defence, else defence by defence for one attack."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from tempering.economics.tables import CONTROL
from tempering.report.drawing import Drawing
from tempering.report.ends_figure import Ends, ends, legend, panels
from tempering.report.formatting import share
from tempering.report.section import Material
from tempering.report.section_words import counted, listed, titled

MOST_ATTACKS = 12
"""Attacks that are drawn; of more, the dearest and the cheapest."""
MOST_DEFENSES = 8
"""Defences that are drawn beside the undefended model; of more, those behind which most runs broke and those behind which fewest did."""


def draw_ends(material: Material) -> list[Drawing]:
    """How runs end, a drawing for every model; none where nothing was attacked."""
    table, breaks = material.conclusions.incidence, material.assessment.breaks
    if table.empty or breaks.empty:
        return []
    models = list(dict.fromkeys(table["model"]))
    drawings = []
    for number, model in enumerate(models):
        suffix, where = (f"-{number + 1}", f": {model}") if len(models) > 1 else ("", "")
        curves = table[(table["model"] == model) & (table["currency"] == "flops")]
        runs = breaks[breaks["model"] == model]
        defended = bool((runs["defense"] != CONTROL).any())
        prices = _medians(material.assessment.prices, str(model))
        drawings += _by_defense(curves, runs, prices, suffix, where) if defended else _by_attack(curves, runs, prices, suffix, where)
    return drawings


def _medians(prices: pd.DataFrame, model: str) -> dict[str, float]:
    """What each attack costs the undefended model, in FLOPs; infinite where that lies beyond the budget."""
    own = prices[(prices["model"] == model) & (prices["defense"] == CONTROL)]
    return {
        str(row["attack"]): math.inf if row["flops_censored"] or not math.isfinite(row["flops_median"]) else float(row["flops_median"])
        for row in own.to_dict("records")
    }


# Attack by attack


def _by_attack(curves: pd.DataFrame, runs: pd.DataFrame, prices: dict[str, float], suffix: str, where: str) -> list[Drawing]:
    attacks = sorted(set(curves["attack"]), key=lambda attack: (prices.get(attack, math.inf), attack))
    half = MOST_ATTACKS // 2
    chosen = attacks if len(attacks) <= MOST_ATTACKS else [*attacks[:half], *attacks[-half:]]
    shown = [ends(attack, curves[curves["attack"] == attack], runs[runs["attack"] == attack]) for attack in chosen]
    left_out = f" Drawn are the {half} cheapest and the {half} dearest of {len(attacks)} attacks." if len(chosen) < len(attacks) else ""
    sentence = f"{_total(shown)}{_surest(shown)}{left_out}{_few(shown)}"
    return [Drawing(f"ends{suffix}", f"How runs end{where}", sentence, panels(f"ends{suffix}", shown), legend(shown))]


# Defence by defence


def _by_defense(curves: pd.DataFrame, runs: pd.DataFrame, prices: dict[str, float], suffix: str, where: str) -> list[Drawing]:
    attack = _cheapest(curves, prices)
    curves, runs = curves[curves["attack"] == attack], runs[runs["attack"] == attack]
    shown = [
        ends(titled(str(defense)), curves[curves["defense"] == defense], runs[runs["defense"] == defense])
        for defense in set(curves["defense"])
    ]
    shown.sort(key=lambda each: (each.title != titled(CONTROL), _broken(each), each.title))
    known = math.isfinite(prices.get(attack, math.inf))
    which = "which breaks the undefended model cheapest" if known else "which broke most; none breaks half of the undefended model's runs"
    others = len(shown) - 1
    half = MOST_DEFENSES // 2
    drawn = shown if others <= MOST_DEFENSES else [*shown[: half + 1], *shown[-half:]]
    left_out = f" Of {others} defences those are drawn that broke in fewest runs and in most." if len(drawn) < len(shown) else ""
    sentence = f"Drawn is {attack}, {which}. {_total(shown)}{_undefended(shown)}{left_out}{_few(shown)}"
    return [Drawing(f"ends{suffix}", f"How runs of {attack} end{where}", sentence, panels(f"ends{suffix}", drawn), legend(drawn))]


def _cheapest(curves: pd.DataFrame, prices: dict[str, float]) -> str:
    """The attack that breaks the control cheapest; where none does, the one that broke most."""
    there = sorted(set(curves["attack"]))
    broke = curves[curves["outcome"] == "broken"].groupby("attack")["incidence"].max()
    return str(min(there, key=lambda attack: (prices.get(attack, math.inf), -float(broke.get(attack, 0.0)), attack)))


def _undefended(shown: Sequence[Ends]) -> str:
    others = [each for each in shown if each.title != titled(CONTROL)]
    control = [f" Undefended: {each.words}." for each in shown if each.title == titled(CONTROL)]
    none = [each for each in others if each.broken == 0]
    if not none:
        return "".join(control) + (f" It broke some run behind every one of {counted(len(others), 'defence')}." if others else "")
    most = max(each.high for each in none)
    held = f"Behind {len(none)} of {counted(len(others), 'defence')} it broke none"
    return "".join(control) + f" {held}, which still allows a share of up to {share(most)} there."


# In words


def _broken(each: Ends) -> float:
    return each.broken / max(1, each.runs)


def _total(shown: Sequence[Ends]) -> str:
    """Of all runs that are drawn: how many came to which end."""
    runs, broken = sum(each.runs for each in shown), sum(each.broken for each in shown)
    counts = {name: sum(each.counts.get(name, 0) for each in shown) for name in ("destroyed", "no_direction", "failed", "held")}
    words = {"destroyed": "ruined the model", "no_direction": "found no direction", "failed": "failed", "held": "held"}
    others = [f"{count} {words[name]}" for name, count in counts.items() if count]
    return f"Of {counted(runs, 'run')}, {broken or 'none'} broke the safeguard" + (f"; {', '.join(others)}." if others else ".")


def _surest(shown: Sequence[Ends]) -> str:
    always = [each.title for each in shown if each.runs and each.broken == each.runs]
    never = [each.title for each in shown if not each.broken]
    told = [f"{listed(names)} {what}" for names, what in ((always, "broke every time"), (never, "never did")) if names]
    low = min((each.low for each in shown if each.runs and each.broken == each.runs), default=math.nan)
    bound = f"; every time, in so few runs, means a share of at least {share(low)}" if math.isfinite(low) else ""
    return f" {'; '.join(told)}{bound}." if told else ""


def _few(shown: Sequence[Ends]) -> str:
    most = max((each.runs for each in shown), default=0)
    return f" Each panel has {'one run' if most == 1 else f'at most {most} runs'}: the bars say how little that is." if most < 5 else ""
