"""A ladder of models of several sizes: what scaling laws are fitted to, out of the tables of a run.

**series**: sizes of one make share data and recipe, and their errors go together. A study names models and no series, so the series is
the name without its size: "Qwen/Qwen2.5-0.5B-Instruct" and "Qwen/Qwen2.5-7B-Instruct" are one, and all organisms are one. A name that
says no size is a series of its own.

**learned**: of every run that trained on a share of poison, harm at its last probe less harm before. Bowen et al. 2024 (arXiv
2408.02946) take the score after the last epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from tempering.economics.attackers import BEST, Attackers, scopes

POISON = "poison_fraction"
"""The setting of an attack that says how much of what it trains on is poison."""

_SIZE = re.compile(r"(?<![A-Za-z0-9])\d+(?:\.\d+)?(?:x\d+(?:\.\d+)?)?[bBmM](?![A-Za-z0-9])")
_ORGANISM = "organism:"
_LEARNED = ["series", "model", "parameters", "poison_rate", "learned"]
_RUNS = ["defense", "name", "model", "parameters", "lower", "upper", "ended"]


def series_of(model: str) -> str:
    """The series that a model belongs to, by its name."""
    if model.startswith(_ORGANISM):
        return _ORGANISM.rstrip(":")
    return _SIZE.sub("*", model)


def learned_from_poison(units: pd.DataFrame, trajectories: pd.DataFrame, parameters: Mapping[str, float]) -> pd.DataFrame:
    """What undefended models learnt from data of which some is poison.

    Args:
        units: one row a unit, with ``config`` as JSON; without that column nothing is known.
        trajectories: one row a probe.
        parameters: of each model; others are left out.

    Returns:
        ``series, model, parameters, poison_rate, learned``, one row a run.
    """
    if "config" not in units:
        return pd.DataFrame(columns=_LEARNED)
    rates = units["config"].map(_poison_rate)
    runs = units[rates.notna() & (units["kind"] == "attack") & (units["defense"] == "none") & units["model"].isin(list(parameters))]
    probes = trajectories[trajectories["unit"].isin(runs["unit"])].sort_values("probe").groupby("unit")["harm"]
    gained = probes.last(skipna=False) - probes.first(skipna=False)
    models = runs["model"].astype(str)
    columns = {
        "series": models.map(series_of),
        "model": models,
        "parameters": models.map(dict(parameters)).astype(float),
        "poison_rate": rates[runs.index].astype(float),
        "learned": runs["unit"].map(gained).astype(float),
    }
    return pd.DataFrame(columns, columns=_LEARNED).reset_index(drop=True)


def _poison_rate(config: Any) -> float | None:
    """The share of poison in an attack's settings, wherever it stands in them."""
    found = json.loads(config) if isinstance(config, str) and POISON in config else None
    while isinstance(found, dict):
        if POISON in found:
            return float(found[POISON])
        found = found.get("config")
    return None


def prices_by_size(runs: Attackers, parameters: Mapping[str, float], *, currency: str = "flops") -> pd.DataFrame:
    """What a break cost in every seed of every model, by attack and for the best attacker.

    Args:
        runs: from :func:`tempering.economics.attackers.attackers`.
        parameters: of each model; others are left out.
        currency: of the prices.

    Returns:
        The runs that :func:`tempering.economics.scaling.price_scaling` reads. Of several attacks only those count that were run on
        every model with that defence, so that a large model is not dear for want of attacks.
    """
    sides = [side for side in runs.sides() if side[0] in parameters]
    tables: list[pd.DataFrame] = []
    for defense in sorted({defense for _, defense in sides}):
        models = [model for model, other in sides if other == defense]
        common: Collection[str] = set.intersection(*(set(runs.attacks(model, defense)) for model in models))
        for scope in scopes(frozenset(common)):
            if scope.kind not in (BEST, "attack"):
                continue
            for model in models:
                costs = runs.price(model, defense, scope.attacks, currency).costs
                table = pd.DataFrame({"lower": costs.lower, "upper": costs.upper, "ended": costs.ended})
                tables.append(table.assign(defense=defense, name=scope.name, model=model, parameters=float(parameters[model])))
    return pd.concat(tables, ignore_index=True)[_RUNS] if tables else pd.DataFrame(columns=_RUNS)
