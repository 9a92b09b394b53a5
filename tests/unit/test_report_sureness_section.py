"""What the page says of how sure the multipliers are, and of how runs end."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from support.comparison_specimen import ATTACKS, DEFENSES, comparison
from support.report_specimen import specimen
from tempering.economics.conclusions import Conclusions
from tempering.report import ends_section
from tempering.report.difference_figure import Difference, colour, size, strength
from tempering.report.ends_figure import STANDING, ends
from tempering.report.section import Material
from tempering.report.section_words import chance, counted, flops_between, listed, probability, shortened, together
from tempering.report.sureness_section import sureness_section

FEW = {name: ATTACKS[name] for name in ("full_finetune", "refusal_ablation")}
HOSTILE = "<script>alert(1)</script> $x$ & " + "long" * 8


def contrast(defense, against="none", *, ratio=4.0, p_value=0.01, least=0.008, statistic=-2.0, hazard=("known", 0.2, 0.05, 0.8), **changes):
    """One row of the table of contrasts, of the best attacker in FLOPs."""
    row = {"model": "m", "defense": defense, "against": against, "scope": "best attacker", "name": "best attacker", "currency": "flops"}
    row |= {"runs": 5, "against_runs": 5, "broken": 4, "against_broken": 5, "statistic": statistic, "p_value": p_value}
    row |= {"p_adjusted": p_value, "least_p_value": least, "permutation": "all"}
    row |= dict(zip(("hazard_status", "hazard_ratio", "hazard_low", "hazard_high"), hazard, strict=True))
    row |= {"floor": 1e6, "horizon": 1e9, "geometric_ratio": ratio, "geometric_low": ratio / 2, "geometric_high": ratio * 2}
    return row | {"few_seeds": False} | changes


def quantile(defense, share, value, status="known"):
    row = {"model": "m", "defense": defense, "scope": "best attacker", "name": "best attacker", "currency": "flops", "quantile": share}
    return row | {"status": status, "multiplier": value, "low": value / 2, "high": value * 2}


@pytest.fixture(scope="module")
def nothing():
    """A material whose tables are all empty."""
    made = specimen(seeds=2)
    return Material(made.study, replace(made.assessment, breaks=made.assessment.breaks.iloc[:0]), Conclusions())


def of(nothing, *rows, **tables):
    return replace(nothing, conclusions=Conclusions(contrasts=pd.DataFrame(rows), **tables))


def cells(line):
    return [(cell.text, cell.interval) for cell in line.cells]


def test_says_nothing_of_a_study_in_which_nothing_was_attacked(nothing):
    assert sureness_section(nothing) is None


def test_a_defence_is_held_against_the_undefended_model(nothing):
    quantiles = pd.DataFrame([quantile("tar", 0.25, 3.0), quantile("tar", 0.5, 5.0), quantile("tar", 0.75, 9.0, "at_least")])
    section = sureness_section(of(nothing, contrast("tar"), quantiles=quantiles))
    line = section.tables[0].lines[0]
    assert (line.name, line.note) == ("tar", "4 of 5 broken, undefended 5 of 5")
    assert cells(line)[1:] == [
        ("3.0×", "1.5 – 6.0×"),
        ("≥ 9.0×", ""),
        ("4.0×", "2.0 – 8.0×"),
        ("0.20×", "0.050 – 0.80×"),
        ("0.010", ""),
        ("0.0080", ""),
    ]


@pytest.mark.parametrize(
    ("hazard", "text", "interval"),
    [
        (("at_most", 0.0, 0.0, 0.9), "≤ 0.90×", ""),
        (("at_least", math.inf, 1.3, math.inf), "≥ 1.3×", ""),
        (("at_most", 0.0, 0.0, math.inf), "not known", ""),
        (("unknown", math.nan, 0.0, math.inf), "not known", ""),
        (("known", 0.5, 0.1, math.inf), "0.50×", "from 0.10×"),
    ],
)
def test_a_hazard_without_a_number_is_a_bound_or_not_known(nothing, hazard, text, interval):
    section = sureness_section(of(nothing, contrast("tar", hazard=hazard)))
    assert cells(section.tables[0].lines[0])[4] == (text, interval)


def test_the_verdict_counts_what_is_beyond_chance_in_either_direction(nothing):
    rows = [contrast("a"), contrast("b", statistic=1.5, ratio=0.5), contrast("c", p_value=0.4)]
    (head, text), *rest = sureness_section(of(nothing, *rows)).notes
    assert not rest
    assert head == "Against the undefended model"
    assert "1 of 3 break later beyond chance (a), 1 of 3 break sooner beyond chance (b)" in text
    assert "least p that 5 seeds a side can give is 0.0080" in text


def test_with_one_seed_the_page_says_that_nothing_can_be_told_from_luck(nothing):
    rows = [contrast(name, runs=1, against_runs=1, p_value=1.0, least=1.0, few_seeds=True) for name in ("a", "b")]
    section = sureness_section(of(nothing, *rows, contrast("a", "b", runs=1, against_runs=1, p_value=1.0, least=1.0)))
    assert (
        "With 1 seed a side no p can be below 1: whether any of 2 defences makes breaking dearer cannot be told from luck"
        in section.notes[0][1]
    )
    assert section.drawings[0].sentence.startswith("No pair can be marked: 1 seed a side cannot give a p below 1")


def test_the_square_counts_its_marks_beside_those_that_chance_would_make(nothing):
    names = [f"d{number}" for number in range(7)]
    rows = [contrast(name, ratio=2.0) for name in names]
    rows += [contrast(one, other, p_value=0.5) for place, one in enumerate(names) for other in names[place + 1 :]]
    rows[0] |= {"geometric_ratio": 90.0, "geometric_low": 40.0, "geometric_high": 120.0}
    drawing = sureness_section(of(nothing, *rows)).drawings[0]
    assert drawing.sentence.startswith("7 of 28 pairs of 8 differ beyond chance at 5 %; chance alone would mark about 1.")
    assert "Furthest apart are d0 and undefended: 90× (40 – 120×)." in drawing.sentence
    assert "d3 over undefended: 2.0× (1.0 – 4.0×), beyond chance." in drawing.panels[0].alt
    assert "d1 over d2" not in drawing.panels[0].alt


def test_sides_stand_in_the_order_of_their_mean_price(nothing, monkeypatch):
    shown = []
    monkeypatch.setattr("tempering.report.sureness_section.draw_differences", lambda canvas, sides, differences: shown.append(sides))
    means = pd.DataFrame(
        {"model": "m", "defense": ["none", "a", "b"], "scope": "best attacker", "currency": "flops", "geometric_mean": [5.0, 1.0, math.nan]}
    )
    rows = [contrast("a"), contrast("b"), contrast("a", "b")]
    sureness_section(of(nothing, *rows, restricted=means)).drawings[0].panels[0].draw(None)
    assert shown == [["none", "a", "b"]]


def test_one_defence_has_a_table_and_no_square(nothing):
    section = sureness_section(of(nothing, contrast("tar")))
    assert not section.drawings
    assert "whether the defence makes" not in section.notes[0][1]
    assert "row" not in section.lead


def test_a_difference_seen_from_the_other_side_is_its_inverse():
    turned = Difference(4.0, 2.0, 5.0, 0.03).turned
    assert (turned.ratio, turned.low, turned.high, turned.p_value) == (0.25, 0.2, 0.5, 0.03)
    assert turned.sure
    assert not Difference(4.0, p_value=0.06).sure
    assert not Difference().sure
    assert Difference(0.0).turned.ratio == math.inf


def test_colour_and_strength_of_a_cell_follow_the_ratio():
    assert colour(3.0) != colour(0.3)
    assert strength(1.0) < strength(3.0) < strength(10.0) < strength(100.0) == strength(1e9) == strength(0.0)
    assert strength(0.1) == pytest.approx(strength(10.0))


@pytest.mark.parametrize("count", [2, 6, 7, 19])
def test_the_square_draws_for_any_number_of_sides_whatever_they_are_called(nothing, count):
    names = [f"{HOSTILE} {number}" for number in range(count)]
    ratios = np.random.default_rng(0).choice([math.nan, 0.0, math.inf, 1.0, 300.0], size=count)
    rows = [contrast(name, ratio=ratio) for name, ratio in zip(names, ratios, strict=True)]
    rows += [contrast(one, other, p_value=math.nan) for place, one in enumerate(names) for other in names[place + 1 :]]
    drawing = sureness_section(of(nothing, *rows)).drawings[0]
    assert drawing.png().startswith(b"\x89PNG")
    assert "<script" not in drawing.panels[0].svg()
    assert size([*names, "none"])[0] < 6


# How runs end


@pytest.fixture(scope="module")
def audit():
    made = specimen()
    return Material(made.study, made.assessment, made.conclusions)


@pytest.fixture(scope="module")
def compared():
    made = comparison({name: DEFENSES[name] for name in ("tar", "booster", "undo")}, FEW, seeds=3, novel=False)
    return Material(made.study, made.assessment, made.conclusions)


def test_an_audit_has_a_panel_an_attack_with_what_came_of_its_runs(audit):
    (drawing,) = sureness_section(audit).drawings
    assert [panel.alt.partition(":")[0] for panel in drawing.panels] == [
        "full_finetune",
        "lora_finetune",
        "identity_shift",
        "refusal_ablation",
    ]
    assert drawing.sentence.startswith(
        "Of 20 runs, 10 broke the safeguard; 1 ruined the model, 5 found no direction, 1 failed, 3 held. full_finetune and lora_finetune "
        "broke every time; identity_shift and refusal_ablation never did; every time, in so few runs, means a share of at least 48 %."
    )
    assert "5 of 5 runs broken; by 34 GFLOP, up to which all were watched, a share of 48 – 100 %" in drawing.panels[0].alt
    assert list(drawing.legend) == ["broken", "destroyed", "no direction", "failed", STANDING]


def test_of_many_attacks_the_cheapest_and_the_dearest_are_drawn(audit, monkeypatch):
    monkeypatch.setattr(ends_section, "MOST_ATTACKS", 2)
    (drawing,) = ends_section.draw_ends(audit)
    assert [panel.alt.partition(":")[0] for panel in drawing.panels] == ["full_finetune", "refusal_ablation"]
    assert "Drawn are the 1 cheapest and the 1 dearest of 4 attacks." in drawing.sentence


def test_a_comparison_has_a_panel_a_defence_for_the_attack_that_is_cheapest_without_one(compared):
    drawing = sureness_section(compared).drawings[-1]
    assert drawing.title == "How runs of refusal_ablation end"
    assert [panel.alt.partition(":")[0] for panel in drawing.panels] == ["undefended", "tar", "undo", "booster"]
    assert "Of 12 runs, 6 broke the safeguard; 6 held." in drawing.sentence
    assert "Undefended: 3 of 3 runs broken" in drawing.sentence
    assert "Behind 2 of 3 defences it broke none, which still allows a share of up to 71 % there." in drawing.sentence
    assert "Each panel has at most 3 runs" in drawing.sentence


def test_where_nothing_breaks_the_undefended_model_that_is_said(compared):
    prices = compared.assessment.prices.assign(flops_censored=True)
    (drawing,) = ends_section.draw_ends(replace(compared, assessment=replace(compared.assessment, prices=prices)))
    assert "none breaks half of the undefended model's runs" in drawing.sentence


def test_the_interval_is_that_of_the_spend_to_which_all_were_watched():
    curve = pd.DataFrame(
        {"outcome": "broken", "spend": [0.0, 10.0, 20.0], "incidence": [0.0, 0.0, 0.5], "low": 0.0, "high": [0.5, 0.6, 0.9]}
    )
    runs = pd.DataFrame({"outcome": ["held", "broken"], "flops_lower": [10.0, 15.0]})
    found = ends("a", curve, runs)
    assert (found.watched, found.high, found.broken, found.runs) == (10.0, 0.6, 1, 2)
    assert list(found.shares[STANDING]) == [1.0, 1.0, 0.5]


def test_ends_draw_in_page_and_picture(audit, compared):
    for drawing in (*ends_section.draw_ends(audit), *ends_section.draw_ends(compared)):
        assert drawing.png().startswith(b"\x89PNG")
        assert all("<svg" in panel.svg() for panel in drawing.panels)


# Words


def test_words_that_sections_share():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c", "d"]) == "a, b, c and d"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 others"
    assert listed([]) == ""
    assert (counted(1, "seed"), counted(0, "seed"), counted(2, "series", "series")) == ("1 seed", "0 seeds", "2 series")
    assert together([("a", "x"), ("b", "y"), ("c", "x")]) == [(["a", "c"], "x"), (["b"], "y")]
    assert shortened("x" * 60, 10) == "x" * 9 + "…"


def test_ranges_of_flops():
    assert flops_between(1e9, 2e9) == "1.0 – 2.0 GFLOP"
    assert flops_between(5e8, 2e9) == "500 MFLOP – 2.0 GFLOP"
    assert flops_between(0, 2e9) == "≤ 2.0 GFLOP"
    assert flops_between(2e9, math.inf) == "from 2.0 GFLOP"
    assert flops_between(0, math.inf) == "unbounded"
    assert flops_between(0, 0) == "0"
    assert flops_between(math.nan, 1) == "–"


def test_probabilities_never_read_as_nothing():
    assert (chance(0.45), chance(1e-9), chance(math.nan)) == ("p = 0.45", "p < 0.0001", "p unknown")
    assert (probability(1.0), probability(0.0079365), probability(math.nan)) == ("1", "0.0079", "–")
