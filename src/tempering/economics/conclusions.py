"""What follows from prices: who can pay them, what a defence is worth beside the others, and how sure all that is.

:func:`tempering.economics.assess.assess` says what every attack costs and what every defence multiplies that by. The tables here answer
the questions that come after it; each is described in the module that makes it:

====================  ==================================================================================================================
``incidence``         how runs end as spend goes on (:mod:`tempering.economics.incidence`)
``restricted``        a mean price that exists whatever share of the runs broke (:mod:`tempering.economics.restricted`)
``contrasts``         whether two defences differ: each and the control in every scope, all pairs for the best attacker
                      (:mod:`tempering.economics.contrasts`)
``quantiles``         multipliers for lucky and for unlucky seeds (:mod:`tempering.economics.comparison`)
``search_costs``      what finding settings at random costs, after a search (:mod:`tempering.economics.search_cost`)
``envelope``          the cheapest price of so much harm at so much loss (:mod:`tempering.economics.envelope`)
``frontier``          multiplier against tax; which defences are dominated (:mod:`tempering.economics.frontier`)
``resistances``       what each kind of attack costs, by defence and seed (:mod:`tempering.economics.agreement`)
``agreement``         whether resistance to one kind goes with resistance to another (the same)
``learned``           what larger models learn from poison (:mod:`tempering.economics.scaling`)
``sizes``             the price of models of several sizes (the same)
``size_fits``         the line through them
``size_curve``        that line, and where it would go
``capability``        what a broken or a hardened model can still do (:mod:`tempering.economics.capability`)
``population``        who is priced out (:mod:`tempering.economics.population`)
``populations``       the same if attackers were richer or poorer, more or less skilled
``judges``            what judging took, and how far judges agree (:mod:`tempering.economics.judged`)
====================  ==================================================================================================================

A table that a study says nothing about has no rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pandas as pd

from tempering.economics.agreement import agreement, resistances
from tempering.economics.assess import Assessment
from tempering.economics.attackers import BEST, attackers
from tempering.economics.capability import capabilities
from tempering.economics.comparison import quantile_multipliers
from tempering.economics.contrasts import contrasts
from tempering.economics.envelope import EPSILONS, TAUS, envelope
from tempering.economics.frontier import frontier
from tempering.economics.incidence import incidence
from tempering.economics.judged import judges_of
from tempering.economics.ladder import learned_from_poison, prices_by_size
from tempering.economics.population import ANY, DEFAULT, Group, from_multipliers, priced_out, varied
from tempering.economics.prices import PriceBook
from tempering.economics.resampled_frontier import dominated_shares
from tempering.economics.restricted import restricted_means
from tempering.economics.scaling import LEAST_SIZES, learned_scaling, price_scaling
from tempering.economics.search_cost import random_trials, search_costs
from tempering.economics.tables import CONTROL, checked_trajectories, checked_units

TAMPERING = "tampering with the weights"
INPUT = "input-space attacks"
FINE_TUNING = "fine-tuning"
SURGERY = "weight surgery"
_GROUPS = {TAMPERING: (FINE_TUNING, SURGERY), INPUT: ("input",), FINE_TUNING: (FINE_TUNING,), SURGERY: (SURGERY,)}
"""Families of attacks that each kind is made of."""
PAIRS = ((TAMPERING, INPUT), (FINE_TUNING, SURGERY))
"""Kinds of attack, resistance to which might go together."""


def _none() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class Conclusions:
    """The tables described at the head of this module."""

    incidence: pd.DataFrame = field(default_factory=_none)
    restricted: pd.DataFrame = field(default_factory=_none)
    contrasts: pd.DataFrame = field(default_factory=_none)
    quantiles: pd.DataFrame = field(default_factory=_none)
    search_costs: pd.DataFrame = field(default_factory=_none)
    envelope: pd.DataFrame = field(default_factory=_none)
    frontier: pd.DataFrame = field(default_factory=_none)
    resistances: pd.DataFrame = field(default_factory=_none)
    agreement: pd.DataFrame = field(default_factory=_none)
    learned: pd.DataFrame = field(default_factory=_none)
    sizes: pd.DataFrame = field(default_factory=_none)
    size_fits: pd.DataFrame = field(default_factory=_none)
    size_curve: pd.DataFrame = field(default_factory=_none)
    capability: pd.DataFrame = field(default_factory=_none)
    population: pd.DataFrame = field(default_factory=_none)
    populations: pd.DataFrame = field(default_factory=_none)
    judges: pd.DataFrame = field(default_factory=_none)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def conclude(
    assessment: Assessment,
    units: pd.DataFrame,
    trajectories: pd.DataFrame,
    *,
    tau: float,
    epsilon: float,
    price_book: PriceBook,
    accelerator: str,
    seed: int = 0,
    families: Mapping[str, str] | None = None,
    threat_models: Mapping[str, Collection[str]] | None = None,
    budget: Mapping[str, float | None] | None = None,
    trials: pd.DataFrame | None = None,
    random: int | None = None,
    parameters: Mapping[str, float] | None = None,
    population: Sequence[Group] = DEFAULT,
    judges: Sequence[str] = (),
    taus: Sequence[float] = TAUS,
) -> Conclusions:
    """Draw every conclusion that the tables allow.

    Args:
        assessment: of the same tables, by :func:`tempering.economics.assess.assess`.
        units: one row a unit; with ``config`` as JSON also scaling in the share of poison is looked at.
        trajectories: one row a probe.
        tau: as of the assessment; likewise what is not described here.
        epsilon: as of the assessment.
        price_book: as of the assessment.
        accelerator: its name in the price book.
        seed: of resamples and permutations.
        families: the family of each attack.
        threat_models: the attacks that each threat model allows; without any, one that allows all is drawn.
        budget: what one run might spend, by currency.
        trials: one row a trial of the searches, as the run's table has them.
        random: how many of a search's trials were drawn at random; ``None``: all.
        parameters: of each model; without them nothing is said of sizes.
        population: groups of attackers.
        judges: what the run's judges are called, the deciding one first; empty where the text judged alone.
        taus: other thresholds that the price is drawn over.
    """
    units = checked_units(units)
    trajectories = checked_trajectories(trajectories, units)
    breaks, hardware = assessment.breaks, price_book.accelerator(accelerator)
    scoped: dict[str, Any] = {"families": families, "threat_models": threat_models, "budget": budget}
    defended = bool((breaks["defense"] != CONTROL).any())
    tables: dict[str, pd.DataFrame] = {
        "incidence": incidence(breaks),
        "restricted": restricted_means(units, breaks, **scoped),
        "envelope": envelope(
            units,
            trajectories,
            threat_models or {ANY: set(breaks["attack"])},
            accelerator=hardware,
            taus=(*taus, tau),
            epsilons=(*EPSILONS, epsilon),
            budget=budget,
        ),
        "judges": judges_of(units, trajectories, judges),
        "capability": capabilities(units, assessment.trajectories, breaks, seed=seed),
        **_of_sizes(units, trajectories, breaks, parameters or {}, budget),
    }
    if trials is not None and len(trials):
        tables["search_costs"] = search_costs(random_trials(trials, hardware, count=random), breaks, seed=seed)
    if defended:
        shares = dominated_shares(units, breaks, trajectories, budget=budget, seed=seed)
        pairs = contrasts(units, breaks, between="all", kinds=(BEST,), budget=budget, seed=seed)
        tables |= {
            "contrasts": _joined(contrasts(units, breaks, **scoped, seed=seed), pairs[pairs["against"] != CONTROL]),
            "quantiles": quantile_multipliers(units, breaks, **scoped, seed=seed),
            "frontier": frontier(assessment.multipliers, assessment.tax, shares=shares),
            **_agreements(units, breaks, families or {}, budget, seed),
            **_priced_out(assessment.multipliers, population),
        }
    return Conclusions(**tables)


def _joined(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([first, second], ignore_index=True) if len(second) else first


def _agreements(
    units: pd.DataFrame, breaks: pd.DataFrame, of: Mapping[str, str], budget: Mapping[str, float | None] | None, seed: int
) -> dict[str, pd.DataFrame]:
    groups = {name: {attack for attack, family in of.items() if family in families} for name, families in _GROUPS.items()}
    points = resistances(units, breaks, groups, budget=budget)
    return {"resistances": points, "agreement": agreement(points, PAIRS, seed=seed)}


def _priced_out(multipliers: pd.DataFrame, population: Sequence[Group]) -> dict[str, pd.DataFrame]:
    prices = from_multipliers(multipliers)
    others = {name: groups for name, groups in varied(population).items() if tuple(groups) != tuple(population)}
    varieties = [priced_out(prices, groups).assign(attackers=name) for name, groups in others.items()]
    return {"population": priced_out(prices, population), "populations": pd.concat(varieties, ignore_index=True)}


def _of_sizes(
    units: pd.DataFrame,
    trajectories: pd.DataFrame,
    breaks: pd.DataFrame,
    parameters: Mapping[str, float],
    budget: Mapping[str, float | None] | None,
) -> dict[str, pd.DataFrame]:
    """Scaling laws, of studies of three sizes or more."""
    if len({parameters[model] for model in set(units["model"]) if model in parameters}) < LEAST_SIZES:
        return {}
    prices = price_scaling(prices_by_size(attackers(units, breaks, budget), parameters))
    learned = learned_scaling(learned_from_poison(units, trajectories, parameters))
    return {"learned": learned, "sizes": prices.sizes, "size_fits": prices.fits, "size_curve": prices.curve}
