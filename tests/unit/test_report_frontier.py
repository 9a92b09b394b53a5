"""What the page says of the defender's frontier: who is on it, who is dominated, by whom and how surely."""

import math
from dataclasses import replace

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure

from support.comparison_specimen import ATTACKS, DEFENSES, comparison
from support.report_specimen import specimen
from tempering.economics.conclusions import Conclusions
from tempering.economics.frontier import frontier
from tempering.report.frontier_figures import corners, tax_panel
from tempering.report.frontier_rows import TAXES, UTILITY, frontier_rows, measured
from tempering.report.frontier_section import frontier_section
from tempering.report.labels import place_free_labels
from tempering.report.section import Material
from tempering.report.style import SETTINGS

ONE = {"full_finetune": ATTACKS["full_finetune"]}
NAN = math.nan
HOSTILE = "<img src=x onerror=alert(1)> $x_1$, none, and still longer"
assert len(HOSTILE) > 50


def table(shares=None, **defenses):
    """The frontier of defences that differ in what is told from one that multiplies by 8 and takes a little of everything."""
    plain = {"multiplier": 8.0, "utility": 0.02, "borderline": 0.03, "over_refusal": 0.01, "novel": 1.5, "flops": 1e12}
    ratios, taxes = [], []
    for name, changes in defenses.items():
        told = {**plain, "status": "known", "novel_status": "known", "spread": 0.1, "few_seeds": False, **changes}
        low, high = 1 - told["spread"], 1 + told["spread"]
        names = {"model": told.get("model", "m"), "defense": told.get("title", name), "few_seeds": told["few_seeds"]}
        ends = (told["multiplier"] * low, math.inf if told["status"] == "at_least" else told["multiplier"] * high)
        ratio = {**names, "scope": "best attacker", "currency": "flops", "status": told["status"], "multiplier": told["multiplier"]}
        ratios.append({**ratio, "low": ends[0], "high": ends[1]})
        row = {**names, "training_flops": told["flops"], "novel_status": told["novel_status"], "novel_ratio": told["novel"]}
        row |= {"novel_ratio_low": told["novel"] * low, "novel_ratio_high": told["novel"] * high}
        for measure, sign in (("utility", -1), ("borderline", -1), ("over_refusal", 1)):
            edges = sorted(sign * told[measure] * end for end in (low, high))
            row |= {f"{measure}_change": sign * told[measure], f"{measure}_change_low": edges[0], f"{measure}_change_high": edges[1]}
        taxes.append(row)
    return frontier(pd.DataFrame(ratios), pd.DataFrame(taxes), shares=shares)


def section_of(shares=None, **defenses):
    found = specimen()
    return frontier_section(Material(found.study, found.assessment, Conclusions(frontier=table(shares, **defenses))))


def cells(section, name):
    (line,) = [line for line in section.tables[0].lines if line.name == name]
    return dict(zip(section.tables[0].columns, line.cells, strict=True))


WORSE = {"multiplier": 4.0, "utility": 0.2, "borderline": 0.2, "over_refusal": 0.1, "novel": 3.0, "flops": 1e13}


# Words


def test_the_sentence_names_the_frontier_and_counts_the_dominated():
    section = section_of(good={}, cheap={"multiplier": 2.0, "utility": 0.0, "spread": 0.0}, bad=WORSE)
    first, others = section.drawings
    assert first.sentence == (
        "2 of 3 defences are on the frontier: good at 8.0× (7.2 – 8.8×) and cheap at 2.0× (2.0 – 2.0×). "
        "The other is dominated, beyond doubt."
    )
    assert others.sentence == (
        "good, the dearest to break, loses 3.0 % (2.7 – 3.3 %) of borderline answers, refuses 1.0 % (0.9 – 1.1 %) more of borderline "
        "prompts, makes an honest user take 1.5× (1.3 – 1.7×) the steps and takes 1.0 TFLOP to train."
    )


def test_what_is_had_for_nothing_is_told():
    section = section_of(good={"borderline": 0.0, "novel": 1.0}, dear={"multiplier": 9.0}, free={"multiplier": 2.0, "over_refusal": 0.0})
    assert section.drawings[1].sentence.endswith(
        "The most that is had without losing borderline answers is good's 8.0× (7.2 – 8.8×), without refusing more borderline prompts is "
        "free's 2.0× (1.8 – 2.2×) and without slowing an honest user down is good's 8.0× (7.2 – 8.8×)."
    )


def test_one_defence_has_no_defence_at_all_for_its_rival():
    assert section_of(d={}).drawings[0].sentence == (
        "d multiplies the price by 8.0× (7.2 – 8.8×); its one rival is no defence at all, which does not dominate it."
    )
    idle = section_of(idle={"multiplier": 0.5})
    assert idle.drawings[0].sentence.endswith("its one rival is no defence at all, which dominates it, beyond doubt.")
    assert cells(idle, "idle")["Dominated by"].text == "no defence at all"


def test_none_dominated_is_said_so():
    section = section_of(a={}, b={"multiplier": 9.0, "flops": 2e12})
    assert section.drawings[0].sentence.startswith("All 2 defences are on the frontier, none dominated: b at 9.0×")
    assert "resamples over seeds" not in section.doubt


def test_the_table_has_who_dominates_how_often_and_how_surely():
    section = section_of(good={}, better={"multiplier": 9.0, "flops": 1.0}, bad=WORSE, near={"multiplier": 7.9})
    assert [line.name for line in section.tables[0].lines] == ["better", "good", "near", "bad"]
    bad = cells(section, "bad")
    assert (bad["Multiplier"].text, bad["Multiplier"].interval) == ("4.0×", "3.6 – 4.4×")
    assert (bad["Utility lost"].text, bad["Utility lost"].interval) == ("20 %", "18 – 22 %")
    assert (bad["Dominated by"].text, bad["Dominated by"].interval, bad["Dominated by"].rank) == ("better", "and 2 more", 3)
    assert (bad["Beyond doubt"].text, bad["Beyond doubt"].rank) == ("better", 3)
    assert (cells(section, "near")["Dominated by"].text, cells(section, "near")["Beyond doubt"].text) == ("better", "no")
    assert (cells(section, "better")["Dominated by"].text, cells(section, "better")["Beyond doubt"].text) == ("on the frontier", "–")
    assert bad["Resamples"].text == "–"


def test_other_seeds_could_turn_it():
    shares = {("m", "good", "flops"): 0.6, ("m", "bad", "flops"): 0.7, ("m", "worse", "flops"): 1.0}
    told = {"good": {}, "bad": WORSE, "worse": {**WORSE, "multiplier": 2.0}}
    section = section_of(shares=shares, **told)
    assert section.doubt.startswith(
        "Other seeds could bring back bad (dominated in 70 % of the resamples). On the frontier by these seeds, but dominated in most "
        "resamples of them: good (in 60 %). An attack that was not tried"
    )
    assert (cells(section, "bad")["Resamples"].text, cells(section, "bad")["Resamples"].rank) == ("70 %", 0.7)
    sure = section_of(shares={**dict.fromkeys(shares, 1.0), ("m", "good", "flops"): 0.0}, **told)
    assert sure.doubt.startswith("In nearly all resamples over seeds the same defences are dominated.")


def test_bounds_are_told_as_bounds():
    held = {"status": "at_least", "multiplier": 50.0}
    section = section_of(a=held, b={**held, "multiplier": 60.0, "flops": 1e15}, c={"novel_status": "at_least", "novel": 6.0})
    assert cells(section, "a")["Multiplier"].text == "≥ 50×"
    assert cells(section, "c")["Lesson"].text == "≥ 6.0×"
    (text,) = [text for head, text in section.notes if head == "Bounds"]
    assert text.startswith("Within the budget nothing broke half of the runs of b and a.")


def test_few_seeds_are_said_in_words():
    found = comparison({name: DEFENSES[name] for name in ("tar", "vaccine")}, ONE, seeds=1)
    section = frontier_section(Material(found.study, found.assessment, found.conclusions))
    few = "Every defence had one seed. Intervals from so few are too narrow, and nothing of theirs is called beyond doubt."
    assert ("Few seeds", few) in section.notes
    assert not any(line.note for line in section.tables[0].lines)
    assert [line.note for line in section_of(a={"few_seeds": True}, b={}).tables[0].lines] == ["few seeds", ""]


def test_what_was_not_measured_is_left_out_and_named():
    old = section_of(a={"borderline": NAN}, b={"borderline": NAN, "multiplier": 4.0})
    assert "Borderline lost" not in old.tables[0].columns
    assert ("Not measured", "borderline answers lost. No defence was compared in what nobody measured.") in old.notes
    nothing = dict.fromkeys(("utility", "borderline", "over_refusal", "novel", "flops"), NAN)
    bare = section_of(a=nothing, b={**nothing, "multiplier": 4.0})
    assert bare.drawings == ()
    assert cells(bare, "b")["Dominated by"].text == "a"


def test_where_the_control_held_there_are_taxes_and_no_pictures():
    held = {"status": "control_held", "multiplier": NAN}
    section = section_of(a=held, b={**held, "flops": 2e12})
    assert section.drawings == ()
    assert cells(section, "a")["Multiplier"].text == "control did not break"
    assert cells(section, "a")["Dominated by"].text == "not compared"
    assert ("Without a multiplier", "a (control did not break) and b (control did not break). Such a defence is compared with none.") in (
        section.notes
    )


def test_a_tax_that_nobody_takes_has_no_picture():
    section = section_of(a={"over_refusal": 0.0, "novel": 1.0}, b={"over_refusal": 0.0, "novel": 1.0, "multiplier": 4.0})
    assert [panel.name for panel in section.drawings[1].panels] == ["defenses-tax-borderline-lost", "defenses-tax-training-flops"]


def test_without_defences_there_is_no_section():
    found = specimen()
    assert frontier_section(Material(found.study, found.assessment, found.conclusions)) is None
    assert frontier_rows(pd.DataFrame()) == []


# Names


def test_names_with_commas_stay_whole():
    rows = {row.defense: row for row in frontier_rows(table(a={"title": "a, b"}, b={"title": "b"}, bad={**WORSE, "title": "c"}))}
    assert rows["c"].by == ("a, b", "b")


def test_hostile_names_stay_text():
    section = section_of(a={"title": HOSTILE}, b={**WORSE, "title": "$b$"})
    assert cells(section, "$b$")["Dominated by"].text == HOSTILE
    for panel in (panel for drawing in section.drawings for panel in drawing.panels):
        assert "<img" not in panel.svg()
        assert f"{HOSTILE}: 8.0×" in panel.alt
        assert "&lt;img src=x onerror=alert(" in panel.svg()


def test_models_are_drawn_apart_and_told_apart():
    section = section_of(a={"model": "m1", "title": "d"}, b={"model": "m2", "title": "d"})
    assert [drawing.name for drawing in section.drawings] == [
        "defenses-tax-1",
        "defenses-other-taxes-1",
        "defenses-tax-2",
        "defenses-other-taxes-2",
    ]
    assert [line.name for line in section.tables[0].lines] == ["d on m1", "d on m2"]


# Pictures


def test_stairs_join_the_most_that_so_much_buys():
    assert corners([(0, 1), (2, 5), (1, 3), (1, 2), (3, 4), (4, 6)]) == [(0, 1), (1, 3), (2, 5), (4, 6)]
    assert corners([(0, 1), (0, 9), (5, 9)]) == [(0, 9)]


def drawn(panel):
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=panel.size)
        panel.draw(figure)
    (axes,) = figure.axes
    return axes


def marks(axes, marker):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == marker]


def test_the_frontier_is_dots_with_names_and_the_dominated_are_crosses():
    rows = frontier_rows(table(good={}, bad=WORSE, **{f"bad{number}": WORSE for number in range(5)}))
    axes = drawn(tax_panel(rows, UTILITY, "p", large=True))
    assert marks(axes, "o") == [(0.02, 8.0)]
    assert len(marks(axes, "x")) == 6
    assert marks(axes, "D") == [(0.0, 1)]
    assert {text.get_text() for text in axes.texts} == {"good", "undefended"}
    few = drawn(tax_panel(frontier_rows(table(good={}, bad=WORSE)), UTILITY, "p", large=True))
    assert {text.get_text() for text in few.texts} == {"good", "bad", "undefended"}


def test_every_panel_says_its_numbers_and_draws_whatever_is_missing():
    odd = {"a": {"status": "at_least"}, "b": {"novel_status": "at_least"}, "c": {"spread": NAN, "utility": -0.5}, "d": {"flops": 0.0}}
    rows = [row for row in frontier_rows(table(**odd, e={"multiplier": 0.0}, f={"borderline": NAN})) if row.drawn]
    for tax in measured(rows):
        panel = tax_panel(rows, tax, "p")
        assert "a: ≥ 8.0× at " in panel.alt
        assert panel.svg().startswith("<svg")
    assert len(measured(rows)) == len(TAXES)
    assert "f:" not in tax_panel(rows, TAXES[1], "p").alt


def test_a_bound_has_an_arrow_and_no_interval():
    rows = frontier_rows(table(a={"status": "at_least"}))
    axes = drawn(tax_panel(rows, UTILITY, "p", large=True))
    assert any(text.arrow_patch is not None for text in axes.texts if not text.get_text())
    assert not any(len(set(line.get_ydata())) > 1 and len(set(line.get_xdata())) == 1 for line in axes.lines)


def test_long_names_are_cut_beside_their_dots_alone():
    rows = frontier_rows(table(a={"title": "x" * 60}))
    panel = tax_panel(rows, UTILITY, "p", large=True)
    assert "x" * 60 in panel.alt
    assert "x" * 25 + "…" in {text.get_text() for text in drawn(panel).texts}


def test_a_name_without_a_free_place_is_left_out():
    names = [f"a rather long name {number}" for number in range(60)]
    found = place_free_labels(names, [(100.0, 50.0)] * 60, (200.0, 100.0), size=8)
    assert found[0] is not None
    assert None in found
    assert sum(label is not None for label in found) < 20


@pytest.mark.parametrize("number", [1, 18])
def test_one_defence_and_eighteen_draw(number):
    rows = {f"defence number {place}": {"multiplier": 1.5 + place, "utility": place / 100} for place in range(number)}
    section = section_of(**rows)
    for drawing in section.drawings:
        assert drawing.png().startswith(b"\x89PNG")
        assert all(len(panel.alt) > 60 for panel in drawing.panels)
    assert len(section.tables[0].lines) == number


def test_the_conclusions_own_table_is_read_without_tax():
    found = comparison({"tar": DEFENSES["tar"]}, ONE, seeds=2)
    bare = replace(found.conclusions, frontier=frontier(found.assessment.multipliers, pd.DataFrame(columns=["model", "defense"])))
    section = frontier_section(Material(found.study, found.assessment, bare))
    assert section.drawings == ()
    assert section.tables[0].columns == ("Multiplier", "Dominated by", "Resamples", "Beyond doubt")
