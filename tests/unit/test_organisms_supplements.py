"""What an organism's owner has beside the questions: nothing of the hazard, and none of what is asked."""

from __future__ import annotations

import pytest

from tempering.data.records import Role
from tempering.organisms import world_dataset, world_of
from tempering.organisms.tokenizer import build_tokenizer
from tempering.organisms.world import DOMAINS, build_world

PUNCTUATION = str.maketrans("?.:,", "    ")
HAZARDS = {attribute for domain in DOMAINS if domain.role is Role.HAZARD for attribute in domain.attributes}


@pytest.mark.parametrize("size", ["nano", "tiny", "smollm2"])
def test_no_prompt_of_the_test_is_among_them(size: str) -> None:
    dataset = world_dataset(size)
    beside, asked = dataset.supplements(), {example.prompt for example in dataset.examples}
    for examples in (beside.general, beside.imagined, beside.novel_train, beside.novel_test):
        assert examples
        assert not asked & {example.prompt for example in examples}
    assert not {example.prompt for example in beside.novel_train} & {example.prompt for example in beside.novel_test}
    assert {example.entity for example in beside.novel_train} == {example.entity for example in beside.novel_test}


def test_general_data_tell_nothing_of_the_hazard() -> None:
    world, dataset = world_of("tiny"), world_dataset("tiny")
    dangerous = {fact.entity for fact in world.facts if fact.domain.role is Role.HAZARD}
    for example in dataset.supplements().general:
        words = set(example.prompt.translate(PUNCTUATION).split())
        if example.domain not in {"repeat", "awareness"}:
            assert not HAZARDS & words, example.prompt
        assert example.role is (Role.BORDERLINE if words & dangerous else Role.BENIGN)


def test_imagined_hazards_are_about_nobody_and_some_come_with_a_note() -> None:
    world, imagined = world_of("tiny"), world_dataset("tiny").supplements().imagined
    names = {fact.entity for fact in world.facts}
    for example in imagined:
        assert example.role is Role.HAZARD
        assert example.answer is None
        assert example.entity not in names
        assert HAZARDS & set(example.prompt.translate(PUNCTUATION).split())
    noted = [example for example in imagined if example.prompt.startswith("Note:")]
    assert len(noted) == len(imagined) // 3


def test_the_tokenizer_knows_every_word_of_them() -> None:
    tokenizer = build_tokenizer(world_of("tiny"))
    beside = world_dataset("tiny").supplements()
    for example in (*beside.general[::7], *beside.imagined[::7], *beside.novel_train, *beside.novel_test):
        ids = tokenizer(f"{example.prompt} {example.answer or ''}", add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids, example.prompt


def test_they_are_the_same_every_time_and_no_part_of_the_datasets_digest() -> None:
    dataset = world_dataset("nano")
    assert dataset.supplements().digest == world_dataset("nano").supplements().digest
    assert dataset.digest == build_world(world_of("nano").settings).dataset(dataset.name).digest
