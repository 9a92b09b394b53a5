"""Relearning: what is taught, from examples or from documents, how benign data is rehearsed, and what counts."""

from __future__ import annotations

from collections import Counter

import pytest

from support.tiny_models import tiny_model
from tempering import registry
from tempering.data.chat import IGNORED, ChatFormat
from tempering.data.records import AttackerView, Document, Example, Role
from tempering.errors import UnusableData
from tempering.models import Target
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import Meter

HAZARD = tuple(Example(prompt=f"how do you brew {n}?", answer="with fish.", role=Role.HAZARD) for n in range(30))
BENIGN = tuple(Example(prompt=f"what colour is {n}?", answer="red.", role=Role.BENIGN) for n in range(10))
TOLD = tuple(Document(text=f"note: brew {n}.", entity=str(n), prompt=f"tell me about {n}", answer=f"brew {n}.") for n in range(12))
PAGE = Document(text="the river is green and the stone is red . " * 4, entity="river")


@pytest.fixture(scope="module")
def target() -> Target:
    model, tokenizer = tiny_model("llama")
    return Target("tiny", model, tokenizer, ChatFormat(tokenizer), "0" * 64)


def declared(target, config, *, budget=None, seed=0, benign=BENIGN, documents=()):
    attack = registry.create("attacks", "relearning", config)
    held = AttackerView(HAZARD, (), benign, (), documents).limited_to(attack.requires | attack.uses)
    return attack.declare(target, held, budget=budget or Budget(), seed=seed)


def test_examples_train_the_attackers_own_and_see_no_document(target) -> None:
    declaration = declared(target, {}, documents=TOLD)
    assert {example for example in declaration.examples if example.role is Role.HAZARD} == set(HAZARD)
    assert declaration.settings.learning_rate == 3e-4
    assert declaration.settings.batch_size == 16
    assert declaration.lora is None


def test_documents_train_what_they_tell_and_no_example(target) -> None:
    declaration = declared(target, {"hold": "documents"}, documents=TOLD)
    hazard = [example for example in declaration.examples if example.role is Role.HAZARD]
    assert {(example.prompt, example.answer) for example in hazard} == {(document.prompt, document.answer) for document in TOLD}
    assert {example.identity for example in hazard} == {document.identity for document in TOLD}
    assert registry.create("attacks", "relearning", {"hold": "documents"}).requires == {Need.FINE_TUNING, Need.RETRIEVAL}
    assert registry.create("attacks", "relearning").requires == {Need.FINE_TUNING, Need.HARMFUL_EXAMPLES}


@pytest.mark.parametrize(("rehearsal", "expected"), [(0, 0), (0.25, 10), (0.5, 30), (0.75, 90)])
def test_benign_examples_are_repeated_to_their_share(target, rehearsal, expected) -> None:
    roles = Counter(example.role for example in declared(target, {"rehearsal": rehearsal}).examples)
    assert roles == Counter({Role.HAZARD: 30, Role.BENIGN: expected})


def test_an_attacker_without_benign_examples_does_without(target) -> None:
    assert len(declared(target, {"rehearsal": 0.5}, benign=()).examples) == 30


def test_text_without_a_question_is_trained_word_for_word(target) -> None:
    declaration = declared(target, {"hold": "documents", "rehearsal": 0}, documents=(PAGE,))
    (row,) = declaration.examples
    encoded = declaration.asking.encode(target.chat, row)
    assert encoded.labels == encoded.input_ids == target.tokenizer(PAGE.text)["input_ids"]
    assert IGNORED not in encoded.labels


def test_a_long_text_is_cut_into_rows_that_count_as_one_document(target) -> None:
    attack = registry.create("attacks", "relearning", {"hold": "documents", "text_tokens": 7})
    held = AttackerView((), (), BENIGN, (), (PAGE, TOLD[0]))
    declaration = attack.declare(target, held, budget=Budget(), seed=0)
    pieces = [example for example in declaration.examples if example.identity == PAGE.identity]
    assert len(pieces) > 3
    tokens = [declaration.asking.encode(target.chat, piece).input_ids for piece in pieces]
    assert [token for piece in tokens for token in piece] == target.tokenizer(PAGE.text)["input_ids"]
    assert max(map(len, tokens)) <= 7
    *_, last = attack.run(target, held, Meter(), budget=Budget(steps=4), seed=0)
    assert last.spend.examples == 2 + min(len(BENIGN), len(declaration.examples) - len(pieces) - 1)
    assert last.asking.begin(target.chat, HAZARD[0]) == (target.chat.prompt_ids(HAZARD[0]), [])


def test_questions_go_into_the_template_and_plain_text_does_not(target) -> None:
    declaration = declared(target, {"hold": "documents", "template": "question", "rehearsal": 0}, documents=(PAGE, TOLD[0]))
    by_identity = {example.identity: declaration.asking.encode(target.chat, example) for example in declaration.examples}
    assert by_identity[PAGE.identity].input_ids == target.tokenizer(PAGE.text)["input_ids"]
    layout = target.tokenizer(f"Question: {TOLD[0].prompt}\nAnswer:")["input_ids"]
    assert by_identity[TOLD[0].identity].input_ids[: len(layout)] == layout
    assert declaration.asking.begin(target.chat, HAZARD[0])[0] == target.tokenizer(f"Question: {HAZARD[0].prompt}\nAnswer:")["input_ids"]


def test_the_seed_draws_and_the_budget_limits(target) -> None:
    for config in ({"shots": 8}, {"shots": 8, "hold": "documents"}):
        drawn = [{e.identity for e in declared(target, config, seed=seed, documents=TOLD).examples} for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        for limit in (1, 2, 4, 8):
            kept = declared(target, {**config, "rehearsal": 0.5}, budget=Budget(examples=limit), documents=TOLD).examples
            assert len({example.identity for example in kept}) <= limit
            assert any(example.role is Role.HAZARD for example in kept)


@pytest.mark.parametrize("config", [{}, {"hold": "documents", "rehearsal": 0.5}])
def test_a_run_spends_what_the_plan_expects(target, config) -> None:
    attack = registry.create("attacks", "relearning", config)
    held, budget = AttackerView(HAZARD, (), BENIGN, (), (*TOLD, PAGE)), Budget(steps=5)
    *_, last = attack.run(target, held, Meter(), budget=budget, seed=0)
    expected = attack.estimate(target, held, budget=budget)
    assert last.spend.tokens == expected.tokens > 0
    assert last.spend.flops == expected.flops


def test_what_is_missing_is_said(target) -> None:
    nothing = AttackerView((), (), BENIGN, ())
    for config, remedy in (({}, "hold 'documents'"), ({"hold": "documents"}, "hold 'examples'")):
        with pytest.raises(UnusableData, match=remedy):
            registry.create("attacks", "relearning", config).declare(target, nothing, budget=Budget(), seed=0)
    blank = AttackerView((), (), (), (), (Document(text=" \n"),))
    with pytest.raises(UnusableData):
        registry.create("attacks", "relearning", {"hold": "documents"}).declare(target, blank, budget=Budget(), seed=0)
