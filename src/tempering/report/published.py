"""Names as they can be published: of a path on somebody's machine, only its last part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tempering import organisms
from tempering.data.members import members
from tempering.economics.assess import Assessment
from tempering.model_choice import ModelChoice
from tempering.study import MethodChoice, Study


@dataclass(frozen=True)
class Names:
    """What is published in the place of each name that holds a path; other names stay.

    Attributes:
        short: by the whole name; no two are the same.
    """

    short: Mapping[str, str]

    @classmethod
    def of(cls, study: Study) -> Names:
        """The names of a study's models, data, attacks and defences."""
        titles = [choice.title for choice in (*study.attacks, *study.defenses, *study.probes.evaluators)]
        methods = [choice.name for choice in (*study.attacks, *study.defenses, *study.probes.evaluators)]
        references = [choice.title for choice in study.models]
        data = [] if study.data.reference is None else [study.data.reference]
        short: dict[str, str] = {}
        for kind in ((references, _last_part), (data, _last_parts), ([*titles, *methods], _method)):
            taken: set[str] = set()
            for name in dict.fromkeys(kind[0]):
                short[name] = _unique(kind[1](name), taken)
        return cls({name: published for name, published in short.items() if name != published})

    def __call__(self, name: str) -> str:
        """What is published for a name."""
        return self.short.get(name, name)

    def within(self, text: str) -> str:
        """A sentence with every such name in it replaced."""
        for name in sorted(self.short, key=len, reverse=True):
            text = text.replace(name, self.short[name])
        return text

    def frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table with the names in its cells replaced."""
        texts = [name for name in frame.columns if frame[name].dtype == object]
        return frame.assign(**{name: frame[name].replace(dict(self.short)) for name in texts}) if self.short else frame

    def assessment(self, assessment: Assessment) -> Assessment:
        """An assessment with the names in its tables replaced."""
        tables = {field.name: getattr(assessment, field.name) for field in fields(assessment)}
        changes: dict[str, Any] = {name: self.frame(table) for name, table in tables.items() if isinstance(table, pd.DataFrame)}
        return replace(assessment, **changes)

    def study(self, study: Study) -> Study:
        """A study with its names replaced; methods are still found by theirs, and only called otherwise."""
        return study.model_copy(
            update={
                "models": tuple(choice.model_copy(update={"reference": self._of_model(choice)}) for choice in study.models),
                "attacks": self._titled(study.attacks),
                "defenses": self._titled(study.defenses),
                "data": study.data.model_copy(update={"reference": self(study.data.reference) if study.data.reference else None}),
            }
        )

    def _of_model(self, choice: ModelChoice) -> str:
        """Where a model was, without the way there; a label is no name of a place."""
        return _last_part(choice.reference) if choice.label else self(choice.reference)

    def _titled(self, choices: Iterable[MethodChoice]) -> tuple[MethodChoice, ...]:
        return tuple(
            choice.model_copy(update={"label": self(choice.title)}) if choice.title in self.short else choice for choice in choices
        )


def _last_part(reference: str) -> str:
    path = Path(reference)
    local = path.is_absolute() or reference.startswith(("~", ".")) or path.expanduser().exists()
    return reference if organisms.is_organism(reference) or not local else path.expanduser().resolve().name or reference


def _last_parts(data: str) -> str:
    """The same of every set that a reference to data joins."""
    return "+".join(member.reference if member.name else _last_part(member.reference) for member in members(data))


def _method(name: str) -> str:
    """Of a file of the user's own its name and the class; of a chain, each link so."""
    return " + ".join(part.rpartition("/")[2] if ".py:" in part else part for part in name.split(" + "))


def _unique(name: str, taken: set[str]) -> str:
    number, tried = 1, name
    while tried in taken:
        number += 1
        tried = f"{name} ({number})"
    taken.add(tried)
    return tried
