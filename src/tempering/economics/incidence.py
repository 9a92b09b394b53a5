"""Competing outcomes: which share of the runs has broken, and which has come to another end, after so much spend?

An attack ends in one of several ways, and the one keeps the others from happening: a run that crashed never breaks. The cumulative
incidence of outcome k is the share of runs that came to k by spend t (Aalen and Johansen 1978):

    C_k(t) = Σ_{t_j ≤ t} S(t_j −) · d_kj / n_j

with d_kj ends of kind k among the n_j runs still going at t_j, and S the share that has come to no end before. The C_k and S sum to 1, so
no outcome is dropped: not even the one that makes an attack look bad. While no run was stopped by its budget, C_k is a plain share.

* ``broken`` counts at the spend of the probe that saw it, ``destroyed``, ``no_direction`` and ``failed`` where the run ended.
* ``held`` is censored at its last spend, and is at risk of everything up to and including there.
* One Minus Kaplan and Meier's curve of breaks alone, with other ends censored, would be the incidence of breaks in a world where nothing
  fails: too high. Here C_broken is what happens to attackers. (The curves of :mod:`tempering.economics.medians` count runs that ended as
  unbroken to the end, which comes to the same: one minus that curve is C_broken, up to where the first run was stopped.)
* lifelines' AalenJohansenFitter shifts tied spends by random jitter. Runs that share their probes are always tied, so the sum is
  written out here; a test holds it to lifelines' where nothing is tied.

**The interval** is pointwise and exact, and needs no assumption about censoring. After spend t some runs are *known* to have come to k
by then, and some *may* have: a break between two probes on either side of t, a run that was stopped before t. With Clopper and
Pearson's interval of a share (:mod:`tempering.economics.binomial`)

    low = lower end for the known,        high = upper end for the known and the possible.

So 0 failures among five runs are [0, .52], not 0. It covers at least 95 % of the time, often more: counts are coarse. Where many runs
were stopped it widens to say that nobody looked.

**incidence** (out): ``model, defense, attack, currency, outcome, spend, incidence, low, high, runs, few_seeds``; a curve for each of the
four outcomes, a step function that begins at spend 0 and has the same spends for every outcome.

Sources: Aalen and Johansen 1978 (Scand. J. Statist. 5, 141–150); Gooley et al. 1999 (Stat. Med. 18, 695–706) on why one minus
Kaplan-Meier misleads; Clopper and Pearson 1934.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tempering.economics.binomial import share_interval
from tempering.economics.medians import FEW_SEEDS
from tempering.economics.survival import Floats
from tempering.economics.tables import CURRENCIES, ENDED, GROUP

ENDS = ("broken", *ENDED)
"""The outcomes that compete; ``held`` is none, it is where nobody looked further."""

_TYPES = {
    **dict.fromkeys((*GROUP, "currency", "outcome"), "object"),
    **dict.fromkeys(("spend", "incidence", "low", "high"), "float64"),
    "runs": "int64",
    "few_seeds": "bool",
}


def incidence(breaks: pd.DataFrame) -> pd.DataFrame:
    """The cumulative incidence of every outcome, for every model, defence, attack and currency.

    Args:
        breaks: from :func:`tempering.economics.breaks.find_breaks`.

    Returns:
        The table described at the head of this module; empty without breaks.
    """
    curves = []
    for key, runs in breaks.groupby(GROUP, sort=True):
        few = runs["seed"].nunique() < FEW_SEEDS
        for currency in CURRENCIES:
            curve = cumulative_incidence(
                runs[f"{currency}_lower"].to_numpy(), runs[f"{currency}_upper"].to_numpy(), runs["outcome"].to_numpy(dtype=str)
            )
            names: dict[str, Any] = {**dict(zip(GROUP, key, strict=True)), "currency": currency}
            curves.append(curve.assign(**names, runs=len(runs), few_seeds=few))
    table = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=list(_TYPES))
    return table[list(_TYPES)].astype(_TYPES)


def cumulative_incidence(lower: Floats, upper: Floats, outcome: npt.NDArray[np.str_]) -> pd.DataFrame:
    """The cumulative incidence of every outcome among some runs.

    Args:
        lower: last spend at which each run was seen without a break, shape [n], n ≥ 1.
        upper: spend at which a break was first seen, inf where none was, shape [n].
        outcome: of every run, shape [n].

    Returns:
        ``outcome, spend, incidence, low, high``.
    """
    broken = outcome == "broken"
    at = np.where(broken, upper, lower)
    spends = np.unique(np.concatenate([[0.0], lower, at]))
    shares = aalen_johansen(at, outcome, spends)
    ended = np.isin(outcome, ENDS)
    # Stopped before a spend, a run may have come to any end since: also to a break that a probe beyond would have seen.
    stopped = ~ended[:, None] & (at[:, None] < spends)
    rows = []
    for name in ENDS:
        own = outcome == name
        known = own[:, None] & (at[:, None] <= spends)
        between = own[:, None] & (lower[:, None] < spends) & ~known
        possible = known | between | stopped
        low, high = share_interval(known.sum(axis=0), len(at))[0], share_interval(possible.sum(axis=0), len(at))[1]
        rows.append(pd.DataFrame({"outcome": name, "spend": spends, "incidence": shares[name], "low": low, "high": high}))
    return pd.concat(rows, ignore_index=True)


def aalen_johansen(at: Floats, outcome: npt.NDArray[np.str_], spends: Floats) -> dict[str, Floats]:
    """The estimate of Aalen and Johansen; ends at the same spend as a stop come before it.

    Args:
        at: spend at each run's end, or where it was stopped, shape [n].
        outcome: of every run, shape [n]; one that is not in :data:`ENDS` was stopped.
        spends: at which to tell the shares, ascending, shape [m].

    Returns:
        Of every outcome the share that came to it, shape [m].
    """
    times = np.unique(at)
    going = (at[:, None] >= times).sum(axis=0)
    hazards = {name: ((at[:, None] == times) & (outcome == name)[:, None]).sum(axis=0) / going for name in ENDS}
    remaining = np.cumprod(1.0 - np.sum(list(hazards.values()), axis=0))
    before = np.concatenate([[1.0], remaining[:-1]])
    places = np.searchsorted(times, spends, side="right")
    return {name: np.concatenate([[0.0], np.cumsum(before * hazard)])[places] for name, hazard in hazards.items()}
