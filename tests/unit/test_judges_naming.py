"""How judges are named, and what their names do to studies and units."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tempering.errors import InvalidStudy, UnknownName
from tempering.flags import choose_judges, make_study
from tempering.judge_choice import JudgeChoice
from tempering.study import ProbeSettings, Study
from tempering.study_file import load_study


@pytest.mark.parametrize(
    ("line", "name", "config"),
    [
        ("wildguard", "wildguard", {}),
        ("strongreject-rubric", "strongreject_rubric", {}),
        ("wildguard:model=/a/b", "wildguard", {"model": "/a/b"}),
        ("openai:server=http://127.0.0.1:8000/v1,model=X", "openai", {"server": "http://127.0.0.1:8000/v1", "model": "X"}),
        ("openai:server=http://[::1]:80/v1,model=a:b", "openai", {"server": "http://[::1]:80/v1", "model": "a:b"}),
        ("mine.py:Judge:model=x, threshold=.5", "mine.py:Judge", {"model": "x", "threshold": ".5"}),
        ("mine.py:Judge", "mine.py:Judge", {}),
    ],
)
def test_a_line_is_a_name_with_settings(line: str, name: str, config: dict[str, str]) -> None:
    choice = JudgeChoice.model_validate(line)
    assert (choice.name, choice.config) == (name, config)
    assert choice == JudgeChoice(name=name, config=config)


def test_a_label_is_told_apart_from_settings() -> None:
    choice = JudgeChoice.model_validate("wildguard:model=m,label=second")
    assert (choice.title, choice.config) == ("second", {"model": "m"})


@pytest.mark.parametrize("line", ["wildguard:model", "wildguard:=x", "", ":model=x", "wildguard:model=a,model=b", "wildguard:label=a b"])
def test_a_line_that_cannot_be_read_is_refused(line: str) -> None:
    with pytest.raises((InvalidStudy, UnknownName)):
        choose_judges(line)


_VALUES = st.text(string.ascii_letters + string.digits + "/:.@+-_ %~", min_size=1, max_size=20).map(str.strip).filter(bool)


@given(st.dictionaries(st.sampled_from(["model", "server", "dtype", "threshold"]), _VALUES))
def test_what_is_written_is_read(config: dict[str, str]) -> None:
    line = "wildguard" + (":" + ",".join(f"{name}={value}" for name, value in config.items()) if config else "")
    assert JudgeChoice.model_validate(line).config == config


def test_several_are_given_one_by_one_or_with_a_plus() -> None:
    both = choose_judges("text+wildguard:model=/a+b")
    assert [choice.title for choice in both] == ["text", "wildguard"]
    assert both[1].config == {"model": "/a+b"}
    assert choose_judges(["text", "wildguard:model=/a+b"]) == both
    assert [choice.name for choice in choose_judges("harmbench-classifier+strongreject-rubric+text")] == [
        "harmbench_classifier",
        "strongreject_rubric",
        "text",
    ]


def test_an_unknown_judge_has_a_neighbour() -> None:
    with pytest.raises(UnknownName, match="did you mean 'wildguard'"):
        choose_judges("wildgaurd")


def test_a_setting_out_of_its_range_is_one_line() -> None:
    with pytest.raises(InvalidStudy, match=r"judge 'strongreject_rubric', setting 'threshold'"):
        choose_judges("strongreject-rubric:threshold=2")


def test_the_default_changes_no_digest() -> None:
    plain = make_study("organism:tiny")
    assert make_study("organism:tiny", judges="text").digest == plain.digest
    assert "judges" not in plain.model_dump(mode="json")["probes"]
    assert make_study("organism:tiny", judges="text+wildguard").digest != plain.digest


def test_a_study_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "models: [organism:tiny]\nattacks: [refusal_ablation]\n"
        "probes:\n  judges: [text, 'strongreject-rubric:threshold=0.6', {name: wildguard, config: {model: x}, label: guard}]\n"
    )
    study = load_study(path)
    assert [choice.title for choice in study.probes.judges] == ["text", "strongreject_rubric", "guard"]
    assert Study.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize("judges", [["wildguard", "wildguard:model=b"], ["text"] * 2, list("abcde")])
def test_twins_and_crowds_are_refused(judges: Any) -> None:
    with pytest.raises(ValidationError):
        ProbeSettings(judges=judges)
