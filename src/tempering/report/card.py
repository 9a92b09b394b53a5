"""The safety case of a model's card: what was claimed and why, what was not tried, and how to reproduce it.

:func:`make_card` gathers it from a finished run and computes nothing. ``card.md`` is made of ``card.json`` alone (see
:mod:`tempering.report.card_text`), so that the two never differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tempering.economics.comparison import BEST
from tempering.economics.medians import FEW_SEEDS
from tempering.report import notes
from tempering.report.card_schema import (
    Card,
    ClaimPart,
    CostPart,
    CostsPart,
    DataPart,
    EstimatePart,
    EvidencePart,
    FamilyPart,
    LeftOutPart,
    MethodPart,
    MultiplierPart,
    NotePart,
    NotTriedPart,
    RatioPart,
    ReproducePart,
    SeedsPart,
    TaxPart,
    ThreatPart,
)
from tempering.report.card_words import audit_claim, defense_claim, seeds_warning, undefended_claim, would_change
from tempering.report.defended import DefenseRow, Measured, Times, defense_rows, is_comparison
from tempering.report.families import plain_words
from tempering.report.formatting import NOTHING, Price, flops, share
from tempering.report.published import Names
from tempering.report.rows import PriceRow, groups, number, price_rows
from tempering.report.scope import scope
from tempering.report.summary import pricing as pricing_of
from tempering.report.summary_schema import ModelPart, OutcomesPart, PricingPart, ThresholdPart
from tempering.report.terminal import cheapest_row

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment
    from tempering.study import Study

COMMAND = "temper run study.json --out ../again"


@dataclass(frozen=True)
class SafetyCase:
    """The safety case of a model's card.

    Attributes:
        document: its content.
    """

    document: Card

    @property
    def markdown(self) -> str:
        """As Markdown; whatever names hold, it is text there."""
        from tempering.report.card_text import card_text

        return card_text(self.document)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return self.document.model_dump(mode="json", by_alias=True)

    def _repr_markdown_(self) -> str:
        return self.markdown


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a card come from.

    Attributes:
        targets: the models, as they were planned.
        skipped: attacks and defences left out, as the report has them.
        data: ``model, reference, digest, seed`` of each model's prompts.
        plan_digest: over everything that decides a result.
        study_digest: of the study as it was run.
        environment: versions and hardware.
        tempering: version that writes the card.
        pricing: what dollars were reckoned with; ``None``: as the study says.
    """

    targets: Sequence[Mapping[str, Any]]
    skipped: Sequence[Any]
    data: Sequence[Mapping[str, Any]]
    plan_digest: str
    study_digest: str
    environment: Mapping[str, Any]
    tempering: str
    pricing: Mapping[str, Any] | None = None


def make_card(study: Study, assessment: Assessment, units: pd.DataFrame, origin: Origin) -> Card:
    """The card of a run.

    Args:
        study: what was asked for, with the thresholds of the report.
        assessment: what economics computed.
        units: the engine's units.
        origin: where the numbers come from.

    Returns:
        The card; of paths it has only the last parts, so that it can be published as it is.
    """
    names = Names.of(study)
    pricing = PricingPart.model_validate(origin.pricing) if origin.pricing else pricing_of(study)
    study, assessment, units = names.study(study), names.assessment(assessment), names.frame(units)
    rows, defenses = price_rows(assessment), defense_rows(assessment)
    reliability, cut_off = notes.reliability(rows, study, assessment, units), notes.cut_off(rows, study, assessment, units)
    assumed = scope(study, rows, origin.skipped)
    tried = [_method(card, names) for card in assumed["attack_cards"]]
    not_tried = _not_tried(assumed, names)
    missing = len(not_tried.left_out) + len(not_tried.available) + len(not_tried.unavailable)
    targets = [{**target, "reference": names(str(target["reference"]))} for target in origin.targets]
    comparison = is_comparison(assessment)
    return Card(
        schema=1,
        tempering=origin.tempering,
        kind="comparison" if comparison else "audit",
        models=[ModelPart(**{name: target[name] for name in ModelPart.model_fields if name in target}) for target in targets],
        claims=_comparison_claims(study, assessment, defenses)
        if comparison
        else _audit_claims(study, rows, {part.name: part.plain for part in tried}),
        seeds=SeedsPart(values=list(study.seeds), warning=seeds_warning(rows, defenses, FEW_SEEDS)),
        threshold=ThresholdPart(tau=study.threshold.tau, epsilon=study.threshold.epsilon),
        evidence=[_evidence(row, assessment.breaks) for row in rows],
        multipliers=[_multiplier(row) for row in defenses],
        tax=[_tax(row, assessment.tax, units) for row in defenses],
        threat_model=ThreatPart(name=study.threat_model.name, holds=assumed["holds"], lacks=assumed["lacks"], budget=assumed["budget"]),
        tried=tried,
        not_tried=not_tried,
        judges=[_method(card, names) for card in assumed["judges"]],
        cannot_see=notes.weaknesses(study, assessment, units, targets),
        reliability=[NotePart(head=note.head, text=note.text) for note in reliability],
        would_change=would_change(study, rows, defenses, not_tried=missing, reliability=reliability, cut_off=cut_off),
        pricing=pricing,
        reproduce=ReproducePart(
            command=COMMAND,
            study=study.name,
            study_digest=origin.study_digest,
            plan_digest=origin.plan_digest,
            data=[DataPart(**{**part, "model": names(part["model"]), "reference": names(part["reference"])}) for part in origin.data],
            environment=dict(origin.environment),
        ),
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of ``card.json``."""
    return Card.model_json_schema(by_alias=True)


def write_json_schema(path: Path) -> None:
    """Write :func:`json_schema` to a file, for the documentation."""
    path.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")


# Claims


def _audit_claims(study: Study, rows: list[PriceRow], plain: Mapping[str, str]) -> list[ClaimPart]:
    claims = []
    for (model, defense), members in groups(rows).items():
        best = cheapest_row(members)
        counted = [best] if best else members
        claims.append(
            ClaimPart(
                model=model,
                defense=defense,
                sentences=audit_claim((model, defense), members, study, plain),
                attack=best.attack if best else None,
                broken=sum(row.outcomes["broken"] for row in counted),
                runs=sum(row.trials for row in counted),
                cost=_costs(best) if best else None,
                multiplier=None,
            )
        )
    return claims


def _comparison_claims(study: Study, assessment: Assessment, defenses: Sequence[DefenseRow]) -> list[ClaimPart]:
    claims: list[ClaimPart] = []
    for row in defenses:
        if not any(claim.model == row.model for claim in claims):
            claims += _undefended(study, assessment.multipliers, row.model)
        claims.append(
            ClaimPart(
                model=row.model,
                defense=row.defense,
                sentences=defense_claim(row),
                attack=row.attack or None,
                broken=row.broken,
                runs=row.runs,
                cost=None,
                multiplier=_ratio(row.best),
            )
        )
    return claims


def _undefended(study: Study, multipliers: pd.DataFrame, model: str) -> list[ClaimPart]:
    """The best attacker's price on the model as it came: the same in the rows of every defence, so the first is read."""
    if multipliers.empty:
        return []
    own = multipliers[(multipliers["model"] == model) & (multipliers["scope"] == BEST)]
    records = {str(record["currency"]): record for record in reversed(own.to_dict(orient="records"))}
    if "flops" not in records:
        return []
    prices = {currency: _control_price(currency, records[currency]) for currency in CostsPart.model_fields}
    first = records["flops"]
    attack = str(first["control_attack"])
    return [
        ClaimPart(
            model=model,
            defense="none",
            sentences=undefended_claim(model, prices["flops"], attack, int(first["control_runs"]), study),
            attack=attack or None,
            broken=int(first["control_broken"]),
            runs=int(first["control_runs"]),
            cost=CostsPart(**{currency: _cost(price) for currency, price in prices.items()}),
            multiplier=None,
        )
    ]


def _control_price(currency: str, record: Mapping[Hashable, Any]) -> Price:
    median, low, high = (number(record[f"control_{end}"]) for end in ("median", "low", "high"))
    exceeds = number(record.get("control_exceeds"))  # tables of before had none
    return Price(currency, median, low, high, censored=bool(record["control_censored"]), exceeds=exceeds)


# Evidence


def _evidence(row: PriceRow, breaks: pd.DataFrame) -> EvidencePart:
    own = breaks[(breaks["model"] == row.model) & (breaks["defense"] == row.defense) & (breaks["attack"] == row.attack)]
    kept = own.loc[own["outcome"] == "broken", "utility_kept"].dropna()
    return EvidencePart(
        model=row.model,
        defense=row.defense,
        attack=row.attack,
        runs=row.trials,
        outcomes=OutcomesPart(**row.outcomes),
        shown=row.outcome_words,
        cost=_costs(row),
        with_search=_cost(row.search.totals["usd"]) if row.search else None,
        utility_kept=_shares(
            row.utility_kept, number(kept.min()) if len(kept) else math.nan, number(kept.max()) if len(kept) else math.nan
        ),
        few_seeds=row.few_seeds,
    )


def _costs(row: PriceRow) -> CostsPart:
    return CostsPart(**{currency: _cost(row.prices[currency]) for currency in CostsPart.model_fields})


def _cost(price: Price) -> CostPart:
    return CostPart(
        median=None if price.censored else _finite(price.median),
        low=_finite(price.low) if price.tried else None,
        high=_finite(price.high),
        censored=price.censored,
        exceeds=_finite(price.bound) if price.censored and price.tried else None,
        shown=str(price),
    )


# Defences


def _multiplier(row: DefenseRow) -> MultiplierPart:
    return MultiplierPart(
        model=row.model,
        defense=row.defense,
        best_attacker=_ratio(row.best),
        families={name: _ratio(ratio) for name, ratio in row.families.items()},
        broken=row.broken,
        seeds=row.runs,
        few_seeds=row.few_seeds,
    )


def _tax(row: DefenseRow, tax: pd.DataFrame, units: pd.DataFrame) -> TaxPart:
    (record,) = tax[(tax["model"] == row.model) & (tax["defense"] == row.defense)].to_dict(orient="records") or ({},)
    made = units[(units["kind"] == "harden") & (units["model"] == row.model) & (units["defense"] == row.defense)]
    spent = made.loc[made["status"] == "completed", "flops"].dropna()
    least, most = (number(spent.min()), number(spent.max())) if len(spent) else (math.nan, math.nan)
    change = [number(record.get(f"over_refusal_change{end}")) for end in ("", "_low", "_high")]
    return TaxPart(
        model=row.model,
        defense=row.defense,
        trainings=row.hardenings,
        trained=row.hardened,
        utility_kept=_measured(row.utility_kept, row.hardened),
        over_refusal=_measured(row.over_refusal, row.hardened),
        over_refusal_change=_estimate(change, _points, row.hardened),
        lesson=_ratio(row.lesson),
        training_flops=_estimate((row.training, least, most), flops, row.hardened),
        knowledge=row.verdict,
        few_seeds=row.few_seeds,
    )


def _ratio(ratio: Times) -> RatioPart:
    numbers = {name: _finite(getattr(ratio, name)) for name in ("value", "low", "high")}
    return RatioPart(status=ratio.status, shown=str(ratio), **numbers)


def _measured(measured: Measured, seeds: int) -> EstimatePart:
    return _estimate((measured.value, measured.low, measured.high), share, seeds)


def _shares(value: float, low: float, high: float) -> EstimatePart:
    return _estimate((value, low, high), share, 2)


def _estimate(numbers: Sequence[float], shown: Callable[[float], str], seeds: int) -> EstimatePart:
    """A number with its interval; from one seed there is none, and it says so."""
    value, low, high = numbers
    if not math.isfinite(value):
        words = NOTHING
    elif seeds < 2:
        words = f"{shown(value)} (one seed, no interval)"
    else:
        ends, unit = (shown(low), shown(high)), shown(high).partition(" ")[2]
        same = unit and ends[0].endswith(f" {unit}")
        words = f"{shown(value)} ({ends[0].removesuffix(f' {unit}') if same else ends[0]} – {ends[1]})"
    return EstimatePart(value=_finite(value), low=_finite(low), high=_finite(high), shown=words)


def _points(change: float) -> str:
    """A difference of shares: "+4 points"."""
    return f"{100 * change:+.0f} points" if math.isfinite(change) else NOTHING


# What was tried


def _method(card: Mapping[str, Any], names: Names) -> MethodPart:
    registered = str(card["method"] or card["name"])
    return MethodPart(
        name=str(card["name"]),
        method=names(str(card["method"])),
        plain=plain_words(registered),
        summary=str(card["summary"]),
        source=str(card["source"]),
    )


def _not_tried(assumed: Mapping[str, Any], names: Names) -> NotTriedPart:
    return NotTriedPart(
        left_out=[
            LeftOutPart(name=names.within(entry["attack"]), model=names(entry["model"]), reason=names.within(entry["reason"]))
            for entry in assumed["skipped"]
        ],
        available=[_method(card, names) for card in assumed["others"]],
        unavailable=[FamilyPart(name=family.name, plain=family.what, source=family.source) for family in assumed["families"]],
    )


def data_of(works: Iterable[Any]) -> list[dict[str, Any]]:
    """Which prompts each model was attacked and judged with, from the works of a plan.

    Args:
        works: :class:`tempering.engine.units.Work`.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for work in works:
        reference = work.data.reference or work.model.reference.partition("/")[0]
        entry = {"model": work.model.title, "reference": reference, "digest": work.data_digest, "seed": work.data.seed}
        found.setdefault((work.model.title, work.data_digest), entry)
    return list(found.values())


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
