from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering import registry
from tempering.errors import InvalidStudy, UnknownName
from tempering.flags import choose_evaluators, make_study
from tempering.short_forms import parse_settings
from tempering.study import MethodChoice


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("lm_eval:tasks=mmlu", "lm_eval", {"tasks": "mmlu"}),
        ("lm_eval:tasks=mmlu,gsm8k,limit=100", "lm_eval", {"tasks": ["mmlu", "gsm8k"], "limit": "100"}),
        ("inspect:task=a/b.py@facts", "inspect", {"task": "a/b.py@facts"}),
        ("inspect:task=a.py@facts, b.py@facts", "inspect", {"task": ["a.py@facts", "b.py@facts"]}),
        ("lm_eval:tasks=./x/facts.yaml", "lm_eval", {"tasks": "./x/facts.yaml"}),
        ("mine.py:Mine", "mine.py:Mine", {}),
        ("a/mine.py:Mine:task=b.py,steps=3", "a/mine.py:Mine", {"task": "b.py", "steps": "3"}),
        ("harm", "harm", {}),
        ("a:b", "a:b", {}),
        ("x:a=b=c", "x", {"a": "b=c"}),
    ],
)
def test_a_name_and_its_settings_are_told_apart(text: str, name: str, settings: dict[str, object]) -> None:
    assert parse_settings(text) == (name, settings)


@pytest.mark.parametrize("text", ["x:a=1,a=2", "x:a=", "x:a=1,,b=2", "x:a=1,b="])
def test_what_cannot_be_read_is_one_line(text: str) -> None:
    with pytest.raises(InvalidStudy):
        parse_settings(text)


_WORD = st.text("abcXYZ019_./@-", min_size=1, max_size=12)


@given(
    st.sampled_from(["lm_eval", "inspect", "mine.py:Mine", "some/where/mine.py:Mine"]),
    st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), st.lists(_WORD, min_size=1, max_size=3), min_size=1, max_size=4),
)
def test_what_is_written_is_read_again(name: str, settings: dict[str, list[str]]) -> None:
    text = f"{name}:" + ",".join(f"{key}={','.join(values)}" for key, values in settings.items())
    found, read = parse_settings(text)
    assert found == name
    assert read == {key: values[0] if len(values) == 1 else values for key, values in settings.items()}


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name, settings = parse_settings(text)
    except InvalidStudy:
        return
    assert settings or name == text


def test_a_study_may_write_a_method_with_its_settings_in_one_word() -> None:
    choice = MethodChoice.model_validate("full_finetune:steps=3")
    assert registry.create("attacks", choice.name, choice.config).config.steps == 3


def test_a_further_evaluator_leaves_temperings_own_in_place() -> None:
    pytest.importorskip("lm_eval")
    chosen = choose_evaluators(["lm-eval:tasks=mmlu,limit=10"])
    assert [choice.name for choice in chosen] == [*registry.unasked("evaluators"), "lm_eval"]
    assert choose_evaluators([]) == []
    plain, further = (make_study(attacks="prefilling", evaluators=named) for named in ([], ["lm-eval:tasks=mmlu"]))
    assert plain.probes.evaluators == ()
    assert further.probes.evaluators[-1].config == {"tasks": "mmlu"}
    assert plain.digest != further.digest
    with pytest.raises(UnknownName, match="did you mean 'lm_eval'"):
        choose_evaluators(["lm_evil:tasks=mmlu"])
    with pytest.raises(InvalidStudy, match="setting 'limit'"):
        choose_evaluators(["lm_eval:tasks=mmlu,limit=none"])


def test_evaluators_that_need_a_task_are_not_among_those_that_run_unasked() -> None:
    assert {"lm_eval", "inspect"} <= set(registry.own_names("evaluators"))
    assert not {"lm_eval", "inspect"} & set(registry.unasked("evaluators"))
    assert {"harm", "refusal", "utility"} <= set(registry.unasked("evaluators"))
