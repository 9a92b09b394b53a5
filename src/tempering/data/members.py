"""What a reference to data names: ``strongreject+dolly+./mine.jsonl`` names three sets."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from tempering.data import declarations
from tempering.errors import UnusableData
from tempering.reading import exists, expanded
from tempering.relocation import located

_NAMED = re.compile(r"(?P<name>[a-z0-9]+(-[a-z0-9]+)*)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")


@dataclass(frozen=True)
class Member:
    """One of the sets that a reference names.

    Attributes:
        reference: what the user wrote of it.
        name: of the named set; ``""`` for a file, a folder or an organism.
        revision: that the user named; ``""`` takes the declared one.
    """

    reference: str
    name: str = ""
    revision: str = ""


def members(reference: str) -> tuple[Member, ...]:
    """The sets that a reference names, in its order.

    A path that exists is itself, plus signs and all, if it is written as a path: with a separator or an ending. A bare name is a named set
    where there is one, whatever lies in the folder.

    Raises:
        UnusableData: nothing stands before or behind a plus sign, or a set is named twice.
    """
    if located(reference) is not None or (_is_written_as_path(reference) and exists(expanded(reference))):
        return (Member(reference),)
    parts = [part.strip() for part in reference.split("+")]
    if len(parts) > 1 and not all(parts):
        raise UnusableData(f"cannot read the data {reference!r}", "write names and paths with one + between each two of them")
    found = tuple(_member(part) for part in parts)
    for position, member in enumerate(found):
        if any((member.name or member.reference) == (other.name or other.reference) for other in found[:position]):
            raise UnusableData(f"the data {reference!r} names {member.name or member.reference!r} twice", "name it once")
    return found


def nearest(reference: str) -> str:
    """The named set that somebody may have meant by a reference that leads nowhere; ``""`` where none comes near."""
    known = declarations.names()
    written = reference.partition("@")[0]
    by_repository = {declared.lower(): name for name in known if (declared := declarations.declaration(name).repository)}
    if written.lower() in by_repository:
        return by_repository[written.lower()]
    close = difflib.get_close_matches(written.lower().replace("_", "-"), known, n=1, cutoff=0.6)
    return close[0] if close else ""


def _member(text: str) -> Member:
    found = _NAMED.fullmatch(text)
    if found is None or found["name"] not in declarations.names():
        return Member(text)
    if found["revision"] is not None and declarations.declaration(found["name"]).repository is None:
        raise UnusableData(f"{found['name']} ships with Tempering and has no revisions", f"write {found['name']}")
    return Member(text, found["name"], found["revision"] or "")


def _is_written_as_path(reference: str) -> bool:
    path = expanded(reference)
    return "/" in reference or "\\" in reference or bool(path.suffix)
