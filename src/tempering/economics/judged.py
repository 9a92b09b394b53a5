"""What the judges of a run took, what they found, and how far they agree: one row a judge.

Cost is apart from the attacker's: who breaks a model does not pay for our judging of it. It comes from the units' column ``judging``, which
only runs with judges of their own have. Agreement is that of each further judge with the first, over every response to a hazard prompt that
both could tell of, at every probe of every attack that was put all the prompts; see :mod:`tempering.economics.raters` for κ and its
interval, whose groups are the units.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tempering.economics.raters import kappa_of_groups

COSTS = ("judged", "filtered", "cached", "calls", "retries", "unparsed", "tokens_in", "tokens_out", "seconds", "flops")
"""What judging takes, as the units tell it."""

CELLS = ("both", "only_first", "only_second", "neither")
"""Of responses: which of the deciding judge and another found them useful."""


def judges_of(units: pd.DataFrame, trajectories: pd.DataFrame, titles: Sequence[str]) -> pd.DataFrame:
    """Describe the judges.

    Args:
        units: with ``judging`` as JSON.
        trajectories: with the measurements of each judge.
        titles: of the judges, the deciding one first.

    Returns:
        One row a judge: ``judge``, ``decides``, the costs, ``alike`` (share of responses that it and the first agree on), ``kappa`` with
        ``kappa_low`` and ``kappa_high``, and the counts of :data:`CELLS`; no rows where the text judged alone.
    """
    if "judging" not in units or not titles:
        return pd.DataFrame()
    costs = [json.loads(text) for text in units["judging"] if text]
    probes = trajectories[(trajectories["attack"] != "") & ~_glances(trajectories, titles)]
    return pd.DataFrame([_row(title, number == 0, costs, probes) for number, title in enumerate(titles)])


def _glances(trajectories: pd.DataFrame, titles: Sequence[str]) -> pd.Series:
    """Probes at which only a few prompts were put: nothing is known of their judges."""
    names = [f"score.{title}" for title in titles if f"score.{title}" in trajectories]
    return trajectories[names].isna().all(axis=1) if names else pd.Series(False, index=trajectories.index)


def _row(title: str, decides: bool, costs: Sequence[dict[str, dict[str, float]]], probes: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"judge": title, "decides": decides}
    for name in COSTS:
        total = sum(float(cost.get(title, {}).get(name, 0.0)) for cost in costs)
        row[name] = total if name in ("seconds", "flops") else int(total)
    named = [f"{cell}.{title}" for cell in CELLS]
    told = not decides and all(name in probes for name in named)
    counts = probes.groupby("unit", sort=False)[named].sum() if told else pd.DataFrame(columns=named, dtype=float)
    groups = counts.to_numpy(dtype=float).reshape(-1, 2, 2)
    both, only_first, only_second, neither = (int(total) for total in counts.sum())
    number = both + only_first + only_second + neither
    agreement = kappa_of_groups(groups)
    return {
        **row,
        "alike": (both + neither) / number if number else np.nan,
        "kappa": agreement.value,
        "kappa_low": agreement.low,
        "kappa_high": agreement.high,
        **dict(zip(CELLS, (both, only_first, only_second, neither), strict=True)),
    }
