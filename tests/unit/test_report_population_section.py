"""The section on who is priced out: what it says in numbers, and where it must not say any."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from tempering.economics.comparison import _TYPES as MULTIPLIERS
from tempering.economics.conclusions import Conclusions
from tempering.economics.population import ANY, Group, from_multipliers, priced_out, varied
from tempering.report.drawing import pngs, write_pngs
from tempering.report.formatting import Price
from tempering.report.payers import can_pay, described, half_factor, many, payers, portion, span
from tempering.report.population_section import population_section
from tempering.report.section import Material
from tempering.study import Study

HOSTILE = "<img onerror=alert(1)> $x^2$ </script>" + "y" * 22
LIKE_CENTS = {"none": (1e-9, 0.0, 2e-9), "tar": (4e-8, 3e-8, 5e-8)}
IN_REACH = {"none": (10.0, 8.0, 12.5), "tar": (1000.0, 500.0, 2000.0)}


def rows(prices, *, model="m", threat_model=ANY, runs=5, few=False):
    """The multipliers of one scope; a price is (median, low, high), a bound, or ``None``."""
    scope = ("best attacker", "best attacker") if threat_model == ANY else ("threat model", threat_model)
    found = []
    for defense in prices.keys() - {"none"}:
        row = dict.fromkeys(MULTIPLIERS, 0) | {"model": model, "defense": defense, "scope": scope[0], "name": scope[1], "currency": "usd"}
        row |= {"control_runs": runs, "defended_runs": runs, "few_seeds": few}
        for side, price in (("control", prices["none"]), ("defended", prices[defense])):
            censored = isinstance(price, float)
            numbers = (math.nan, price, math.inf) if censored else price or (math.nan,) * 3
            row |= dict(zip((f"{side}_{part}" for part in ("median", "low", "high", "censored")), (*numbers, censored), strict=True))
        found.append(row)
    return found


def material(*scopes, population=({},)):
    """What a section is made from, with economics' own shares for those prices."""
    study = Study(models=("m",), attacks=("full_finetune",), population=population)
    groups = [Group(**group.model_dump()) for group in study.population]
    multipliers = pd.DataFrame([row for scope in scopes for row in scope], columns=list(MULTIPLIERS))
    prices = from_multipliers(multipliers)
    others = [priced_out(prices, changed).assign(attackers=name) for name, changed in varied(groups).items() if name != "as assumed"]
    conclusions = Conclusions(population=priced_out(prices, groups), populations=pd.concat(others, ignore_index=True))
    return Material(study, SimpleNamespace(multipliers=multipliers), conclusions)


def section(*scopes, **options):
    made = population_section(material(*scopes, **options))
    assert made is not None
    return made


def cells(table):
    return {line.name: [cell.text for cell in line.cells] for line in table.lines}


def test_prices_that_everybody_can_pay_say_so_and_whose_they_are():
    made = section(rows(LIKE_CENTS))
    (drawing,) = made.drawings
    assert "Practically every assumed attacker can pay" in drawing.sentence
    assert "$1.0e-9 ($0 – $2.0e-9) undefended and $4.0e-8 ($3.0e-8 – $5.0e-8) behind tar." in drawing.sentence
    assert "prices of this model, at its size" in drawing.sentence
    assert "multiplied by 100 billion (50 billion or more)" in drawing.sentence  # half can pay 100 dollars
    assert cells(made.tables[0])["tar"][1:] == ["100 %", "100 %", "0 %", "known"]


def test_prices_within_reach_are_told_with_their_intervals():
    made = section(rows(IN_REACH))
    before, after = Group().share(10), Group().share(1000)
    sentence = made.drawings[0].sentence
    assert f"{before:.0%}".replace("%", " %") in sentence
    assert f"tar prices out {100 * (before - after):.0f} % ({100 * (Group().share(12.5) - Group().share(500)):.0f} – " in sentence
    assert "multiplied by 10 (8.0 – 12)" in sentence
    assert cells(made.tables[0])["tar"][0] == "$1,000"
    assert made.tables[0].lines[0].cells[0].interval == "$500 – $2,000"
    folded = made.tables[1]
    assert folded.folded
    assert folded.columns == ("10 times poorer", "Half as skilled", "As assumed", "Twice as skilled", "10 times richer")
    assert folded.lines[0].cells[2].text == cells(made.tables[0])["tar"][3]
    assert len({(cell.text, cell.interval) for cell in folded.lines[0].cells}) == 5


def test_a_price_beyond_the_budget_is_a_bound_in_words_and_numbers():
    made = section(rows({"none": (10.0, 8.0, 12.5), "tar": 1000.0}))
    sentence = made.drawings[0].sentence
    most, least = 100 * Group().share(1000), 100 * (Group().share(12.5) - Group().share(1000))
    assert f"tar prices out at least {least:.0f} %: behind it at most {most:.0f} % can pay" in sentence
    assert "an arrow says that a price lies beyond the budget" in sentence
    assert cells(made.tables[0])["tar"][0] == "> $1,000"
    assert cells(made.tables[0])["tar"][2:4] == [f"≤ {most:.0f} %", f"≥ {least:.0f} %"]
    assert "beyond the budget" in cells(made.tables[0])["tar"][4]
    tiny = section(rows(LIKE_CENTS | {"undo": 1e-9}))
    assert cells(tiny.tables[0])["undo"][2:4] == ["not known", "not known"]  # a bound that keeps nobody out says nothing
    assert "Behind undo nothing broke it within the budget" in tiny.drawings[0].sentence


def test_what_prices_nobody_out_is_not_praised():
    sentence = section(rows(IN_REACH | {"tar": (5.0, 4.0, 6.0)})).drawings[0].sentence
    assert "No defence is known to price anybody out" in sentence
    unsure = section(rows(IN_REACH | {"tar": (12.0, 6.0, 24.0)})).drawings[0].sentence
    assert "which chance might explain" in unsure


def test_who_cannot_pay_even_without_a_defence():
    assert (
        "More than half cannot pay even for the undefended model"
        in section(rows(IN_REACH | {"none": (500.0, 400.0, 600.0)})).drawings[0].sentence
    )
    held = section(rows({"none": 20.0, "tar": 50.0})).drawings[0].sentence
    assert "multiplied by 5.0 at most" in held
    free = section(rows({"none": (0.0, 0.0, 0.0), "tar": (50.0, 40.0, 60.0)})).drawings[0].sentence
    assert "for half of them the attack is free" in free


def test_groups_pay_the_prices_of_their_threat_models():
    population = ({"weight": 3.0, "threat_model": "query-only"}, {"weight": 1.0, "budget": 30000.0})
    dear = {"none": (100.0, 100.0, 100.0), "tar": (1e9, 1e9, 1e9)}
    made = section(rows(IN_REACH), rows(dear, threat_model="query-only"), population=population)
    (drawing,) = made.drawings
    assert [panel.name for panel in drawing.panels] == ["priced-out-0", "priced-out-1"]
    assert "what query-only allows" in drawing.panels[0].alt
    assert "any attack" in drawing.panels[1].alt
    assert made.tables[0].columns[:2] == ("Price, query-only", "Price, any")
    before = 0.75 * 0.5 + 0.25 * Group(30000).share(10)
    assert cells(made.tables[0])["tar"][2] == f"{100 * before:.0f} %"
    assert "$100 ($100 – $100) by attacks that query-only allows, $10.00 ($8.00 – $12.50) by any attack" in drawing.sentence
    assert "75 % of the attackers: half of them" in made.notes[0][1]
    assert "30 %" not in made.notes[0][1]


def test_a_threat_model_without_an_attack_is_not_safe():
    made = section(rows(IN_REACH), population=({"threat_model": "query-only"},))
    assert "is not known" in made.drawings[0].sentence
    assert "multiplied" not in made.drawings[0].sentence
    assert cells(made.tables[0])["tar"][2:4] == ["not known", "not known"]
    assert "not known can pay" in made.drawings[0].panels[0].alt or "–" in made.drawings[0].panels[0].alt


def test_assumptions_stand_in_the_section():
    (head, text), *others = section(rows(IN_REACH)).notes
    assert "assumed, not measured" in head
    assert "half of them have less than $300, one in forty less than about $3.30 and one in forty more than about $27,000" in text.lower()
    assert "3 times the price" in text
    assert "more than 9 times" in text
    assert others == []
    assert [head for head, _ in section(rows(IN_REACH, runs=1, few=True)).notes][1:] == ["One seed"]
    assert "2 seeds" in section(rows(IN_REACH, runs=2, few=True)).notes[1][1]
    assert described(Group(50, 1, 1, 1)) == (
        "half of them have less than $50.00; the median attacker pays 1 times the price that was measured until the attack works; they use "
        "any attack"
    )


def test_the_dearest_stands_first_and_models_stay_together():
    prices = {"none": (10.0, 8.0, 12.0), **{f"d{number}": (10.0 * number, 9.0, 1e4) for number in range(1, 5)}, "gone": None}
    made = section(rows(prices, model="a"), rows(IN_REACH, model="b"))
    assert [line.name for line in made.tables[0].lines] == ["d4", "d3", "d2", "d1", "gone", "tar"]
    assert [line.note for line in made.tables[0].lines] == ["on a"] * 5 + ["on b"]
    assert [drawing.title for drawing in made.drawings] == [f"The price of a break, and who can pay it: {name}" for name in "ab"]


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e6])
def test_figures_draw_whatever_the_prices(tmp_path, scale):
    prices = {"none": (10.0 * scale, 0.0, 12.0 * scale), HOSTILE: (0.0, 0.0, math.inf), "held": 40.0 * scale, "gone": None}
    prices |= {f"defence {number}": (number * scale, scale, math.inf) for number in range(1, 16)}
    made = section(rows(prices))
    (path,) = write_pngs(pngs(made.drawings), tmp_path)
    assert path.name == "priced-out.png"
    svg = made.drawings[0].panels[0].svg()
    assert "<img" not in svg
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;")[:30] in svg


def test_without_a_defence_there_is_no_section():
    study = Study(models=("m",), attacks=("full_finetune",))
    assert population_section(Material(study, SimpleNamespace(multipliers=pd.DataFrame()), Conclusions())) is None


def test_shares_never_read_as_more_than_they_are():
    assert [portion(value) for value in (0, 1e-9, 0.5, 1 - 1e-9, 1)] == ["0 %", "< 0.1 %", "50 %", "> 99.9 %", "100 %"]
    assert span(0.221, 0.309) == "22 – 31 %"
    assert span(0.9999, 0.99999) == span(math.nan, 1) == ""
    assert [many(value) for value in (0.42, 24.2, 3.46e10, 1e6, 2.9e13)] == ["0.42", "24", "35 billion", "1.0 million", "29 trillion"]
    assert can_pay(Price("usd", math.nan, 1e4, math.inf, True, exceeds=1e4), [Group()]) == "≤ 3.6 %"


def test_the_factor_is_known_as_well_as_the_price():
    found = payers(material(rows(IN_REACH)), "m")
    factor = half_factor(found)
    assert (factor.value, factor.low, factor.high) == pytest.approx((10, 8, 12.5))
