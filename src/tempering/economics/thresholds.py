"""What a study would say at other thresholds: the prices at a small grid of τ, as many as the size of the study allows.

τ, the share of the withheld harm that makes a break, is a choice. A reader who would have chosen otherwise needs the probes judged
anew, not the attacks run anew: every probe's recovered harm is in the tables, and :mod:`tempering.economics.watched` judges all probes at
once. With medians and multipliers that takes one or two milliseconds a run and threshold, and in the page some 400 bytes, so that an audit
gets the whole grid, a large comparison a coarse one, and a very large one none.
The rule counts runs and not seconds, so that the same run always gives the same page.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from tempering.economics.assess import Assessment, at_threshold
from tempering.economics.prices import PriceBook
from tempering.economics.tables import CONTROL
from tempering.economics.watched import Watched

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Thresholds of an ordinary study."""

COARSE = (0.3, 0.5, 0.7)
"""Thresholds of one of more than :data:`MOST_ON_GRID` runs."""

MOST_ON_GRID, MOST = 600, 4000
"""Runs up to which a study gets the whole grid, and up to which it gets any threshold but its own."""


def grid(runs: int) -> tuple[float, ...]:
    """The thresholds that a study of so many attack runs can afford."""
    return GRID if runs <= MOST_ON_GRID else COARSE if runs <= MOST else ()


def at_thresholds(
    assessment: Assessment,
    units: pd.DataFrame,
    trajectories: pd.DataFrame,
    *,
    tau: float,
    epsilon: float,
    price_book: PriceBook,
    accelerator: str,
    **settings: Any,
) -> dict[float, Assessment]:
    """The assessment at every affordable threshold but its own.

    Args:
        assessment: at the study's own threshold.
        units: one row a unit.
        trajectories: one row a probe.
        tau: the study's own threshold, which is left out.
        epsilon: share of the target's utility that a break may lose.
        price_book: from :func:`tempering.economics.prices.load_price_book`.
        accelerator: its name in the price book.
        settings: the further arguments of :func:`tempering.economics.assess.at_threshold`.

    Returns:
        By threshold, rising; empty where the study is too large.
    """
    others = [other for other in grid(len(assessment.breaks)) if abs(other - tau) > 1e-9]
    if not others:
        return {}
    hardware = price_book.accelerator(accelerator)
    own = demanding = Watched.of(units, trajectories, accelerator=hardware, unhardened=True)
    if (own.units["defense"] != CONTROL).any():
        demanding = Watched.of(units, trajectories, accelerator=hardware, bar="control", unhardened=True)
    found = {}
    for other in others:
        breaks = own.table(other, epsilon)
        stricter = breaks if demanding is own else demanding.table(other, epsilon)
        found[other] = at_threshold(assessment, units, breaks, stricter, tau=other, **settings)
    return found
