"""What a planned study would cost: the attacker's expected spend, in FLOPs, accelerator time and dollars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempering.economics.power import MULTIPLIER, POWER
from tempering.economics.prices import gpu_hours, load_price_book, usd
from tempering.flags import study_directory
from tempering.planning_power import Basis, basis_of, planned_power

if TYPE_CHECKING:
    from tempering.economics.prices import Accelerator
    from tempering.engine.units import Estimate, Plan

_COSTS = ("flops", "gpu_hours", "usd")


def priced_plan(plan: Plan, *, basis: Basis | None = None, multiplier: float = MULTIPLIER, power: float = POWER) -> dict[str, Any]:
    """The units of a plan, what the attacker would spend on them, and what they would be able to see, as JSON values.

    Spend is the attacker's to the end of the budget; probes are not counted, nor is the asking between the trials of a search. A search
    is reckoned as so many runs with the attack's own settings; stopping trials early makes it cheaper than that. What defences and honest
    users spend is in no total. The compute of a defence depends on what its objective does and is not estimated.

    Args:
        plan: from :func:`tempering.api.plan_study`.
        basis: how costs are taken to vary; the assumptions of :class:`tempering.economics.power.Prior` unless told.
        multiplier: of a price, that should be seen.
        power: with which probability.

    Returns:
        ``study``, ``digest``, ``directory``, ``units`` (how many), ``accelerator``, ``threat_model``, ``attacks``, ``skipped`` and the
        totals ``flops``, ``gpu_hours`` and ``usd``. ``attacks`` has one entry a model, defence and attack, in the order in which they are
        run: ``model``, ``defense``, ``attack``, ``trial``, ``units``, the spend of ``each`` run, ``search`` (``trials`` of each unit and
        ``flops``, ``gpu_hours``, ``usd`` of all), ``unsearched`` (why there is none, where the study asks for one), and ``flops``,
        ``gpu_hours`` and ``usd`` of all runs and searches. With defences also ``hardening`` and ``trainability``: ``model``, ``defense``,
        ``units``, and of one unit ``steps`` and ``flops`` (``None`` where it is not estimated). Where sets of data were named or joined,
        ``data`` says where they come from (:class:`tempering.data.provenance.Provenance`). ``power`` is described at
        :func:`tempering.planning_power.planned_power`.

    Raises:
        InvalidPlan: nothing can be planned for such a multiplier or power.
    """
    accelerator = load_price_book(plan.study.price_book).accelerator(plan.study.accelerator)
    attacks = [_entry(estimate, accelerator) for estimate in plan.estimates if estimate.kind == "attack"]
    others = {"hardening": _others(plan, "harden"), "trainability": _others(plan, "novel")}
    document: dict[str, Any] = {
        "study": plan.study.name,
        "digest": plan.study.digest,
        "directory": str(study_directory(plan.study)),
        "units": len(plan.units),
        "accelerator": plan.study.accelerator,
        "threat_model": plan.study.threat_model.name,
        **{name: entries for name, entries in others.items() if entries},
        "attacks": attacks,
        "skipped": [entry.model_dump(mode="json") for entry in plan.skipped],
        **_data(plan),
        **{name: sum(entry[name] for entry in attacks) for name in _COSTS},
    }
    basis = basis_of(None, plan.study) if basis is None else basis
    seen = planned_power(document, plan.study, basis, accelerator=accelerator, multiplier=multiplier, power=power)
    return document | {"power": seen}


def _data(plan: Plan) -> dict[str, Any]:
    found = next((target.provenance for target in plan.targets if target.provenance is not None), None)
    return {} if found is None else {"data": found.model_dump(mode="json")}


def _others(plan: Plan, kind: str) -> list[dict[str, Any]]:
    """What is done beside the attacks, without a price, since no attacker pays for it."""
    return [
        {
            "model": estimate.model,
            "defense": estimate.defense,
            "units": estimate.units,
            "steps": estimate.spend["steps"],
            "flops": estimate.spend.get("flops"),
        }
        for estimate in plan.estimates
        if estimate.kind == kind
    ]


def _entry(estimate: Estimate, accelerator: Accelerator) -> dict[str, Any]:
    runs = estimate.spend["flops"] * estimate.units
    search = runs * estimate.search_trials
    return {
        "model": estimate.model,
        "defense": estimate.defense,
        "attack": estimate.attack,
        "trial": estimate.trial,
        "units": estimate.units,
        "each": {name: value for name, value in estimate.spend.items() if name != "device_seconds"},
        "search": {"trials": estimate.search_trials, **_priced(search, accelerator)},
        "unsearched": estimate.unsearched,
        **_priced(runs + search, accelerator),
    }


def _priced(flops: float, accelerator: Accelerator) -> dict[str, float]:
    return {"flops": flops, "gpu_hours": gpu_hours(flops, accelerator), "usd": usd(flops, accelerator)}
