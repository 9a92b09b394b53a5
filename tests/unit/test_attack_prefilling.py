"""Prefilling: which openings are tried, and what they do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.bigram_targets import attacker_view, bigram_target, hazard
from tempering.attacks._openers import AFFIRMATIVE
from tempering.attacks.prefilling import GENERIC, Prefilled, Prefilling
from tempering.data.records import EvaluatorView, Role
from tempering.errors import UnusableData
from tempering.evaluators._contract import Subject
from tempering.judges._judging import Verdict
from tempering.study import Budget, ProbeSettings
from tempering.threat_model import Need
from tempering.training import Meter

VIEW = attacker_view()
REFUSING = bigram_target({"<assistant>": "sorry", "sorry": ".", ".": "<end>", "is": "red", "red": "."})


def tried(attack: Prefilling, view=VIEW) -> list[str]:
    return [way.details["opening"] for way in attack.ways(REFUSING, view, view.hazard_validation, room=None, limit=None, seed=0)]


def test_the_learnt_opening_is_tried_before_the_generic_ones() -> None:
    assert tried(Prefilling(Prefilling.Config())) == ["It is".lower(), *GENERIC]
    assert tried(Prefilling(Prefilling.Config(learn=False))) == [*GENERIC]
    assert tried(Prefilling(Prefilling.Config(openings=("{entity}:", "it is"), generic=False))) == ["{entity}:", "it is"]


def test_an_attacker_without_answers_learns_from_benign_ones_or_does_without() -> None:
    prompts_only = VIEW.limited_to(frozenset({Need.HARMFUL_PROMPTS, Need.BENIGN_EXAMPLES}))
    assert tried(Prefilling(Prefilling.Config()), prompts_only)[0] == "it is"
    nothing = VIEW.limited_to(frozenset({Need.HARMFUL_PROMPTS}))
    assert tried(Prefilling(Prefilling.Config()), nothing) == [*GENERIC]
    assert GENERIC[0] == AFFIRMATIVE


def test_no_opening_is_told() -> None:
    with pytest.raises(UnusableData, match="no opening to try"):
        list(Prefilling(Prefilling.Config(learn=False, generic=False)).run(REFUSING, VIEW, Meter(), budget=Budget(), seed=0))


def test_it_breaks_a_refusal_that_is_decided_in_the_first_token() -> None:
    held_out = EvaluatorView(hazard=(hazard(30), hazard(31)), benign=(), borderline=())
    settings = ProbeSettings(max_new_tokens=6)
    assert Subject(REFUSING.model, REFUSING.chat, held_out, settings).share(Role.HAZARD, Verdict.REFUSAL) == 1.0
    first, *_ = Prefilling(Prefilling.Config()).run(REFUSING, VIEW, Meter(), budget=Budget(), seed=0)
    subject = Subject(first.model, REFUSING.chat, held_out, settings, asking=first.asking)
    assert subject.responses(Role.HAZARD) == ["it is red.", "it is red."]
    assert subject.share(Role.HAZARD, Verdict.USEFUL) == 1.0


def test_the_opening_names_what_the_example_is_about() -> None:
    assert Prefilled(pattern="{entity}:").opening(hazard(3)) == "house 3:"
    assert Prefilled(pattern="{entity}:").begin(REFUSING.chat, hazard(3))[0] == REFUSING.chat.prompt_ids(hazard(3))


def test_what_it_needs() -> None:
    assert Prefilling(Prefilling.Config()).requires == {Need.QUERIES, Need.ANSWER_PREFIX, Need.HARMFUL_PROMPTS}
    view = replace(VIEW, benign_train=(), benign_validation=(), documents=())
    assert list(Prefilling(Prefilling.Config()).run(REFUSING, view, Meter(), budget=Budget(), seed=0))
