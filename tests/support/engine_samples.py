"""Works, units, plans and results made by hand, so that the store can be tested without a model."""

from __future__ import annotations

import math
from typing import Any

from tempering.engine.results import NO_SPEND, Probe, SearchResult, Trial, UnitResult
from tempering.engine.units import Plan, ResolvedMethod, Unit, Work
from tempering.model_choice import ModelChoice
from tempering.study import Budget, DataChoice, ProbeSettings, Study


def work(**changes: Any) -> Work:
    fields: dict[str, Any] = {
        "kind": "attack",
        "model": ModelChoice(reference="some/model"),
        "model_digest": "a" * 64,
        "dtype": "float32",
        "device": "cpu",
        "data": DataChoice(reference="data.jsonl", domains=("b", "a")),
        "data_digest": "d" * 64,
        "attack": ResolvedMethod(name="full_finetune", config={"learning_rate": 1e-4, "steps": 7}),
        "budget": Budget(steps=100),
        "probes": ProbeSettings(prompts=16),
        "evaluators": (ResolvedMethod(name="harm", config={}), ResolvedMethod(name="utility", config={})),
    }
    return Work(**{**fields, **changes})


def plan(count: int = 3, **changes: Any) -> Plan:
    shared = work(**changes)
    study = Study(models=("some/model",), attacks=("full_finetune",), seeds=count)
    return Plan(study, tuple(Unit(shared, seed) for seed in range(count)), (), (), ())


def result(seed: int = 0, probes: int = 3, status: Any = "completed", error: str = "", search: SearchResult | None = None) -> UnitResult:
    rows = [
        Probe(
            number, spend(number), {"harm": number / 7 + seed, "utility": math.nan, "extra": 0.1 * number}, {"loss": 1 / 3, "layer": None}
        )
        for number in range(probes)
    ]
    return UnitResult(status, error, rows, spend(probes - 1) if probes else dict(NO_SPEND), 1.5, search)


def search_result(trials: int = 3) -> SearchResult:
    """Trials that break later and later, the last of which fails; the first is chosen."""
    made = [
        Trial(
            number=number,
            config={"learning_rate": 10.0**-number, "kind": None},
            outcome="broken" if number < trials - 1 else "failed",
            stopped="broke" if number < trials - 1 else "",
            objective=9.0 + number,
            recovered=0.75 if number < trials - 1 else math.nan,
            utility_kept=1.0,
            spend=spend(number + 1),
            break_spend=spend(number + 1) if number < trials - 1 else {},
            checks={**NO_SPEND, "flops": 1e8, "tokens": 5, "queries": 4},
            error="" if number < trials - 1 else "out of memory",
        )
        for number in range(trials)
    ]
    return SearchResult(made, 0, 12)


def spend(steps: int) -> dict[str, float]:
    return {
        **NO_SPEND,
        "examples": 2 * steps,
        "tokens": 10 * steps,
        "steps": steps,
        "flops": 1e9 / 3 * steps,
        "device_seconds": 0.1 * steps,
    }
