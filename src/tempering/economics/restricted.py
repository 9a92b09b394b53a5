"""Restricted means of log spend: a price that exists whatever share of the runs broke.

With T the cost to break, a floor f and a horizon h, both spends:

    R = E[ log10 min(max(T, f), h) ] = log10 f + ∫ S(10^x) dx   over x from log10 f to log10 h,

the area under Turnbull's survival curve on an axis of log spend. 10^R is the geometric mean of the cost, restricted to [f, h]: what is
cheaper than f counts as f, what costs more than h, or never breaks, as h. The median of runs that hold is unknown; R is not, because
beyond h nothing is asked. The price of that is that R says nothing of what lies beyond: with more runs at the horizon it rises
less than the cost does. R is compared only between runs with the same f and h:

    R(defended) − R(control) = log10 of the ratio of the two restricted geometric means.

**The axis** that holds unless told: f is the smallest spend above 0 at which anything broke or stopped being watched; h is the
smallest spend at which a run that held was last seen, so that every run was watched up to h; where none held, the largest spend at
which one was seen at all. Runs that ended without a usable break never break, and count as h (:mod:`tempering.economics.medians`).
Without h > f there is no axis and nothing to say.

**The interval.** Of each seed y = log10 min(max(t, f), h) is known between y⁻ and y⁺, those of its lower and its upper end; the low end
below is made from y⁻ and the high end from y⁺, so that the gap between two probes is part of it, as is a run that was not watched up
to h.

    mean ± t(97.5 %; n − 1) · s / √n                                                                    (Student 1908)

is right where seeds scatter about a mean, and far off where most sit at the horizon: five of five at h have s = 0, a point. There
the shortfall z = h − y is zero but for k of n seeds, and its mean is the product of the share p of seeds that fall short
and the mean shortfall m of those. With p⁺ from Clopper and Pearson and m⁺ = m + t(97.5 %; k − 1) s / √k, at most h − f (which
holds where k < 2), both upper ends are put together on a log scale (Zou and Donner 2008):

    log z⁺ = log(p m) + √( log²(p⁺ / p) + log²(m⁺ / m) )        z⁺ = p⁺ (h − f)  where no seed falls short

The low end is the lower of Student's and h − z⁺; the high end is Student's, at most h. **A difference** has Student's interval of the
seeds' differences (both sides with the same seeds) or Welch's (otherwise), widened, where it is more, to

    d − √( a² + b² − 2 r a b )     a, b: how far the sides' own intervals reach down and up; r: the seeds' correlation, at least 0.

Measured over simulated studies with log-normal costs seen exactly, 10, 50 and 90 % beyond the horizon, 5, 10 and 20 seeds: the interval of
a mean covers 94, 95 to 97 and 99 to 100 %; Student's alone 94 to 96, 85 to 93 and 37 to 72 %. That of a difference covers 95 to 98 %.
Between probes √2 apart all cover 98 to 100 %.
With one seed there is no spread to learn from, and the interval is all of [f, h].

Sources: Royston and Parmar 2013 (BMC Med. Res. Methodol. 13, 152) and Uno et al. 2014 (J. Clin. Oncol. 32, 2380–2385) on restricted
means; Zou and Donner 2008 (Stat. Med. 27, 1693–1702) on combining intervals; Welch 1947 (Biometrika 34, 28–35).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from tempering.economics.attackers import attackers, currencies, scopes
from tempering.economics.binomial import TAILS, share_interval
from tempering.economics.medians import FEW_SEEDS
from tempering.economics.ratios import Costs
from tempering.economics.survival import Floats, turnbull

_SLACK = 1e-12

_TYPES = {
    **dict.fromkeys(("model", "defense", "scope", "name", "currency"), "object"),
    **dict.fromkeys(("floor", "horizon", "log10_mean", "low", "high"), "float64"),
    **dict.fromkeys(("geometric_mean", "geometric_low", "geometric_high"), "float64"),
    **dict.fromkeys(("broken", "runs"), "int64"),
    "few_seeds": "bool",
}


@dataclass(frozen=True)
class Axis:
    """The stretch of spend over which means are taken.

    Attributes:
        floor: spend above 0; what is cheaper counts as this.
        horizon: spend above the floor; what costs more counts as this.
    """

    floor: float
    horizon: float

    @property
    def length(self) -> float:
        """In decades."""
        return math.log10(self.horizon / self.floor)

    def logs(self, spend: Floats) -> Floats:
        """log10 of spends, restricted to the axis."""
        return np.asarray(np.log10(np.clip(spend, self.floor, self.horizon)))


@dataclass(frozen=True)
class Estimate:
    """A number on the log10 scale with its 95 % interval; NaN where nothing can be said."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def common_axis(sides: Sequence[Costs]) -> Axis | None:
    """The axis on which several sides can be compared, or ``None``; see the head of this module."""
    lower, upper, ended = (np.concatenate([getattr(costs, name) for costs in sides]) for name in ("lower", "upper", "ended"))
    broken = np.isfinite(upper)
    held = ~broken & ~ended
    seen = np.where(broken, upper, lower)
    horizon = lower[held].min() if held.any() else seen.max(initial=0.0)
    floor = seen[seen > 0].min(initial=np.inf)
    return Axis(float(floor), float(horizon)) if 0 < floor < horizon else None


def restricted_mean(costs: Costs, axis: Axis) -> Estimate:
    """Mean of log10 cost on an axis, with its interval.

    Args:
        costs: of every seed; at least one.
        axis: floor and horizon.
    """
    value = area(costs, axis)
    low, high = mean_interval(costs, axis)
    return Estimate(value, min(low, value), max(high, value))


def area(costs: Costs, axis: Axis) -> float:
    """The restricted mean alone: log10 of the floor, and the area under Turnbull's curve from there to the horizon."""
    ends, survival = turnbull(_lower(costs, axis), costs.upper)
    steps = np.concatenate([[axis.floor], ends, [axis.horizon]])
    return float(axis.logs(steps[:1])[0] + np.diff(axis.logs(steps)) @ np.concatenate([[1.0], survival]))


def mean_interval(costs: Costs, axis: Axis) -> tuple[float, float]:
    """The interval alone; arguments as of :func:`restricted_mean`."""
    return _ends(*_known(costs, axis), axis)


def restricted_difference(defended: Costs, control: Costs, axis: Axis) -> Estimate:
    """Difference of two restricted means: log10 of how many times dearer the defended model is on this axis.

    Args:
        defended: above the line; at least one seed.
        control: below it; at least one seed. Paired where both have the same seeds.
        axis: floor and horizon of both.
    """
    value = area(defended, axis) - area(control, axis)
    low, high = difference_interval(defended, control, axis)
    return Estimate(value, min(low, value), max(high, value))


def difference_interval(defended: Costs, control: Costs, axis: Axis) -> tuple[float, float]:
    """The interval alone; arguments as of :func:`restricted_difference`."""
    above, below = (_by_seed(costs) for costs in (defended, control))
    if min(len(above.seeds), len(below.seeds)) < 2:
        return -axis.length, axis.length
    (low, high), (control_low, control_high) = _known(above, axis), _known(below, axis)
    down, up = _reach(low, high, axis)
    control_down, control_up = _reach(control_low, control_high, axis)
    if np.array_equal(above.seeds, below.seeds):
        together, apart = _correlation(low, control_low), (_student(low - control_high), _student(high - control_low))
    else:
        together, apart = 0.0, (_welch(low, control_high), _welch(high, control_low))
    least = low.mean() - control_high.mean() - max(apart[0], _joined(down, control_up, together))
    most = high.mean() - control_low.mean() + max(apart[1], _joined(up, control_down, together))
    return float(max(-axis.length, least)), float(min(axis.length, most))


def restricted_means(
    units: pd.DataFrame,
    breaks: pd.DataFrame,
    *,
    families: Mapping[str, str] | None = None,
    threat_models: Mapping[str, Collection[str]] | None = None,
    budget: Mapping[str, float | None] | None = None,
) -> pd.DataFrame:
    """The restricted mean of every model, defence, scope and currency, on an axis that all defences of the model share.

    Args:
        units: one row a unit, as :func:`tempering.economics.tables.checked_units` returns them.
        breaks: from :func:`tempering.economics.breaks.find_breaks`.
        families: the family of each attack; attacks that are not in it are "other".
        threat_models: the attacks that each threat model allows.
        budget: what one run might spend, by currency; ``None`` for no limit.

    Returns:
        ``model, defense, scope, name, currency, floor, horizon, log10_mean, low, high, geometric_mean, geometric_low, geometric_high``
        (the same in the currency), ``broken`` (seeds that broke at all), ``runs, few_seeds``, ordered by the first five. Only attacks
        that were run on every defence of a model count. NaN without an axis.
    """
    runs = attackers(units, breaks, budget)
    rows: list[dict[str, Any]] = []
    for model in sorted(set(breaks["model"])):
        defenses = [defense for of, defense in runs.sides() if of == model and runs.attacks(model, defense)]
        common = set.intersection(*(runs.attacks(model, defense) for defense in defenses)) if defenses else set()
        for scope in scopes(common, families, threat_models):
            for currency in currencies(breaks):
                sides = {defense: runs.price(model, defense, scope.attacks, currency).costs for defense in defenses}
                axis = common_axis(list(sides.values()))
                for defense, costs in sides.items():
                    names = {"model": model, "defense": defense, "scope": scope.kind, "name": scope.name, "currency": currency}
                    rows.append(names | _row(costs, axis))
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES).sort_values(["model", "defense"], kind="stable", ignore_index=True)


def _row(costs: Costs, axis: Axis | None) -> dict[str, Any]:
    mean = UNKNOWN if axis is None else restricted_mean(costs, axis)
    return {
        "floor": math.nan if axis is None else axis.floor,
        "horizon": math.nan if axis is None else axis.horizon,
        "log10_mean": mean.value,
        "low": mean.low,
        "high": mean.high,
        "geometric_mean": 10**mean.value,
        "geometric_low": 10**mean.low,
        "geometric_high": 10**mean.high,
        "broken": costs.reached,
        "runs": len(costs.seeds),
        "few_seeds": len(costs.seeds) < FEW_SEEDS,
    }


# What is known, and how far an interval reaches


def _by_seed(costs: Costs) -> Costs:
    order = np.argsort(costs.seeds, kind="stable")
    return Costs(costs.seeds[order], costs.lower[order], costs.upper[order], costs.ended[order])


def _known(costs: Costs, axis: Axis) -> tuple[Floats, Floats]:
    """Between which two logs each seed's cost lies."""
    return axis.logs(_lower(costs, axis)), axis.logs(costs.upper)


def _lower(costs: Costs, axis: Axis) -> Floats:
    """The lower ends; a run that ended without a usable break is unbroken at the horizon."""
    return np.where(costs.ended & np.isinf(costs.upper), np.maximum(costs.lower, axis.horizon), costs.lower)


def _ends(low: Floats, high: Floats, axis: Axis) -> tuple[float, float]:
    """The ends of the interval of one mean."""
    top = math.log10(axis.horizon)
    if len(low) < 2:
        return top - axis.length, top
    below = min(low.mean() - _student(low), top - _most_shortfall(top - low, axis.length))
    return float(max(below, top - axis.length)), float(min(high.mean() + _student(high), top))


def _reach(low: Floats, high: Floats, axis: Axis) -> tuple[float, float]:
    """How far the interval of a mean reaches below what is known of it, and above."""
    below, above = _ends(low, high, axis)
    return low.mean() - below, above - high.mean()


def _most_shortfall(shortfall: Floats, length: float) -> float:
    """Upper end of the mean shortfall, from the share of seeds that fall short and how far they do."""
    some = shortfall[shortfall > _SLACK]
    share = float(share_interval(np.array(len(some)), len(shortfall))[1])
    if not len(some):
        return share * length
    mean, most = some.mean(), length
    if len(some) > 1:
        most = min(length, some.mean() + _student(some))
    reach = math.hypot(math.log(share * len(shortfall) / len(some)), math.log(most / mean))
    return float(min(length, shortfall.mean() * math.exp(reach)))


def _student(values: Floats) -> float:
    """Half the width of Student's interval."""
    return float(special.stdtrit(len(values) - 1, TAILS[1]) * values.std(ddof=1) / math.sqrt(len(values)))


def _welch(values: Floats, others: Floats) -> float:
    """Half the width of Welch's interval of a difference of means."""
    shares = np.array([side.var(ddof=1) / len(side) for side in (values, others)])
    if shares.sum() <= 0:
        return 0.0
    freedom = shares.sum() ** 2 / (shares**2 / (np.array([len(values), len(others)]) - 1)).sum()
    return float(special.stdtrit(freedom, TAILS[1]) * math.sqrt(shares.sum()))


def _correlation(values: Floats, others: Floats) -> float:
    """Of the seeds on both sides, at least 0; 0 where one side does not vary."""
    spread = values.std() * others.std()
    if spread <= _SLACK:
        return 0.0
    return float(np.clip(((values - values.mean()) * (others - others.mean())).mean() / spread, 0.0, 1.0))


def _joined(down: float, up: float, together: float) -> float:
    return math.sqrt(max(0.0, down**2 + up**2 - 2 * together * down * up))
