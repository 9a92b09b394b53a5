"""The data sets that can be named: where each lies on the hub, which columns it has, its licence, and what its rows are for.

A declaration is a YAML file in the folder ``sets`` beside this module; its name is the set's. A new one is one added file.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from tempering.data.examples import Part, Role
from tempering.settings import Settings

FOLDER = Path(__file__).parent / "sets"

_COMMIT = r"[0-9a-f]{40}"


class Columns(Settings):
    """What a set calls its columns; a set either has answers of its own, or choices.

    Attributes:
        prompt: the question.
        material: what the question is about, where that stands apart; put behind it.
        answer: the compliant answer in full.
        domain: the topic, as text, or as an object of flags of which the first that holds is taken.
        choices: of a multiple-choice question, a list of texts.
        right: the number of the right one, from 0.
    """

    prompt: str
    material: str | None = None
    answer: str | None = None
    domain: str | None = None
    choices: str | None = None
    right: str | None = None

    @model_validator(mode="after")
    def _choices_have_a_right_one(self) -> Columns:
        if (self.choices is None) != (self.right is None) or (self.choices and self.answer):
            raise ValueError("choices and right belong together, and leave no room for an answer")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that there has to be."""
        return tuple(name for name in self.model_dump().values() if name is not None)


class SetFile(Settings):
    """One file of a set, and what of it is taken.

    Attributes:
        path: in the repository; of a set that ships with Tempering, beside its declaration.
        split: what the split is called in a copy that the package ``datasets`` saved.
        role: of its rows; the set's own unless told.
        domain: of its rows, where no column tells it.
        part: who alone is given its rows; they are divided unless told.
        only: take the rows that hold these values in these columns.
    """

    path: str
    split: str
    role: Role | None = None
    domain: str | None = None
    part: Part | None = None
    only: dict[str, str | bool] = Field(default_factory=dict)


class NamedSet(Settings):
    """A data set that can be named.

    Attributes:
        about: what it is, in a line.
        source: who made it, and where that is described.
        repository: of the hub; ``None`` ships with Tempering.
        revision: commit that is used unless another one is named; a branch is not pinned, and a user is told.
        gated: the hub hands it out only to those who have accepted its terms.
        licence: its terms.
        use: what they allow, or its authors ask for.
        role: of its rows.
        columns: of every file.
        files: what is read.
        most: rows used at most, drawn by their content; ``None`` uses all.
        longest: characters of a prompt and its answer together; longer ones are left out.
    """

    about: str
    source: str
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: str = ""
    gated: bool = False
    licence: str
    use: str
    role: Role
    columns: Columns
    files: Annotated[tuple[SetFile, ...], Field(min_length=1)]
    most: Annotated[int, Field(gt=0)] | None = None
    longest: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _revision_of_a_repository(self) -> NamedSet:
        if (self.repository is None) != (not self.revision):
            raise ValueError("a repository has a revision, and nothing else has")
        return self

    @property
    def roles(self) -> tuple[Role, ...]:
        """Of its rows, each once, in the order of :class:`Role`."""
        found = {file.role or self.role for file in self.files}
        return tuple(role for role in Role if role in found)


def names() -> tuple[str, ...]:
    """Every set that can be named, in the order of the alphabet."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@cache
def declaration(name: str) -> NamedSet:
    """What is declared of a set.

    Args:
        name: one of :func:`names`.
    """
    return NamedSet.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def is_commit(revision: str) -> bool:
    """Whether a revision names one commit, which nobody can move."""
    return re.fullmatch(_COMMIT, revision) is not None


def cards() -> list[dict[str, Any]]:
    """What ``temper ls data`` shows of every set, as JSON values."""
    return [_card(name, declaration(name)) for name in names()]


def _card(name: str, declared: NamedSet) -> dict[str, Any]:
    revision = declared.revision[:12] if is_commit(declared.revision) else f"{declared.revision}, not pinned"
    return {
        "name": name,
        "rows": [str(role) for role in declared.roles],
        "summary": declared.about,
        "licence": declared.licence,
        "use": declared.use,
        "gated": "accept its terms first" if declared.gated else "no",
        "hub": f"{declared.repository} ({revision})" if declared.repository else "none: ships with Tempering",
    }
