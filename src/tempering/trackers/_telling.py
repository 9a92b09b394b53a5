"""What is told to trackers of a run or a hardening: out of the plan, the engine's events and the report's summary or the card's record.

Only names, counts and measurements go out: never a prompt, a completion, a weight, the text of an error, a path or a method's settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.redaction import anonymous
from tempering.trackers._contract import Facts, key

if TYPE_CHECKING:
    from tempering.engine.events import Event
    from tempering.engine.hardening_job import HardeningJob
    from tempering.engine.units import Plan, Unit

POINTS = 200
"""Of a training's losses, so many are told at most; a service draws no more, and one that writes slowly keeps up."""


@dataclass(frozen=True)
class Followed:
    """What trackers follow.

    Attributes:
        facts: what they are told before it starts.
        names: what each unit is called in keys, by its hash.
        folder: where they may keep files; made when something is put there.
    """

    facts: Facts
    names: Mapping[str, str]
    folder: Path


def followed_run(plan: Plan, directory: Path) -> Followed:
    """A run, whose trackers keep their files in the folder ``trackers`` of its directory."""
    return Followed(facts_of(plan), unit_names(plan), directory / "trackers")


def followed_hardening(job: HardeningJob, title: str, directory: Path) -> Followed:
    """A hardening; its trackers' files lie beside the model, since in its directory is nothing but what its card names."""
    defense = key(_bare(title))
    settings: dict[str, str | int | float] = {
        "tempering": version("tempering"),
        "job_digest": job.hash,
        "models": anonymous(_short(job.model.reference)),
        "model_digests": job.model_digest[:16],
        "defenses": defense,
        "seed": job.seed,
        "utility_floor": job.floor,
    }
    facts = Facts(f"harden-{key(_short(job.model.reference)).replace('/', '-')}-{defense}", job.hash, settings)
    return Followed(facts, {job.hash: f"{defense}/hardening/seed {job.seed}"}, directory.with_name(f"{directory.name}.trackers"))


def facts_of(plan: Plan) -> Facts:
    """What a tracker is told before the run starts."""
    study = plan.study
    settings: dict[str, str | int | float] = {
        "tempering": version("tempering"),
        "study_digest": study.digest,
        "plan_digest": plan.digest,
        "models": ", ".join(anonymous(_short(target.reference)) for target in plan.targets),
        "model_digests": ", ".join(target.digest[:16] for target in plan.targets),
        "attacks": ", ".join(sorted({key(_bare(unit.work.attack_name)) for unit in plan.units if unit.work.attack})),
        "defenses": ", ".join(sorted({key(_bare(unit.work.defense_name)) for unit in plan.units})),
        "seeds": len(study.seeds),
        "units": len(plan.units),
        "threat_model": study.threat_model.name,
        "tau": study.threshold.tau,
        "epsilon": study.threshold.epsilon,
        "accelerator": study.accelerator,
    }
    return Facts(anonymous(study.name), study.digest, settings)


def unit_names(plan: Plan) -> dict[str, str]:
    """What every unit is called in keys, by its hash: ``full_finetune/seed 3``; model and defence go before where there are several."""
    several = len(plan.targets) > 1
    defended = any(unit.work.defense for unit in plan.units)
    found: dict[str, str] = {}
    taken: set[str] = set()
    for unit in plan.units:
        name = _unit_name(unit, several=several, defended=defended)
        if name in taken:  # two settings of one attack, without labels
            name = f"{name} {unit.work.trial[:6] or unit.hash[:6]}"
        taken.add(name)
        found[unit.hash] = name
    return found


def _unit_name(unit: Unit, *, several: bool, defended: bool) -> str:
    work = unit.work
    what = {"reference": "reference", "harden": "hardening", "novel": "honest fine-tuning"}.get(work.kind) or key(_bare(work.attack_name))
    parts = [key(_short(work.model.reference)).replace("/", "-")] if several else []
    parts += [key(_bare(work.defense_name))] if defended and work.kind != "reference" else []
    return "/".join([*parts, what, f"seed {unit.seed}"])


def _bare(name: str) -> str:
    """A method's name without the file it may come from."""
    return name.rpartition(":")[2].rpartition("/")[2]


def probe_values(event: Event) -> dict[str, float]:
    """The numbers of a probe, what it measured before what had been spent."""
    return finite_values({**event.measurements, **{f"spend/{name}": value for name, value in event.spend.items()}})


def price_values(summary: Mapping[str, Any]) -> dict[str, float]:
    """The prices of a report's summary, as ``price/<model>/<defence>/<attack>/<currency>``; of one that nobody paid, its bound."""
    attacks = [entry for entry in summary.get("attacks", ()) if entry.get("not_tried") is None]
    several = len({entry["model"] for entry in attacks}) > 1
    defended = len({entry["defense"] for entry in attacks}) > 1
    found: dict[str, Any] = {}
    for entry in attacks:
        parts = [key(_short(entry["model"])).replace("/", "-")] if several else []
        parts += [key(_bare(entry["defense"]))] if defended else []
        name = "/".join([*parts, key(_bare(entry["attack"]))])
        found |= {f"runs/{name}/{outcome}": number for outcome, number in entry["outcomes"].items()}
        found[f"runs/{name}/utility_kept"] = entry["utility_kept"]
        for currency, cost in (entry["cost_to_break"] or {}).items():
            found |= {f"price/{name}/{currency}{suffix}": cost[field] for suffix, field in _SUFFIXES.items()}
    return finite_values(found)


def training_values(event: Event) -> dict[str, float]:
    """What a training has come to; nothing for steps between those that are told."""
    every = max(1, -(-event.steps_total // POINTS))
    is_told = event.steps_done % every == 0 or event.steps_done == event.steps_total or event.message
    return finite_values({key(name): value for name, value in event.measurements.items()}) if is_told else {}


def card_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The measurements of a card, as ``before/<measure>`` and ``after/<measure>`` with their intervals, and what the training used."""
    found: dict[str, Any] = {f"spend/{name}": value for name, value in record["spend"].items()}
    for when, measured in (record["measurements"] or {}).items():
        for name, share in measured.items():
            found |= {f"{when}/{name}{suffix}": share[field] for suffix, field in _BOUNDS.items()}
    return finite_values(found)


_BOUNDS = {"": "value", " low": "low", " high": "high"}
_SUFFIXES = {"": "median", " low": "low", " high": "high", " exceeds": "exceeds"}


def finite_values(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers; a service makes nothing of the others."""
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def _short(reference: str) -> str:
    """A reference as a card shows it."""
    from tempering.engine.hardening_card import shortened  # which loads torch

    return shortened(reference)
