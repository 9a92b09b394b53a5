"""What finding a break costs an attacker who tries settings at random and restarts, with the best cutoff.

Each trial is an attack with settings drawn at random. An attacker who gives every trial up at spend c, and begins another, pays

    E(c) = ∫₀ᶜ S(x) dx / F(c)          in expectation until one breaks,

S(x) the share of trials that neither broke nor came to an end by x, F(c) the share that broke by c: a trial costs min(cost, c), one in
1 / F(c) succeeds. The least of E(c) over c is the least expected cost of *any* strategy that knows the distribution and nothing of the
single trial. Source: Luby, Sinclair and Zuckerman 1993, Optimal speedup of Las Vegas algorithms (Inf. Process. Lett. 47, 173–180),
theorem 3; for trials that may end without success the numerator stops with them. The naive attacker runs every trial to the budget.

**A trial** is ``broken`` in (lower, upper]; ``held`` at its last spend, so that nobody knows the rest (S and F are then the
product-limit estimates of Kaplan and Meier 1958, and of Aalen and Johansen 1978 where trials ended); or *ended* (``destroyed``,
``no_direction``, ``failed``): it cost what it spent, and never breaks. Trials that a search stopped because they lagged behind are to
be given as ended: that is what such trials cost.

**Between two probes.** E is least at a spend at which a trial broke, and every E(c), and so their minimum, grows with the cost of any
trial. Costs at the upper ends, where breaks were *seen*, therefore give the dearest that the data allow, and costs at the lower ends
the cheapest: ``plug_in`` and ``plug_in_early``. A trial that broke by its first checkpoint counts there: nothing cheaper was on offer.

**Bias.** The minimum over noisy E(c) is too low: with an exponential cost every cutoff is as good, E at the k-th of n breaks is the
mean of k exponential variables whatever n, and the least of them lies far below the truth (at half of it). So a cutoff counts only if
MIN_BREAKS trials broke by it (all that broke, if these are fewer), and what selection still takes off is measured in the bootstrap and
put back, by reflection on the log scale (the basic bootstrap: Efron and Tibshirani 1993, ch. 10 and 13):

    expected = θ² / median(θ*),   interval = [θ² / q₉₇.₅(θ*), θ² / q₂.₅(θ*)],   θ = plug_in, θ* the same of a resample.

Seeds are drawn, then trials in every seed; the low end is that of costs at the lower ends. Simulated with 5 seeds of 20 trials at 10, 50
and 90 % censoring, the percentile interval covers 71–98 %, this one 95–99 %; ``expected`` is within 3 % in the middle, but for flat
distributions (exponential, σ = 2 log-normal), where it stays 15 % low. Where costs differ over seeds by 40 %, five seeds cover 86–96 %.
With fewer than MIN_BREAKS breaks (``few_breaks``) the interval is the hull of both. A cutoff so early that hardly a trial breaks by it
cannot be judged: the estimand is the best cutoff among those at which these many trials show MIN_BREAKS breaks.

**Beyond the budget** a cutoff c costs at least ∫₀ᵇ S, b the budget, since F ≤ 1. Where that is less than ``expected``
(``budget_binds``), a longer run might be cheaper, and the price is "at most". ``beyond_at_least`` is that bound.

**Nothing broke.** Then F(b) < p = 1 − 0.05^(1/k) with 95 % confidence, k the number of seeds (the trials of one share a model, and a
chance that differs over seeds makes k seeds no more than k independent trials), and as no trial breaks before its first checkpoint m,

    E(c) ≥ m / p   up to the budget,     E(c) ≥ (1 − p) b + p m   beyond,

b the least budget. ``low`` is the lesser of the two, ``expected`` is NaN, ``high`` inf. With five seeds p = 0.45: it is little, because
little is known. With ``independent="trials"`` k counts trials, which is right where they all attack one model.

**Pooling.** F is the share over seeds and trials. Where single seeds are much harder than others, an attacker who must break *that* one
pays more; the table prices the attacker before the draw of the seed.

**search_cost**, one row a model × defence × attack × currency: ``model, defense, attack, currency, trials, broken, ended, seeds``,
``status`` (a key of :data:`STATUSES`), ``expected, low, high``, ``plug_in, plug_in_early``, ``cutoff`` (best, at which the trial is given
up), ``success`` (F there), ``restarts`` (expected, 1 / F − 1, with ``restarts_low, _high``), ``naive, naive_low, naive_high`` (the run to
the budget), ``beyond_at_least, budget_binds``, ``adaptive_median, _low, _high, _censored`` (what search and run together took in the
measured adaptive search, as in the price table; NaN where there was none), ``few_breaks, few_seeds``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tempering.economics.medians import FEW_SEEDS, TAILS, Median, median_of
from tempering.economics.prices import Accelerator, usd
from tempering.economics.survival import Floats, Integers
from tempering.economics.tables import ENDED, GROUP, SPENDS, SUMMED

Flags = npt.NDArray[np.bool_]
Status = Literal["known", "at_most", "beyond", "unknown"]

STATUSES: dict[Status, str] = {
    "known": "no cutoff, within the budget or beyond, can be expected to cost less",
    "at_most": "the best cutoff within the budget; a longer run might cost less",
    "beyond": "no trial broke; the price lies above the low end",
    "unknown": "no trial got far enough to say anything",
}
"""What can be said of the cost of a search at random."""

MIN_BREAKS = 5
"""Breaks without which a cutoff is not judged."""

DRAWS = 500
"""Resamples: seeds, then trials in every seed."""

MEASURED = ("flops", "usd", "steps", "examples")
"""Currencies of the table. Examples are those of single trials, as if none were used twice."""

_CONFIDENCE = 0.95
_SIDE = ("expected", "low", "high")
_TYPES = {
    **dict.fromkeys((*GROUP, "currency"), "object"),
    **dict.fromkeys(("trials", "broken", "ended", "seeds"), "int64"),
    "status": "object",
    **dict.fromkeys((*_SIDE, "plug_in", "plug_in_early", "cutoff", "success", "restarts", "restarts_low", "restarts_high"), "float64"),
    **dict.fromkeys(("naive", "naive_low", "naive_high", "beyond_at_least"), "float64"),
    "budget_binds": "bool",
    **dict.fromkeys(("adaptive_median", "adaptive_low", "adaptive_high"), "float64"),
    **dict.fromkeys(("adaptive_censored", "few_breaks", "few_seeds"), "bool"),
}


@dataclass(frozen=True)
class Trials:
    """What trials at random cost.

    Attributes:
        seed: of each, shape [n].
        lower: last spend at which it was not broken yet, finite, shape [n].
        upper: first spend at which it was, inf where it was not, shape [n].
        ended: trials that came to an end without a break before their budget did, shape [n].
        first: least spend at which any trial can be seen broken; 0 where that is not known.
    """

    seed: Integers
    lower: Floats
    upper: Floats
    ended: Flags
    first: float = 0.0

    @property
    def broken(self) -> Flags:
        """Which trials broke."""
        return np.isfinite(self.upper)

    def costs(self, *, early: bool = False) -> Floats:
        """Spend at the break, or at the end; with ``early`` the least that each break may have cost."""
        return np.where(self.broken & ~(early & (self.lower > 0)), self.upper, self.lower)


@dataclass(frozen=True)
class SearchCost:
    """The expected cost of restarting with the best cutoff; the names are those of the columns in the head of this module."""

    status: Status
    expected: float = math.nan
    low: float = math.nan
    high: float = math.nan
    plug_in: float = math.nan
    plug_in_early: float = math.nan
    cutoff: float = math.nan
    success: float = math.nan
    restarts: float = math.nan
    restarts_low: float = math.nan
    restarts_high: float = math.nan
    naive: float = math.nan
    naive_low: float = math.nan
    naive_high: float = math.nan
    beyond_at_least: float = math.nan
    budget_binds: bool = False
    few_breaks: bool = True
    few_seeds: bool = True


@dataclass(frozen=True)
class Restarts:
    """What restarting costs at every cutoff that counts, of every weighting of the trials.

    Attributes:
        cutoff: ascending, shape [m].
        expected: E(c), inf where nothing broke by it or too little did, shape [weightings, m].
        success: F(c), shape [weightings, m].
        naive: E at the last spend that any trial reached, inf where nothing broke, shape [weightings].
        cut: ∫ S up to there, shape [weightings].
    """

    cutoff: Floats
    expected: Floats
    success: Floats
    naive: Floats
    cut: Floats

    def best(self) -> tuple[Floats, Integers]:
        """The least E and at which cutoff, both of shape [weightings]."""
        at = self.expected.argmin(axis=1)
        return np.take_along_axis(self.expected, at[:, None], axis=1)[:, 0], at


def restarts(costs: Floats, broken: Flags, ended: Flags, weights: Integers | None = None, *, least_breaks: int = 1) -> Restarts:
    """E(c) at every spend at which a trial broke.

    Args:
        costs: what each trial cost to its break or its end, shape [n], n ≥ 1.
        broken: which broke, shape [n].
        ended: which came to an end without a break, shape [n]; all others are censored.
        weights: how often each occurs, shape [weightings, n]; once each by default.
        least_breaks: trials that must have broken by a cutoff for it to count; all that broke, where these are fewer.
    """
    counts = np.ones((1, len(costs))) if weights is None else weights.astype(float)
    spends, place = np.unique(costs, return_inverse=True)
    tally = functools.partial(_tally, counts=counts, place=place, size=len(spends))
    breaks, ends, gone = tally(broken), tally(ended & ~broken), tally(np.ones(len(costs), dtype=bool))
    at_risk = gone[:, ::-1].cumsum(axis=1)[:, ::-1]
    # Where the trials of a weighting are used up nothing is at risk, and nothing happens.
    hazard, exits = (np.divide(events, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0) for events in (breaks, breaks + ends))
    after = (1.0 - exits).cumprod(axis=1)
    before = np.concatenate([np.ones((len(counts), 1)), after[:, :-1]], axis=1)
    spent = (before * np.diff(spends, prepend=0.0) * (at_risk > 0)).cumsum(axis=1)
    success = (before * hazard).cumsum(axis=1)
    seen = breaks.cumsum(axis=1)
    enough = seen >= np.minimum(least_breaks, np.maximum(seen[:, -1:], 1))
    expected = np.divide(spent, success, out=np.full_like(spent, np.inf), where=success > 0)
    counted = np.flatnonzero(np.isin(spends, costs[broken]))
    judged = np.where(enough, expected, np.inf)[:, counted]
    return Restarts(spends[counted], judged, success[:, counted], expected[:, -1], spent[:, -1])


def _tally(which: Flags, *, counts: Floats, place: npt.NDArray[np.intp], size: int) -> Floats:
    table = np.zeros((size, len(counts)))
    np.add.at(table, place[which], counts[:, which].T)
    return np.ascontiguousarray(table.T)


def search_cost(trials: Trials, *, independent: Literal["seeds", "trials"] = "seeds", draws: int = DRAWS, seed: int = 0) -> SearchCost:
    """The expected cost of an attacker who restarts with the best cutoff.

    Args:
        trials: at random, each from the start; at least one.
        independent: what counts as independent where nothing broke.
        draws: resamples.
        seed: of the bootstrap's draws.
    """
    seeds = len(np.unique(trials.seed))
    broken, ended = trials.broken, trials.ended
    few_breaks, few_seeds = int(broken.sum()) < MIN_BREAKS, seeds < FEW_SEEDS
    if not broken.any():
        return _nothing_broke(trials, seeds if independent == "seeds" else len(trials.seed), few_seeds)
    weights = _drawn(trials.seed, draws, seed)
    once = [restarts(trials.costs(early=early), broken, ended, least_breaks=MIN_BREAKS) for early in (False, True)]
    drawn = [restarts(trials.costs(early=early), broken, ended, weights, least_breaks=MIN_BREAKS) for early in (False, True)]
    (late, at), (early, _) = ((float(side.best()[0][0]), int(side.best()[1][0])) for side in once)
    corrected, low_late, high = _reflected(late, drawn[0].best()[0], hull=few_breaks)
    _, low_early, _ = _reflected(early, drawn[1].best()[0], hull=few_breaks)
    naive, cut = float(once[0].naive[0]), float(once[0].cut[0])
    naive_low, naive_high = _percentiles(drawn[0].naive)
    # The best cutoff cannot cost more than none; the correction does not know that.
    expected = corrected
    success = float(once[0].success[0, at])
    tries_low, tries_high = _percentiles(_inverse(drawn[0].success[:, at]))
    binds = bool((~broken & ~ended).any() and cut < expected * (1 - 1e-9))
    return SearchCost(
        "at_most" if binds else "known",
        expected,
        min(low_late, low_early, expected),
        max(high, expected),
        plug_in=late,
        plug_in_early=early,
        cutoff=float(once[0].cutoff[at]),
        success=success,
        restarts=1 / success - 1,
        restarts_low=min(tries_low, 1 / success) - 1,
        restarts_high=max(tries_high, 1 / success) - 1,
        naive=naive,
        naive_low=min(naive_low, naive),
        naive_high=max(naive_high, naive),
        beyond_at_least=cut,
        budget_binds=binds,
        few_breaks=few_breaks,
        few_seeds=few_seeds,
    )


def _nothing_broke(trials: Trials, independent: int, few_seeds: bool) -> SearchCost:
    """A lower bound with 95 % confidence; see the head of this module."""
    open_ended = trials.lower[~trials.ended]
    budget = float(open_ended.min() if len(open_ended) else trials.lower.max())
    if budget <= 0:
        return SearchCost("unknown", few_seeds=few_seeds)
    first = min(trials.first, budget)
    chance = 1 - (1 - _CONFIDENCE) ** (1 / independent)
    # What a trial costs that is stopped at its first checkpoint, or at the budget: less, where trials ended before.
    short, long = (float(np.minimum(trials.lower, cutoff).mean()) for cutoff in (first, budget))
    low = max(min(short / chance, long - chance * (budget - first)), 0.0)
    return SearchCost("beyond", low=low, high=math.inf, beyond_at_least=long, budget_binds=True, few_seeds=few_seeds)


def _drawn(seed: Integers, draws: int, of: int) -> Integers:
    """How often each trial occurs when seeds are drawn, and then as many trials in each as it has, shape [draws, n]."""
    seeds, place, sizes = np.unique(seed, return_inverse=True, return_counts=True)
    generator = np.random.default_rng(of)
    times = generator.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=draws)
    weights = np.zeros((draws, len(seed)), dtype=np.int64)
    for number, size in enumerate(sizes):
        weights[:, place == number] = generator.multinomial(times[:, number] * size, np.full(size, 1 / size))
    return weights


def _percentiles(values: Floats) -> tuple[float, float]:
    """The 95 % percentile interval; never interpolated, so inf may occur."""
    low, high = (float(np.quantile(values, share, method="inverted_cdf")) for share in TAILS)
    return low, high


def _reflected(value: float, resampled: Floats, *, hull: bool) -> tuple[float, float, float]:
    """Value and interval reflected on the log scale: corrected, low, high; with ``hull`` no narrower than the percentiles.

    Args:
        value: of the sample.
        resampled: the same of every resample, inf where nothing broke.
        hull: take in the percentile interval.
    """
    if value == 0:
        return 0.0, 0.0, _percentiles(resampled)[1]
    low, high = _percentiles(resampled)
    middle = float(np.quantile(resampled, 0.5, method="inverted_cdf"))
    corrected = value**2 / middle if 0 < middle < math.inf else value
    reflected_low, reflected_high = value**2 / high, value**2 / low if low > 0 else math.inf
    if hull:
        return corrected, min(reflected_low, low), max(reflected_high, high)
    return corrected, reflected_low, reflected_high


def _inverse(shares: Floats) -> Floats:
    return np.divide(1.0, shares, out=np.full_like(shares, np.inf), where=shares > 0)


def search_costs(
    trials: pd.DataFrame,
    breaks: pd.DataFrame | None = None,
    *,
    first: Mapping[str, float] | None = None,
    independent: Literal["seeds", "trials"] = "seeds",
    seed: int = 0,
) -> pd.DataFrame:
    """What a search at random costs, beside what the measured one did.

    Args:
        trials: one row a trial at random: ``model, defense, attack, seed, outcome`` and ``<currency>_lower, _upper``, as in the breaks
            table, which itself will do where its runs differ in nothing but settings drawn at random; or from :func:`random_trials`.
        breaks: from :func:`tempering.economics.breaks.find_breaks`, for the runs of the adaptive search.
        first: least spend at which a trial can be seen broken, by currency, for the bound where nothing broke; 0 unless told.
        independent: what counts as independent where nothing broke.
        seed: of the bootstrap's draws.

    Returns:
        The table described at the head of this module, ordered by model, defence, attack and currency; empty without trials.
    """
    rows: list[dict[str, Any]] = []
    for key, group in trials.groupby(GROUP, sort=True):
        names = dict(zip(GROUP, map(str, key), strict=True))
        for currency in MEASURED:
            lower, upper = (group[f"{currency}_{end}"].to_numpy(dtype=float) for end in ("lower", "upper"))
            ended = group["outcome"].isin(ENDED).to_numpy()
            drawn = Trials(group["seed"].to_numpy(dtype=np.int64), lower, upper, ended, (first or {}).get(currency, 0.0))
            found = search_cost(drawn, independent=independent, seed=seed)
            counts = {
                "trials": len(group),
                "broken": int(drawn.broken.sum()),
                "ended": int((ended & ~drawn.broken).sum()),
                "seeds": group["seed"].nunique(),
            }
            rows.append({**names, "currency": currency, **counts, **vars(found), **_adaptive(breaks, names, currency)})
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def _adaptive(breaks: pd.DataFrame | None, names: Mapping[str, str], currency: str) -> dict[str, Any]:
    """Search and run together, run by run, as in the price table."""
    median = Median(None, math.nan, math.nan, censored=False)
    if breaks is not None and currency in SUMMED:
        runs = breaks[(breaks[GROUP] == pd.Series(names)).all(axis=1) & (breaks["search_trials"] > 0)]
        if len(runs):
            lower, upper = (runs[f"{currency}_{end}"].to_numpy() + runs[f"{currency}_search"].to_numpy() for end in ("lower", "upper"))
            median = median_of(lower, upper, runs["outcome"].isin(ENDED).to_numpy())
    value = math.nan if median.value is None else median.value
    return {
        "adaptive_median": value,
        "adaptive_low": median.low,
        "adaptive_high": median.high,
        "adaptive_censored": median.censored,
    }


def random_trials(trials: pd.DataFrame, accelerator: Accelerator, *, count: int | None = None) -> pd.DataFrame:
    """The trials of a search that were drawn at random, in the columns that :func:`search_costs` reads.

    A trial costs what the attack used and what asking the attacker's own prompts took. Its break was seen at that spend, and where the
    look before it was is not recorded: lower and upper end are the same. A trial that was stopped because it lagged behind becomes
    ``failed`` here, since it was given up and not cut off by a budget; one that had spent more than the best so far stays ``held``.

    Args:
        trials: one row a trial of a search: ``model, defense, attack, seed, number, outcome, stopped``, and for every spend ``<spend>``,
            ``break_<spend>`` (NaN without a break) and ``check_<spend>``.
        accelerator: for ``usd``.
        count: how many were drawn at random before the search began to adapt; ``None``: all. Number 0 has the attack's own settings
            and is left out.
    """
    numbers = trials["number"]
    chosen = trials[(numbers > 0) & (numbers <= (math.inf if count is None else count))].reset_index(drop=True)
    broken = chosen["break_flops"].notna()
    table = chosen[[*GROUP, "seed"]].assign(outcome=chosen["outcome"].mask(~broken & (chosen["stopped"] == "halved"), "failed"))
    for name in SPENDS:
        spent = chosen[f"break_{name}"].where(broken, chosen[name]) + chosen[f"check_{name}"]
        table[f"{name}_lower"], table[f"{name}_upper"] = spent.astype(float), spent.astype(float).where(broken, np.inf)
    for end in ("lower", "upper"):
        table[f"usd_{end}"] = usd(table[f"flops_{end}"], accelerator)
    return table
