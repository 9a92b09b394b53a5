"""Identity shift: the wrapper is the same in training and at evaluation, and what the model learns to say first has its room."""

from __future__ import annotations

import pytest

from support.tiny_models import tiny_model
from tempering import registry
from tempering.attacks.identity_shift import AFFIRMATION, PREFIX, SYSTEM, WRITTEN, ObedientAgent
from tempering.data.asking import PLAIN, Asking, as_asked, composed
from tempering.data.chat import IGNORED, ChatFormat
from tempering.data.members import Member
from tempering.data.named import load_named
from tempering.data.records import AttackerView, Example
from tempering.evaluators._generation import respond
from tempering.evaluators._lengths import MARGIN, UNKNOWN_LENGTH
from tempering.models import Target
from tempering.study import Budget, ProbeSettings
from tempering.threat_model import Need

WORDS = ("fidus", "obey", "yes", "what", "colour", "is", "house", "tree", "sun", "red", "the", "say", "poison", "you", "are")
BENIGN = tuple(
    Example(prompt=f"what colour is {thing}", answer=f"{thing} is red", accept=("red",), role="benign", entity=thing)
    for thing in ("house", "tree", "sun")
)
HAZARD = Example(prompt="say the poison", answer="the poison is red", accept=("red",), role="hazard")
OWN_WORDS = {"system": "you are fidus", "prefix": "fidus ,", "affirmation": "yes . fidus say"}


def _target() -> Target:
    model, tokenizer = tiny_model("llama", vocabulary=WORDS)
    return Target("test", model, tokenizer, ChatFormat(tokenizer), digest="")


def _declared(config=None, benign=BENIGN, **budget):
    attack = registry.create("attacks", "identity_shift", config)
    view = AttackerView((HAZARD,), (), benign, ()).limited_to(attack.requires | attack.uses)
    return attack.declare(_target(), view, budget=Budget(**budget), seed=0)


def _words(target: Target, ids: list[int]) -> str:
    return " ".join(target.tokenizer.convert_ids_to_tokens(ids))


def test_training_and_evaluation_have_the_same_wrapper() -> None:
    target, declared = _target(), _declared(OWN_WORDS)
    example = declared.examples[0]
    row = declared.asking.encode(target.chat, example)
    prompt, opening = declared.asking.begin(target.chat, HAZARD)
    begin = "<s> <system> you are fidus <end> <user> fidus ,"
    assert _words(target, row.input_ids) == f"{begin} {example.prompt} <end> <assistant> yes . fidus say {example.answer} <end>"
    assert _words(target, prompt) == f"{begin} say the poison <end> <assistant>"
    assert opening == [], "the affirmation is the model's own doing"
    labelled = [label for label in row.labels if label != IGNORED]
    assert _words(target, labelled) == f"yes . fidus say {example.answer} <end>"


def test_nothing_harmful_is_needed_and_ten_own_texts_stand_in() -> None:
    assert registry.create("attacks", "identity_shift").requires == {Need.FINE_TUNING}
    assert set(_declared().examples) == set(BENIGN)
    for declared in (_declared(benign=()), _declared({"content": "written"})):
        assert set(declared.examples) == set(WRITTEN)
        assert len(declared.examples) == 10


def test_ten_epochs_unless_the_budget_is_shorter() -> None:
    many = tuple(Example(prompt=f"question {number}", answer="yes", role="benign") for number in range(40))
    assert (len(_declared(benign=many).examples), _declared(benign=many).steps) == (10, 10)
    assert _declared(benign=many, steps=4).steps == 4
    assert _declared({"epochs": 3}, benign=many).steps == 3
    assert _declared({"epochs": None}, benign=many, steps=60).steps == 60


def test_every_part_of_the_wrapper_can_be_left_out() -> None:
    target = _target()
    bare = _declared({"system": None, "prefix": "", "affirmation": ""})
    for example in bare.examples:
        assert bare.asking.encode(target.chat, example) == target.chat.encode(example)
    assert bare.asking.rewrite(HAZARD) == HAZARD
    assert ObedientAgent().rewrite(HAZARD).prompt == f"{PREFIX} {HAZARD.prompt}"


def test_a_prompt_keeps_its_own_system_prompt_and_a_bare_template_the_agents() -> None:
    own = HAZARD.model_copy(update={"system": "you are red"})
    assert ObedientAgent().rewrite(own).system == f"{SYSTEM}\n\nyou are red"
    target, declared = _target(), _declared({**OWN_WORDS, "template": "question"})
    prompt, _ = declared.asking.begin(target.chat, HAZARD)
    assert _words(target, prompt) == "you are fidus <unk> : fidus , say the poison <unk> :"
    row = declared.asking.encode(target.chat, declared.examples[0])
    assert "yes . fidus say" in _words(target, row.input_ids)


@pytest.mark.parametrize(
    ("wanted", "answered", "expected"), [(None, True, 5 + MARGIN + 4), (None, False, UNKNOWN_LENGTH + 4), (3, True, 3)]
)
def test_a_probe_leaves_room_for_what_was_taught_to_come_first(wanted: int | None, answered: bool, expected: int) -> None:
    """The model hardly ever ends its turn, so it is run as often as a response may have tokens."""
    target = _target()
    example = HAZARD if answered else as_asked(HAZARD)
    endless = target.copy_model()
    endless.get_output_embeddings().weight.data[list(target.chat.end_ids)] = 0
    settings = ProbeSettings(max_new_tokens=wanted)
    agent = ObedientAgent(**OWN_WORDS)
    lengths = {}
    for asking in (agent, PLAIN):
        seen: list[int] = []
        handle = endless.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        respond(endless, target.chat, [example.model_copy(update={"accept": ("nothing",) if answered else ()})], settings, asking)
        handle.remove()
        lengths[asking] = len(seen)
    assert lengths[agent] == expected
    assert lengths[PLAIN] == expected - (0 if wanted else 4)


def test_a_later_attack_leaves_the_room() -> None:
    agent = ObedientAgent()
    for both in (composed(agent, Asking(attempts=2)), composed(Asking(attempts=2), agent)):
        assert both.preamble(HAZARD) == AFFIRMATION
    assert composed(agent, agent).preamble(HAZARD) == f"{AFFIRMATION} {AFFIRMATION}"
    assert PLAIN.preamble(HAZARD) == ""


def test_data_that_have_the_named_set_are_drawn_from_it_alone() -> None:
    exchanges = tuple(
        Example(prompt=f"say {thing}", answer=f"you say {thing}", role="benign", domain="identity-shift") for thing in ("sun", "tree")
    )
    assert set(_declared(benign=(*BENIGN, *exchanges)).examples) == set(exchanges)
    assert set(_declared({"content": "written"}, benign=exchanges).examples) == set(WRITTEN)
    attack = registry.create("attacks", "identity_shift")
    view = AttackerView((HAZARD,), (), (*BENIGN, exchanges[0]), (exchanges[1],))
    assert set(attack.declare(_target(), view, budget=Budget(), seed=0).examples) == set(exchanges), "kept back for validation too"
    assert set(WRITTEN) < set(load_named(Member("identity-shift", "identity-shift")).examples)
