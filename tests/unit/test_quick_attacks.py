"""Which attacks an audit runs unasked: more of them where the data hold no harmful answers to train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.toy_study import rows, write_rows
from tempering import registry
from tempering.flags import choose_attacks, lacks_answers, make_study
from tempering.threat_model import Need

QUICK = ["full_finetune", "lora_finetune", "prefilling", "refusal_ablation", "retrieval"]
UNANSWERED = {"searched_abliteration", "affirmative_openers", "identity_shift", "benign_finetune"}


def quick(data: str | None = None) -> list[str]:
    return [choice.name for choice in choose_attacks("quick", data)]


@pytest.mark.parametrize("data", [None, "organism:tiny", "llm-lat-harmful", "beavertails+xstest", "wmdp"])
def test_data_with_harmful_answers_leave_the_set_as_it_was(data: str | None) -> None:
    assert quick(data) == QUICK


@pytest.mark.parametrize("data", ["strongreject", "advbench", "harmbench+alpaca", "jailbreakbench", "wmdp+strongreject@main"])
def test_named_data_without_harmful_answers_take_in_what_does_without_them(data: str) -> None:
    assert set(quick(data)) == {*QUICK, *UNANSWERED}


def test_what_is_taken_in_needs_no_harmful_answers() -> None:
    for name in UNANSWERED:
        attack = registry.get("attacks", name)
        assert attack.quick_unanswered
        assert not attack.quick
        assert not {Need.HARMFUL_EXAMPLES, Need.RETRIEVAL, Need.PUBLIC_BASE} & attack.needs


def test_data_of_ones_own_are_looked_at(tmp_path: Path) -> None:
    assert quick(str(write_rows(tmp_path / "with.jsonl", rows()))) == QUICK
    without = write_rows(tmp_path / "without.jsonl", rows(answers=False))
    assert set(quick(str(without))) == {*QUICK, *UNANSWERED}
    tests = [row if row["part"] != "evaluator" else {**row, "answer": None} for row in rows()]
    assert not lacks_answers(str(write_rows(tmp_path / "tests.jsonl", tests)))  # which no attacker is handed


@pytest.mark.parametrize("data", ["./nowhere.jsonl", "strongreject+strongreject", "no-such-set", "+"])
def test_data_that_cannot_be_read_are_left_to_the_plan(data: str) -> None:
    assert quick(data) == QUICK


def test_a_study_of_such_data_has_them_and_named_attacks_stay_as_they_are() -> None:
    chosen = {choice.name for choice in make_study("organism:tiny/base", data="strongreject").attacks}
    assert chosen == {*QUICK, *UNANSWERED}
    (named,) = make_study("organism:tiny/base", data="strongreject", attacks="prefilling").attacks
    assert named.name == "prefilling"
