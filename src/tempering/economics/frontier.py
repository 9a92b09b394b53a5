"""The defender's frontier: what each defence multiplies the best attacker's price by, against what it takes.

    A dominates B  =  A is at least as good in the multiplier and in every tax, and better in one

The multiplier is that of the best attacker (:mod:`tempering.economics.comparison`); the taxes (:mod:`tempering.economics.tax`) are
``utility_lost`` (mean loss over seeds), ``borderline_lost`` (the same of borderline prompts answered well), ``over_refusal_gained``,
``trainability`` (an honest user's steps with the defence over those without) and ``training_flops``. More is better of the first, less of
the others. Over-refusal alone would miss a defence that refuses nothing and gets everything near the hazard wrong. A dominated defence is
one that nobody who cares about these six would choose (Pareto 1906; for frontiers estimated from data see Fieldsend and Everson 2005, IEEE
Trans. Evol. Comput. 9).

* A tie in everything is no domination, and no defence dominates itself.
* **No defence at all** takes part as "none", with multiplier 1, no loss, trainability 1 and no training: a defence that takes something
  and multiplies by 1 or less is dominated by it. It has no row.
* **A bound compares as a bound.** "At least 50" is better than 8 and than 50, and may or may not be better than 60 or than another "at
  least": where it is not known to be as good, nothing is dominated. So of two defences that both held, neither dominates the other,
  whatever they take; a larger budget would tell.
* A defence without a multiplier (the control held, or cost nothing) is compared with none. A tax that neither of two was measured for is
  left out of their comparison, as ``borderline_lost`` is of runs older than that measure; one that only one of them was measured for makes
  it undecided, and nothing is dominated. No defence at all is compared in the taxes that the other was measured for.

**How sure?** Three answers, from weak to strong:

* ``dominated``: by the points alone, as if they were the truth.
* ``dominated_share``: the share of bootstrap resamples over seeds in which it is dominated. Seeds are resampled jointly: defences,
  control, attacks and measurements of a seed enter together (:mod:`tempering.economics.resampled_frontier`). NaN where no runs were
  handed in, and where no resample could tell. It is no p-value: ties in a tax make it jump.
* ``dominated_beyond_doubt``: some other defence's 95 % intervals lie entirely on the better side of (or, as points, equal) this one's
  in the multiplier *and* in every tax, and in one of them strictly. All comparisons must hold at once, so that the error of the claim
  for one pair is no more than that of the weakest (an intersection–union test: Berger 1982, Technometrics 24, 295–300), and as two
  intervals of 95 % that do not meet are a test at well below 5 %, it is conservative. It is not corrected for how many other defences
  were looked at. Training FLOPs are a property of the recipe and have no interval. With few seeds nothing is beyond doubt.

**frontier**, one row a model × defence × currency: ``model, defense, currency, status`` (of the ratio), ``multiplier, low, high``, for each
of the taxes its value, ``<tax>_low, _high`` (but for ``training_flops``), ``trainability_status``, ``criteria`` (how many were measured,
of six), ``dominated, dominated_by`` (names in order, joined by ", "), ``dominated_share``, ``dominated_beyond_doubt, beyond_doubt_by``,
``few_seeds``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tempering.economics.comparison import BEST
from tempering.economics.survival import Floats
from tempering.economics.tables import CONTROL

Flags = npt.NDArray[np.bool_]

MULTIPLIER = "multiplier"
CHANGES = {"utility_lost": ("utility", -1.0), "borderline_lost": ("borderline", -1.0), "over_refusal_gained": ("over_refusal", 1.0)}
"""Taxes that are a mean change over seeds: of which measure, and the sign by which more of it is worse."""
INTERVAL_TAXES = (*CHANGES, "trainability")
"""Taxes that have an interval."""
TAXES = (*INTERVAL_TAXES, "training_flops")
"""What a defence takes; less is better."""
CRITERIA = (MULTIPLIER, *TAXES)

_SLACK = 1e-9
"""Relative, below one absolute: so that ties on paper are ties in floating point."""

_TYPES = {
    **dict.fromkeys(("model", "defense", "currency", "status"), "object"),
    **dict.fromkeys(("multiplier", "low", "high"), "float64"),
    **{f"{tax}{part}": "float64" for tax in INTERVAL_TAXES for part in ("", "_low", "_high")},
    "trainability_status": "object",
    "training_flops": "float64",
    "criteria": "int64",
    "dominated": "bool",
    "dominated_by": "object",
    "dominated_share": "float64",
    "dominated_beyond_doubt": "bool",
    "beyond_doubt_by": "object",
    "few_seeds": "bool",
}


@dataclass(frozen=True)
class Standing:
    """What is known of one criterion of one defence, once or in many resamples; larger is better. NaN where nothing is.

    Attributes:
        lower: the least it may be, shape [n].
        upper: the most, shape [n].
        exceeds: whether it is certain to be more than ``lower``, shape [n].
    """

    lower: Floats
    upper: Floats
    exceeds: Flags

    @classmethod
    def of(cls, lower: npt.ArrayLike, upper: npt.ArrayLike, exceeds: npt.ArrayLike = False, *, less_is_better: bool = False) -> Standing:
        """From numbers or arrays; with ``less_is_better`` turned round, and what exceeded a bound then falls short of it."""
        low, high = (np.atleast_1d(np.asarray(ends, dtype=float)) for ends in (lower, upper))
        if less_is_better:
            return cls(-high, -low, np.zeros(len(low), dtype=bool))
        return cls(low, high, np.broadcast_to(np.asarray(exceeds, dtype=bool), low.shape))

    @property
    def unknown(self) -> Flags:
        """Where nothing is known."""
        return np.isnan(self.lower) | np.isnan(self.upper)


Standings = Mapping[str, Standing]
"""What is known of a defence, by criterion."""


def dominates(one: Standings, other: Standings) -> Flags:
    """Whether one defence is known to dominate another.

    Args:
        one: every one of :data:`CRITERIA`.
        other: likewise.

    Returns:
        Shape [n], n the number of resamples, or 1.
    """
    as_good, better = np.ones(1, dtype=bool), np.zeros(1, dtype=bool)
    for name in CRITERIA:
        mine, its = one[name], other[name]
        neither = mine.unknown & its.unknown & (name != MULTIPLIER)
        both = ~mine.unknown & ~its.unknown
        with np.errstate(invalid="ignore"):
            slack = _SLACK * np.fmax(1.0, np.where(np.isfinite(its.upper), np.abs(its.upper), 1.0))
            good = both & (mine.lower >= its.upper - slack)
            more = good & ((mine.lower > its.upper + slack) | mine.exceeds)
        as_good, better = as_good & (good | neither), better | more
    return np.asarray(as_good & better)


def of_control(beside: Standings) -> Standings:
    """No defence: multiplies by 1 and takes nothing; unknown in those taxes in which the defence beside it is."""
    nothing = {MULTIPLIER: 1.0, **dict.fromkeys(CHANGES, 0.0), "trainability": 1.0, "training_flops": 0.0}
    values = {name: np.where(beside[name].unknown & (name != MULTIPLIER), math.nan, value) for name, value in nothing.items()}
    return {name: Standing.of(value, value, less_is_better=name != MULTIPLIER) for name, value in values.items()}


def frontier(multipliers: pd.DataFrame, tax: pd.DataFrame, *, shares: Mapping[tuple[str, str, str], float] | None = None) -> pd.DataFrame:
    """Every defence's multiplier against its taxes, and which defences are dominated.

    Args:
        multipliers: from :func:`tempering.economics.comparison.multipliers`.
        tax: from :func:`tempering.economics.tax.tax`; a defence without a row there has no tax that was measured.
        shares: from :func:`tempering.economics.resampled_frontier.dominated_shares`, by model, defence and currency.

    Returns:
        The table described at the head of this module, ordered by model, defence and currency; empty without a defence.
    """
    best = multipliers[multipliers["scope"] == BEST] if len(multipliers) else multipliers
    taxes = {(row["model"], row["defense"]): row for row in tax.to_dict("records")}
    rows = [_row(row, taxes.get((row["model"], row["defense"]))) for row in best.to_dict("records")]
    for row in rows:
        rivals = [other for other in rows if other is not row and all(other[name] == row[name] for name in ("model", "currency"))]
        by = _dominators(row, rivals, _points)
        surely = [] if row["few_seeds"] else _dominators(row, [rival for rival in rivals if not rival["few_seeds"]], _intervals)
        row |= {"dominated": bool(by), "dominated_by": ", ".join(by)}
        row |= {"dominated_beyond_doubt": bool(surely), "beyond_doubt_by": ", ".join(surely)}
        row["dominated_share"] = (shares or {}).get((row["model"], row["defense"], row["currency"]), math.nan)
    table = pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)
    return table.sort_values(["model", "defense", "currency"], kind="stable", ignore_index=True)


def _dominators(row: dict[str, Any], rivals: Sequence[dict[str, Any]], reading: Any) -> list[str]:
    own = reading(row)
    named = {CONTROL: of_control(own), **{rival["defense"]: reading(rival) for rival in rivals}}
    return sorted(name for name, standings in named.items() if dominates(standings, own)[0])


def _row(multiplier: Mapping[Any, Any], tax: Mapping[Any, Any] | None) -> dict[str, Any]:
    taken: Mapping[Any, Any] = tax or {}
    row: dict[str, Any] = {name: multiplier[name] for name in ("model", "defense", "currency", "status", "multiplier", "low", "high")}
    for name, (measure, sign) in CHANGES.items():
        low, high = sorted(sign * taken.get(f"{measure}_change{end}", math.nan) + 0.0 for end in ("_low", "_high"))
        row |= {name: sign * taken.get(f"{measure}_change", math.nan) + 0.0, f"{name}_low": low, f"{name}_high": high}
    row |= {f"trainability{end}": taken.get(f"novel_ratio{end}", math.nan) for end in ("", "_low", "_high")}
    row["trainability_status"] = taken.get("novel_status", "")
    row["training_flops"] = taken.get("training_flops", math.nan)
    row["criteria"] = sum(not math.isnan(row[name]) for name in CRITERIA)
    row["few_seeds"] = bool(multiplier["few_seeds"] or taken.get("few_seeds", False))
    return row


def _points(row: Mapping[str, Any]) -> Standings:
    """As if the points were the truth; a bound is still a bound."""
    return _standings(row, {name: (row[name], row[name]) for name in CRITERIA})


def _intervals(row: Mapping[str, Any]) -> Standings:
    """As far as the intervals tell."""
    ends = {name: (row[f"{name}_low"], row[f"{name}_high"]) for name in INTERVAL_TAXES}
    flops = (row["training_flops"], row["training_flops"])
    return _standings(row, {MULTIPLIER: (row["low"], row["high"]), **ends, "training_flops": flops})


def _standings(row: Mapping[str, Any], ends: Mapping[str, tuple[float, float]]) -> Standings:
    bounds = {MULTIPLIER: row["status"] == "at_least", "trainability": row["trainability_status"] == "at_least"}
    known = {
        name: (low, math.inf) if bounds.get(name, False) and not math.isnan(low) else (low, high) for name, (low, high) in ends.items()
    }
    return {
        MULTIPLIER: Standing.of(*known[MULTIPLIER], exceeds=bounds[MULTIPLIER]),
        **{name: Standing.of(*known[name], less_is_better=True) for name in TAXES},
    }
