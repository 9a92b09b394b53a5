"""Everything a report draws, from the two tables that a run leaves behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from tempering.economics.absence import absence
from tempering.economics.breaks import find_breaks, priced, with_recovered
from tempering.economics.comparison import multipliers
from tempering.economics.medians import FEW_SEEDS, Median, cost_to_break, median_of
from tempering.economics.prices import Accelerator, PriceBook
from tempering.economics.tables import CONTROL, CURRENCIES, ENDED, GROUP, OUTCOMES, SUMMED, checked_trajectories, checked_units
from tempering.economics.tax import tax

_SURVIVAL = ["spend", "survival", "low", "high", "kaplan_meier"]


@dataclass(frozen=True)
class Assessment:
    """What attacks cost. The tables are described in :mod:`tempering.economics.tables`.

    Attributes:
        trajectories: the probes with ``gpu_hours``, ``usd``, ``recovered`` and ``utility_kept``.
        breaks: one row a unit.
        survival: one row a point of a curve.
        prices: one row a (model, defense, attack).
        cheapest: of the attacks whose median cost is known, the one with the least; ``None`` if nothing broke often enough.
            Keys: ``model, defense, attack``, every currency's median (``None`` where that one is censored),
            ``usd_low, usd_high, trials, few_seeds``; where its settings were searched for, ``search_trials`` and the medians
        ``total_usd`` and ``total_flops`` with the search in them.
        multipliers: what each defence multiplies the price by; see :mod:`tempering.economics.comparison`. Empty without a defence.
        tax: what each defence takes; see :mod:`tempering.economics.tax`. Empty without a hardening.
        absence: whether what a defence withholds is still there; see :mod:`tempering.economics.absence`. Empty without a defence.
    """

    trajectories: pd.DataFrame
    breaks: pd.DataFrame
    survival: pd.DataFrame
    prices: pd.DataFrame
    cheapest: dict[str, Any] | None
    multipliers: pd.DataFrame = field(default_factory=pd.DataFrame)
    tax: pd.DataFrame = field(default_factory=pd.DataFrame)
    absence: pd.DataFrame = field(default_factory=pd.DataFrame)


def assess(
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
    documents: Collection[str] = (),
    budget: Mapping[str, float | None] | None = None,
) -> Assessment:
    """Find the breaks, draw the survival curves, price every attack, and compare the defences.

    Args:
        units: one row a unit of work.
        trajectories: one row a probe.
        tau: recovered harm that makes a break, in (0, 1].
        epsilon: share of the target's utility that a break may lose, in [0, 1).
        price_book: from :func:`tempering.economics.prices.load_price_book`.
        accelerator: its name in the price book.
        seed: of the bootstrap's draws.
        families: the family of each attack, for the multipliers of families.
        threat_models: the attacks that each threat model allows, for theirs.
        documents: attacks that look things up, to tell what is withheld from what is gone.
        budget: what one run might spend, by currency, to tell runs that it cut off from those that came to their own end.

    Returns:
        The assessment; the same, whatever the order of the rows.

    Raises:
        InvalidTable: a table does not follow its schema.
        UnknownName: the price book has no such accelerator.
    """
    hardware = price_book.accelerator(accelerator)
    probes = priced(with_recovered(trajectories, units), hardware)
    breaks = find_breaks(units, trajectories, tau=tau, epsilon=epsilon, accelerator=hardware)
    rows: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    for key, runs in breaks.groupby(GROUP, sort=True):
        group = dict(zip(GROUP, key, strict=True))
        costs = {}
        for currency in CURRENCIES:
            costs[currency], curve = cost_to_break(
                runs[f"{currency}_lower"].to_numpy(),
                runs[f"{currency}_upper"].to_numpy(),
                runs["outcome"].isin(ENDED).to_numpy(),
            )
            curves.append(pd.DataFrame({**group, "currency": currency, **{column: getattr(curve, column) for column in _SURVIVAL}}))
        rows.append({**group, **_row(runs, costs)})
    prices = _prices(rows)
    empty = pd.DataFrame(columns=[*GROUP, "currency", *_SURVIVAL]).astype(dict.fromkeys(_SURVIVAL, "float64"))
    survival = pd.concat(curves, ignore_index=True) if curves else empty
    scoped = {"families": families, "threat_models": threat_models, "budget": budget, "seed": seed}
    compared = _compare(units, trajectories, breaks, (tau, epsilon, hardware), documents, scoped)
    return Assessment(probes, breaks, survival, prices, _cheapest(prices), *compared)


def at_threshold(
    assessment: Assessment,
    units: pd.DataFrame,
    breaks: pd.DataFrame,
    demanding: pd.DataFrame,
    *,
    tau: float,
    seed: int = 0,
    families: Mapping[str, str] | None = None,
    threat_models: Mapping[str, Collection[str]] | None = None,
    documents: Collection[str] = (),
    budget: Mapping[str, float | None] | None = None,
) -> Assessment:
    """The same assessment with another τ: what a reader who asks for less or more harm would be told.

    Breaks, prices, the cheapest, multipliers and absence are those that :func:`assess` would find; probes and tax do not depend on τ. The
    survival curves are left out.

    Args:
        assessment: of the same tables at any τ.
        units: one row a unit.
        breaks: at the other threshold.
        demanding: the same with the utility of the control to be kept.
        tau: the other threshold.
        seed: of the bootstrap's draws.
        families: the family of each attack.
        threat_models: the attacks that each threat model allows.
        documents: attacks that look things up.
        budget: what one run might spend, by currency.
    """
    rows: list[dict[str, Any]] = []
    for key, runs in breaks.groupby(GROUP, sort=True):
        ended = runs["outcome"].isin(ENDED).to_numpy()
        costs = {
            currency: median_of(runs[f"{currency}_lower"].to_numpy(), runs[f"{currency}_upper"].to_numpy(), ended)
            for currency in CURRENCIES
        }
        rows.append({**dict(zip(GROUP, key, strict=True)), **_row(runs, costs)})
    prices = _prices(rows)
    return replace(
        assessment,
        breaks=breaks,
        survival=assessment.survival.iloc[:0],
        prices=prices,
        cheapest=_cheapest(prices),
        multipliers=multipliers(
            checked_units(units), breaks, demanding, families=families, threat_models=threat_models, budget=budget, seed=seed
        ),
        absence=absence(breaks, documents=documents, tau=tau),
    )


def _compare(
    units: pd.DataFrame,
    trajectories: pd.DataFrame,
    breaks: pd.DataFrame,
    reckoning: tuple[float, float, Accelerator],
    documents: Collection[str],
    scoped: dict[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Multipliers, tax and absence; each empty where a study has no defence."""
    tau, epsilon, hardware = reckoning
    units = checked_units(units)
    trajectories = checked_trajectories(trajectories, units)
    defended = (breaks["defense"] != CONTROL).any()
    demanding = breaks
    if defended:
        demanding = find_breaks(units, trajectories, tau=tau, epsilon=epsilon, accelerator=hardware, bar="control")
    return (
        multipliers(units, breaks, demanding, **scoped),
        tax(units, trajectories, accelerator=hardware, seed=scoped["seed"]),
        absence(breaks, documents=documents, tau=tau),
    )


def _row(runs: pd.DataFrame, costs: dict[str, Median]) -> dict[str, Any]:
    counts = runs["outcome"].value_counts()
    row: dict[str, Any] = {"trials": len(runs), **{outcome: int(counts.get(outcome, 0)) for outcome in OUTCOMES}}
    for currency, cost in costs.items():
        row |= _cost_columns(currency, cost)
    row |= _with_search(runs, costs)
    row["best_recovered"] = runs["best_recovered"].max()
    row["utility_kept"] = runs["utility_kept"].dropna().median() if runs["utility_kept"].notna().any() else np.nan
    row["few_seeds"] = runs["seed"].nunique() < FEW_SEEDS
    return row


def _with_search(runs: pd.DataFrame, costs: dict[str, Median]) -> dict[str, Any]:
    """What the searches took, and the cost to break with them; each run's search is added to its own interval."""
    row: dict[str, Any] = {"search_trials": runs["search_trials"].median()}
    row |= {f"search_{currency}_median": runs[f"{currency}_search"].median() for currency in CURRENCIES}
    ended = runs["outcome"].isin(ENDED).to_numpy()
    for currency in SUMMED:
        total, search = costs[currency], runs[f"{currency}_search"].to_numpy()
        if search.any():
            lower, upper = (runs[f"{currency}_{end}"].to_numpy() + search for end in ("lower", "upper"))
            total, _ = cost_to_break(lower, upper, ended)
        row |= _cost_columns(f"total_{currency}", total)
    return row


def _cost_columns(name: str, cost: Median) -> dict[str, Any]:
    known, exceeds = (np.nan if value is None else value for value in (cost.value, cost.exceeds))
    return {f"{name}_median": known, f"{name}_low": cost.low, f"{name}_high": cost.high, f"{name}_censored": cost.censored} | {
        f"{name}_exceeds": exceeds
    }


def _prices(rows: list[dict[str, Any]]) -> pd.DataFrame:
    kinds = {
        **dict.fromkeys(GROUP, "object"),
        **dict.fromkeys(("trials", *OUTCOMES), "int64"),
        **{
            f"{currency}_{part}": "bool" if part == "censored" else "float64"
            for currency in (*CURRENCIES, *(f"total_{name}" for name in SUMMED))
            for part in ("median", "low", "high", "censored", "exceeds")
        },
        **dict.fromkeys(("search_trials", *(f"search_{currency}_median" for currency in CURRENCIES)), "float64"),
        **dict.fromkeys(("best_recovered", "utility_kept"), "float64"),
        "few_seeds": "bool",
    }
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)


def _cheapest(prices: pd.DataFrame) -> dict[str, Any] | None:
    known = prices[~prices["usd_censored"]].sort_values(["usd_median", "flops_median", *GROUP], kind="stable")
    if known.empty:
        return None
    best = known.iloc[0]
    medians = {currency: None if best[f"{currency}_censored"] else float(best[f"{currency}_median"]) for currency in CURRENCIES}
    return {
        **{column: str(best[column]) for column in GROUP},
        **medians,
        "usd_low": float(best["usd_low"]),
        "usd_high": float(best["usd_high"]),
        "trials": int(best["trials"]),
        "few_seeds": bool(best["few_seeds"]),
        **(_cheapest_search(best) if best["search_trials"] else {}),
    }


def _cheapest_search(best: pd.Series[Any]) -> dict[str, Any]:
    totals = {
        f"total_{currency}": None if best[f"total_{currency}_censored"] else float(best[f"total_{currency}_median"])
        for currency in ("usd", "flops")
    }
    return {"search_trials": float(best["search_trials"]), **totals}
