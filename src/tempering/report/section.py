"""A section of the page that answers one question: sentences, drawings and tables, all data and no markup.

:data:`tempering.report.all_sections.SECTIONS` is the one list of them; the page, its contents and ``figures/`` are made from it. Each
section is made in a module of its own, by a function that takes :class:`Material` and returns a :class:`Section`, or ``None`` where the
study says nothing about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.report.drawing import Drawing
from tempering.report.formatting import NOTHING

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment
    from tempering.economics.conclusions import Conclusions
    from tempering.study import Study


@dataclass(frozen=True)
class Material:
    """What sections are made from.

    Attributes:
        study: as it was resolved.
        assessment: prices and multipliers.
        conclusions: what follows from them.
    """

    study: Study
    assessment: Assessment
    conclusions: Conclusions


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        text: as it is read.
        rank: by what the column is sorted; NaN where there is no number.
        interval: what stands under it, smaller.
    """

    text: str = NOTHING
    rank: float = math.nan
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        name: what it is about.
        cells: one for each column.
        note: what stands after the name, smaller.
    """

    name: str
    cells: tuple[Cell, ...]
    note: str = ""


@dataclass(frozen=True)
class SectionTable:
    """A table that sorts.

    Attributes:
        caption: what its rows and numbers are, in a sentence.
        first: title of the column of names.
        columns: titles of the others.
        lines: the rows.
        title: over it; "" for none.
        folded: whether it opens by a click.
    """

    caption: str
    first: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """One question and what the study says about it.

    Attributes:
        name: letters and hyphens, unique in the page: the target of its entry in the contents.
        title: the heading, and the entry.
        lead: what is shown, for readers who have never seen such a picture.
        drawings: each with a sentence of its own.
        tables: after the drawings.
        notes: what else is to be known, head and text.
        doubt: what would change the reader's mind, in a sentence or two.
    """

    name: str
    title: str
    lead: str
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[SectionTable, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    doubt: str = ""


Maker = Callable[[Material], Section | None]


def sections(material: Material, makers: Sequence[Maker]) -> Iterator[Section]:
    """The sections that a study has something for, in order."""
    for make in makers:
        section = make(material)
        if section is not None:
            yield section
