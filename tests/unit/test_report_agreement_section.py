"""What the page says of whether resistance to one kind of attack goes with resistance to another."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from support.comparison_specimen import ATTACKS, DEFENSES, comparison
from support.report_specimen import specimen
from tempering.economics.conclusions import Conclusions
from tempering.report.agreement_figure import PANEL, Known, Point, extremes
from tempering.report.agreement_section import agreement_section
from tempering.report.price_scale import PriceScale, flops_tick
from tempering.report.section import Material
from tempering.report.style import looks

INF = math.inf
HOSTILE = "<img onerror=alert(1)> $x$ & " + "long" * 8


@pytest.fixture(scope="module")
def bare():
    made = specimen(seeds=2)
    return Material(made.study, made.assessment, Conclusions())


def known(tau=0.68, low=0.42, high=0.83, p_value=0.0004, **changes):
    row = {
        "model": "m",
        "first": "fine-tuning",
        "second": "weight surgery",
        "currency": "flops",
        "status": "known",
        "defenses": 18,
        "points": 18,
    }
    return row | {"ordered": 0.74, "tau": tau, "low": low, "high": high, "p_value": p_value} | changes


def resisting(prices, model="m", second="weight surgery"):
    """Two ends of the price of either kind, by defence and seed."""
    return [
        {"model": model, "defense": defense, "seed": seed, "group": group, "lower": ends[0], "upper": ends[1], "attacks": 2}
        for (defense, seed), both in prices.items()
        for group, ends in zip(("fine-tuning", second), both, strict=True)
    ]


BOTH = {
    ("a", 0): ((1e9, 2e9), (0.0, 1e9)),
    ("a", 1): ((2e9, 4e9), (5e9, INF)),
    ("b", 0): ((0.0, 0.0), (3e9, INF)),
}


def of(bare, *rows, points=BOTH, **changes):
    tables = Conclusions(agreement=pd.DataFrame(rows), resistances=pd.DataFrame(resisting(points, **changes)))
    return replace(bare, conclusions=tables)


def sentence(bare, row):
    return agreement_section(of(bare, row)).drawings[0].sentence


def test_a_study_without_defences_says_nothing(bare):
    assert agreement_section(bare) is None


def test_agreement_beyond_chance_is_said_in_words_and_numbers(bare):
    assert sentence(bare, known()) == (
        "Defences that resist fine-tuning also tend to resist weight surgery: Kendall's τ is 0.68 (95 % interval 0.42 to 0.83), and "
        "dealing the defences out at random agrees, or disagrees, as much in under 0.1 % of cases (p = 0.00040). For 74 % of "
        "pairs the order is known for both kinds. 2 of 3 marks held against weight surgery."
    )


def test_disagreement_beyond_chance_is_said_too(bare):
    assert sentence(bare, known(-0.6, -0.8, -0.2, 0.01)).startswith("Defences that resist fine-tuning tend to resist weight surgery less: ")


@pytest.mark.parametrize(("low", "p_value"), [(-0.1, 0.01), (0.1, 0.06), (-0.5, 0.45)])
def test_it_takes_interval_and_test_to_be_told(bare, low, p_value):
    assert sentence(bare, known(0.5, low, 0.9, p_value)).startswith(
        "Whether defences that resist fine-tuning also resist weight surgery cannot be told from 18 defences: Kendall's τ is 0.50"
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("too_few_defenses", "cannot be told from 2 defences: with fewer than 5, chance alone puts them in the same order too often"),
        ("too_censored", "cannot be told: of only 3.0 % of pairs the order is known for both kinds, because so much held"),
    ],
)
def test_what_cannot_be_told_says_why_and_gives_no_p(bare, status, words):
    row = known(0.7, -1.0, 1.0, math.nan, status=status, defenses=2, ordered=0.03)
    said = sentence(bare, row)
    assert words in said
    assert "τ is 0.70, and anything from −1 to 1 may be true" in said
    assert "p =" not in said
    assert [cell.text for cell in agreement_section(of(bare, row)).tables[0].lines[0].cells] == ["0.70", "–", "2", "18", "3.0 %"]


def test_a_kind_that_was_not_tried_is_a_note_and_no_picture(bare):
    row = known(math.nan, -1.0, 1.0, math.nan, status="untried", second="input-space attacks", ordered=math.nan)
    section = agreement_section(of(bare, row))
    assert not section.drawings
    assert section.notes[0][0] == "Fine-tuning and input-space attacks"
    assert "no attack of one of the two kinds was run against every defence" in section.notes[0][1]


def test_prices_behind_the_marks_are_ranges_and_bounds(bare):
    table = agreement_section(of(bare, known())).tables[1]
    assert table.folded
    assert {line.name: [(cell.text, cell.interval) for cell in line.cells] for line in table.lines} == {
        "a": [("1.0 – 4.0 GFLOP", ""), ("≤ 1.0 GFLOP", "held in 1 of 2, beyond 5.0 GFLOP")],
        "b": [("0, at once", ""), ("> 3.0 GFLOP", "")],
    }


def test_several_models_have_a_drawing_each(bare):
    points = pd.DataFrame(resisting(BOTH) + resisting(BOTH, model="n"))
    tables = Conclusions(agreement=pd.DataFrame([known(), known(model="n")]), resistances=points)
    section = agreement_section(replace(bare, conclusions=tables))
    assert [drawing.title for drawing in section.drawings] == [
        "One kind of attack against another: m",
        "One kind of attack against another: n",
    ]
    assert [line.note for line in section.tables[0].lines] == ["m", "n"]


def test_one_seed_is_said(bare):
    assert agreement_section(of(bare, known())).notes[0][0] == "One seed"
    assert not agreement_section(of(bare, known(points=36))).notes


def test_few_defences_have_marks_of_their_own_and_many_only_named_extremes(bare):
    many = {(f"d{number}", 0): ((number * 1e9, number * 2e9 + 1), (1e9, INF)) for number in range(12)}
    few, crowd = agreement_section(of(bare, known())).drawings[0], agreement_section(of(bare, known(), points=many)).drawings[0]
    assert list(few.legend) == ["a", "b"]
    assert not crowd.legend
    assert crowd.sentence.endswith("Only the extremes have their names.")


def test_the_extremes_are_the_ends_and_those_out_of_order():
    def point(name, first, second):
        return Point(name, Known(first / 2, first), Known(second / 2, second))

    middle = [point(f"m{number}", 10.0 + number, 10.0 + number) for number in range(6)]
    named = {"dear": (90, 90), "cheap": (1, 1), "first": (80, 2), "second": (2, 80)}
    found = {each.defense for each in extremes([*middle, *(point(name, *ends) for name, ends in named.items())])}
    assert found == set(named)


def test_a_mark_that_held_is_dearer_than_any_that_broke():
    points = [Point("held", Known(1.0, INF), Known(1.0, INF)), Point("broke", Known(5.0, 9.0), Known(5.0, 9.0))]
    assert extremes(points)[-1].defense == "held"


@pytest.mark.parametrize("count", [1, 3, 18])
def test_it_draws_whatever_defences_are_called_and_cost(bare, count):
    ends = [(0.0, 0.0), (0.0, INF), (1e9, 1e9), (1e3, 1e18)]
    points = {(f"{HOSTILE} {number}", 0): (ends[number % 4], ends[(number + 1) % 4]) for number in range(count)}
    drawing = agreement_section(of(bare, known(), points=points)).drawings[0]
    assert drawing.png().startswith(b"\x89PNG")
    assert "<img" not in drawing.panels[0].svg()


def test_marks_are_drawn_where_they_broke_and_at_their_bound(bare):
    from matplotlib.figure import Figure

    from tempering.report.agreement_figure import draw_points

    figure = Figure(figsize=PANEL)
    points = [Point("a", Known(1e9, 2e9), Known(5e9, INF)), Point("b", Known(0.0, 0.0), Known(1e9, 3e9))]
    draw_points(figure, points=points, looks=looks(["a", "b"]), axes_of=("x", "y"))
    axes = figure.axes[0]
    marks = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    assert (float(marks[0].get_xdata()[0]), float(marks[0].get_ydata()[0])) == (2e9, 5e9)
    assert 0 < float(marks[1].get_xdata()[0]) < 1e9  # nothing has a place of its own on a logarithmic axis
    assert marks[0].get_markerfacecolor() != marks[0].get_markeredgecolor()
    assert axes.xaxis.get_major_formatter()(float(marks[1].get_xdata()[0])) == "0"


def test_a_scale_has_a_place_for_zero_only_where_there_is_one():
    scale = PriceScale.of([0.0, 1e9, 1e12, math.nan, INF])
    assert scale.limits[0] < scale.zero < 1e9 < 1e12 < scale.limits[1]
    assert scale.place(0.0) == scale.zero
    assert scale.place(1e30) == scale.limits[1]
    without = PriceScale.of([1e9, 2e9])
    assert without.place(0.0) == without.limits[0]
    assert PriceScale.of([]).limits[0] > 0
    assert flops_tick(1e10) == "10 G"


def test_a_comparison_made_by_economics_has_both_pairs():
    attacks = {name: ATTACKS[name] for name in ("full_finetune", "refusal_ablation", "prefilling")}
    made = comparison({name: DEFENSES[name] for name in ("tar", "booster", "undo", "npo", "refat")}, attacks, seeds=2, novel=False)
    (drawing,) = agreement_section(Material(made.study, made.assessment, made.conclusions)).drawings
    assert len(drawing.panels) == 2
    assert "booster: " in drawing.panels[0].alt
