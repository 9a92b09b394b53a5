"""What the page holds beside the study as it was asked for: numbers to sort by, other thresholds, and the script that shows them."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.comparison_specimen import ATTACKS, DEFENSES, comparison
from support.html_page import Page
from support.report_specimen import specimen
from tempering.economics import thresholds
from tempering.report.defended import Times
from tempering.report.formatting import Price, beyond
from tempering.report.page import keyed
from tempering.report.rows import price_rows
from tempering.report.terminal import sentence
from tempering.report.views import choices, left_out


class Views(HTMLParser):
    """The text of every template's parts, by threshold and name."""

    def __init__(self, source):
        super().__init__()
        self.found, self._tau, self._part, self._depth = {}, None, None, 0
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "template":
            self._tau = given["data-tau"]
            self.found[self._tau] = {}
        elif self._tau and "data-view" in given:
            self._part = given["data-view"]
            self.found[self._tau][self._part] = ""

    def handle_endtag(self, tag):
        if tag == "template":
            self._tau = self._part = None

    def handle_data(self, data):
        if self._tau and self._part:
            self.found[self._tau][self._part] += data


@pytest.fixture(scope="module")
def subject():
    return specimen()


@pytest.fixture(scope="module")
def source(subject, tmp_path_factory):
    return subject.write(tmp_path_factory.mktemp("views"), thresholds=True).read_text(encoding="utf-8")


def price(**changes):
    return Price(**{"currency": "steps", "median": math.nan, "low": 5.0, "high": math.inf, "censored": True, "budget": 5.0, **changes})


def test_a_price_sorts_by_its_median_and_a_bound_just_above_itself():
    assert price(median=7.0, low=4.0, high=9.0, censored=False).rank == 7.0
    assert 5.0 < price().rank < 5.001
    assert price().middle == "> 5"
    assert math.isnan(price(tried=False).rank)
    assert math.isnan(price(low=0.0, budget=0.0).rank)  # nothing was spent in this currency: a dash
    assert price(low=math.nan, budget=math.nan).rank == math.inf  # "> budget"
    assert Times("at_least", 12.0, 12.0, math.inf).rank == beyond(12.0) > Times("known", 12.0, 6.0, 20.0).rank
    assert math.isnan(Times("unknown").rank)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_the_number_of_a_cell_is_read_back_as_it_was(value):
    found = re.fullmatch(r' data-value="(.*)"', keyed(value))
    assert (found is None) == math.isnan(value)
    assert found is None or float(found[1]) == value


def test_every_price_has_its_number_in_the_page(subject, source):
    page = Page(source.partition("<template")[0] + "</body></html>")
    cells = [cell for cell in page.all("td") if cell.get("data-title") == "FLOPs"]
    assert [cell.get("data-value") for cell in cells] == [
        None if math.isnan(row.prices["flops"].rank) else repr(row.prices["flops"].rank) for row in price_rows(subject.assessment)
    ]


def test_other_thresholds_lie_beside_the_page_and_not_in_it(subject, source):
    views = Views(source).found
    others = subject.at_thresholds()
    assert list(views) == [f"{tau:g}" for tau in others]
    for tau, other in others.items():
        said = views[f"{tau:g}"]["sentence"].replace("\N{NO-BREAK SPACE}", " ")
        assert said.strip() == sentence(other)
        assert views[f"{tau:g}"]["bar"].strip() == f"{100 * tau:g}"
    assert Page(source).text.count("The cheapest break of") == 1


def test_whatever_a_template_holds_has_a_place_in_the_page(source, tmp_path):
    found = comparison(
        {"tar": DEFENSES["tar"]}, {"full_finetune": ATTACKS["full_finetune"]}, models=("organism:tiny", "organism:nano"), seeds=1
    )
    compared = found.write(tmp_path, thresholds=True).read_text(encoding="utf-8")
    for text in (compared, source):
        body, *templates = text.split("<template")
        places = re.findall(r'data-view="([^"]+)"', body)
        assert len(places) == len(set(places))
        assert len(templates) == 8
        for template in templates:
            assert set(re.findall(r'data-view="([^"]+)"', template)) == set(places)


def test_without_other_thresholds_there_is_no_switch_for_them(tmp_path):
    page = Page(specimen(seeds=1).write(tmp_path).read_text(encoding="utf-8"))
    assert [select["id"] for select in page.all("select")] == ["currency"]
    assert page.all("template") == []


def test_a_study_too_large_for_them_says_so():
    assert left_out(25) == ""
    assert "With 1,020 runs, this page has the prices at a few other thresholds only" in left_out(1020)
    assert "With 5,000 runs, the prices at other thresholds are not in this page; temper report --tau" in left_out(5000)
    assert left_out(thresholds.MOST_ON_GRID) == ""


def test_queries_are_offered_where_they_were_spent(subject):
    assert [name for name, _ in choices(price_rows(subject.assessment))] == ["flops", "usd", "examples", "steps", "gpu_hours"]
    asked = specimen(seeds=1, trajectories=lambda table: table.assign(queries=table["steps"]))
    assert [name for name, _ in choices(price_rows(asked.assessment))][-1] == "queries"


def test_the_policy_allows_this_script_and_no_other(source):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', source)[1]
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL)[1]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}';" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert source.index("Content-Security-Policy") < source.index("<script>")


def test_the_script_makes_no_markup_of_text_and_no_request():
    script = (resources.files("tempering.report") / "templates" / "report.js").read_text(encoding="utf-8")
    assert len(script.splitlines()) < 300
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval",
        "Function(",
        "fetch",
        "XMLHttpRequest",
        "import(",
        "http",
    ):
        assert word not in script
