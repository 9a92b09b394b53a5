import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from support.report_specimen import specimen
from tempering.report import price_figure
from tempering.report.axes import Spread
from tempering.report.families import by_family
from tempering.report.figures import draw_all
from tempering.report.rows import price_rows
from tempering.report.style import ATTACK_COLOURS, SETTINGS, inline_svg, looks


@pytest.fixture(scope="module")
def drawings():
    subject = specimen()
    return {drawing.name: drawing for drawing in draw_all(subject.assessment, subject.study.threshold)}


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_there_is_a_drawing_of_each_kind_with_its_panels(drawings):
    assert [(name, [panel.name for panel in drawing.panels]) for name, drawing in drawings.items()] == [
        ("trajectories", ["trajectories-flops", "trajectories-steps", "trajectories-examples"]),
        ("survival", ["survival-usd", "survival-steps", "survival-examples"]),
        ("prices", ["prices-usd", "prices-flops", "prices-steps", "prices-examples"]),
    ]


def test_a_png_is_twice_the_size_of_its_layout(drawings):
    drawing = drawings["prices"]
    png = drawing.png()
    width = int.from_bytes(png[16:20], "big")
    assert png.startswith(b"\x89PNG")
    assert width == round(drawing.panels[0].size[0] * 200)


def test_a_trajectory_panel_draws_every_run_and_both_thresholds(drawings):
    shown = texts(drawings["trajectories"].panels[0].svg())
    assert {"recovered harm", "utility", "FLOPs spent", "τ = 0.5", "utility floor", "0"} <= set(shown)


def test_a_panel_says_in_words_what_it_shows(drawings):
    for drawing in drawings.values():
        for panel in drawing.panels:
            root = ElementTree.fromstring(panel.svg())
            assert root.attrib["role"] == "img"
            assert "full_finetune" in root.attrib["aria-label"]


def test_two_drawings_in_a_page_share_no_identifier_and_no_style_sheet(drawings):
    seen = set()
    for drawing in drawings.values():
        for panel in drawing.panels:
            svg = panel.svg()
            assert "<style" not in svg
            assert "xlink" not in svg
            own = set(re.findall(r'\bid="([^"]+)"', svg))
            assert own.isdisjoint(seen)
            assert set(re.findall(r"url\(#([^)]+)\)", svg)) | {link.removeprefix("#") for link in re.findall(r'href="([^"]+)"', svg)} <= own
            seen |= own


def test_no_fixed_colour_is_left_that_the_dark_scheme_could_not_change(drawings):
    for drawing in drawings.values():
        for panel in drawing.panels:
            assert not re.findall(r"(?:fill|stroke): #(?!none)[0-9a-f]{3,6}", panel.svg())


def test_the_same_assessment_gives_the_same_bytes(drawings):
    panel = drawings["survival"].panels[0]
    assert panel.svg() == panel.svg()
    assert drawings["prices"].png() == drawings["prices"].png()


def test_no_matplotlib_state_outlives_a_drawing(drawings):
    before = dict(mpl.rcParams)
    drawings["prices"].panels[0].svg()
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_dollar_signs_in_names_are_no_formulas():
    name = r"cost_$x^2$_$\frac$"
    subject = specimen(names=(name, "b", "c", "d"))
    prices = draw_all(subject.assessment, subject.study.threshold)[-1]
    assert name in texts(prices.panels[0].svg())
    assert prices.png()


def test_several_models_get_drawings_of_their_own():
    subject = specimen(models=("organism:tiny/guarded", "organism:nano/guarded"), seeds=1)
    names = [drawing.name for drawing in draw_all(subject.assessment, subject.study.threshold)]
    assert names == ["trajectories-1", "survival-1", "trajectories-2", "survival-2", "prices"]


def test_an_attack_that_moved_nothing_leaves_only_the_prices():
    def nothing(table):
        return table[table["probe"] == 0].reset_index(drop=True)

    subject = specimen(trajectories=nothing, units=lambda table: table.assign(**dict.fromkeys(("examples", "steps", "tokens", "flops"), 0)))
    drawings = draw_all(subject.assessment, subject.study.threshold)
    assert [drawing.name for drawing in drawings] == ["prices"]
    assert drawings[0].png()


def test_unmeasured_probes_are_gaps():
    subject = specimen(seeds=1, trajectories=lambda table: table.assign(harm=table["harm"].where(table["probe"] != 3)))
    assert draw_all(subject.assessment, subject.study.threshold)[0].panels[0].svg()


def test_zero_has_a_place_left_of_everything():
    axis = Spread(specimen().assessment.trajectories["flops"])
    placed = axis.place(specimen().assessment.trajectories["flops"])
    assert np.isfinite(placed).all()
    assert (placed[placed != axis.zero] >= axis.low).all()
    assert axis.zero < axis.low


@pytest.mark.parametrize(("low", "high"), [(4, 4), (1, 4), (3, 3.1), (1e9, 8e11), (1e-11, 3e-2), (1, 200)])
def test_a_spend_axis_has_two_to_six_ticks_each_with_its_own_label(low, high):
    with mpl.rc_context(SETTINGS):
        axes = Figure().subplots()
        Spread(pd.Series([0, low, high])).dress(axes, "usd")
        ticks = list(axes.xaxis.get_major_locator()())
        labels = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
    assert 2 <= len(ticks) <= 6
    assert len(set(labels)) == len(labels)
    assert labels[0] == "0"


def test_a_look_is_the_same_everywhere_and_repeats_late():
    look = looks(f"attack{index}" for index in range(88))
    assert len({(each.colour, each.marker) for each in look.values()}) == 88
    assert looks(["a", "b", "a"])["b"].index == 1


def luminance(colour):
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("light", "dark"), ATTACK_COLOURS)
def test_every_colour_stands_out_from_its_background(light, dark):
    assert contrast(light, "#fcfcfa") >= 3
    assert contrast(dark, "#14171b") >= 3


def test_text_in_a_drawing_is_escaped():
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(2, 1))
        figure.text(0, 0, "</text><script>alert(1)</script>")
        svg = inline_svg(figure, "x", 'a "quoted" <alt>')
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).attrib["aria-label"] == 'a "quoted" <alt>'


def test_a_price_interval_that_begins_at_nothing_reaches_the_left_edge():
    price = SimpleNamespace(median=3e-9, low=0.0, high=1e-8, censored=False, middle="$3e-9")
    axes = Figure().subplots()
    axes.set_xscale("log")
    axes.set_xlim(1e-10, 1e-6)
    price_figure._draw_price(axes, SimpleNamespace(attack="a"), price, 0.0, looks(["a"])["a"], right=1e-6)
    bars = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert pytest.approx([1e-10, 1e-8]) in bars


@pytest.mark.filterwarnings("error::UserWarning")
def test_names_longer_than_the_panel_leave_room_for_what_it_shows():
    name = f"/{'a-long-way/' * 20}stranger.py:Method"
    rows = [replace(row, attack=name, model=f"{index}/{name}") for index, row in enumerate(price_rows(specimen().assessment)[:2])]
    drawing = price_figure.draw_prices(rows, looks([name]))
    drawing.png()
    assert "stranger.py:Method" in drawing.panels[0].alt  # whole for whoever cannot see it
    shown = "".join(ElementTree.fromstring(drawing.panels[0].svg()).itertext())
    assert name not in shown
    assert "…ger.py:Method" in shown


def test_many_attacks_are_drawn_apart_by_family():
    names = [f"attack {number}" for number in range(9)]

    def renamed(table):
        """The specimen's attacks several times over, under other names."""
        copies = [table[table["attack"] == ""]]
        for number, name in enumerate(names):
            source = table[table["attack"] == sorted(set(table["attack"]) - {""})[number % 3]]
            copies.append(source.assign(attack=name, unit=source["unit"] + name))
        return pd.concat(copies, ignore_index=True)

    subject = specimen(units=renamed, trajectories=renamed)
    families = {name: ("input" if number % 2 else "weight surgery") for number, name in enumerate(names[:-1])}
    apart = draw_all(subject.assessment, subject.study.threshold, families)
    trajectories = [drawing for drawing in apart if drawing.name.startswith("trajectories")]
    assert sorted(drawing.name for drawing in trajectories) == ["trajectories-input", "trajectories-other", "trajectories-weight-surgery"]
    legends = [set(drawing.legend) for drawing in trajectories]
    assert all(len(legend) <= 8 for legend in legends)
    assert sum(map(len, legends)) == len(set().union(*legends))
    assert len({panel.name for drawing in apart for panel in drawing.panels}) == sum(len(drawing.panels) for drawing in apart)


def test_attacks_of_a_family_differ_in_colour_where_they_are_many():
    names = [f"attack {number}" for number in range(16)]
    families = {name: ("input" if number % 2 else "latent") for number, name in enumerate(names)}
    look = looks(by_family(names, families))
    for family in ("input", "latent"):
        assert len({look[name].colour for name in names if families[name] == family}) == 8
    assert by_family(names[:8], families) == names[:8]
