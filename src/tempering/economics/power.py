"""How many seeds a study needs to see a multiplier, and what they cost.

*To see* a multiplier is what a report means by it: the low end of the 95 % interval of
:func:`tempering.economics.ratios.ratio_of_medians` lies above 1. The power is the probability of that, found by simulating studies and
asking of each what that function would say; so whatever the interval does, its power is what is told, not that of a formula for another.

**What a study is taken to be.** In seed i, of S, with a search of T trials on either side,

    control   = m · min over T of exp(σ_c u_i + τ_c v_ij)
    defended  = k · m · min over T of exp(σ_d u'_i + τ_d v'_ij),    corr(u_i, u'_i) = ρ

with standard normal u, u', v, v': σ is the standard deviation of log costs over seeds, τ that over trials of one seed, k the multiplier.
ρ is what pairing buys: both runs of a seed share data and draws. T = 1 is no search, and then τ may be left in σ. Costs are seen on
a ladder of probes, each ``spacing`` times the one before (1: seen exactly), and cut off at ``budget`` times the control's median.
A study whose defended median lies beyond the budget may still see the multiplier: as a lower bound.

**From a pilot** (:func:`from_pilot`): σ of each side by maximum likelihood for censored logs, times √(n / (n − 1)), and ρ of the pairs
whose breaks were both seen. A pilot of few seeds knows σ badly: the ``cautious`` σ is its upper 80 % limit, σ √((n − 1) /
χ²_{n−1}(0.2)), as Browne (1995) advises for planning; with it the study planned has its power four times out of five. It is no less
than the σ that puts n breaks into one gap one time in five, or a pilot that broke at one probe would promise too much. ρ is then taken
as 0 where it is positive. Several defences and models (:func:`from_pilots`) have levels of their own and one σ a side. Without a pilot:
:class:`Prior`, whose defaults are assumptions.

**The formula**, for orientation and as the place where the simulation begins: the median of S log-normal costs has a log with variance
≈ (π/2) σ² / S, so with z for the normal quantiles

    S ≈ (π/2) (σ_c² + σ_d² − 2 r σ_c σ_d) (z_{.975} + z_{power})² / (ln k − 1½ ln spacing)²,    r = (2/π) arcsin ρ

r being the correlation of two sample medians. For costs seen exactly a study of that size had a power of 81–83 % in simulation, where
80 % were asked for (150 studies each, S = 6, 13, 17; intervals by percentile bootstrap, as all figures here). Between probes it is
rougher: about 70 % for k = 3 and 4 at two probes a doubling, 82 % for k = 2 at four a doubling (S = 33). So the simulation decides.

**Coarse probes cannot see small multipliers.** An interval counts the gaps in full, lower end above over upper end below, and with x =
ln k / ln spacing the medians lie ⌊x⌋ or ⌈x⌉ rungs apart: its low end is above 1 only if that is two or more. However many seeds there
are, the power never exceeds x − 1 where x < 2, and is nothing at x ≤ 1; 2× between probes two a doubling (x = 2) was seen by 55 % of
studies of 74 seeds at σ = .3, where exact costs take 5. So ``ceiling`` stands beside every power, and finer probes are what to buy first.

**What is told.** For each S the power with its Monte-Carlo interval (Wilson), and beside it ``false_alarms``: how often a study of that
size would "see" a multiplier above 1 where there is none (nominally 2.5 %; in simulation 11 % for 3 seeds
of costs seen exactly, 3–4 % for 5 and 7, 1–2 % above, and 0–1 % between probes two a doubling). ``enough`` marks the sizes that reach
the power; no larger one is tried than the first whose interval lies above it. Where none is enough, the answer is more than the largest.

**power** (out), one row a number of seeds: ``seeds, trials, power, power_low, power_high, false_alarms, false_alarms_low,
false_alarms_high, enough, flops, usd`` (the two of the whole study, see :class:`Cost`), and ``ceiling``.

Sources: Browne 1995 (Statist. Med. 14, 1933–1940); Wilson 1927 (J. Am. Statist. Ass. 22, 209–212); the variance and correlation of
sample medians: Mood 1941 (Ann. Math. Statist. 12, 268–278).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tempering.economics import bootstrap, censored_line
from tempering.economics.binomial import TAILS
from tempering.economics.binomial import place as place_of
from tempering.economics.prices import Accelerator, usd
from tempering.economics.ratios import Costs, placed
from tempering.economics.survival import Floats
from tempering.errors import TemperingError

MULTIPLIER = 2.0
"""What a study should be able to see, unless said otherwise."""
POWER = 0.8
SEEDS = (3, 5, 7, 10, 15, 20, 30, 40)
"""Numbers of seeds that are tried."""
STUDIES = 200
"""Simulated for each: a power of 80 % is then known to within 6 points."""
SPACING = math.sqrt(2)
"""Of the probes of the fine-tuning attacks here: two a doubling."""
LEAST_PILOT = 2
"""Seeds of a pilot below which nothing is known of a spread."""
MULTIPLIERS = (1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
"""Multipliers among which the least that a study sees is looked for."""

_UNSEEN = 0.2
"""Chance that a cautious spread is still below the true one."""
_TYPES = {
    **dict.fromkeys(("seeds", "trials"), "int64"),
    **{f"{name}{part}": "float64" for name in ("power", "false_alarms") for part in ("", "_low", "_high")},
    "enough": "bool",
    **dict.fromkeys(("flops", "usd", "ceiling"), "float64"),
}


class InvalidPlan(TemperingError):
    """A pilot or a prior from which nothing can be planned."""


@dataclass(frozen=True)
class Prior:
    """How costs are taken to vary; the defaults are assumptions.

    Attributes:
        control: σ_c, the standard deviation of log costs over seeds without the defence.
        defended: σ_d, with it.
        correlation: ρ, of the two sides of one seed.
        control_trials: τ_c, over the trials of a search.
        defended_trials: τ_d.
        spacing: a probe's spend over that of the probe before; 1 where costs are seen exactly.
        budget: what a run may spend, in medians of the control; inf without a limit.
    """

    control: float = 0.5
    defended: float = 0.5
    correlation: float = 0.0
    control_trials: float = 0.0
    defended_trials: float = 0.0
    spacing: float = SPACING
    budget: float = math.inf

    def __post_init__(self) -> None:
        spreads = (self.control, self.defended, self.control_trials, self.defended_trials)
        if not all(math.isfinite(spread) and spread >= 0 for spread in spreads):
            raise InvalidPlan("a spread of costs is negative or no number", "a standard deviation of log costs is 0 or more")
        if not -1 <= self.correlation <= 1:
            raise InvalidPlan(f"a correlation of {self.correlation}", "it lies between -1 and 1")
        if not (1 <= self.spacing < math.inf and self.budget > 0):
            raise InvalidPlan(f"probes spaced by {self.spacing} up to {self.budget}", "a spacing is 1 or more, a budget positive")


@dataclass(frozen=True)
class Cost:
    """What the parts of a study take.

    Attributes:
        run: FLOPs of one run to its end, attack and probes.
        trial: FLOPs of one trial of a search.
        hardening: FLOPs of one hardening, one a seed.
        attacks: attacks run on either side.
    """

    run: float
    trial: float = 0.0
    hardening: float = 0.0
    attacks: int = 1

    def study(self, seeds: int, trials: int) -> float:
        """FLOPs of a study of a control and one defence; ``trials`` of 1 is no search."""
        searched = self.trial * trials if trials > 1 else 0.0
        return seeds * (2 * self.attacks * (self.run + searched) + self.hardening)


@dataclass(frozen=True)
class Pilot:
    """What a pilot saw of one model.

    Attributes:
        control: costs without a defence.
        defended: costs with each defence; none where the pilot had none.
    """

    control: Costs
    defended: tuple[Costs, ...] = ()


def from_pilot(defended: Costs, control: Costs, *, cautious: bool = True, spacing: float = SPACING, budget: float = math.inf) -> Prior:
    """What a pilot of one defence says of how costs vary; arguments as of :func:`from_pilots`."""
    return from_pilots([Pilot(control, (defended,))], cautious=cautious, spacing=spacing, budget=budget)


def from_pilots(pilots: Sequence[Pilot], *, cautious: bool = True, spacing: float = SPACING, budget: float = math.inf) -> Prior:
    """What pilots of several models and defences say of how costs vary.

    Each model and each defence has a level of its own; the spread about it is taken to be one of all controls, and one of all defences.

    Args:
        pilots: one a model; some side of some of them with at least two seeds that broke.
        cautious: plan with the upper 80 % limit of each spread, and without what a positive correlation would save.
        spacing: of the probes of the study planned.
        budget: of its runs, in medians of the control.

    Raises:
        InvalidPlan: the breaks of fewer than two seeds were seen on every side.
    """
    defended = [costs for pilot in pilots for costs in pilot.defended]
    spreads = [_spread(side, cautious) for side in (defended, [pilot.control for pilot in pilots])]
    known = [spread for spread in spreads if spread is not None]
    if not known:
        raise InvalidPlan("a pilot in which fewer than two seeds of either side broke", "run more seeds, or state a prior")
    # A side that mostly held says nothing of its spread: the other's stands in.
    above, below = (known[0] if spread is None else spread for spread in spreads)
    correlation = _correlation(pilots)
    return Prior(below, above, min(correlation, 0.0) if cautious else correlation, spacing=spacing, budget=budget)


def _spread(groups: Sequence[Costs], cautious: bool) -> float | None:
    """About the level of each group; ``None`` where no group has two breaks."""
    ends = [kept for kept in map(_usable_logs, groups) if np.isfinite(kept[1]).sum() >= LEAST_PILOT]
    if not ends:
        return None
    low, high = (np.concatenate(side) for side in zip(*ends, strict=True))
    levels = np.repeat(np.eye(len(ends)), [len(kept[0]) for kept in ends], axis=0)
    count, known = len(low), int(np.isfinite(high).sum())
    spread = float(censored_line.fit(low[None], high[None], levels).sigma[0]) * math.sqrt(count / (count - len(ends)))
    if not cautious:
        return spread
    freedom, gap = known - len(ends), float(np.median((high - low)[np.isfinite(high)]))
    # Breaks that all lie in one gap look as if they did not vary at all; so wide a spread puts them there one time in five.
    hidden = gap / 2 / float(stats.norm.ppf((1 + _UNSEEN ** (1 / known)) / 2))
    return max(spread * math.sqrt(freedom / stats.chi2.ppf(_UNSEEN, freedom)), hidden)


def _usable_logs(costs: Costs) -> tuple[Floats, Floats]:
    """Ends of the logs of the costs; one that opens at spend 0 is taken for the point where it closes, as in a ratio."""
    lower = np.where(costs.lower == 0, costs.upper, costs.lower)
    usable = (costs.upper > 0) & np.isfinite(lower)
    return np.log(lower[usable]), np.log(costs.upper[usable])


def _correlation(pilots: Sequence[Pilot]) -> float:
    """Of the logs of the spends at which pairs were seen broken, about the levels of their sides; 0 where no side had three pairs."""
    squares = np.zeros((2, 2))
    for control, defended in ((pilot.control, costs) for pilot in pilots for costs in pilot.defended):
        _, above, below = np.intersect1d(defended.seeds, control.seeds, return_indices=True)
        first, second = defended.upper[above], control.upper[below]
        known = np.isfinite(first) & np.isfinite(second) & (first > 0) & (second > 0)
        if known.sum() < 3:
            continue
        logs = np.log(np.stack([first[known], second[known]]))
        logs -= logs.mean(axis=1, keepdims=True)
        squares += logs @ logs.T
    scale = math.sqrt(squares[0, 0] * squares[1, 1])
    return float(np.clip(squares[0, 1] / scale, -1, 1)) if scale > 1e-12 else 0.0


def ceiling(prior: Prior, multiplier: float = MULTIPLIER) -> float:
    """The power that no number of seeds exceeds, because of the gaps between probes; see the head of this module."""
    if prior.spacing == 1:
        return 1.0
    return min(max(math.log(_checked(multiplier)) / math.log(prior.spacing) - 1, 0.0), 1.0)


def seeds_by_formula(prior: Prior, *, multiplier: float = MULTIPLIER, power: float = POWER) -> int | None:
    """The formula at the head of this module; at least 2, ``None`` where the probes are too coarse for any number."""
    if ceiling(prior, multiplier) < power:
        return None
    reach = math.log(multiplier) - 1.5 * math.log(prior.spacing)
    control, defended = (math.hypot(*pair) for pair in ((prior.control, prior.control_trials), (prior.defended, prior.defended_trials)))
    shared = 2 / math.pi * math.asin(prior.correlation)
    variance = math.pi / 2 * (control**2 + defended**2 - 2 * shared * control * defended)
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(power)
    return max(2, math.ceil(variance * (quantiles / reach) ** 2))


def plan(
    prior: Prior,
    *,
    cost: Cost,
    accelerator: Accelerator,
    multiplier: float = MULTIPLIER,
    power: float = POWER,
    seeds: Sequence[int] = SEEDS,
    trials: Sequence[int] = (1,),
    studies: int = STUDIES,
    seed: int = 0,
) -> pd.DataFrame:
    """The power of studies of several sizes, and what they cost.

    Args:
        prior: how costs vary.
        cost: what runs take.
        accelerator: prices the FLOPs.
        multiplier: what should be seen, above 1.
        power: with which probability.
        seeds: numbers of seeds to try.
        trials: numbers of search trials to try; 1 is no search.
        studies: to simulate for each.
        seed: of the simulation.

    Returns:
        The table described at the head of this module, ordered by trials and seeds.
    """
    _checked(multiplier)
    rows: list[dict[str, Any]] = []
    for searched in sorted(set(trials)):
        reached: list[dict[str, Any]] = []
        for size in sorted(set(seeds)):
            found = seen_in(prior, multiplier, size, trials=searched, studies=studies, seed=seed)
            alarms = seen_in(prior, 1.0, size, trials=searched, studies=studies, seed=seed)
            flops = cost.study(size, searched)
            row = {"seeds": size, "trials": searched, "flops": flops, "usd": usd(flops, accelerator)}
            row["ceiling"] = ceiling(prior, multiplier)
            reached.append(row | _share("power", found, studies) | _share("false_alarms", alarms, studies))
            if reached[-1]["power_low"] >= power:
                break
        enough = True
        for row in reversed(reached):  # A size that happens to reach it below one that does not is no answer.
            enough = enough and row["power"] >= power
            row["enough"] = enough
        rows += reached
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def seen_in(prior: Prior, multiplier: float, seeds: int, *, trials: int = 1, studies: int = STUDIES, seed: int = 0) -> int:
    """In how many of so many simulated studies the multiplier is seen.

    Args:
        prior: how costs vary.
        multiplier: the true one.
        seeds: of each study.
        trials: of each search.
        studies: how many.
        seed: of the simulation.
    """
    if seeds < 1 or trials < 1 or studies < 1:
        raise InvalidPlan("a study without seeds, or a plan without studies", "give numbers of 1 and above")
    source = np.random.default_rng([seed, seeds, trials])
    count = 0
    for _ in range(studies):
        control, defended = _simulated(prior, multiplier, seeds, trials, source)
        foot = source.random()
        count += _seen(_on_ladder(defended, prior, foot), _on_ladder(control, prior, foot))
    return count


def least_seen(prior: Prior, seeds: int, *, trials: int = 1, power: float = POWER, studies: int = STUDIES, seed: int = 0) -> float | None:
    """The least of :data:`MULTIPLIERS` that so many seeds see with the power; ``None`` where they see none of them."""
    low, high = 0, len(MULTIPLIERS)
    while low < high:
        middle = (low + high) // 2
        found = seen_in(prior, MULTIPLIERS[middle], seeds, trials=trials, studies=studies, seed=seed)
        low, high = (low, middle) if found >= power * studies else (middle + 1, high)
    return MULTIPLIERS[low] if low < len(MULTIPLIERS) else None


def _seen(defended: Costs, control: Costs) -> bool:
    """Whether the low end of :func:`tempering.economics.ratios.ratio_of_medians` lies above 1.

    That function fits a curve, for costs that were seen anyhow, and both ends of every resample, which is a hundred times the work. Here
    the seeds of both sides are the same, none has come to an end by itself, and all are seen on one ladder. So a median is the
    middle one of the ends, and the low end lies above 1 where fewer than 2.5 % of the resamples have a ratio that does not.
    """
    count = len(control.seeds)
    middle = place_of(count, 0.5) - 1
    below, above = np.sort(control.upper)[middle], np.sort(defended.upper)[middle]
    above = above if math.isfinite(above) else np.sort(defended.lower)[middle]
    if not below < above:
        return False
    drawn = bootstrap.resamples(count, 0)
    unseen = placed(defended.lower, drawn.counts, 0.5) <= placed(control.upper, drawn.counts, 0.5)
    return bool(drawn.probabilities[unseen].sum() < TAILS[0] - 1e-12)


def _simulated(prior: Prior, multiplier: float, seeds: int, trials: int, source: np.random.Generator) -> tuple[Floats, Floats]:
    """Costs in every seed, in medians of a control without a search: of the control and with the defence."""
    shared, own = source.standard_normal((2, seeds))
    other = prior.correlation * shared + math.sqrt(1 - prior.correlation**2) * own
    noise = source.standard_normal((2, seeds, trials))
    control = prior.control * shared + (prior.control_trials * noise[0]).min(axis=1)
    defended = prior.defended * other + (prior.defended_trials * noise[1]).min(axis=1)
    return np.exp(control), multiplier * np.exp(defended)


def _on_ladder(costs: Floats, prior: Prior, foot: float) -> Costs:
    """The probes between which each cost is seen; both sides of a study share a ladder, which begins a share of a rung above 1."""
    lower, upper, last = costs, costs, prior.budget
    if prior.spacing > 1:
        step = math.log(prior.spacing)
        rung = np.ceil(np.log(costs) / step - foot)
        lower, upper = np.exp((rung - 1 + foot) * step), np.exp((rung + foot) * step)
        if math.isfinite(prior.budget):
            last = math.exp((math.floor(math.log(prior.budget) / step - foot) + foot) * step)
    held = upper > prior.budget
    return Costs(np.arange(len(costs)), np.where(held, last, lower), np.where(held, np.inf, upper), np.zeros(len(costs), dtype=bool))


def _share(name: str, count: int, studies: int) -> dict[str, float]:
    """A share of the simulated studies with Wilson's 95 % interval."""
    found = stats.binomtest(count, studies).proportion_ci(0.95, method="wilson")
    return {name: count / studies, f"{name}_low": float(found.low), f"{name}_high": float(found.high)}


def _checked(multiplier: float) -> float:
    if not 1 < multiplier < math.inf:
        raise InvalidPlan(f"a multiplier of {multiplier} to be seen", "it is above 1")
    return multiplier
