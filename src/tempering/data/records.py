"""Typed records, entity-disjoint parts, and the views that keep the roles apart.

Data is divided once, by entity, into an attacker, a defender and an evaluator part. An attack receives an
:class:`AttackerView`, a defence a :class:`DefenderView`, an evaluator an :class:`EvaluatorView`; none of them holds a
reference to another part, so no method can train on what it is tested with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tempering.errors import UnusableData


class Role(StrEnum):
    """What a prompt is for."""

    HAZARD = "hazard"
    """Asks for what the safeguard withholds."""
    BENIGN = "benign"
    """Asks for something any model should answer."""
    BORDERLINE = "borderline"
    """Benign, but shares words with the hazard: over-refusal shows here."""


class Part(StrEnum):
    """Who may see an example."""

    ATTACKER = "attacker"
    DEFENDER = "defender"
    EVALUATOR = "evaluator"


class Example(BaseModel):
    """One question, with its compliant answer where one is known.

    Attributes:
        prompt: the user's message.
        answer: the compliant answer in full; ``None`` for prompts without one.
        accept: the strings any of which, as whole words, make a response right; empty means judge by compliance.
        role: hazard, benign or borderline.
        domain: the topic, for reports by domain.
        entity: what the example is about. Parts are disjoint in this; defaults to the prompt itself.
        part: fixed part, or ``None`` to let :meth:`Dataset.divide` choose.
        system: system prompt, where the example needs one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    answer: str | None = None
    accept: tuple[str, ...] = ()
    role: Role
    domain: str = "default"
    entity: str = ""
    part: Part | None = None
    system: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_entity(cls, values: object) -> object:
        if isinstance(values, dict) and not values.get("entity"):
            return {**values, "entity": values.get("prompt", "")}
        return values

    @cached_property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that name this example by its content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AttackerView:
    """What an attacker holds: its own entities only, divided again for training and validation."""

    hazard_train: tuple[Example, ...]
    hazard_validation: tuple[Example, ...]
    benign_train: tuple[Example, ...]
    benign_validation: tuple[Example, ...]


@dataclass(frozen=True)
class DefenderView:
    """What a defender holds: its own entities only."""

    hazard: tuple[Example, ...]
    benign: tuple[Example, ...]
    borderline: tuple[Example, ...]


@dataclass(frozen=True)
class EvaluatorView:
    """The held-out prompts. Never handed to an attack or a defence."""

    hazard: tuple[Example, ...]
    benign: tuple[Example, ...]
    borderline: tuple[Example, ...]

    def of(self, role: Role) -> tuple[Example, ...]:
        """The examples of one role."""
        return {Role.HAZARD: self.hazard, Role.BENIGN: self.benign, Role.BORDERLINE: self.borderline}[role]

    def limited(self, count: int, seed: int = 0) -> EvaluatorView:
        """At most ``count`` examples of each role, drawn without replacement by ``seed``."""
        return EvaluatorView(*(_sample(self.of(role), count, seed) for role in Role))


@dataclass(frozen=True)
class Division:
    """A dataset cut into its three parts.

    Raises:
        UnusableData: an entity stands in two parts, or there is no hazard to attack or to test.
    """

    attacker: tuple[Example, ...]
    defender: tuple[Example, ...]
    evaluator: tuple[Example, ...]

    def __post_init__(self) -> None:
        """Refuse parts that share an entity or that leave nothing to measure."""
        parts = {part: {example.entity for example in getattr(self, part.value)} for part in Part}
        for first, second in ((Part.ATTACKER, Part.DEFENDER), (Part.ATTACKER, Part.EVALUATOR), (Part.DEFENDER, Part.EVALUATOR)):
            shared = parts[first] & parts[second]
            if shared:
                raise UnusableData(
                    f"{len(shared)} entities stand in both the {first} and the {second} part, {min(shared)!r} among them",
                    "give each entity one part",
                )
        for part in (Part.ATTACKER, Part.EVALUATOR):
            if not any(example.role is Role.HAZARD for example in getattr(self, part.value)):
                raise UnusableData(f"the {part} part has no hazard examples", "mark some with role 'hazard'")

    def attacker_view(self) -> AttackerView:
        """The attacker's examples, a fifth of each role's entities kept back for validation."""
        hazard_train, hazard_validation = _hold_back(self._of(Part.ATTACKER, Role.HAZARD))
        benign_train, benign_validation = _hold_back(self._of(Part.ATTACKER, Role.BENIGN))
        return AttackerView(hazard_train, hazard_validation, benign_train, benign_validation)

    def defender_view(self) -> DefenderView:
        """The defender's examples."""
        return DefenderView(*(self._of(Part.DEFENDER, role) for role in Role))

    def evaluator_view(self) -> EvaluatorView:
        """The held-out examples."""
        return EvaluatorView(*(self._of(Part.EVALUATOR, role) for role in Role))

    def _of(self, part: Part, role: Role) -> tuple[Example, ...]:
        return tuple(example for example in getattr(self, part.value) if example.role is role)


@dataclass(frozen=True)
class Dataset:
    """Named examples, in a fixed order.

    Attributes:
        name: what reports call it.
        examples: every example, of every role.
    """

    name: str
    examples: tuple[Example, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples in order, as sixty-four hexadecimal digits."""
        lines = "\n".join(json.dumps(example.model_dump(mode="json"), sort_keys=True) for example in self.examples)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def has_answers(self) -> bool:
        """Whether every hazard example comes with a compliant answer."""
        return all(example.answer is not None for example in self.examples if example.role is Role.HAZARD)

    def divide(self, seed: int = 0, fractions: tuple[float, float, float] = (0.4, 0.3, 0.3)) -> Division:
        """Cut the data by entity into attacker, defender and evaluator.

        Entities whose examples name a part keep it; the others are shuffled by ``seed`` and dealt out so that each role
        and domain is divided in the given fractions.

        Args:
            seed: decides the shuffle.
            fractions: shares of attacker, defender and evaluator, adding to one.

        Raises:
            UnusableData: an entity is given two parts, or a part that an audit needs is left without hazard.
        """
        parts: dict[Part, list[Example]] = {part: [] for part in Part}
        assigned = self._assigned_parts()
        free = [example for example in self.examples if example.entity not in assigned]
        assigned.update(_deal(free, seed, fractions))
        for example in self.examples:
            parts[assigned[example.entity]].append(example)
        return Division(*(tuple(parts[part]) for part in Part))

    def _assigned_parts(self) -> dict[str, Part]:
        assigned: dict[str, Part] = {}
        for example in self.examples:
            if example.part is None:
                continue
            if assigned.setdefault(example.entity, example.part) is not example.part:
                raise UnusableData(
                    f"entity {example.entity!r} of {self.name} stands in both the {assigned[example.entity]} "
                    f"and the {example.part} part",
                    "give each entity one part",
                )
        return assigned


def _deal(examples: Sequence[Example], seed: int, fractions: tuple[float, float, float]) -> dict[str, Part]:
    """Assign each entity to a part, stratified by the role and domain it is first seen with."""
    strata: dict[tuple[str, str], list[str]] = {}
    seen: set[str] = set()
    for example in examples:
        if example.entity not in seen:
            seen.add(example.entity)
            strata.setdefault((example.role.value, example.domain), []).append(example.entity)
    generator = np.random.default_rng(seed)
    assigned: dict[str, Part] = {}
    for key in sorted(strata):
        entities = strata[key]
        order = generator.permutation(len(entities))
        ends = np.rint(np.cumsum(fractions) * len(entities)).astype(int)
        for position, index in enumerate(order):
            assigned[entities[index]] = list(Part)[min(int(np.searchsorted(ends, position, side="right")), 2)]
    return assigned


def _hold_back(examples: tuple[Example, ...], share: float = 0.2) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Cut off the last ``share`` of the entities (at least one, where there are two) for validation."""
    entities = list(dict.fromkeys(example.entity for example in examples))
    kept_back = set(entities[len(entities) - max(1, round(share * len(entities))) :]) if len(entities) > 1 else set()
    train = tuple(example for example in examples if example.entity not in kept_back)
    return train, tuple(example for example in examples if example.entity in kept_back)


def _sample(examples: tuple[Example, ...], count: int, seed: int) -> tuple[Example, ...]:
    if len(examples) <= count:
        return examples
    chosen = np.sort(np.random.default_rng(seed).choice(len(examples), size=count, replace=False))
    return tuple(examples[int(index)] for index in chosen)
