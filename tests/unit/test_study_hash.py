"""The canonical hash: blind to the order of keys and sets, sensitive to everything else."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.canonical import canonical_hash
from tempering.errors import InvalidStudy
from tempering.study import Budget, Study
from tempering.threat_model import Need

BASIS: dict[str, Any] = {"models": [{"reference": "organism:tiny"}], "attacks": [{"name": "full_finetune", "config": {}}]}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: Any, shuffle: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        shuffle.shuffle(keys)
        return {key: reordered(value[key], shuffle) for key in keys}
    return [reordered(item, shuffle) for item in value] if isinstance(value, list) else value


@given(json_values, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, shuffle: random.Random) -> None:
    assert canonical_hash(reordered(value, shuffle)) == canonical_hash(value)


@given(st.sets(st.sampled_from(sorted(Need)), min_size=1))
def test_the_order_of_a_set_does_not_matter(needs: set[Need]) -> None:
    assert canonical_hash(needs) == canonical_hash(sorted(needs)) == canonical_hash(sorted(needs, reverse=True)[::-1])


@given(st.lists(st.integers(), min_size=2, max_size=5, unique=True))
def test_the_order_of_a_list_does(values: list[int]) -> None:
    assert canonical_hash(values) != canonical_hash(values[::-1])


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_is_the_same_written_either_way(number: int) -> None:
    assert canonical_hash({"a": float(number)}) == canonical_hash({"a": number})


CHANGES: list[dict[str, Any]] = [
    {"name": "other"},
    {"models": [{"reference": "organism:nano"}]},
    {"models": [{"reference": "organism:tiny", "unguarded": "base"}]},
    {"models": [{"reference": "organism:tiny", "base": "base"}]},
    {"models": [{"reference": "organism:tiny", "dtype": "bfloat16"}]},
    {"models": [{"reference": "organism:tiny", "device": "cpu"}]},
    {"models": [{"reference": "organism:tiny", "chat_template": "a.jinja"}]},
    {"models": [{"reference": "organism:tiny", "trust_remote_code": True}]},
    {"models": ["organism:tiny", "organism:nano"]},
    {"defenses": ["a_defence"]},
    {"attacks": ["lora_finetune"]},
    {"attacks": [{"name": "full_finetune", "config": {"steps": 3}}]},
    {"attacks": [{"name": "full_finetune", "label": "with a label"}]},
    {"attacks": ["full_finetune+lora_finetune"]},
    {"seeds": [0]},
    {"seeds": [1, 0, 2, 3, 4]},
    {"budget": {"steps": 100}},
    {"budget": {"examples": 5}},
    {"budget": {"tokens": 5}},
    {"budget": {"flops": 5.5}},
    {"budget": {"device_seconds": 5}},
    {"budget": {"trials": 5}},
    {"budget": {"queries": 5}},
    {"threshold": {"tau": 0.25}},
    {"threshold": {"epsilon": 0.25}},
    {"threat_model": "query-only"},
    {"search": 8},
    {"search": {"trials": 9}},
    {"search": {"trials": 8, "sampler": "random"}},
    {"search": {"trials": 8, "startup": 2}},
    {"search": {"trials": 8, "halving": False}},
    {"search": {"trials": 8, "prompts": 16}},
    {"threat_model": {"name": "other", "allows": ["queries"]}},
    {"threat_model": {"allows": ["weights"]}},
    {"data": {"reference": "data.jsonl"}},
    {"data": {"seed": 1}},
    {"data": {"domains": ["chem"]}},
    {"probes": {"prompts": 7}},
    {"probes": {"max_new_tokens": 7}},
    {"probes": {"batch_size": 7}},
    {"probes": {"evaluators": ["facts"]}},
    {"accelerator": "other"},
    {"price_book": "book.yaml"},
    {"utility_floor": 0.5},
    {"trainability": {}},
    {"population": [{"budget": 1000}]},
    {"population": [{}, {"threat_model": "query-only"}]},
    {"trainability": {"steps": 50}},
    {"trainability": {"learning_rate": 1e-3}},
    {"trainability": {"batch_size": 8}},
    {"defenses": ["a_defence"], "trainability": None},
    {"defenses": ["a_defence"], "utility_floor": 0.5},
    {"defenses": ["a_defence+another"]},
]


def test_every_field_of_a_study_decides_its_digest() -> None:
    digests = [Study.model_validate({**BASIS, **change}).digest for change in [{}, *CHANGES]]
    assert len(set(digests)) == len(digests)
    touched = {key for change in CHANGES for key in change}
    assert touched == set(Study.model_fields)


def test_a_study_without_defences_is_called_as_it_was_before_there_were_any() -> None:
    assert Study.model_validate(BASIS).digest == "4b785a4a78a5"


def test_defences_are_compared_with_what_they_cost_the_honest_user_unless_told() -> None:
    defended = Study.model_validate({**BASIS, "defenses": ["a_defence"]})
    assert defended.trainability is not None
    assert Study.model_validate(BASIS).trainability is None
    silent = Study.model_validate({**BASIS, "defenses": ["a_defence"], "trainability": None})
    assert silent.trainability is None
    for study in (defended, silent):
        assert Study.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    ("defenses", "problem"),
    [
        (["tar", {"name": "tar", "config": {"steps": 3}}], "two defences are called 'tar'; give each a label"),
        (["none"], "'none' is the undefended control"),
        ([{"name": "tar", "label": "none"}], "'none' is the undefended control"),
    ],
)
def test_defences_that_a_table_could_not_tell_apart_are_refused(defenses: list[Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Study.model_validate({**BASIS, "defenses": defenses})


def test_what_says_the_same_has_the_same_digest() -> None:
    brief = Study.model_validate({"attacks": ["full_finetune"], "models": ["organism:tiny"], "seeds": 5})
    assert brief.digest == Study.model_validate(BASIS).digest


def test_the_digest_is_the_same_in_another_process() -> None:
    """Sets iterate in an order that differs between processes; the digest must not."""
    program = f"from tempering.study import Study; print(Study.model_validate({BASIS!r}).digest)"
    environments = [{"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    printed = {
        subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout.strip()
        for env in environments
    }
    assert printed == {Study.model_validate(BASIS).digest}


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_hash({"a": float("nan")})


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("steps=200", {"steps": 200}),
        ("steps=50,flops=1e15", {"steps": 50, "flops": 1e15}),
        (" examples = 10 , tokens=4000", {"examples": 10, "tokens": 4000, "steps": 200}),
        ("device_seconds=2.5", {"device_seconds": 2.5}),
    ],
)
def test_a_budget_is_read(text: str, fields: dict[str, float]) -> None:
    budget = Budget.parse(text)
    assert {key: getattr(budget, key) for key in fields} == fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=0", "the budget 'steps=0' is not usable: steps: Input should be greater than 0"),
        ("steps=-3", "steps: Input should be greater than 0"),
        ("steps=ten", "steps: Input should be a valid integer"),
        ("flops=inf", "flops: Input should be a finite number"),
        ("flops=nan", "flops: Input should be"),
        ("200", "cannot read the budget '200'; write name=number, with a name out of steps, examples"),
        ("stpes=200", "cannot read the budget 'stpes=200'"),
        ("", "cannot read the budget ''"),
        ("steps=5,", "cannot read the budget ''"),
        ("steps=5,steps=6", "gives 'steps' twice"),
    ],
)
def test_a_bad_budget_is_told(text: str, expected: str) -> None:
    with pytest.raises(InvalidStudy) as caught:
        Budget.parse(text)
    assert expected in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_a_budget_or_a_clear_error(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except InvalidStudy as error:
        assert "\n" not in str(error)  # noqa: PT017 - both ways out are right
    else:
        assert any(value is not None for value in budget.model_dump().values())
