"""Trainings that the floor of utility took back, so that what was attacked is less than the name of its defence says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.economics.tables import CONTROL
from tempering.report.rows import group_title
from tempering.report.section_words import listed

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment


@dataclass(frozen=True)
class Undone:
    """What became of one defence of one model.

    Attributes:
        name: what a reader calls it: the defence, and the model where there are several.
        whole: seeds of which nothing was kept, so that the model is the one that came.
        in_part: seeds of which less was kept than was trained.
        trained: how many models there are of it.
    """

    name: str
    whole: tuple[int, ...]
    in_part: tuple[int, ...]
    trained: int


def undone(assessment: Assessment) -> list[Undone]:
    """The defences of which the floor took back something, in the order of the tables.

    Args:
        assessment: what economics computed; its trajectories hold, beside the last probe of a training, how each stage ended.
    """
    table = assessment.trajectories
    if "details" not in table or "attack" not in table:
        return []
    others = table[(table["attack"] == "") & (table["defense"] != CONTROL)]
    hardened = others[others["details"].astype(str).str.contains('"stages"', regex=False)]
    several = hardened["model"].nunique() > 1
    found = []
    for (model, defense), rows in hardened.groupby(["model", "defense"], sort=False):
        kept = {int(seed): _kept(json.loads(details)["stages"]) for seed, details in zip(rows["seed"], rows["details"], strict=True)}
        whole = tuple(sorted(seed for seed, share in kept.items() if share == "none"))
        in_part = tuple(sorted(seed for seed, share in kept.items() if share == "part"))
        if whole or in_part:
            name = group_title(str(model), str(defense)) if several else str(defense)
            found.append(Undone(name, whole, in_part, len(kept)))
    return found


def _kept(stages: Sequence[dict[str, Any]]) -> str:
    """How much of a training was kept: ``all``, ``part`` or ``none``."""
    if not any(stage["floored"] for stage in stages):
        return "all"
    return "part" if any(stage["steps_kept"] for stage in stages) else "none"


def undone_sentences(found: Sequence[Undone]) -> list[str]:
    """What a reader has to know before a price behind such a defence is read; a sentence for each kind."""
    said = []
    if whole := [one for one in found if one.whole]:
        named = listed([_named(one, one.whole) for one in whole])
        said.append(
            f"Of {named} the utility floor took the whole training back: what was attacked under that name is the model as it came, "
            "and its price says nothing of the defence."
        )
    if in_part := [one for one in found if one.in_part]:
        named = listed([_named(one, one.in_part) for one in in_part])
        said.append(
            f"Of {named} the utility floor kept the training only in part: what was attacked is the model as far as it was trained by then."
        )
    return said


def _named(one: Undone, seeds: Sequence[int]) -> str:
    if len(seeds) == one.trained:
        return f"{one.name} (every seed)" if one.trained > 1 else one.name
    return f"{one.name} ({'seed' if len(seeds) == 1 else 'seeds'} {listed([str(seed) for seed in seeds])} of {one.trained})"
