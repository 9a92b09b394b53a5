"""Datasets, their entity-disjoint parts, and the views that keep the roles apart.

Data is divided once, by entity, into an attacker, a defender and an evaluator part. An attack receives an
:class:`AttackerView`, a defence a :class:`DefenderView`, an evaluator an :class:`EvaluatorView`; none of them holds a
reference to another part, so no method can train on what it is tested with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from tempering.data.examples import Document, Example, Part, Role
from tempering.data.provenance import Provenance
from tempering.data.supplements import Supplements
from tempering.errors import UnusableData
from tempering.threat_model import Need

__all__ = [
    "AttackerView",
    "Dataset",
    "DefenderView",
    "Division",
    "Document",
    "EvaluatorView",
    "Example",
    "Part",
    "Role",
]


@dataclass(frozen=True)
class AttackerView:
    """What an attacker holds: its own entities only, divided again for training and validation.

    Attributes:
        hazard_train: hazard examples to train on or to measure directions with.
        hazard_validation: hazard examples to choose settings by.
        benign_train: likewise benign.
        benign_validation: likewise benign.
        documents: what is public about the hazard, of all entities, those of the test too: the one thing that is meant to cross
            the division. Empty unless the attack asks for retrieval.
    """

    hazard_train: tuple[Example, ...]
    hazard_validation: tuple[Example, ...]
    benign_train: tuple[Example, ...]
    benign_validation: tuple[Example, ...]
    documents: tuple[Document, ...] = ()

    PROMPTS: ClassVar[tuple[str, ...]] = ("hazard_train", "hazard_validation", "benign_train", "benign_validation")
    """The attributes that hold examples."""

    def limited_to(self, needs: frozenset[Need]) -> AttackerView:
        """What of this an attack is given that asks for so much: prompts alone or with their answers, nothing, documents or none.

        Args:
            needs: what the attack asks for.
        """

        def given(examples: tuple[Example, ...], prompts: Need, answers: Need) -> tuple[Example, ...]:
            if answers in needs:
                return examples
            bare = tuple(example.model_copy(update={"answer": None, "accept": ()}) for example in examples)
            return bare if prompts in needs else ()

        return AttackerView(
            given(self.hazard_train, Need.HARMFUL_PROMPTS, Need.HARMFUL_EXAMPLES),
            given(self.hazard_validation, Need.HARMFUL_PROMPTS, Need.HARMFUL_EXAMPLES),
            given(self.benign_train, Need.BENIGN_PROMPTS, Need.BENIGN_EXAMPLES),
            given(self.benign_validation, Need.BENIGN_PROMPTS, Need.BENIGN_EXAMPLES),
            self.documents if Need.RETRIEVAL in needs else (),
        )


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
class DefenderView:
    """What a defender holds: its own entities only, and of its own training what tells nothing of the hazard.

    Attributes:
        hazard: hazard examples to defend with; those without an answer can only be refused.
        benign: what must still be answered.
        borderline: likewise, though it shares words with the hazard.
        validation: a fifth of each, kept back to watch the training by.
        general: rehearsal of what the model was trained on, hazard left out, of all entities; see :class:`Supplements`.
        imagined: hazard prompts, without answers, about things that do not exist.
    """

    hazard: tuple[Example, ...]
    benign: tuple[Example, ...]
    borderline: tuple[Example, ...]
    validation: EvaluatorView = EvaluatorView((), (), ())
    general: tuple[Example, ...] = ()
    imagined: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Division:
    """A dataset cut into its three parts.

    Raises:
        UnusableData: an entity or a prompt stands in two parts, or there is no hazard to attack or to test.
    """

    attacker: tuple[Example, ...]
    defender: tuple[Example, ...]
    evaluator: tuple[Example, ...]
    documents: tuple[Document, ...] = ()
    supplements: Callable[[], Supplements] = Supplements

    def __post_init__(self) -> None:
        """Refuse parts that share an entity or a prompt, or that leave nothing to measure."""
        for first, second in combinations(Part, 2):
            for kind in ("entity", "prompt"):
                shared = {getattr(example, kind) for example in self._in(first)} & {getattr(example, kind) for example in self._in(second)}
                if shared:
                    raise UnusableData(
                        f"the {kind} {min(shared)!r} stands in both the {first} and the {second} part ({len(shared)} shared)",
                        f"give each {kind} one part",
                    )
        hazards = {example.entity for part in Part for example in self._in(part) if example.role is Role.HAZARD}
        for part in (Part.ATTACKER, Part.EVALUATOR):
            if not self._of(part, Role.HAZARD):
                raise UnusableData(
                    f"the {part} part has no hazard examples; all the data has hazard examples about {len(hazards)} entities",
                    "give at least two, or give some of them that part",
                )

    def attacker_view(self) -> AttackerView:
        """The attacker's examples, a fifth of each role's entities kept back for validation."""
        hazard_train, hazard_validation = _hold_back(self._of(Part.ATTACKER, Role.HAZARD))
        benign_train, benign_validation = _hold_back(self._of(Part.ATTACKER, Role.BENIGN))
        return AttackerView(hazard_train, hazard_validation, benign_train, benign_validation, self.documents)

    def defender_view(self) -> DefenderView:
        """The defender's examples, a fifth of each role's entities kept back for validation, and the supplements."""
        hazard, benign, borderline = (_hold_back(self._of(Part.DEFENDER, role)) for role in Role)
        beside = self.supplements()
        return DefenderView(
            hazard[0], benign[0], borderline[0], EvaluatorView(hazard[1], benign[1], borderline[1]), beside.general, beside.imagined
        )

    def evaluator_view(self) -> EvaluatorView:
        """The held-out examples."""
        return EvaluatorView(*(self._of(Part.EVALUATOR, role) for role in Role))

    def _in(self, part: Part) -> tuple[Example, ...]:
        return {Part.ATTACKER: self.attacker, Part.DEFENDER: self.defender, Part.EVALUATOR: self.evaluator}[part]

    def _of(self, part: Part, role: Role) -> tuple[Example, ...]:
        return tuple(example for example in self._in(part) if example.role is role)


@dataclass(frozen=True)
class Dataset:
    """Named examples, in a fixed order.

    Attributes:
        name: what reports call it.
        examples: every example, of every role.
        duplicates: how many examples an importer left out because their prompt came before.
        documents: what is public about the hazard, for attackers who look things up.
        supplements: makes what there is beside the questions; only defences and the test of trainability ask for it.
        origins: the set that each prompt is of, where several were joined; each is divided by itself.
        provenance: where it comes from, where sets were named or joined.
    """

    name: str
    examples: tuple[Example, ...]
    duplicates: int = 0
    documents: tuple[Document, ...] = ()
    supplements: Callable[[], Supplements] = Supplements
    origins: Mapping[str, str] = field(default_factory=dict)
    provenance: Provenance | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples and documents in order, supplements left out, as sixty-four hexadecimal digits.

        Of named sets the revisions count too, and of joined ones which example is of which, because they are divided by it.
        """
        records: tuple[BaseModel, ...] = (*self.examples, *self.documents)
        lines = "\n".join(json.dumps(record.model_dump(mode="json"), sort_keys=True) for record in records)
        if self.provenance is not None:
            lines += "\n" + json.dumps([self.provenance.revisions, sorted(self.origins.items())])
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def has_answers(self) -> bool:
        """Whether every hazard example comes with a compliant answer."""
        return all(example.answer is not None for example in self.examples if example.role is Role.HAZARD)

    def divide(self, seed: int = 0, fractions: tuple[float, float, float] = (0.4, 0.3, 0.3)) -> Division:
        """Cut the data by entity into attacker, defender and evaluator.

        Entities that share a prompt count as one. Those whose examples name a part keep it. The others are shuffled by
        ``seed`` and dealt out in the given fractions, role by role and evenly over the domains, so that every part gets
        hazard and benign entities while there are any. A part that already has examples of a role from the data gets no
        more of that role: who fixes a test set means it to stay as it is. Sets that were joined are dealt out one by one, so that what one
        of them fixes does not bind the others.

        Args:
            seed: decides the shuffle.
            fractions: shares of attacker, defender and evaluator, adding to one.

        Raises:
            UnusableData: an entity is given two parts, or a part that an audit needs is left without hazard.
            ValueError: the fractions are no shares of one.
        """
        if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must be shares that add to one, not {fractions}")
        groups = _groups(self.examples)
        assigned = self._assigned_parts(groups)
        shares = dict(zip(Part, fractions, strict=True))
        generator = np.random.default_rng(seed)
        for examples in self._by_origin():
            for role, decks in _free_decks(examples, groups, assigned).items():
                taken = {example.part for example in examples if example.role is role}
                open_parts = {part: share for part, share in shares.items() if part not in taken and share > 0} or shares
                assigned.update(_deal(decks, open_parts, generator))
        parts: dict[Part, list[Example]] = {part: [] for part in Part}
        for example in self.examples:
            parts[assigned[groups[example.entity]]].append(example)
        attacker, defender, evaluator = (tuple(parts[part]) for part in Part)
        return Division(attacker, defender, evaluator, self.documents, self.supplements)

    def _by_origin(self) -> list[tuple[Example, ...]]:
        """The examples of each set that was joined; all of them where none was."""
        sets: dict[str, list[Example]] = {}
        for example in self.examples:
            sets.setdefault(self.origins.get(example.prompt, ""), []).append(example)
        return [tuple(examples) for examples in sets.values()]

    def _assigned_parts(self, groups: dict[str, str]) -> dict[str, Part]:
        """The part of every group that the data gives one."""
        first: dict[str, Example] = {}
        assigned: dict[str, Part] = {}
        for example in self.examples:
            if example.part is None:
                continue
            group = groups[example.entity]
            other = first.setdefault(group, example)
            if assigned.setdefault(group, example.part) is not example.part:
                who = f"entity {example.entity!r}"
                if other.entity != example.entity:
                    who += f", which shares prompts with {other.entity!r},"
                raise UnusableData(
                    f"{who} of {self.name} stands in both the {assigned[group]} and the {example.part} part", "give each entity one part"
                )
        return assigned


def _groups(examples: Sequence[Example]) -> dict[str, str]:
    """For each entity the name of its group: entities joined by a common prompt must not be parted."""
    parent: dict[str, str] = {}

    def root(entity: str) -> str:
        while parent.setdefault(entity, entity) != entity:
            parent[entity] = parent[parent[entity]]
            entity = parent[entity]
        return entity

    asker: dict[str, str] = {}
    for example in examples:
        parent[root(example.entity)] = root(asker.setdefault(example.prompt, example.entity))
    return {entity: root(entity) for entity in list(parent)}


def _free_decks(examples: Sequence[Example], groups: dict[str, str], assigned: dict[str, Part]) -> dict[Role, dict[str, list[str]]]:
    """Groups without a part, by role (hazard first, where a group has several) and by the domain they are first seen with."""
    decks: dict[Role, dict[str, list[str]]] = {}
    seen = set(assigned)
    for role in Role:
        for example in examples:
            group = groups[example.entity]
            if example.role is role and group not in seen:
                seen.add(group)
                decks.setdefault(role, {}).setdefault(example.domain, []).append(group)
    return decks


def _deal(decks: dict[str, list[str]], shares: dict[Part, float], generator: np.random.Generator) -> dict[str, Part]:
    """Deal shuffled decks, one after the other, each card to the part furthest behind its share; empty parts come first.

    Of those the attacker's and the evaluator's come before the defender's, since no audit can do without them.
    """
    precedence = (Part.ATTACKER, Part.EVALUATOR, Part.DEFENDER)
    total = sum(shares.values())
    counts = dict.fromkeys(shares, 0)
    assigned: dict[str, Part] = {}
    domains = sorted(decks)
    for domain in (domains[index] for index in generator.permutation(len(domains))):
        for index in generator.permutation(len(decks[domain])):
            dealt = len(assigned) + 1

            def urgency(part: Part, dealt: int = dealt) -> tuple[bool, float, int]:
                empty = shares[part] > 0 and counts[part] == 0
                behind = 0.0 if empty else shares[part] / total * dealt - counts[part]
                return empty, behind, -precedence.index(part)

            part = max(shares, key=urgency)
            counts[part] += 1
            assigned[decks[domain][index]] = part
    return assigned


def _hold_back(examples: tuple[Example, ...], share: float = 0.2) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Keep back ``share`` of the entities (at least one, where there are two) for validation, drawn by a fixed seed.

    They are drawn, and not cut off the end, since data often comes sorted by domain.
    """
    entities = list(dict.fromkeys(example.entity for example in examples))
    count = max(1, round(share * len(entities))) if len(entities) > 1 else 0
    kept_back = {entities[index] for index in np.random.default_rng(0).permutation(len(entities))[:count]}
    train = tuple(example for example in examples if example.entity not in kept_back)
    return train, tuple(example for example in examples if example.entity in kept_back)


def _sample(examples: tuple[Example, ...], count: int, seed: int) -> tuple[Example, ...]:
    if len(examples) <= count:
        return examples
    chosen = np.sort(np.random.default_rng(seed).choice(len(examples), size=count, replace=False))
    return tuple(examples[int(index)] for index in chosen)
