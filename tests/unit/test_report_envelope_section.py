"""The section on the attacker's envelope: what it says in numbers, and how prices beyond the budget are told."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from tempering.economics.conclusions import Conclusions
from tempering.economics.envelope import _TYPES as ENVELOPE
from tempering.economics.envelope import EPSILONS, TAUS
from tempering.report.drawing import pngs, write_pngs
from tempering.report.envelope_figure import HARM, LOSS, PlainLook, legend, price_ends
from tempering.report.envelope_section import envelope_section
from tempering.report.envelope_view import MARKED, UNDEFENDED, marked, views
from tempering.report.section import Material
from tempering.study import Study

HOSTILE = "<img onerror=alert(1)> $x^2$ </script>" + "y" * 22
RATE = 2e-18
"""Dollars for a FLOP."""


def priced(flops):
    """Statuses and numbers of a price in FLOPs: a number is known, give or take a fifth; a string is a bound; ``None`` is not known."""
    if flops is None:
        return {"status": "unknown", "price": math.nan, "low": 0.0, "high": math.inf, "attack": ""}
    if isinstance(flops, str):
        return {"status": "beyond", "price": math.nan, "low": float(flops), "high": math.inf, "attack": ""}
    return {"status": "known", "price": flops, "low": 0.8 * flops, "high": 1.2 * flops, "attack": "full_finetune"}


def table(prices, *, model="m", threat_model="open-weights", runs=5):
    """The envelope of defences; each price is one number or a function of τ and ε."""
    found = []
    for defense, price in prices.items():
        for tau in TAUS:
            for epsilon in EPSILONS:
                numbers = priced(price(tau, epsilon) if callable(price) else price)
                row = {"model": model, "defense": defense, "threat_model": threat_model, "tau": tau, "epsilon": epsilon, **numbers}
                row |= {"attacks": 3, "broken": 4 if numbers["attack"] else 0, "runs": runs, "few_seeds": runs < 5}
                found += [
                    row | {"currency": "flops"},
                    row | {"currency": "usd", **{name: row[name] * RATE for name in ("price", "low", "high")}},
                ]
    return pd.DataFrame(found, columns=list(ENVELOPE))


def material(*tables):
    envelope = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    study = Study(models=("m",), attacks=("full_finetune",))
    return Material(study, SimpleNamespace(), Conclusions(envelope=envelope))


def section(*tables):
    made = envelope_section(material(*tables))
    assert made is not None
    return made


def rising(base):
    """Costs ten times τ, and half where all utility may be lost."""
    return lambda tau, epsilon: base * 10 * tau * (0.5 if epsilon == 1 else 1)


def test_sentences_hold_the_numbers_of_the_study():
    made = section(table({"none": rising(1e9), "tar": rising(2e10), "refat": 5e9}))
    (drawing,) = made.drawings  # one threat model: both ways side by side
    assert (
        "10 % of the harm from the undefended model costs 1.0 GFLOP (800 MFLOP – 1.2 GFLOP), and 90 % costs 9.0 GFLOP" in drawing.sentence
    )
    assert "At 50 % of the harm tar is the dearest: 100 GFLOP (80 – 120 GFLOP)" in drawing.sentence
    assert (
        "costs 5.0 GFLOP (4.0 – 6.0 GFLOP) if no utility may be lost, and 2.5 GFLOP (2.0 – 3.0 GFLOP) if all of it may" in drawing.sentence
    )
    assert "tar gets" not in drawing.sentence
    assert "1 of 2 defences get cheaper" in drawing.sentence
    assert "tar the most, from 100 GFLOP (80 – 120 GFLOP) to 50 GFLOP (40 – 60 GFLOP)" in drawing.sentence
    assert "hollow" not in drawing.sentence
    assert "1 PFLOP costs $0.0020 here" in made.lead
    assert [panel.name for panel in drawing.panels] == ["envelope-harm-0", "envelope-loss-0"]
    assert "tar: 10 %: 20 GFLOP (16 – 24 GFLOP), 20 %: 40 GFLOP" in drawing.panels[0].alt


def test_a_price_beyond_the_budget_is_never_a_number():
    made = section(table({"none": 1e9, "tar": "4e11", "refat": 5e9}))
    sentence = made.drawings[0].sentence
    assert "refat is the dearest of those known: 5.0 GFLOP (4.0 – 6.0 GFLOP)" in sentence
    assert "Not broken at 50 % of the harm within the budget: tar > 400 GFLOP" in sentence
    assert "a hollow mark with an arrow is a bound" in sentence
    line = next(line for line in made.tables[0].lines if line.name == "tar")
    assert [cell.text for cell in line.cells] == ["> 400 GFLOP"] * 3 + ["none broke it", "> 400 GFLOP", "> 400 GFLOP"]
    assert line.cells[3].interval == "0 of 5 runs broke"
    assert "tar: 10 %: > 400 GFLOP" in made.drawings[0].panels[0].alt


def test_the_table_holds_every_defence_at_three_thresholds_and_the_studys():
    prices = {"none": rising(1e9), "dear": rising(1e11), "cheap": rising(1e8), "gone": None}
    made = section(table(prices))
    (shown,) = made.tables
    assert shown.folded
    assert shown.columns == ("τ = 0.3", "τ = 0.5", "τ = 0.7", "Cheapest attack at τ = 0.5", "ε = 0", "ε = 1")
    assert [line.name for line in shown.lines] == [UNDEFENDED, "dear", "cheap", "gone"]
    assert [cell.text for cell in shown.lines[1].cells[:3]] == ["300 GFLOP", "500 GFLOP", "700 GFLOP"]
    assert shown.lines[1].cells[0].interval == "240 – 360 GFLOP"
    assert [shown.lines[1].cells[3].text, shown.lines[1].cells[3].interval] == ["full_finetune", "4 of 5 runs broke"]
    assert [cell.text for cell in shown.lines[1].cells[4:]] == ["500 GFLOP", "250 GFLOP"]
    assert shown.lines[3].cells[0].text == "not known"
    assert math.isnan(shown.lines[3].cells[0].rank)
    assert [head for head, _ in made.notes] == ["Gaps"]


def test_each_threat_model_has_its_panels_and_its_table():
    weights = table({"none": 1e9, "tar": 1e11})
    prompts = table({"none": "2e9", "tar": "2e9"}, threat_model="query-only")
    nobody = table({"none": None, "tar": None}, threat_model="fine-tuning-api").assign(status="untried")
    made = section(weights, prompts, nobody)
    assert [drawing.name for drawing in made.drawings] == ["envelope-harm", "envelope-loss"]
    assert [len(drawing.panels) for drawing in made.drawings] == [2, 2]
    assert "With what query-only allows, 50 % costs > 2.0 GFLOP undefended; 1 of 1 defences were not broken" in made.drawings[0].sentence
    assert [shown.title for shown in made.tables] == ["open-weights: every defence", "query-only: every defence"]


def test_models_have_drawings_of_their_own():
    made = section(table({"none": 1e9}), table({"none": 3e9}, model="n"))
    assert [drawing.name for drawing in made.drawings] == ["envelope-1", "envelope-2"]
    assert made.drawings[1].title == "The cheapest break: n"
    assert "3.0 GFLOP" in made.drawings[1].sentence
    assert [shown.title for shown in made.tables] == ["open-weights, m: every defence", "open-weights, n: every defence"]
    names = [panel.name for drawing in made.drawings for panel in drawing.panels]
    assert len(set(names)) == len(names)


def test_a_plain_audit_has_the_undefended_model_alone():
    made = section(table({"none": rising(1e9)}))
    (drawing,) = made.drawings
    assert list(drawing.legend) == [UNDEFENDED]
    assert "dearest" not in drawing.sentence
    assert "defences" not in drawing.sentence
    same = section(table({"none": 1e9}))
    assert "costs 1.0 GFLOP (800 MFLOP – 1.2 GFLOP), and so does 90 %" in same.drawings[0].sentence
    assert "whether no utility may be lost or all of it" in same.drawings[0].sentence
    constant = section(table({"none": 1e9, "tar": 2e9, "refat": 3e9}))
    assert "Not one of 2 defences whose prices are known gets cheaper to break" in constant.drawings[0].sentence


def test_of_many_defences_the_dearest_have_colours_and_the_rest_are_told_in_the_table():
    many = {f"d{number:02}": 1e9 * number for number in range(1, 19)}
    held = table({"none": "1e9", **dict.fromkeys(many, "1e9"), "d01": "9e99"}, threat_model="query-only")
    api = table({"none": 1e9, **many, "d03": 1e13}, threat_model="fine-tuning-api")
    found = views(material(table({"none": 1e9, **many}), api, held))
    assert marked(found) == ["d18", "d03", "d17", "d16", "d15"]  # by turns; bounds alone put nobody first
    assert len(marked(found)) == MARKED
    made = section(table({"none": 1e9, **many}))
    assert list(made.drawings[0].legend) == [UNDEFENDED, "d18", "d17", "d16", "d15", "d14", "other defences"]
    assert len(made.tables[0].lines) == 19
    assert "d01: 10 %: 1.0 GFLOP" in made.drawings[0].panels[0].alt
    few = section(table({"none": 1e9, **{name: many[name] for name in list(many)[:6]}}))
    assert len(few.drawings[0].legend) == 7


def test_looks_tell_the_undefended_model_by_more_than_colour():
    look = legend([f"d{number}" for number in range(6)], others=True)
    markers = [each.marker for each in look.values()]
    assert len(set(markers)) == len(markers)
    assert isinstance(look[UNDEFENDED], PlainLook)
    assert (look[UNDEFENDED].variable, look["other defences"].variable) == ("var(--ink)", "var(--muted)")


def test_one_seed_is_said_in_words():
    assert section(table({"none": 1e9}, runs=1)).notes[0][0] == "One seed"
    assert "2 runs" in section(table({"none": 1e9}, runs=2)).notes[0][1]
    assert section(table({"none": 1e9})).notes == ()


@pytest.mark.parametrize("extra", [{}, {"none": None}, {"none": "1e9"}, {"none": 0.0}])
def test_figures_draw_whatever_is_known(tmp_path, extra):
    prices = {"none": rising(1e9), HOSTILE: lambda tau, epsilon: 1e10 if tau < 0.5 else "4e11" if epsilon else None, "gone": None, **extra}
    made = section(table(prices), table({"none": 1e9}, threat_model="query-only"))
    assert len(write_pngs(pngs(made.drawings), tmp_path)) == 2
    svg = made.drawings[0].panels[0].svg()
    assert "<img" not in svg
    assert "<script" not in svg


def test_nothing_known_still_draws_and_says_so():
    made = section(table({"none": None, "tar": None}))
    assert "no price and no bound is known" in made.drawings[0].panels[0].svg()
    assert price_ends([view.by_harm for view in views(material(table({"none": None})))]) == (1e9, 1e12)


def test_what_was_not_run_has_no_section():
    assert envelope_section(material()) is None
    assert envelope_section(material(table({"none": None}).assign(status="untried"))) is None


def test_both_ways_walk_the_right_thresholds():
    (view,) = views(material(table({"none": rising(1e9)})))
    assert [HARM.at(point) for point in HARM.lines(view)[UNDEFENDED]] == list(TAUS)
    assert [LOSS.at(point) for point in LOSS.lines(view)[UNDEFENDED]] == list(EPSILONS)
    assert {point.epsilon for point in HARM.lines(view)[UNDEFENDED]} == {0.1}
    assert {point.tau for point in LOSS.lines(view)[UNDEFENDED]} == {0.5}
