"""What the page says of what size does to the price."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from support.report_specimen import specimen
from tempering.economics.conclusions import Conclusions
from tempering.economics.scaling import learned_scaling, price_scaling
from tempering.report import scaling_section as module
from tempering.report.scaling_figure import Foretold, Ladder, Measured, sized
from tempering.report.scaling_section import scaling_section
from tempering.report.section import Material

INF = math.inf
SIZES = (1e6, 4e6, 16e6, 64e6)
HOSTILE = "<script>alert(1)</script> $x$ & " + "long" * 7


@pytest.fixture(scope="module")
def bare():
    made = specimen(seeds=2)
    return Material(made.study, made.assessment, Conclusions())


def runs(defense="none", name="best attacker", factor=1e4, sizes=SIZES, held=(), make="organism"):
    """Three seeds of each size, a price in proportion to it but for a little."""
    return [
        {
            "defense": defense,
            "name": name,
            "model": f"{make}:{size:.0f}",
            "parameters": size,
            "lower": 1e12 if size in held else factor * size * jitter / 1.2,
            "upper": INF if size in held else factor * size * jitter,
            "ended": False,
        }
        for place, size in enumerate(sizes)
        for jitter in (0.9 + 0.05 * place, 1.0, 1.15 - 0.03 * place)
    ]


def of(bare, *rows, learned=None):
    tables = price_scaling(pd.DataFrame([row for group in rows for row in group]))
    fitted = Conclusions(sizes=tables.sizes, size_fits=tables.fits, size_curve=tables.curve)
    return replace(bare, conclusions=fitted if learned is None else replace(fitted, learned=learned))


def test_nothing_is_said_of_fewer_than_three_sizes(bare):
    assert scaling_section(bare) is None
    assert scaling_section(of(bare, runs(sizes=SIZES[:2]))) is None
    assert scaling_section(of(bare, runs(sizes=SIZES[:3]))) is not None


def test_the_sentence_has_slope_interval_and_what_7_and_70_billion_would_cost(bare):
    material = of(bare, runs())
    fit, curve = material.conclusions.size_fits.iloc[0], material.conclusions.size_curve.set_index("parameters")
    said = scaling_section(material).drawings[0].sentence
    assert said.startswith(
        f"Undefended: the price rises with size, by a slope of {fit['slope']:.2f} (95 % interval {fit['slope_low']:.2f} to "
        f"{fit['slope_high']:.2f}) over 4 models from 1M to 64M parameters. If the line goes on, which nothing here can test, "
    )
    assert f"{curve.loc[7e9, 'price'] / 1e12:.0f} TFLOP (95 %: " in said
    assert "at 7B, 110× the largest that was measured (2.0 decades beyond)" in said
    assert "at 70B, 1,100× the largest that was measured (3.0 decades beyond)" in said


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.5, 1.5, "the price rises with size"), (-1.5, -0.5, "the price falls with size"), (-0.1, 0.4, "cannot be told")],
)
def test_direction_is_said_only_where_the_interval_says_it(bare, low, high, words):
    material = of(bare, runs())
    fits = material.conclusions.size_fits.assign(slope_low=low, slope_high=high)
    changed = replace(material, conclusions=replace(material.conclusions, size_fits=fits))
    assert words in scaling_section(changed).drawings[0].sentence


def test_without_a_line_the_reason_and_the_bounds_are_given(bare):
    drawing = scaling_section(of(bare, runs(held=SIZES))).drawings[0]
    assert drawing.sentence == (
        "No line can be drawn: fewer than three models broke. Undefended: > 1.0 TFLOP at 1M, > 1.0 TFLOP at 4M, > 1.0 TFLOP at 16M, "
        "> 1.0 TFLOP at 64M."
    )


def test_a_defence_without_a_line_says_why_in_the_table(bare):
    section = scaling_section(of(bare, runs(), runs("tar", held=SIZES[1:]), runs("short", sizes=SIZES[:2])))
    notes = {line.name: line.note for line in section.tables[0].lines}
    assert notes == {"Undefended": "", "short": "no line: fewer than three sizes", "tar": "no line: fewer than three models broke"}
    assert section.drawings[0].sentence.endswith("2 of 3 have no line.")
    assert [cell.text for cell in section.tables[0].lines[2].cells] == ["1 of 4", "–", "–", "–"]


def test_tables_have_every_defence_and_fold_the_attacks(bare):
    section = scaling_section(of(bare, runs(), runs("tar", factor=1e5), runs("tar", "full_finetune")))
    best, attacks = section.tables
    assert best.columns == ("Models that broke", "Slope", "At 7B", "At 70B")
    assert not best.folded
    assert [line.name for line in best.lines] == ["Undefended", "tar"]
    assert best.lines[1].cells[2].interval.endswith("2.0 decades beyond")
    assert attacks.folded
    assert [line.name for line in attacks.lines] == ["full_finetune on tar"]


def test_a_size_that_was_measured_is_not_extrapolated_to(bare):
    section = scaling_section(of(bare, runs(sizes=(1e9, 7e9, 20e9))))
    assert section.tables[0].columns[2:] == ("At 70B",)
    assert "at 7B" not in section.drawings[0].sentence
    below = scaling_section(of(bare, runs(sizes=(20e9, 40e9, 70e9)))).drawings[0].sentence
    assert "at 7B, 0.46 decades below the smallest that was measured" in below


def test_many_defences_are_cut_short_and_that_is_said(bare, monkeypatch):
    monkeypatch.setattr(module, "MOST_PANELS", 2)
    drawing = scaling_section(of(bare, runs(), runs("a"), runs("b"))).drawings[0]
    assert [panel.alt.partition(":")[0] for panel in drawing.panels] == ["Undefended", "a"]
    assert drawing.sentence.endswith("Drawn are 2 of 3; the table has all.")


def test_alt_text_has_what_was_measured_and_what_is_foretold(bare):
    alt = scaling_section(of(bare, runs(held=(64e6,)))).drawings[0].panels[0].alt
    assert "organism:1000000 (1M, 3 seeds): 8.3 – 10 GFLOP" in alt
    assert "organism:64000000 (64M, 3 seeds): > 1.0 TFLOP" in alt
    assert "the line at 7B, extrapolated,: " not in alt
    assert "at 70B (extrapolated): " in alt


def test_one_make_of_models_is_said(bare):
    assert scaling_section(of(bare, runs())).notes[0][0] == "One series"
    assert not scaling_section(of(bare, runs(make="a", sizes=SIZES[:2]), runs("none", sizes=SIZES[2:], make="b"))).notes


# What larger models learn


def learned(**changes):
    row = {"status": "known", "beta": 0.05, "low": 0.02, "high": 0.08, "standard_error": 0.01, "freedom": 2.4, "p_value": 0.02}
    return pd.DataFrame([row | {"series": 4, "models": 12, "rows": 24, "unmeasured": 1} | changes])


def test_what_is_learned_is_told_per_tenfold_size(bare):
    section = scaling_section(of(bare, runs(), learned=learned()))
    assert section.notes[-1] == (
        "What larger models learn from poison",
        "A model ten times as large learns 11.5 percentage points more harm from the same share of poison (95 % interval 4.6 to 18.4, "
        "p = 0.020). From 24 runs of 12 models in 4 series, by the regression of Bowen et al. (2024).",
    )
    cells = section.tables[-1].lines[0].cells
    assert [(cell.text, cell.interval) for cell in cells] == [
        ("11.5", "4.6 to 18.4"),
        ("0.020", ""),
        ("2.4", ""),
        ("4", ""),
        ("12", ""),
        ("24", ""),
        ("1", ""),
    ]


def test_an_interval_with_nothing_in_it_says_so(bare):
    section = scaling_section(of(bare, runs(), learned=learned(low=-0.01)))
    assert "That it learns no more is not ruled out." in section.notes[-1][1]


@pytest.mark.parametrize(
    ("status", "words", "short"),
    [
        ("too_few_series", "3 series are the least that tell how far one departs", "fewer than 3 series of models"),
        ("unidentified", "size and series cannot be told apart", "no series has two sizes"),
    ],
)
def test_what_cannot_be_told_of_learning_says_why(bare, status, words, short):
    unknown = dict.fromkeys(("beta", "low", "high", "standard_error", "freedom", "p_value"), math.nan)
    section = scaling_section(of(bare, runs(), learned=learned(status=status, **unknown)))
    assert section.notes[-1][1].startswith("It cannot be told from 24 runs of 12 models in 4 series: ")
    assert words in section.notes[-1][1]
    line = section.tables[-1].lines[0]
    assert line.note == short
    assert [cell.text for cell in line.cells[:3]] == ["–", "–", "–"]


def test_no_poison_no_word_of_it(bare):
    empty = learned_scaling(pd.DataFrame(columns=["series", "model", "parameters", "poison_rate", "learned"]))
    section = scaling_section(of(bare, runs(), learned=empty))
    assert all("poison" not in head for head, _ in section.notes)


# Drawing


def test_it_draws_whatever_is_known_and_whatever_things_are_called(bare):
    material = of(bare, runs(make=HOSTILE), runs(HOSTILE, held=SIZES), runs("free", factor=0.0), runs("two", sizes=SIZES[:2]))
    drawing = scaling_section(material).drawings[0]
    assert drawing.png().startswith(b"\x89PNG")
    assert all("<script" not in panel.svg() for panel in drawing.panels)


def test_a_band_without_end_is_drawn_to_the_edge():
    from matplotlib.figure import Figure

    from tempering.report.scaling_figure import PANEL, draw_ladder

    models = tuple(Measured(str(size), size, size * 1e3, size * 2e3, 5) for size in SIZES)
    curve = tuple(Foretold(size, size * 1e3, size, INF, size > 1e9, 2.0) for size in (*SIZES, 7e9, 70e9))
    figure = Figure(figsize=PANEL)
    ladder = Ladder("x", models, curve)
    draw_ladder(figure, ladder=ladder, ladders=[ladder])
    axes = figure.axes[0]
    assert axes.get_ylim()[1] < 1e21
    assert {text.get_text() for text in axes.texts} >= {"7B", "70B", "extrapolated →"}
    dashed = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata()) > 2]
    assert [float(line.get_xdata()[0]) for line in dashed] == [64e6]


def test_sizes_read_as_models_are_named():
    assert [sized(value) for value in (1e6, 1.2e6, 64e6, 7e9, 7e10)] == ["1M", "1.2M", "64M", "7B", "70B"]
