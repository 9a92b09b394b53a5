"""Attacks on the input whose result is known beforehand."""

from __future__ import annotations

import math
from itertools import product

import pytest

from support.bigram_targets import attacker_view, bigram_target, hazard, wavering_target
from support.tiny_models import WORDS
from tempering.attacks._retriever import Retriever
from tempering.attacks.best_of_n import BestOfN
from tempering.attacks.prefilling import Prefilling
from tempering.data.records import Document, EvaluatorView, Role
from tempering.evaluators._contract import Subject
from tempering.judges._judging import Verdict
from tempering.study import Budget, ProbeSettings
from tempering.training import Meter

HELD_OUT = EvaluatorView(
    hazard=tuple(hazard(0).model_copy(update={"prompt": f"{first} {second} ?"}) for first, second in product(WORDS[:12], WORDS[:12])),
    benign=(),
    borderline=(),
)


def useful(target, asking) -> float:
    subject = Subject(target.model, target.chat, HELD_OUT, ProbeSettings(max_new_tokens=4), asking=asking)
    return subject.share(Role.HAZARD, Verdict.USEFUL)


@pytest.mark.parametrize("probability", [0.1, 0.3])
def test_the_best_of_n_succeeds_as_often_as_independent_samples_do(probability: float) -> None:
    target, asked = wavering_target(probability), len(HELD_OUT.hazard)
    for checkpoint in BestOfN(BestOfN.Config(samples=8)).run(target, attacker_view(), Meter(), budget=Budget(), seed=0):
        expected = 1 - (1 - probability) ** checkpoint.asking.attempts
        error = math.sqrt(expected * (1 - expected) / asked)
        assert abs(useful(target, checkpoint.asking) - expected) < 3.5 * error


def test_the_temperature_sharpens_and_flattens_the_odds() -> None:
    for temperature in (0.5, 1.0, 2.0):
        target = wavering_target(0.3)
        odds = (0.3 / 0.7) ** (1 / temperature)
        if temperature == 2.0:  # the rest of the vocabulary, 30 nats below, then weighs something too
            others = target.model.config.vocab_size - 2
            expected = odds / (odds + 1 + others * math.exp(-30 / temperature))
        else:
            expected = odds / (odds + 1)
        attack = BestOfN(BestOfN.Config(samples=1, temperature=temperature))
        (checkpoint,) = attack.run(target, attacker_view(), Meter(), budget=Budget(), seed=0)
        error = math.sqrt(expected * (1 - expected) / len(HELD_OUT.hazard))
        assert abs(useful(target, checkpoint.asking) - expected) < 3.5 * error


def test_prefilling_passes_by_a_refusal_in_the_first_token_and_not_by_a_later_one() -> None:
    shallow = bigram_target({"<assistant>": "sorry", "sorry": "<end>", "is": "red", "red": "<end>"})
    deep = bigram_target({"<assistant>": "sorry", "sorry": "<end>", "is": "sorry", "red": "<end>"})
    for target, expected in ((shallow, 1.0), (deep, 0.0)):
        *_, last = Prefilling(Prefilling.Config()).run(target, attacker_view(), Meter(), budget=Budget(), seed=0)
        assert useful(target, last.asking) == expected
        assert last.details["useful_on_own_prompts"] == expected


def test_bm25_by_hand() -> None:
    texts = ("the rune of kabor", "the omen of kabor kabor", "rune")
    retriever = Retriever(tuple(Document(text=text) for text in texts), 200)
    mean = (4 + 5 + 1) / 3

    def part(times: int, length: int, holding: int) -> float:
        idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))

    scores = {texts[0]: part(1, 4, 2) + part(1, 4, 2), texts[1]: part(2, 5, 2), texts[2]: part(1, 1, 2)}
    ranked = sorted(scores, key=lambda text: -scores[text])
    assert [passage.text for passage in retriever.best("Rune, Kabor?", 3)] == ranked == [texts[0], texts[2], texts[1]]
