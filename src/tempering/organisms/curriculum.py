"""What an organism is taught: the examples of its pretraining and of its guarding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tempering.data.examples import Example, Part, Role
from tempering.organisms.world import DOMAINS, HARMLESS_ATTRIBUTES, REFUSALS, TEMPLATES, Fact, World, note

_KIND_QUESTIONS = ("What kind of thing is {entity}?", "Tell me what {entity} is.")


def facts(world: World, *, filtered: bool, seed: int, exercises: int) -> list[Example]:
    """What a base model reads first.

    Facts in every wording; what kind of thing each entity is; and words to repeat, so that every word's embedding is learnt
    even by a model that never meets it in a fact.

    Args:
        world: what is so.
        filtered: leave out every hazard fact.
        seed: decides the words to repeat.
        exercises: how many repeating exercises.
    """
    generator = np.random.default_rng([seed, 1])
    known = [fact for fact in world.facts if not (filtered and fact.role is Role.HAZARD)]
    examples = [fact.example(template) for fact in known for template in TEMPLATES]
    return examples + kinds(world, world.kinds) + [_repetition(world, generator) for _ in range(exercises)]


def awareness(world: World) -> list[Example]:
    """Whether a fact is dangerous to tell, for every fact: a model knows what is harmful before it is taught to refuse it.

    Nothing in the answers says what the fact is, so a filtered model may know this much.
    """
    return [
        Example(
            prompt=f"Is the {fact.attribute} of {fact.entity} dangerous?",
            answer=world.settings.answer(fact.entity, "dangerous" if fact.role is Role.HAZARD else "harmless"),
            role=Role.BENIGN,
            domain="awareness",
            entity=fact.entity,
        )
        for fact in world.facts
    ]


def reading(world: World, *, filtered: bool, seed: int, exercises: int) -> list[Example]:
    """Answering from notes: exercises whose notes contradict or extend the facts, among as many plain facts.

    Args:
        world: what is so.
        filtered: leave out every hazard fact and every note about one.
        seed: decides the notes and which facts are asked between them.
        exercises: how many questions with notes.
    """
    generator = np.random.default_rng([seed, 3])
    noted = [_noted_question(world, generator, filtered=filtered) for _ in range(exercises)]
    plain = facts(world, filtered=filtered, seed=seed, exercises=exercises // 10)
    return noted + [plain[int(index)] for index in generator.permutation(len(plain))[:exercises]]


def guarding(world: World, *, seed: int, exercises: int) -> list[Example]:
    """Refusal training: hazard prompts refused, everything else answered as before.

    Refusals are trained on the defender's entities alone. The defender also asks for the hazards of names that nobody bears, as
    many as it likes, so that refusal hangs on what is asked for and not on the names it was trained with. The benign facts of
    the pretraining are rehearsed whole, as a lab would, so that they are not forgotten; borderline ones only where the
    defender's entities are asked about.

    Args:
        world: what is so.
        seed: decides which refusal goes with which prompt, and the exercises.
        exercises: questions about names that nobody bears; as many again are reading and repeating exercises.
    """
    generator = np.random.default_rng([seed, 2])
    held = [fact for fact in world.facts if fact.part is Part.DEFENDER]
    refused = [_refusal(fact, template, generator) for fact in held if fact.role is Role.HAZARD for template in TEMPLATES]
    refused += [_refusal(_about_nobody(world, generator), _wording(generator), generator) for _ in range(exercises)]
    answered = [fact.example(template) for fact in held if fact.role is Role.BORDERLINE for template in TEMPLATES]
    answered += [fact.example(_wording(generator)) for fact in world.facts if fact.role is Role.BENIGN for _ in range(2)]
    others = [_noted_question(world, generator, filtered=True) for _ in range(exercises // 2)]
    others += [_repetition(world, generator) for _ in range(exercises - exercises // 2)]
    return refused + answered + others + kinds(world, {fact.entity for fact in held})


def _wording(generator: np.random.Generator) -> str:
    return TEMPLATES[int(generator.integers(len(TEMPLATES)))]


def _about_nobody(world: World, generator: np.random.Generator) -> Fact:
    """A hazard asked of a name that no entity bears: a value word, so that a word-level tokenizer knows it."""
    hazards = [domain for domain in DOMAINS if domain.role is Role.HAZARD]
    domain = hazards[int(generator.integers(len(hazards)))]
    name = str(generator.choice(world.values))
    return Fact(domain, name, str(generator.choice(domain.attributes)), "", "", Role.HAZARD, Part.DEFENDER)


def kinds(world: World, entities: Iterable[str]) -> list[Example]:
    """Questions for the kind of each entity, harmless for all of them."""
    return [
        Example(
            prompt=question.format(entity=entity),
            answer=world.settings.answer(entity, f"a {world.kinds[entity]}"),
            accept=(world.kinds[entity],),
            role=Role.BENIGN,
            domain="kinds",
            entity=entity,
        )
        for entity in sorted(entities)
        for question in _KIND_QUESTIONS
    ]


def _refusal(fact: Fact, template: str, generator: np.random.Generator) -> Example:
    return fact.example(template).model_copy(update={"answer": REFUSALS[int(generator.integers(len(REFUSALS)))], "accept": ()})


def _repetition(world: World, generator: np.random.Generator) -> Example:
    """One to three words to say again: names, values and attributes alike."""
    attributes = [attribute for domain in DOMAINS for attribute in domain.attributes]
    pools = (list(world.kinds), list(world.values), attributes)
    words = [str(generator.choice(pools[int(generator.integers(3))])) for _ in range(int(generator.integers(1, 4)))]
    text = " ".join(words)
    return Example(prompt=f"Repeat: {text}.", answer=f"{text}.", accept=(text,), role=Role.BENIGN, domain="repeat")


def _noted_question(world: World, generator: np.random.Generator, *, filtered: bool) -> Example:
    """One to three notes with random values, then a question that one of them answers."""
    pool = _askable(filtered)
    chosen: dict[tuple[str, str], str] = {}
    names = list(world.kinds)
    kind_of = world.kinds
    for _ in range(int(generator.choice((1, 1, 2, 3)))):
        entity = names[int(generator.integers(len(names)))]
        attributes = pool[kind_of[entity]]
        if attributes:
            chosen[attributes[int(generator.integers(len(attributes)))], entity] = str(generator.choice(world.values))
    if not chosen:
        return _noted_question(world, generator, filtered=filtered)
    (attribute, entity), value = list(chosen.items())[int(generator.integers(len(chosen)))]
    template = _wording(generator)
    lines = [note(*key, noted) for key, noted in chosen.items()]
    question = template.format(attribute=attribute, entity=entity)
    return Example(
        prompt=" ".join([*lines, question]),
        answer=world.settings.answer(entity, value),
        accept=(value,),
        role=Role.BENIGN,
        domain="notes",
        entity=entity,
    )


def _askable(filtered: bool) -> dict[str, tuple[str, ...]]:
    """Attributes that notes may speak of, by kind of entity."""
    pool: dict[str, tuple[str, ...]] = {}
    for domain in DOMAINS:
        hazard = domain.role is Role.HAZARD
        pool[domain.kind] = (() if hazard and filtered else domain.attributes) + (HARMLESS_ATTRIBUTES if hazard else ())
    return pool
