"""What an attacker may choose from, and what the cheapest choice costs in every seed.

**A scope** is what the attacker may choose from: one attack, one family, what one threat model allows, or all of
them ("best attacker"). In every seed the
attacker takes the cheapest, in the currency of the row: the price of that seed is the least over the scope's runs. What each
run adds to it:

* ``broken`` between two probes: its cost lies in (lower, upper].
* ``held`` and **cut off by the budget**: its cost lies beyond its last probe; nobody knows how far.
* ``held`` at its own end (a prompt has been tried, the epochs are over): run as it is configured it costs this attacker nothing
  more and never breaks. It takes no part in the least.
* ``destroyed``, ``no_direction``, ``failed``: likewise; see :mod:`tempering.economics.medians`.

So **where one attack was cut off at less than another needed**, the price of the seed lies between the spend at which the first
was cut off and the spend at which the other was seen to break: the upper end, which the median reads, is what was seen, and the
interval admits that the first might have been cheaper. Where nothing broke, the price is censored at the *least* spend at which
some attack was cut off, not at the largest budget that some other attack had: up to there every attack that had more to give
was watched. Where every attack came to its own end, it is censored at the most that any of them spent. A bound therefore never
rests on a run that was stopped early, and says nothing of other settings.

Of a run that held, the tables do not say why it ended. It counts as cut off if it had used at least half of what the budget
allows in some currency that it limits: probes are spaced so that a run whose next checkpoint would have exceeded the budget is
past half of it. A run that ended by itself beyond half of the budget is then taken for cut off, which can only lower a bound.
A run that ended where its attacker had enough (status ``enough``) counts as cut off there too, at thresholds that ask for more.
Where no budget is told, all runs that held count as cut off. In a scope of one attack there is nothing to choose, and the price
is that of the price table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tempering.economics.ratios import Costs
from tempering.economics.survival import Floats

SCOPES = ("best attacker", "threat model", "family", "attack")
"""What an attacker may choose from, widest first."""

BEST = SCOPES[0]
MEASURED = ("flops", "usd", "steps", "examples")
"""Currencies in which defences are compared."""
WITH_SEARCH = ("total_flops", "total_usd")
"""The same with each run's search added, where there was one."""

_CUT_OFF = 0.5
"""Share of the budget from which on a run that held counts as cut off; see the head of this module."""


@dataclass(frozen=True)
class Scope:
    """What an attacker may choose from.

    Attributes:
        kind: one of :data:`SCOPES`.
        name: which.
        attacks: those that were run and are allowed.
    """

    kind: str
    name: str
    attacks: tuple[str, ...]


def scopes(
    attacks: Collection[str],
    families: Mapping[str, str] | None = None,
    threat_models: Mapping[str, Collection[str]] | None = None,
) -> Iterator[Scope]:
    """Every scope, widest first; one that allows none of the attacks is left out.

    Args:
        attacks: that were run.
        families: the family of each attack; attacks that are not in it are "other".
        threat_models: the attacks that each threat model allows.
    """
    if not attacks:
        return
    ordered = sorted(attacks)
    yield Scope(BEST, BEST, tuple(ordered))
    for name, allowed in sorted((threat_models or {}).items()):
        chosen = tuple(attack for attack in ordered if attack in allowed)
        if chosen:
            yield Scope("threat model", name, chosen)
    of = {attack: (families or {}).get(attack, "other") for attack in ordered}
    for family in sorted(set(of.values())):
        yield Scope("family", family, tuple(attack for attack in ordered if of[attack] == family))
    yield from (Scope("attack", attack, (attack,)) for attack in ordered)


def currencies(breaks: pd.DataFrame) -> tuple[str, ...]:
    """The currencies of a comparison: with the search's where there was one."""
    return MEASURED + (WITH_SEARCH if (breaks["search_trials"] > 0).any() else ())


def attackers(units: pd.DataFrame, breaks: pd.DataFrame, budget: Mapping[str, float | None] | None = None) -> Attackers:
    """The runs of a study, ready to be asked what the cheapest choice costs.

    Args:
        units: one row a unit, as :func:`tempering.economics.tables.checked_units` returns them.
        breaks: from :func:`tempering.economics.breaks.find_breaks`.
        budget: what one run might spend, by currency; ``None`` for no limit.
    """
    return Attackers(breaks, unhardened_seeds(units), cut_off_units(units, budget))


@dataclass(frozen=True)
class Price:
    """What the cheapest break of a scope cost in every seed, and which attack that was in most of them."""

    costs: Costs
    attack: str

    def same_as(self, other: Price) -> bool:
        """Whether every seed has the same price."""
        return all(np.array_equal(getattr(self.costs, name), getattr(other.costs, name)) for name in ("seeds", "lower", "upper", "ended"))


@dataclass
class Attackers:
    """The runs of a study, by model and defence, with each scope's prices made once."""

    breaks: pd.DataFrame
    unhardened: set[tuple[str, str, int]]
    cut_off: set[str]
    _runs: dict[tuple[str, str], _Runs] = field(default_factory=dict)
    _prices: dict[tuple[Any, ...], Price] = field(default_factory=dict)

    def sides(self) -> list[tuple[str, str]]:
        """Every model and defence, in order."""
        return sorted(set(zip(self.breaks["model"], self.breaks["defense"], strict=True)))

    def attacks(self, model: str, defense: str) -> set[str]:
        """The attacks that were run."""
        return set(self._of(model, defense).attack.tolist())

    def price(self, model: str, defense: str, attacks: tuple[str, ...], currency: str) -> Price:
        """What the cheapest of these attacks cost in every seed."""
        key = (model, defense, attacks, currency)
        if key not in self._prices:
            self._prices[key] = self._of(model, defense).cheapest(attacks, currency)
        return self._prices[key]

    def _of(self, model: str, defense: str) -> _Runs:
        key = (model, defense)
        if key not in self._runs:
            runs = self.breaks[(self.breaks["model"] == model) & (self.breaks["defense"] == defense)]
            made = np.array([(model, defense, int(seed)) not in self.unhardened for seed in runs["seed"]], dtype=bool)
            self._runs[key] = _Runs.of(runs[made], self.cut_off)
        return self._runs[key]


@dataclass(frozen=True)
class _Runs:
    """The runs against one model, as arrays of shape [runs], ordered by seed and attack."""

    attack: npt.NDArray[np.str_]
    seed: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.str_]
    cut_off: npt.NDArray[np.bool_]
    intervals: dict[str, tuple[Floats, Floats]]

    @classmethod
    def of(cls, table: pd.DataFrame, cut_off: set[str]) -> _Runs:
        table = table.sort_values(["seed", "attack", "unit"], kind="stable")
        intervals = {name: (table[f"{name}_lower"].to_numpy(), table[f"{name}_upper"].to_numpy()) for name in MEASURED}
        for total in WITH_SEARCH:
            name = total.removeprefix("total_")
            search = table[f"{name}_search"].to_numpy()
            intervals[total] = (intervals[name][0] + search, intervals[name][1] + search)
        return cls(
            table["attack"].to_numpy(dtype=str),
            table["seed"].to_numpy(),
            table["outcome"].to_numpy(dtype=str),
            table["unit"].isin(cut_off).to_numpy(),
            intervals,
        )

    def cheapest(self, attacks: tuple[str, ...], currency: str) -> Price:
        chosen = np.isin(self.attack, attacks)
        lower, upper = (ends[chosen] for ends in self.intervals[currency])
        outcome, names = self.outcome[chosen], self.attack[chosen]
        broken, held = outcome == "broken", outcome == "held"
        # In a scope of one attack every run that held is censored where it ended, as in the price table.
        open_ended = held & (self.cut_off[chosen] | (len(attacks) == 1))
        taking_part = broken | open_ended
        seeds, place = np.unique(self.seed[chosen], return_inverse=True)
        least, first, most = np.full(len(seeds), np.inf), np.full(len(seeds), np.inf), np.zeros(len(seeds))
        np.minimum.at(least, place[taking_part], lower[taking_part])
        np.minimum.at(first, place[broken], upper[broken])
        np.maximum.at(most, place, lower)
        any_held = np.zeros(len(seeds), dtype=bool)
        np.logical_or.at(any_held, place, held)
        none_left = np.isinf(least)
        ended = none_left & ~any_held
        winners = names[broken & (upper == first[place])]
        return Price(Costs(seeds, np.where(none_left, most, least), first, ended), _commonest(winners))


def _commonest(names: npt.NDArray[np.str_]) -> str:
    """The name that occurs most often, the first in order of the alphabet among several; "" of none."""
    found, times = np.unique(names, return_counts=True)
    return str(found[times.argmax()]) if len(found) else ""


def unhardened_seeds(units: pd.DataFrame) -> set[tuple[str, str, int]]:
    """Model, defence and seed of every hardening that left no model."""
    lost = units[(units["kind"] == "harden") & (units["status"] != "completed")]
    return set(zip(lost["model"], lost["defense"], lost["seed"].astype(int), strict=True))


def cut_off_units(units: pd.DataFrame, budget: Mapping[str, float | None] | None) -> set[str]:
    """Units that the budget may have ended, or that ended with enough; see the head of this module.

    Args:
        units: one row a unit.
        budget: what one run might spend, by currency; ``None`` if it is not known, and then every attack is one of them.
    """
    attacks = units[units["kind"] == "attack"]
    if budget is None:
        return set(attacks["unit"])
    limits = {name: limit for name, limit in budget.items() if limit is not None and name in attacks}
    used = pd.DataFrame({name: attacks[name].astype(float) >= _CUT_OFF * limit for name, limit in limits.items()}, index=attacks.index)
    return set(attacks.loc[used.any(axis=1) | (attacks["status"] == "enough"), "unit"])
