"""What ``summary.json`` says of every defence that was compared; :mod:`tempering.report.summary` says the rest."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from tempering.economics.frontier import CHANGES
from tempering.report.defended import DefenseRow, Measured, Times, defense_rows
from tempering.report.frontier_rows import FrontierRow, frontier_rows
from tempering.report.rows import number
from tempering.report.summary_schema import (
    AttackRatioPart,
    ChangePart,
    ComparedPart,
    DominationPart,
    MultiplierPart,
    RatioPart,
    SharePart,
    TaxPart,
)

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment
    from tempering.economics.conclusions import Conclusions

_SHARES = ("utility", "utility_kept", "over_refusal", "borderline", "coherence", "refusal", "harm")


def compared(assessment: Assessment, conclusions: Conclusions | None) -> list[ComparedPart]:
    """Every defence that was compared, the dearest to break first.

    Args:
        assessment: what economics computed.
        conclusions: what follows from it; without them nothing is said of which defences are dominated.
    """
    standing = {(row.model, row.defense): row for row in frontier_rows(conclusions.frontier)} if conclusions else {}
    taxes = {(row["model"], row["defense"]): row for row in assessment.tax.to_dict("records")}
    return [
        _compared(row, assessment.multipliers, taxes.get((row.model, row.defense), {}), standing.get((row.model, row.defense)))
        for row in defense_rows(assessment)
    ]


def finite(value: float | None) -> float | None:
    """The number as JSON holds it, whole numbers without a fraction; ``None`` where there is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def _compared(row: DefenseRow, multipliers: pd.DataFrame, tax: Mapping[Hashable, Any], standing: FrontierRow | None) -> ComparedPart:
    looked_at = standing is not None and standing.multiplier.told
    return ComparedPart(
        model=row.model,
        defense=row.defense,
        multiplier=_multiplier(row.best),
        by_attack=_by_attack(row, multipliers),
        tax=_tax(row, tax),
        dominated=standing.dominated if standing and looked_at else None,
        domination=_domination(standing) if standing and looked_at else None,
        best_attacker=_ratio(row.best),
        at_control_utility=_ratio(row.at_control_utility),
        attack=row.attack or None,
        broken=row.broken,
        runs=row.runs,
        families={name: _ratio(ratio) for name, ratio in row.families.items()},
        **{name: _share(getattr(row, name)) for name in _SHARES},
        lesson=_ratio(row.lesson),
        training_flops=finite(row.training),
        knowledge=row.verdict or None,
        few_seeds=row.few_seeds,
    )


def _multiplier(ratio: Times) -> MultiplierPart:
    return MultiplierPart(
        median=None if ratio.bound else finite(ratio.value),
        low=finite(ratio.low),
        high=finite(ratio.high),
        censored=ratio.bound,
        exceeds=finite(ratio.value) if ratio.bound else None,
        status=ratio.status,
    )


def _by_attack(row: DefenseRow, multipliers: pd.DataFrame) -> list[AttackRatioPart]:
    """In FLOPs, ordered by the defended median, attacks that did not break the defence last."""
    if multipliers.empty:
        return []
    own = (multipliers["model"] == row.model) & (multipliers["defense"] == row.defense)
    attacks = multipliers[own & (multipliers["scope"] == "attack") & (multipliers["currency"] == "flops")]
    return [
        AttackRatioPart(
            attack=str(record["name"]),
            status=str(record["status"]),
            multiplier=finite(number(record["multiplier"])),
            low=finite(number(record["low"])),
            high=finite(number(record["high"])),
        )
        for record in attacks.sort_values(["defended_median", "name"], na_position="last").to_dict("records")
    ]


def _tax(row: DefenseRow, tax: Mapping[Hashable, Any]) -> TaxPart:
    changes = {measure: _change(tax, measure, sign) for measure, sign in CHANGES.values()}
    return TaxPart(**changes, benign_trainability=_ratio(row.lesson), flops=finite(row.training))


def _change(tax: Mapping[Hashable, Any], measure: str, sign: float) -> ChangePart:
    value, *ends = (sign * number(tax.get(f"{measure}_change{end}")) + 0.0 for end in ("", "_low", "_high"))
    low, high = sorted(ends)
    return ChangePart(value=finite(value), low=finite(low), high=finite(high))


def _domination(row: FrontierRow) -> DominationPart:
    return DominationPart(by=list(row.by), share=finite(row.share), beyond_doubt=row.beyond_doubt, beyond_doubt_by=list(row.surely_by))


def _ratio(ratio: Times) -> RatioPart:
    return RatioPart(status=ratio.status, value=finite(ratio.value), low=finite(ratio.low), high=finite(ratio.high))


def _share(share: Measured) -> SharePart:
    return SharePart(**{name: finite(getattr(share, name)) for name in ("value", "low", "high", "control")})
