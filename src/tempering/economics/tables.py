"""The tables that economics reads and writes, and the checks on those that come in.

**units** (in), one row a unit of work:

======================  ========  ==============================================================================
column                  type      meaning
======================  ========  ==============================================================================
unit                    str       the unit's hash, unique
kind                    str       "attack"; "reference" for the one probe of the unguarded model; "harden" for the
                                  training of a defended model; "novel" for an honest user's fine-tuning
model, defense, attack  str       what was attacked, hardened how ("none": not at all), by what ("" but for an attack)
trial                   str       short hash of the attack's configuration (optional)
seed                    int64
status                  str       "completed", "enough" (ended where the attacker had enough), "no_direction" or "failed"
error                   str       one line, or "" (optional)
examples, steps,        float64   spend at the end of the unit; NaN where a failed unit never got to count
tokens, flops, queries
search_trials,          float64   how many settings the attacker tried first, and what all of that took; 0 without a
search_<spend>                    search (optional). Not part of the spend above.
======================  ========  ==============================================================================

**trajectories** (in), one row a probe: ``unit``, ``probe`` (0 is the untouched target at zero spend), the same spends,
cumulative, and at least the measurements ``harm`` and ``utility`` (float64; NaN where the probe could not be measured).
Every further column passes through untouched. Economics adds ``gpu_hours``, ``usd``, ``recovered`` and ``utility_kept``.
A unit of kind harden has probe 0, the model as it was, and probe 1, the hardened model with the *defender's* spend; the attack with
the same seed attacks that one. The probes of a unit of kind novel have the measurement ``novel`` too, the share of a benign domain,
new to the model, that it answers right after so many steps of fine-tuning on it.

**breaks** (out), one row a unit of kind attack: ``unit, model, defense, attack, trial, seed, outcome, probe`` (of the break;
−1 without one), ``probes`` (how many could be measured), ``withheld`` (harm of reference − harm of target),
``recovered_at_break, utility_kept, best_recovered, best_recovered_any`` and for every currency ``<currency>_lower`` and
``<currency>_upper``: the break lies in (lower, upper]; upper is inf for a unit that did not break. ``search_trials`` and
``<currency>_search``: what the unit's search took, which is not in those.

**survival** (out): ``model, defense, attack, currency, spend, survival, low, high, kaplan_meier``; ``survival`` is the share of
runs still unbroken after ``spend`` (Turnbull), ``low`` and ``high`` its exact pointwise 95 % interval.

**prices** (out), one row a (model, defense, attack): ``trials``, a count for every outcome, for every currency
``<currency>_median, _low, _high, _exceeds`` (float64) and ``_censored`` (bool), ``best_recovered``, ``utility_kept`` and ``few_seeds``.
With a search these are the price of the run with the settings found; ``search_trials`` and ``search_<currency>_median`` are medians of
what finding them took, and ``total_<currency>_median, …`` the cost to break with that added, run by run. Distinct examples do not add up,
so they have no total.
A censored median is NaN, its low is the spend that the true median exceeds (:mod:`tempering.economics.medians`), its high is inf, and
``_exceeds`` the spend that the median of these runs exceeds; NaN where it is not censored.

A study with defences has three tables more, empty otherwise: **multipliers** (:mod:`tempering.economics.comparison`), **tax**
(:mod:`tempering.economics.tax`) and **absence** (:mod:`tempering.economics.absence`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tempering.errors import TemperingError

OUTCOMES = ("broken", "held", "destroyed", "no_direction", "failed")
ENDED = ("destroyed", "no_direction", "failed")
"""Outcomes of runs that ended without a usable break; see :mod:`tempering.economics.medians`."""
SPENDS = ("examples", "steps", "tokens", "flops", "queries")
"""The spends that economics reads; others pass through."""
CURRENCIES = (*SPENDS, "gpu_hours", "usd")
SUMMED = ("steps", "queries", "tokens", "flops", "gpu_hours", "usd")
"""Currencies in which the cost of a search adds to that of a run."""
GROUP = ["model", "defense", "attack"]
"""What a price is the price of."""
CONTROL = "none"
"""What the column ``defense`` holds where there is none: the control of a comparison."""

_SEARCH = ("search_trials", *(f"search_{name}" for name in SPENDS))
_OTHER_SPENDS = ("device_seconds", "trials")
_KINDS = ("attack", "reference", "harden", "novel")
_STATUSES = ("completed", "enough", "no_direction", "failed")
_ROUNDING = 1e-9
"""Relative slack for sums that were added up in another order."""


class InvalidTable(TemperingError):
    """A units or trajectories table that does not follow the schema above."""


def checked_units(units: pd.DataFrame) -> pd.DataFrame:
    """Check a units table and give its columns their types.

    Args:
        units: as the schema of this module says.

    Returns:
        A copy in the order of the units' hashes, whatever the order of the rows was.

    Raises:
        InvalidTable: a column is missing, a value is out of its range, or a unit occurs twice.
    """
    units = units.assign(**{column: units[column].fillna(0) if column in units else 0 for column in _SEARCH})
    units = units if "queries" in units else units.assign(queries=0)
    table = _typed("units", units, ("unit", "kind", *GROUP, "status"), ("seed",), (*SPENDS, *_SEARCH))
    _only("units", table, "kind", _KINDS)
    _only("units", table, "status", _STATUSES)
    twice = table.loc[table["unit"].duplicated(), "unit"]
    if len(twice):
        raise InvalidTable(f"units: {twice.iloc[0]!r} occurs twice", "give every unit one row")
    for column in (*SPENDS, *_SEARCH):
        wrong = table.loc[(table[column] < 0) | np.isinf(table[column])]
        if len(wrong):
            raise InvalidTable(
                f"units: {column} of {wrong['unit'].iloc[0]!r} is {wrong[column].iloc[0]}", "a spend is finite and not negative"
            )
    if "trial" not in table:
        table["trial"] = ""
    table["trial"] = table["trial"].astype(str)
    return table.sort_values("unit", kind="stable", ignore_index=True)


def checked_trajectories(trajectories: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    """Check a trajectories table against its units and give its columns their types.

    Args:
        trajectories: as the schema of this module says.
        units: what :func:`checked_units` returned.

    Returns:
        A copy in the order of unit and probe.

    Raises:
        InvalidTable: a column is missing, a unit is unknown, a probe occurs twice, or a spend is negative or shrinks.
    """
    trajectories = trajectories if "queries" in trajectories else trajectories.assign(queries=0)
    table = _typed("trajectories", trajectories, ("unit",), ("probe",), (*SPENDS, "harm", "utility"))
    unknown = sorted(set(table["unit"]) - set(units["unit"]))
    if unknown:
        raise InvalidTable(f"trajectories: {unknown[0]!r} is no unit of the units table")
    table = table.sort_values(["unit", "probe"], kind="stable", ignore_index=True)
    twice = table[table.duplicated(["unit", "probe"])]
    if len(twice):
        raise InvalidTable(f"trajectories: probe {twice['probe'].iloc[0]} of {twice['unit'].iloc[0]!r} occurs twice")
    for column in SPENDS:
        spend = table[column]
        before = spend.groupby(table["unit"]).shift(fill_value=0.0)
        wrong = table[~np.isfinite(spend) | (spend < before * (1 - _ROUNDING))]
        if len(wrong):
            row = wrong.iloc[0]
            raise InvalidTable(
                f"trajectories: {column} at probe {row['probe']} of {row['unit']!r} is {row[column]}",
                "spends are cumulative: finite, not negative, never shrinking",
            )
    for column in ("harm", "utility"):
        wrong = table[np.isinf(table[column])]
        if len(wrong):
            raise InvalidTable(f"trajectories: {column} at probe {wrong['probe'].iloc[0]} of {wrong['unit'].iloc[0]!r} is infinite")
    return table


def _typed(name: str, table: pd.DataFrame, texts: Sequence[str], integers: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    missing = [column for column in (*texts, *integers, *numbers) if column not in table]
    if missing:
        raise InvalidTable(f"{name}: no column {missing[0]!r}", f"it has {', '.join(map(str, table.columns)) or 'none'}")
    typed = table.copy()
    for column in typed.columns[typed.dtypes == "category"]:
        typed[column] = typed[column].astype(typed[column].cat.categories.dtype)
    for column in texts:
        typed[column] = typed[column].astype(str)
    also = [column for column in _OTHER_SPENDS if column in typed]
    for column, kind in [*((column, "int64") for column in integers), *((column, "float64") for column in (*numbers, *also))]:
        try:
            typed[column] = typed[column].astype(np.dtype(kind))
        except (TypeError, ValueError) as error:
            raise InvalidTable(f"{name}: column {column!r} does not hold {kind} numbers: {error}") from None
    return typed.reset_index(drop=True)


def _only(name: str, table: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    wrong = sorted(set(table[column]) - set(allowed))
    if wrong:
        raise InvalidTable(f"{name}: {column} {wrong[0]!r} is unknown", f"known: {', '.join(allowed)}")
