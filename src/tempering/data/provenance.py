"""Where the rows of a dataset come from, and which were left out of it; digests stand for texts, so that it can be published."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tempering.data.examples import Role
from tempering.settings import Settings

Likeness = Literal["exact", "near"]


class SetUsed(Settings):
    """A set that was named, and what was taken of it.

    Attributes:
        name: of the set, or the file, folder or organism as the user wrote it.
        repository: of the hub; ``""`` where it is none of the hub's.
        revision: commit, ``local`` or ``shipped``; ``""`` for a user's own data.
        pinned: that revision is the same tomorrow.
        licence: its terms.
        use: what they allow, or its authors ask for.
        read: rows that were read of it.
        kept: rows in the dataset, by role.
        left_out: rows that were read and not used, by reason: empty, long, not drawn, or repeated
            in a set that is drawn from; other duplicates stand in :class:`Dropped`.
    """

    name: str
    repository: str = ""
    revision: str = ""
    pinned: bool = True
    licence: str = ""
    use: str = ""
    read: int = 0
    kept: dict[Role, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)


class Dropped(Settings):
    """Rows of a set that were left out because others, which are kept, say the same.

    Attributes:
        data: the set they are of.
        role: what they were for.
        likeness: the same in normal form, or nearly.
        kept_in: the set of the rows that stand for them.
        kept_as: the role of those.
        count: how many.
        digest: SHA-256 over the digests of their prompts, in order.
        first: the first twelve digits of some prompts' digests, to look rows up by.
    """

    data: str
    role: Role
    likeness: Likeness
    kept_in: str
    kept_as: Role
    count: int
    digest: str
    first: tuple[str, ...]


class Provenance(Settings):
    """Where a dataset comes from.

    Attributes:
        sets: in the order in which they were named.
        dropped: by set, role and likeness.
        companion: the set that was put beside the named ones because they have no benign prompts; ``""`` where none was.
    """

    sets: tuple[SetUsed, ...]
    dropped: tuple[Dropped, ...] = ()
    companion: str = ""

    @property
    def revisions(self) -> list[tuple[str, str]]:
        """Name and revision of every set that has one, for digests."""
        return [(used.name, used.revision) for used in self.sets if used.revision]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should be told of it, in sentences without a full stop."""
        return tuple(
            f"{used.name} is not pinned: {used.repository} may change, and a run could not be resumed then; to keep what it is now, "
            f"name {used.name}@{used.revision}"
            for used in self.sets
            if not used.pinned
        )
