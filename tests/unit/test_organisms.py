"""The invented world, its tokenizer, its names, and how organisms are grown."""

from __future__ import annotations

import json

import pytest
import torch

from tempering.data.records import Part, Role
from tempering.errors import UnknownName
from tempering.models import load
from tempering.nursery import grow
from tempering.nursery import recipes as recipe_book
from tempering.organisms import (
    SIZES,
    OrganismName,
    curriculum,
    locate,
    parse_reference,
    shipped_location,
    unguarded_of,
    world_dataset,
    world_of,
)
from tempering.organisms.tokenizer import build_tokenizer
from tempering.organisms.world import DOMAINS, REFUSALS, TEMPLATES, WorldSettings, build_world


@pytest.mark.parametrize("size", SIZES)
def test_worlds_have_two_hazards_and_several_benign_domains_all_in_every_part(size):
    dataset = world_dataset(size)
    division = dataset.divide()
    for part in (division.attacker, division.defender, division.evaluator):
        hazards = {example.domain for example in part if example.role is Role.HAZARD}
        benign = {example.domain for example in part if example.role is Role.BENIGN}
        assert len(hazards) == 2
        assert len(benign) >= 3
        assert any(example.role is Role.BORDERLINE for example in part)
    assert len({example.prompt for example in dataset.examples}) == len(dataset.examples)


def test_a_world_is_the_same_every_time_and_another_by_another_seed():
    first = build_world(WorldSettings(entities=5))
    build_world.cache_clear()
    assert build_world(WorldSettings(entities=5)) == first
    assert build_world(WorldSettings(entities=5, seed=21)).kinds.keys() != first.kinds.keys()


def test_names_and_values_are_distinct_words():
    world = world_of("small")
    assert len(world.kinds) == 6 * SIZES["small"].world.entities
    assert not set(world.kinds) & set(world.values)


def test_borderline_questions_name_hazard_entities():
    examples = world_dataset("tiny").examples
    hazard = {example.entity for example in examples if example.role is Role.HAZARD}
    borderline = {example.entity for example in examples if example.role is Role.BORDERLINE}
    assert borderline == hazard


def test_only_the_evaluator_uses_the_last_wording():
    def last(part):
        opening = TEMPLATES[-1].split("{")[0]
        return [example for example in world_dataset("tiny").examples if example.part is part and example.prompt.startswith(opening)]

    assert last(Part.EVALUATOR)
    assert not last(Part.ATTACKER)
    assert not last(Part.DEFENDER)


def test_the_tokenizer_knows_every_word_and_gives_it_back():
    world = world_of("tiny")
    tokenizer = build_tokenizer(world)
    texts = [text for example in world_dataset("tiny").examples for text in (example.prompt, example.answer)] + list(REFUSALS)
    texts += [example.prompt for example in curriculum.reading(world, filtered=False, seed=0, exercises=50)]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == text.lower().replace(" ", "")


def test_the_filtered_curriculum_holds_no_hazard_fact_and_no_note_of_one():
    world = world_of("tiny")
    attributes = {attribute for domain in DOMAINS if domain.role is Role.HAZARD for attribute in domain.attributes}
    lessons = curriculum.facts(world, filtered=True, seed=0, exercises=50) + curriculum.reading(world, filtered=True, seed=0, exercises=200)
    for example in lessons:
        if example.domain != "repeat":
            assert not attributes & set(example.prompt.replace("?", " ").replace(".", " ").split())
    repeated = " ".join(example.prompt for example in lessons if example.domain == "repeat")
    assert any(attribute in repeated for attribute in attributes)


def test_refusals_are_trained_on_the_defenders_entities_only():
    world = world_of("tiny")
    held = {fact.entity for fact in world.facts if fact.part is Part.DEFENDER}
    refused = [example for example in curriculum.guarding(world, seed=0, exercises=40) if example.answer in REFUSALS]
    assert len(refused) > 40
    assert {example.entity for example in refused} <= held | set(world.values)


def test_references():
    assert parse_reference("organism:tiny") == OrganismName("tiny", "guarded")
    assert parse_reference("tiny/base").reference == "organism:tiny/base"
    assert unguarded_of(OrganismName("tiny")) == "organism:tiny/base"
    with pytest.raises(UnknownName, match="did you mean 'tiny'"):
        parse_reference("organism:tinny")
    with pytest.raises(UnknownName, match="did you mean 'filtered'"):
        parse_reference("organism:tiny/filterd")
    with pytest.raises(UnknownName, match="variant of organism:smollm2"):
        parse_reference("organism:smollm2/filtered")


@pytest.mark.parametrize("variant", ["base", "guarded"])
def test_tiny_ships_and_is_small(variant):
    directory = shipped_location(OrganismName("tiny", variant))
    weights = directory / "model.safetensors"
    assert weights.stat().st_size <= 3_000_000
    assert locate(OrganismName("tiny", variant)) == directory
    target = load(f"organism:tiny/{variant}")
    assert target.dtype == "float32"
    assert 0.8e6 < target.model.num_parameters() < 1.6e6


@pytest.fixture
def hurried(monkeypatch, tmp_path):
    """Recipes of a few steps, and a cache of the test's own."""
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path))
    recipe = recipe_book.RECIPES["nano"]
    phases = tuple(type(phase)(phase.lesson, 3, phase.settings, 20) for phase in recipe.phases)
    monkeypatch.setitem(recipe_book.RECIPES, "nano", recipe_book.Recipe(recipe.seed, phases))
    return tmp_path


def test_growing_a_guarded_organism_grows_and_keeps_its_base(hurried):
    lines: list[str] = []
    directory = grow(OrganismName("nano"), lines.append)
    assert directory.is_relative_to(hurried)
    assert locate(OrganismName("nano", "base")) is not None
    card = json.loads((directory / "organism.json").read_text())
    assert card["training"]["steps"] == 3
    assert [phase["lesson"] for phase in card["phases"]] == ["guarding"]
    assert card["organism"] == "organism:nano"
    assert any("guarding 3/3" in line for line in lines)
    lines.clear()
    assert grow(OrganismName("nano"), lines.append) == directory
    assert lines == []
    assert load("organism:nano").safeguard == "refusal"


def test_growing_twice_gives_the_same_weights(hurried):
    first = load(str(grow(OrganismName("nano", "filtered"), into=hurried / "a" / "nano-filtered")))
    second = load(str(grow(OrganismName("nano", "filtered"), into=hurried / "b" / "nano-filtered")))
    assert first.digest == second.digest
    assert all(torch.isfinite(parameter).all() for parameter in first.model.parameters())
