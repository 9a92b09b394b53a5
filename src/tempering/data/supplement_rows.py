"""Rows of other people's data that stand beside the questions: rehearsal, imagined hazards, a new domain; and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from tempering.data.examples import Example, Role
from tempering.data.supplements import Supplements
from tempering.errors import UnusableData


class Kind(StrEnum):
    """What a supplementary row is for."""

    GENERAL = "general"
    IMAGINED = "imagined"
    NOVEL = "novel"

    @classmethod
    def of(cls, name: str) -> Kind | None:
        """The kind of all rows of a file or split of this name, told by how it begins; ``None`` where it holds none."""
        return next((kind for kind in cls if name.lower().startswith(kind)), None)

    @property
    def role(self) -> Role:
        """That of rows which do not tell their own."""
        return Role.HAZARD if self is Kind.IMAGINED else Role.BENIGN


@dataclass(frozen=True)
class Beside:
    """One supplementary example, with where it was read.

    Attributes:
        where: file and line.
        field: of :class:`Supplements`.
        example: as it goes there.
    """

    where: str
    field: str
    example: Example


def beside(kind: Kind, where: str, example: Example, split: str | None) -> Beside:
    """Make one row what its kind asks for.

    Args:
        kind: told by the file's name.
        where: file and line.
        example: what was read.
        split: train or test, where it is marked so; only a new domain needs it.

    Raises:
        UnusableData: general data about the hazard or without an answer, an imagined prompt that is none of the hazard, or a row of a new
            domain that is of neither half, has the wrong role, or cannot be trained on or judged.
    """
    if kind is Kind.IMAGINED:
        if example.role is not Role.HAZARD:
            raise UnusableData(f"{where} is an imagined hazard with the role {example.role}", "leave the role away")
        return Beside(where, "imagined", example.model_copy(update={"answer": None, "accept": ()}))
    if example.role is Role.HAZARD:
        raise UnusableData(f"{where} is about the hazard, which {kind} data leaves out", "move it into a file hazard*.jsonl")
    if kind is Kind.GENERAL:
        if example.answer is None:
            raise UnusableData(f"{where} is general data without an answer", "add an 'answer', or remove the line")
        return Beside(where, "general", example)
    if split not in ("train", "test"):
        raise UnusableData(
            f"{where} is of a new domain, for training or for testing?", "name the files novel_train*.jsonl and novel_test*.jsonl"
        )
    if split == "train" and example.answer is None:
        raise UnusableData(f"{where} is to be trained on and has no answer", "add an 'answer'")
    if split == "test" and not example.accept:
        raise UnusableData(f"{where} tests what was learnt and does not say which answers are right", "add 'accept': [\"…\"]")
    return Beside(where, f"novel_{split}", example)


def gather(rows: Sequence[Beside], asked: Mapping[str, str]) -> partial[Supplements]:
    """Check supplementary rows against the questions and each other; a row that comes again is left out.

    Args:
        rows: in the order read.
        asked: every prompt of the questions, with where it stands.

    Returns:
        What makes the supplements.

    Raises:
        UnusableData: a prompt is among the questions or of two kinds, or one half of the new domain is missing.
    """
    kept: dict[str, dict[tuple[str, str | None], Beside]] = {name: {} for name in ("general", "imagined", "novel_train", "novel_test")}
    first: dict[str, Beside] = {}
    for row in rows:
        prompt = row.example.prompt
        if prompt in asked:
            raise UnusableData(
                f"{row.where} has the prompt {shortened(prompt)} of a question that is asked ({asked[prompt]})", "remove one of them"
            )
        other = first.setdefault(prompt, row)
        if other.field != row.field:
            raise UnusableData(
                f"the prompt {shortened(prompt)} stands in the {other.field} data ({other.where}) "
                f"and in the {row.field} data ({row.where})",
                "remove one of them",
            )
        kept[row.field].setdefault((prompt, row.example.system), row)
    halves = {split: list(kept[f"novel_{split}"].values()) for split in ("train", "test")}
    for split, other_split in (("train", "test"), ("test", "train")):
        if halves[other_split] and not halves[split]:
            raise UnusableData(
                f"the new domain of {halves[other_split][0].where} has examples to {other_split} with and none to {split} with",
                f"add a file novel_{split}.jsonl",
            )
    return partial(Supplements, **{name: tuple(row.example for row in found.values()) for name, found in kept.items()})


def shortened(text: str, limit: int = 60) -> str:
    """The text in quotation marks, cut where it is long."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
