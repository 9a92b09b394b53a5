"""Names, errors and settings come from users and models; none of them may become markup, script or a request."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.report_specimen import specimen
from tempering.report.page import _environment

HOSTILE = (
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(2)</script>",
    "\"'><svg/onload=alert(3)>",
    "{{ 7 * 7 }}{% raw %}</style><style>*{display:none}",
)
MODEL = 'evil"><iframe src=https://attacker.example></iframe>'
ERROR = "</td></table><script src=//attacker.example/x.js></script>"


class Elements(HTMLParser):
    """Names and attributes of everything that a browser would make an element of."""

    def __init__(self, source):
        super().__init__()
        self.found = []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    subject = specimen(
        models=(MODEL,), names=HOSTILE, units=lambda table: table.assign(error=table["error"].where(table["status"] != "failed", ERROR))
    )
    subject.targets[0].update(safeguard="<b>none</b>", digest="<i>", dtype="&lt;script&gt;")
    subject.skipped[0].update(attack="<u>skipped</u>", reason="<marquee>")
    subject.environment.update({"<b>key</b>": "<b>value</b>", "nested": {"<b>": ["<b>", "</dd>"]}})
    return subject.write(tmp_path_factory.mktemp("hostile"))


def test_no_name_becomes_an_element(hostile):
    elements = Elements(hostile.read_text(encoding="utf-8")).found
    assert [attributes for tag, attributes in elements if tag == "script"] == [{}]  # ours
    assert not {"img", "iframe", "marquee", "b", "i", "u", "object", "embed"} & {tag for tag, _ in elements}
    assert len([tag for tag, _ in elements if tag == "style"]) == 1
    assert len([tag for tag, _ in elements if tag == "svg"]) == 16


def test_no_name_becomes_an_attribute(hostile):
    for _, attributes in Elements(hostile.read_text(encoding="utf-8")).found:
        assert not [name for name in attributes if name.startswith("on")]
        assert "attacker" not in "".join(attributes.get(name) or "" for name in ("src", "href", "style", "action"))


def test_every_name_is_still_there_to_be_read(hostile):
    source = hostile.read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;" in source
    assert "{{ 7 * 7 }}" in source
    assert "49" not in source.split("{{ 7 * 7 }}")[0][-40:]
    assert "&lt;/td&gt;&lt;/table&gt;" in source


def test_the_summary_keeps_hostile_names_as_data(hostile):
    document = json.loads((hostile.parent / "summary.json").read_text(encoding="utf-8"))
    assert {entry["attack"] for entry in document["attacks"]} == {*HOSTILE, "<u>skipped</u>"}
    assert document["target"]["reference"] == MODEL


def test_file_names_come_from_us_alone(hostile):
    assert {path.name for path in (hostile.parent / "figures").iterdir()} == {
        f"{name}.png" for name in ("trajectories", "survival", "prices", "envelope", "ends")
    }


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(st.text())
def test_whatever_a_template_is_given_is_escaped(text):
    shown = _environment().from_string('<p title="{{ text }}">{{ text }}</p>').render(text=text)
    inside = shown.removeprefix('<p title="').removesuffix("</p>")
    assert "<" not in inside
    assert inside.count(">") == 1
    assert inside.count('"') == 1
