"""``summary.json``: what an audit found, for programs. Schema 1.

The pydantic models of :mod:`tempering.report.summary_schema` document and check it; :func:`json_schema` writes them out as JSON Schema
(``docs/summary-schema.json``). The file is strict JSON: a number that does not exist is ``null``, never NaN or Infinity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.economics.prices import load_price_book
from tempering.plain_text import escaped
from tempering.report.data_sources import provenance_of
from tempering.report.formatting import CURRENCIES, Price
from tempering.report.rows import PriceRow, SearchCost, price_rows
from tempering.report.summary_defenses import compared, finite
from tempering.report.summary_schema import (
    AssumptionPart,
    AttackPart,
    CapabilityPart,
    CheapestPart,
    CostPart,
    CostsPart,
    DefensePart,
    JudgePart,
    ModelPart,
    OutcomesPart,
    PricingPart,
    SearchPart,
    SpentPart,
    Summary,
    TargetPart,
    ThresholdPart,
    TotalsPart,
)

if TYPE_CHECKING:
    import pandas as pd

    from tempering.economics.assess import Assessment
    from tempering.economics.conclusions import Conclusions
    from tempering.study import Study


def make_summary(
    study: Study,
    assessment: Assessment,
    conclusions: Conclusions | None = None,
    *,
    targets: Sequence[Mapping[str, Any]],
    skipped: Iterable[Any] = (),
    environment: Mapping[str, Any] | None = None,
    spent: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The summary of an audit.

    ``attacks[].not_tried`` is ``null`` for an attack that ran. One that the study asked for and the plan left out has an entry of its
    own with no trials and the reason in ``not_tried``. ``models`` is there only where the study has several models.

    Args:
        study: the resolved study.
        assessment: what economics computed.
        conclusions: what follows from it; without them nothing is said of which defences are dominated.
        targets: ``reference, digest, dtype`` and, if known, ``parameters, safeguard`` of each model.
        skipped: attacks left out, each with ``attack``, ``reason`` and, if it concerns one model only, ``model``.
        environment: versions and hardware, as JSON values.
        spent: ``wall_s`` and ``flops`` of the audit itself.

    Returns:
        The document as plain JSON values, checked against :class:`Summary`.
    """
    models = [
        ModelPart(
            reference=str(target["reference"]),
            digest=str(target.get("digest", "")),
            dtype=str(target.get("dtype", "")),
            parameters=target.get("parameters"),
            safeguard=str(target.get("safeguard", "unknown")),
        )
        for target in targets
    ]
    first = models[0] if models else ModelPart(reference=study.models[0].reference, digest="", dtype=study.models[0].dtype or "")
    spent, skipped = spent or {}, list(skipped)
    summary = Summary(
        schema=1,
        study=study.name,
        study_digest=study.digest,
        target=TargetPart(reference=first.reference, digest=first.digest, dtype=first.dtype),
        models=models if len(models) > 1 else [],
        threshold=ThresholdPart(tau=study.threshold.tau, epsilon=study.threshold.epsilon),
        attacks=[*(_attack(row) for row in price_rows(assessment)), *_not_tried(skipped, first.reference)],
        defenses=compared(assessment, conclusions),
        defenses_not_tried=_defenses_not_tried(skipped, first.reference),
        capability=_capability(conclusions),
        judges=_judges(study, conclusions),
        cheapest=_cheapest(assessment.cheapest),
        pricing=pricing(study),
        data=provenance_of(targets),
        environment=json_values(dict(environment or {})),
        spent=SpentPart(wall_s=finite(spent.get("wall_s", 0.0)) or 0.0, flops=finite(spent.get("flops", 0.0)) or 0.0),
    )
    document = summary.model_dump(mode="json", by_alias=True)
    for optional in ("models", "defenses", "defenses_not_tried", "data", "capability", "judges"):
        if not document[optional]:
            del document[optional]
    for attack in document["attacks"]:
        if attack["search"] is None:
            del attack["search"]
    return document


def _judges(study: Study, conclusions: Conclusions | None) -> list[JudgePart]:
    if conclusions is None or conclusions.judges.empty:
        return []
    names = {choice.title: choice.name for choice in study.probes.judges}
    found = []
    for record in conclusions.judges.to_dict(orient="records"):
        row: dict[str, Any] = {str(key): finite(value) if isinstance(value, float) else value for key, value in record.items()}
        title = str(record["judge"])
        found.append(JudgePart(name=names.get(title, title), agreement=row.pop("alike"), **row))
    return found


def pricing(study: Study) -> PricingPart:
    """What a study's GPU-hours and dollars are reckoned with.

    Raises:
        InvalidPriceBook: its price book cannot be read.
        UnknownName: the price book has no such accelerator.
    """
    book = load_price_book(study.price_book)
    accelerator = book.accelerator(study.accelerator)
    assumed = {
        name: AssumptionPart(value=record.value, source=record.source, date=record.date.isoformat())
        for name in ("peak_flops", "utilisation", "usd_per_hour")
        for record in (getattr(accelerator, name),)
    }
    return PricingPart(accelerator=study.accelerator, price_book=book.date.isoformat(), **assumed)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of ``summary.json``."""
    return Summary.model_json_schema(by_alias=True)


def write_json_schema(path: Path) -> None:
    """Write :func:`json_schema` to a file, for the documentation."""
    path.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")


def dumps(document: Mapping[str, Any]) -> str:
    """Strict JSON, indented, with a line end; a NaN or an infinity in it is a defect and raises ``ValueError``."""
    return escaped(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)) + "\n"


def json_values(value: Any) -> Any:
    """A nested value with everything that JSON cannot hold made plain: no finite number becomes ``null``, the rest text."""
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    if isinstance(value, float):
        return finite(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _attack(row: PriceRow) -> AttackPart:
    return AttackPart(
        model=row.model,
        defense=row.defense,
        attack=row.attack,
        trials=row.trials,
        outcomes=OutcomesPart(**row.outcomes),
        cost_to_break=CostsPart(**{currency: _cost(row.prices[currency]) for currency in CURRENCIES}),
        best_recovered=finite(row.best_recovered),
        utility_kept=finite(row.utility_kept),
        few_seeds=row.few_seeds,
        not_tried=None,
        search=_search(row.search) if row.search else None,
    )


def _search(search: SearchCost) -> SearchPart:
    return SearchPart(
        trials=search.trials,
        **{currency: finite(search.spent[currency]) for currency in ("flops", "gpu_hours", "usd")},
        cost_with_search=TotalsPart(**{currency: _cost(price) for currency, price in search.totals.items()}),
    )


def _cost(price: Price) -> CostPart:
    return CostPart(
        median=None if price.censored else finite(price.median),
        low=finite(price.low) if price.tried else None,
        high=finite(price.high),
        censored=price.censored,
        exceeds=finite(price.bound) if price.censored and price.tried else None,
    )


def _defenses_not_tried(skipped: Iterable[Any], model: str) -> list[DefensePart]:
    found = []
    for entry in skipped:
        _, reason, of = skipped_parts(entry)
        if defense := skipped_defense(entry):
            found.append(DefensePart(model=of or model, defense=defense, reason=reason))
    return found


def _not_tried(skipped: Iterable[Any], model: str) -> list[AttackPart]:
    entries = []
    for entry in skipped:
        attack, reason, of = skipped_parts(entry)
        if skipped_defense(entry):
            continue
        entries.append(
            AttackPart(
                model=of or model,
                defense="none",
                attack=attack,
                trials=0,
                outcomes=OutcomesPart(),
                cost_to_break=None,
                best_recovered=None,
                utility_kept=None,
                few_seeds=True,
                not_tried=reason,
            )
        )
    return entries


def skipped_parts(entry: Any) -> tuple[str, str, str]:
    """What was left out, why, and of which model, from a mapping or from the plan's own record."""
    read = entry.get if isinstance(entry, Mapping) else lambda name, default="": getattr(entry, name, default)
    attack = str(read("attack", "")) or f"the defence {skipped_defense(entry)}"
    return attack, str(read("reason", "")), str(read("model", "") or "")


def skipped_defense(entry: Any) -> str:
    """The defence that was left out; ``""`` where it is an attack."""
    return str((entry.get("defense") if isinstance(entry, Mapping) else getattr(entry, "defense", "")) or "")


def _capability(conclusions: Conclusions | None) -> list[CapabilityPart]:
    rows = conclusions.capability.to_dict("records") if conclusions is not None else []
    names = CapabilityPart.model_fields
    plain = ({str(name): finite(value) if isinstance(value, float) else value for name, value in row.items()} for row in rows)
    return [CapabilityPart(**{name: value for name, value in row.items() if name in names}) for row in plain]


def _cheapest(best: Mapping[str, Any] | None) -> CheapestPart | None:
    if best is None:
        return None
    numbers = {currency: finite(best[currency]) for currency in ("usd", "flops", "examples")}
    return CheapestPart(model=str(best["model"]), defense=str(best["defense"]), attack=str(best["attack"]), **numbers)


def audit_spend(units: pd.DataFrame) -> dict[str, float]:
    """What an audit took: seconds of all units together, and FLOPs of the attacks and of their searches."""
    attacks = units[units["kind"] == "attack"]
    flops = attacks["flops"].fillna(0).sum() + (attacks["search_flops"].fillna(0).sum() if "search_flops" in units else 0)
    return {"wall_s": float(units["wall_s"].fillna(0).sum()), "flops": float(flops)}
