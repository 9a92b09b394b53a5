"""What a reference to data names: sets, paths, organisms, joined by plus signs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.named_hub import load, refusal
from tempering.data.declarations import names
from tempering.data.members import Member, members, nearest
from tempering.errors import UnusableData


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("strongreject", [("strongreject", "")]),
        ("strongreject@main", [("strongreject", "main")]),
        ("a.jsonl", [("", "")]),
        ("strongreject+dolly@refs/pr/1", [("strongreject", ""), ("dolly", "refs/pr/1")]),
        (" strongreject + ./mine ", [("strongreject", ""), ("", "")]),
        ("organism:tiny+alpaca", [("", ""), ("alpaca", "")]),
        ("./strongreject", [("", "")]),
        ("StrongREJECT", [("", "")]),
    ],
)
def test_names_and_paths(reference: str, expected: list[tuple[str, str]]) -> None:
    assert [(member.name, member.revision) for member in members(reference)] == expected


def test_a_path_is_itself_where_it_is_written_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strongreject").mkdir()
    (tmp_path / "a+b.jsonl").write_text("{}")
    assert members("strongreject") == (Member("strongreject", "strongreject"),)
    assert members("./strongreject") == (Member("./strongreject"),)
    assert members("a+b.jsonl") == (Member("a+b.jsonl"),)
    assert members(str(tmp_path / "a+b.jsonl")) == (Member(str(tmp_path / "a+b.jsonl")),)


@pytest.mark.parametrize("reference", ["strongreject+", "+dolly", "a++b", " + "])
def test_a_plus_sign_needs_two_sides(reference: str) -> None:
    with pytest.raises(UnusableData, match="one \\+ between each two"):
        members(reference)


@pytest.mark.parametrize("reference", ["dolly+dolly", "strongreject+dolly+strongreject@main", "./a+./a"])
def test_nothing_is_named_twice(reference: str) -> None:
    with pytest.raises(UnusableData, match="twice; name it once"):
        members(reference)


def test_a_shipped_set_has_no_revisions() -> None:
    with pytest.raises(UnusableData, match="ships with Tempering and has no revisions"):
        members("identity-shift@main")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("strong-reject", "strongreject"), ("AdvBench", "advbench"), ("walledai/HarmBench", "harmbench"), ("cais/wmdp@main", "wmdp")],
)
def test_what_leads_nowhere_has_a_neighbour(written: str, meant: str) -> None:
    assert nearest(written) == meant
    assert refusal(f"{written}+identity-shift") == f"no data at {written!r}; did you mean {meant!r}?"


def test_what_is_like_nothing_says_what_there_is() -> None:
    assert refusal("zzzzzz").endswith("or a name (temper ls data)")


def test_own_files_are_joined_and_divided_each_by_itself(tmp_path: Path) -> None:
    hazard = [{"prompt": f"hazard {number}", "answer": "x", "role": "hazard", "part": "attacker"} for number in range(3)]
    tested = [{"prompt": f"other {number}", "role": "hazard", "part": "evaluator"} for number in range(3)]
    benign = [{"prompt": f"benign {number}", "role": "benign"} for number in range(6)]
    for folder, rows in (("one", hazard + tested), ("two", [*benign, {"prompt": "HAZARD  0.", "role": "benign"}])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load(f"{tmp_path / 'one' / 'data.jsonl'}+{tmp_path / 'two' / 'data.jsonl'}")
    assert dataset.name == "data+data (2)"
    (dropped,) = dataset.provenance.dropped
    assert (dropped.data, dropped.role, dropped.likeness, dropped.kept_in, dropped.kept_as) == (
        "data (2)",
        "benign",
        "exact",
        "data",
        "hazard",
    )
    division = dataset.divide(0)
    assert all(any(example.role == "benign" for example in part) for part in (division.attacker, division.defender, division.evaluator))


@given(st.text(max_size=40), st.lists(st.sampled_from(names()), max_size=3))
def test_any_text_is_read_or_refused_in_one_line(text: str, known: list[str]) -> None:
    reference = "+".join([*known, text])
    try:
        found = members(reference)
    except UnusableData as error:
        told = str(error).splitlines()
    else:
        told = []
        assert all(member.reference for member in found) or not reference.strip()
    assert len(told) <= 1
