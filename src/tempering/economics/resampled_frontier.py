"""How often is a defence dominated, when the seeds are drawn again?

The seeds of a study are resampled jointly: where seed k is drawn, the control's and every defence's attacks, hardening and lessons of
seed k enter together, as often as it was drawn. In every resample the multipliers and taxes are made anew and
:func:`tempering.economics.frontier.dominates` decides, as it does on the points. The share is the probability of the resamples in which a
defence is dominated, among those that say anything of its multiplier.

The resamples are those of :mod:`tempering.economics.bootstrap`: all of them up to seven seeds, each with its probability. Medians are
spends at which the median run of the resample was *seen* broken; where fewer than half of its runs were, its multiplier is a bound. The
score that an honest user is to reach, and the training FLOPs, are those of the whole sample. With few seeds the share is coarse, and says
less than its digits.

Source of resampling the unit of sampling whole: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tempering.economics import bootstrap
from tempering.economics.attackers import Attackers, attackers, currencies
from tempering.economics.frontier import CHANGES, MULTIPLIER, Standing, Standings, dominates, of_control
from tempering.economics.ratios import Costs, resampled
from tempering.economics.survival import Floats, Integers
from tempering.economics.tables import CONTROL
from tempering.economics.tax import LEVEL, measured_of, score_to_reach, steps_to_reach


def dominated_shares(
    units: pd.DataFrame,
    breaks: pd.DataFrame,
    trajectories: pd.DataFrame,
    *,
    budget: Mapping[str, float | None] | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[tuple[str, str, str], float]:
    """In which share of the resamples each defence is dominated.

    Args:
        units: one row a unit, as :func:`tempering.economics.tables.checked_units` returns them.
        breaks: from :func:`tempering.economics.breaks.find_breaks`.
        trajectories: one row a probe, as :func:`tempering.economics.tables.checked_trajectories` returns them.
        budget: what one run might spend, by currency; ``None`` for no limit.
        level: share of what the control comes to that counts as learnt.
        seed: of the bootstrap's draws.

    Returns:
        By model, defence and currency; NaN where no resample says anything of the multiplier.
    """
    runs = attackers(units, breaks, budget)
    shares: dict[tuple[str, str, str], float] = {}
    for model in sorted(set(breaks["model"])):
        study = _Study.of(model, units[units["model"] == model], trajectories, level, seed)
        defenses = sorted(set(breaks.loc[breaks["model"] == model, "defense"]) - {CONTROL})
        taxes = {defense: study.taxes(defense) for defense in defenses}
        for currency in currencies(breaks):
            known = {defense: {**taxes[defense], MULTIPLIER: study.multiplier(runs, defense, currency)} for defense in defenses}
            for defense in defenses:
                shares[model, defense, currency] = _share(defense, known, study.drawn.probabilities)
    return shares


def _share(defense: str, known: Mapping[str, Standings], probabilities: Floats) -> float:
    own = known[defense]
    told = ~own[MULTIPLIER].unknown
    if not told.any():
        return math.nan
    dominated = dominates(of_control(own), own)
    for other, standings in known.items():
        if other != defense:
            dominated = dominated | dominates(standings, own)
    return float(probabilities[told & dominated].sum() / probabilities[told].sum())


@dataclass(frozen=True)
class _Study:
    """One model's runs, and how its seeds are drawn."""

    model: str
    units: pd.DataFrame
    trajectories: pd.DataFrame
    level: float
    seeds: Integers
    drawn: bootstrap.Resamples

    @classmethod
    def of(cls, model: str, units: pd.DataFrame, trajectories: pd.DataFrame, level: float, seed: int) -> _Study:
        own = units[units["kind"].isin(("attack", "harden", "novel"))]
        seeds = np.unique(own["seed"].to_numpy(dtype=np.int64))
        probes = trajectories[trajectories["unit"].isin(own["unit"])]
        return cls(model, own, probes, level, seeds, bootstrap.resamples(len(seeds), seed))

    def multiplier(self, runs: Attackers, defense: str, currency: str) -> Standing:
        """Of the best attacker, over the attacks that both sides saw."""
        common = tuple(sorted(runs.attacks(self.model, defense) & runs.attacks(self.model, CONTROL)))
        if not common:
            return self._unknown()
        above, below = (runs.price(self.model, side, common, currency).costs for side in (defense, CONTROL))
        return self._ratio(above, below)

    def taxes(self, defense: str) -> Standings:
        """What the defence takes in every resample."""
        made = self.units[(self.units["kind"] == "harden") & (self.units["defense"] == defense) & (self.units["status"] == "completed")]
        flops = float(made["flops"].median()) if len(made) else math.nan
        return {
            **{name: self._mean_change(made, measure, sign) for name, (measure, sign) in CHANGES.items()},
            "trainability": self._trainability(defense),
            "training_flops": self._constant(flops),
        }

    def _mean_change(self, made: pd.DataFrame, measure: str, sign: float) -> Standing:
        probes = self.trajectories[self.trajectories["unit"].isin(made["unit"])].sort_values("probe")
        before = probes[probes["probe"] == 0].set_index("unit").reindex(made["unit"])
        after = probes[probes["probe"] > 0].groupby("unit").last().reindex(made["unit"])
        change = sign * (measured_of(after, measure) - measured_of(before, measure))
        found = np.isfinite(change)
        times = self.drawn.counts[:, np.searchsorted(self.seeds, made["seed"].to_numpy(dtype=np.int64)[found])]
        weight = times.sum(axis=1)
        means = np.divide(times @ change[found], weight, out=np.full(len(weight), math.nan), where=weight > 0)
        return Standing.of(means, means, less_is_better=True)

    def _trainability(self, defense: str) -> Standing:
        lost = self.units[(self.units["kind"] == "harden") & (self.units["defense"] == defense) & (self.units["status"] != "completed")]
        taught = self.units[(self.units["kind"] == "novel")]
        taught = taught[~((taught["defense"] == defense) & taught["seed"].isin(lost["seed"]))]
        score = score_to_reach(taught[taught["defense"] == CONTROL], self.trajectories, self.level)
        above, below = (steps_to_reach(taught[taught["defense"] == side], self.trajectories, score) for side in (defense, CONTROL))
        if above is None or below is None:
            return self._unknown()
        ratio = self._ratio(above, below)
        return Standing.of(ratio.lower, ratio.upper, less_is_better=True)

    def _ratio(self, above: Costs, below: Costs) -> Standing:
        """The ratio of medians in every resample: a number, or the bound that it exceeds."""
        over, under = (resampled(costs, self.seeds, self.drawn.counts, 0.5) for costs in (above, below))
        censored = np.isinf(over.closes)
        spent = np.where(censored, over.opens, over.closes)
        sound = over.told & under.told & np.isfinite(under.closes) & (under.closes > 0) & ~(censored & (spent <= 0))
        ratio = np.divide(spent, under.closes, out=np.full(len(spent), math.nan), where=sound)
        return Standing.of(ratio, np.where(censored & sound, math.inf, ratio), censored)

    def _unknown(self) -> Standing:
        nothing = np.full(len(self.drawn.counts), math.nan)
        return Standing.of(nothing, nothing)

    def _constant(self, value: float) -> Standing:
        everywhere = np.full(len(self.drawn.counts), value)
        return Standing.of(everywhere, everywhere, less_is_better=True)
