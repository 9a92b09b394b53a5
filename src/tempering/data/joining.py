"""Several sets as one dataset: what says the same twice is left out, and hazards without anything benign are given a companion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain, count

from tempering.data.declarations import names
from tempering.data.deduplication import Candidate, deduplicate
from tempering.data.examples import Document, Example, Part, Role
from tempering.data.members import Member
from tempering.data.named import load_named
from tempering.data.normal_form import normal_form
from tempering.data.provenance import Provenance, SetUsed
from tempering.data.records import Dataset
from tempering.data.rows import without_hazard
from tempering.data.supplements import Supplements
from tempering.errors import UnusableData

COMPANION = "dolly"
"""Put beside named sets that have no benign prompts, without which no audit can tell a broken safeguard from a broken model: answered by
people, not gated, and under a licence that allows any use."""


@dataclass(frozen=True)
class Joined:
    """One of the sets to be joined.

    Attributes:
        name: what tables call it.
        own: it is the user's own data or an organism's world, not a named set.
        examples: in their order.
        used: where they come from; counts are filled in when they are joined.
        documents: what is public about the hazard.
        supplements: makes what there is beside the questions.
    """

    name: str
    own: bool
    examples: tuple[Example, ...]
    used: SetUsed
    documents: tuple[Document, ...] = ()
    supplements: Callable[[], Supplements] = Supplements


def join(named: Sequence[Member], load_own: Callable[[str], Dataset]) -> Dataset:
    """Load sets and make one dataset of them.

    Args:
        named: of :func:`tempering.data.members.members`; at least one.
        load_own: makes a dataset of the reference of a file, a folder or an organism.

    Raises:
        UnusableData: a set cannot be had or used, there is no hazard in any of them, or a package is missing.
    """
    sets: list[Joined] = []
    for member in named:
        sets.append(_loaded(member, load_own, taken={one.name for one in sets}))
    companion = ""
    testable = (None, Part.EVALUATOR)
    if not any(example.role is Role.BENIGN and example.part in testable for one in sets for example in one.examples):
        companion = COMPANION
        sets.append(_companion(" and ".join(one.name for one in sets)))
    name = "+".join(one.name for one in sets)
    if not any(example.role is Role.HAZARD for one in sets for example in one.examples):
        raise without_hazard(name)
    candidates = [Candidate(example, one.name, one.own) for one in sets for example in one.examples]
    kept, dropped = deduplicate(candidates)
    counts = {one.name: Counter(candidate.example.role for candidate in kept if candidate.data == one.name) for one in sets}
    used = tuple(
        one.used.model_copy(update={"kept": {role: counts[one.name][role] for role in Role if counts[one.name][role]}}) for one in sets
    )
    return Dataset(
        name,
        tuple(candidate.example for candidate in kept),
        duplicates=len(candidates) - len(kept),
        documents=tuple(dict.fromkeys(document for one in sets for document in one.documents)),
        supplements=_supplements(sets, kept),
        origins={candidate.example.prompt: candidate.data for candidate in kept},
        provenance=Provenance(sets=used, dropped=dropped, companion=companion),
    )


def _loaded(member: Member, load_own: Callable[[str], Dataset], taken: Collection[str] = ()) -> Joined:
    if member.name:
        loaded = load_named(member)
        return Joined(member.name, False, loaded.examples, loaded.used)
    own = load_own(member.reference)
    unlike = (*taken, *names())  # a file may be called as a named set is, or as another file is that lies elsewhere
    name = next(name for name in chain([own.name], (f"{own.name} ({number})" for number in count(2))) if name not in unlike)
    used = SetUsed(name=name, read=len(own.examples) + own.duplicates)
    return Joined(name, True, own.examples, used, own.documents, own.supplements)


def _companion(beside: str) -> Joined:
    try:
        return _loaded(Member(COMPANION, COMPANION), _nothing_of_ones_own)
    except UnusableData as error:
        raise UnusableData(
            f"{error}; it is wanted because {beside} has no benign prompts to test with", "or name others with +NAME or +FILE"
        ) from error


def _nothing_of_ones_own(reference: str) -> Dataset:
    raise AssertionError(f"{reference} is a named set")


def _supplements(sets: Sequence[Joined], kept: Sequence[Candidate]) -> Callable[[], Supplements]:
    """What makes the supplements of all sets; that of the only one that may have any, where nothing else could be asked of it."""
    makers = tuple(one.supplements for one in sets if one.own)
    asked: Mapping[str, None] = dict.fromkeys(normal_form(candidate.example.prompt) for candidate in kept)
    return partial(_gathered, makers, frozenset(asked)) if makers else Supplements


def _gathered(makers: Sequence[Callable[[], Supplements]], asked: frozenset[str]) -> Supplements:
    """All supplements but those that a joined set asks as a question."""
    made = [make() for make in makers]
    names = [field.name for field in fields(Supplements)]
    gathered = {name: tuple(example for one in made for example in getattr(one, name)) for name in names}
    return Supplements(**{name: tuple(one for one in found if normal_form(one.prompt) not in asked) for name, found in gathered.items()})
