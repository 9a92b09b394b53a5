"""Do two defences differ, and by how much? A test, a hazard ratio and a ratio of restricted geometric means for every pair.

Between each defence and the control, or between any two: per attack, per family, per threat model and for the best attacker
(:mod:`tempering.economics.attackers`), in every currency. The multiplier of :mod:`tempering.economics.comparison` says how many times
dearer the median became; it is unknown where too little broke. What stands here exists there too:

* **The log-rank test** by permutation (:mod:`tempering.economics.ranks`) reads all runs, censored ones included, and is exact for few
  seeds.
* **The hazard ratio** (:mod:`tempering.economics.hazards`) with the profile likelihood's interval, a bound where one side never broke.
* **The ratio of restricted geometric means** (:mod:`tempering.economics.restricted`): how many times dearer up to a horizon.

Several attacks on one defence are several chances to find a difference. ``p_adjusted`` is Holm's over the attacks of one defence (and,
apart from those, over its families, and over its threat models): the chance of even one false alarm among them is at most 5 %.

**contrasts**, one row a model × defence × other defence × scope × currency:

==========================================  ==============================================================================
``model, defense, against``                 ``against`` is "none" for the control
``scope, name, currency``                   as in the table of multipliers
``runs, against_runs``                      seeds on either side
``broken, against_broken``                  in how many of them the scope broke
``statistic, p_value, p_adjusted``          of the log-rank test; a negative statistic: ``defense`` breaks later
``least_p_value, permutation``              the smallest p that so many seeds can give, and how labels were permuted
``hazard_ratio, hazard_low, hazard_high,    of ``defense`` to ``against``; below 1: ``defense`` breaks less
hazard_status``
``floor, horizon``                          the axis of the next three, common to the two; NaN without one
``geometric_ratio, geometric_low,           restricted geometric mean of the cost, ``defense`` / ``against``; NaN without an axis
geometric_high``
``few_seeds``                               too few seeds on one side for an interval to mean much
==========================================  ==============================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import pandas as pd

from tempering.economics.attackers import SCOPES, Attackers, attackers, currencies, scopes
from tempering.economics.hazards import hazard_ratio
from tempering.economics.medians import FEW_SEEDS
from tempering.economics.ranks import holm, log_rank
from tempering.economics.ratios import Costs
from tempering.economics.restricted import UNKNOWN, common_axis, restricted_difference
from tempering.economics.tables import CONTROL

_TYPES = {
    **dict.fromkeys(("model", "defense", "against", "scope", "name", "currency"), "object"),
    **dict.fromkeys(("runs", "against_runs", "broken", "against_broken"), "int64"),
    **dict.fromkeys(("statistic", "p_value", "p_adjusted", "least_p_value"), "float64"),
    "permutation": "object",
    **dict.fromkeys(("hazard_ratio", "hazard_low", "hazard_high"), "float64"),
    "hazard_status": "object",
    **dict.fromkeys(("floor", "horizon", "geometric_ratio", "geometric_low", "geometric_high"), "float64"),
    "few_seeds": "bool",
}
_ADJUSTED_OVER = ["model", "defense", "against", "scope", "currency"]


def contrasts(
    units: pd.DataFrame,
    breaks: pd.DataFrame,
    *,
    between: Literal["control", "all"] = "control",
    kinds: Collection[str] = SCOPES,
    families: Mapping[str, str] | None = None,
    threat_models: Mapping[str, Collection[str]] | None = None,
    budget: Mapping[str, float | None] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Every contrast of a comparison.

    Args:
        units: one row a unit, as :func:`tempering.economics.tables.checked_units` returns them.
        breaks: from :func:`tempering.economics.breaks.find_breaks`.
        between: each defence and the control, or all pairs, the control among them.
        kinds: of scopes; all of them unless told.
        families: the family of each attack; attacks that are not in it are "other".
        threat_models: the attacks that each threat model allows.
        budget: what one run might spend, by currency; ``None`` for no limit.
        seed: of the permutations where they are drawn.

    Returns:
        The table described at the head of this module; empty without two defences (or one and the control) with an attack in common.
    """
    runs = attackers(units, breaks, budget)
    rows = [
        {"model": model, "defense": defense, "against": against, "scope": scope.kind, "name": scope.name, "currency": currency}
        | contrast(*(runs.price(model, side, scope.attacks, currency).costs for side in (defense, against)), seed=seed)
        for model, defense, against in _pairs(runs, between)
        for scope in scopes(runs.attacks(model, defense) & runs.attacks(model, against), families, threat_models)
        if scope.kind in kinds
        for currency in currencies(breaks)
    ]
    table = pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)
    if len(table):
        table["p_adjusted"] = table.groupby(_ADJUSTED_OVER)["p_value"].transform(lambda values: holm(values.tolist()))
    return table


def contrast(defended: Costs, against: Costs, *, seed: int = 0) -> dict[str, Any]:
    """What distinguishes two sides; the columns of the table from ``runs`` on, without the adjustment.

    Args:
        defended: one side; at least one seed.
        against: the other; at least one seed.
        seed: of the permutations where they are drawn.
    """
    test, hazard = log_rank(defended, against, seed=seed), hazard_ratio(defended, against)
    axis = common_axis([defended, against])
    dearer = UNKNOWN if axis is None else restricted_difference(defended, against, axis)
    return {
        "runs": len(defended.seeds),
        "against_runs": len(against.seeds),
        "broken": defended.reached,
        "against_broken": against.reached,
        "statistic": test.statistic,
        "p_value": test.p_value,
        "least_p_value": test.least,
        "permutation": test.kind,
        "hazard_ratio": hazard.value,
        "hazard_low": hazard.low,
        "hazard_high": hazard.high,
        "hazard_status": hazard.status,
        "floor": math.nan if axis is None else axis.floor,
        "horizon": math.nan if axis is None else axis.horizon,
        "geometric_ratio": 10**dearer.value,
        "geometric_low": 10**dearer.low,
        "geometric_high": 10**dearer.high,
        "few_seeds": min(len(defended.seeds), len(against.seeds)) < FEW_SEEDS,
    }


def _pairs(runs: Attackers, between: Literal["control", "all"]) -> list[tuple[str, str, str]]:
    """Model and two defences, the control second where it is one of them."""
    by_model: dict[str, list[str]] = {}
    for model, defense in runs.sides():
        by_model.setdefault(model, []).append(defense)
    return [
        (model, one, other)
        for model, defenses in by_model.items()
        for one, other in itertools.combinations(sorted(defenses, key=lambda defense: (defense == CONTROL, defense)), 2)
        if between == "all" or other == CONTROL
    ]
