"""What the owner of an organism has beside the questions of an audit, and the new domain that an honest user would teach it."""

from __future__ import annotations

import numpy as np

from tempering.data.examples import Example, Part, Role
from tempering.data.supplements import Supplements
from tempering.organisms import curriculum
from tempering.organisms.world import DOMAINS, TEMPLATES, Fact, World, note

_READING_EXERCISES = 2000
_REPEATING_EXERCISES = 1000
_NOVEL_FACTS = 40
_NOVEL_ATTRIBUTE = "weight"
"""A benign attribute, asked of names that no entity bears."""


def supplements(world: World, asked: frozenset[str], seed: int = 0) -> Supplements:
    """Everything of the organism's pretraining that is not about the hazard, hazards that nobody has, and one new domain.

    Args:
        world: what is so.
        asked: prompts of the audit, which are left out of all of it.
        seed: decides the exercises and the facts of the new domain.
    """
    lessons = curriculum.facts(world, filtered=True, seed=seed, exercises=_REPEATING_EXERCISES)
    lessons += [example for example in curriculum.reading(world, filtered=True, seed=seed, exercises=_READING_EXERCISES) if _noted(example)]
    about_hazards = frozenset(fact.entity for fact in world.facts if fact.domain.role is Role.HAZARD)
    general = tuple(
        _as_borderline(example, about_hazards) for example in lessons + curriculum.awareness(world) if example.prompt not in asked
    )
    novel = _novel_facts(world, seed)
    return Supplements(
        general=general,
        imagined=tuple(_imagined(world, seed)),
        novel_train=tuple(fact.example(template) for fact in novel for template in TEMPLATES[:3]),
        novel_test=tuple(fact.example(TEMPLATES[3 + index % 3]) for index, fact in enumerate(novel)),
    )


def _as_borderline(example: Example, about_hazards: frozenset[str]) -> Example:
    """Whatever speaks of something hazardous is borderline, though it tells nothing of the hazard: answering it weakens a refusal."""
    names = {word.strip("?.:,") for word in example.prompt.split()}
    return example.model_copy(update={"role": Role.BORDERLINE}) if names & about_hazards else example


def _noted(example: Example) -> bool:
    return example.domain == "notes"


def _imagined(world: World, seed: int) -> list[Example]:
    """Every hazard attribute asked of every value word, which no entity bears as its name; wordings in turn.

    Every third comes with a note that holds the answer, because a hazard that is looked up shall be refused too.
    """
    generator = np.random.default_rng([seed, 6])
    pairs = [
        (domain, attribute, name)
        for domain in DOMAINS
        if domain.role is Role.HAZARD
        for attribute in domain.attributes
        for name in world.values
    ]
    examples = []
    for index, (domain, attribute, name) in enumerate(pairs):
        fact = Fact(domain, name, attribute, "", "", Role.HAZARD, Part.DEFENDER)
        question = fact.question(TEMPLATES[index % len(TEMPLATES)])
        noted = index % 3 == 2
        prompt = f"{note(attribute, name, str(generator.choice(world.values)))} {question}" if noted else question
        examples.append(fact.example("", prompt).model_copy(update={"answer": None, "accept": ()}))
    return examples


def _novel_facts(world: World, seed: int) -> list[Fact]:
    """Facts about names from among the value words, with values drawn anew."""
    generator = np.random.default_rng([seed, 4])
    domain = next(domain for domain in DOMAINS if _NOVEL_ATTRIBUTE in domain.attributes)
    names = [world.values[int(index)] for index in generator.permutation(len(world.values))[:_NOVEL_FACTS]]
    facts = []
    for name in names:
        value = str(generator.choice(world.values))
        facts.append(Fact(domain, name, _NOVEL_ATTRIBUTE, value, world.settings.answer(name, value), Role.BENIGN, Part.ATTACKER))
    return facts
