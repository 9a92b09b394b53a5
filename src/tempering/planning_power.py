"""What a planned study would be able to see: its power, from a pilot or from assumptions, beside what more seeds would cost.

The question is that of :mod:`tempering.economics.power`: with which probability the low end of the interval of a defence's multiplier lies
above 1, for the best attacker, where the multiplier truly is as large as it was said. A study that names no defence is planned as if it
compared one, attacked in the same way, with the model as it came: its attacks are then paid for twice.

**How costs vary** is assumed (:class:`tempering.economics.power.Prior`), or taken from a pilot: the prices of the best attacker in FLOPs,
of every model as it came and behind every defence, by :func:`tempering.economics.power.from_pilots`, cautiously. Of a pilot's probes
those gaps count in which its breaks were seen: their median, the first probe of all having none. Its budget is the spend at which
the runs that held were left, in medians of the control. Without a pilot the probes are those of a fine-tuning attack.

**What it costs** are the plan's own estimates, per seed: attacks without their probes, searches at most, and the training of defences
where that is estimated. A search is taken to leave the spread as it is: nothing is known beforehand of how it does otherwise. A pilot
that searched has it in its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tempering import registry
from tempering.economics import power as powers
from tempering.economics.attackers import attackers
from tempering.economics.breaks import find_breaks
from tempering.economics.power import InvalidPlan, Pilot, Prior
from tempering.economics.prices import load_price_book, usd
from tempering.economics.tables import CONTROL, checked_units
from tempering.engine.store import RunStore
from tempering.study import SearchSettings

if TYPE_CHECKING:
    from tempering.economics.prices import Accelerator
    from tempering.economics.ratios import Costs
    from tempering.study import Study

CURRENCY = "flops"
"""In which a pilot's costs are read."""
MOST_SEEDS = 100
"""A study of more is not simulated: it would take longer than the plan."""


@dataclass(frozen=True)
class Basis:
    """What a power rests on.

    Attributes:
        prior: how costs are taken to vary.
        pilot: directory, study, seeds and breaks of the run that it was taken from; ``None`` for assumptions.
    """

    prior: Prior
    pilot: dict[str, Any] | None = None


def checked_question(multiplier: float, power: float) -> None:
    """Refuse what nothing can be planned for, before anything is loaded.

    Raises:
        InvalidPlan: the multiplier is not above 1, or the power is not between 0 and 1.
    """
    if not 1 < multiplier < math.inf:
        raise InvalidPlan(f"--multiplier {multiplier:g}: it should be above 1")
    if not 0 < power < 1:
        raise InvalidPlan(f"--power {power:g}: it should lie between 0 and 1")


def basis_of(pilot: str | Path | None, study: Study) -> Basis:
    """The assumptions, or what a finished run says, read at the thresholds of the study that is planned.

    Raises:
        StoreProblem: there is no run in the directory, or none of its units is done.
        InvalidPlan: its breaks are too few to say how costs vary; the message names the flag.
    """
    return Basis(Prior()) if pilot is None else _from_run(Path(pilot), study)


def _from_run(directory: Path, planned: Study) -> Basis:
    store = RunStore(directory)
    plan = store.plan()
    tables = store.tables(plan)
    units, trajectories = tables.units, tables.trajectories
    accelerator = load_price_book(planned.price_book).accelerator(planned.accelerator)
    if not (len(units) and (units["kind"] == "attack").any()):
        raise InvalidPlan(f"--pilot {directory}: no attack of the run is done", f"compute them with: temper resume {directory}")
    threshold = planned.threshold
    breaks = find_breaks(units, trajectories, tau=threshold.tau, epsilon=threshold.epsilon, accelerator=accelerator)
    pilots = _pilots(checked_units(units), breaks, plan.study.budget.model_dump())
    sides = [costs for pilot in pilots for costs in (pilot.control, *pilot.defended)]
    told = {
        "directory": str(directory),
        "study": plan.study.name,
        "seeds": len(plan.study.seeds),
        "models": len(pilots),
        "defenses": sum(len(pilot.defended) for pilot in pilots),
        "runs": sum(len(costs.seeds) for costs in sides),
        "broken": sum(costs.reached for costs in sides),
    }
    try:
        return Basis(powers.from_pilots(pilots, spacing=_spacing(sides), budget=_budget(pilots)), told)
    except InvalidPlan as problem:
        raise InvalidPlan(f"--pilot {directory}: {problem}") from None


def _pilots(units: pd.DataFrame, breaks: pd.DataFrame, budget: dict[str, float | None]) -> list[Pilot]:
    """The best attacker's costs by model; of a defence by the attacks that were run on the control too."""
    runs = attackers(units, breaks, budget)
    found: dict[str, Pilot] = {}
    for model, defense in sorted(runs.sides(), key=lambda side: (side[0], side[1] != CONTROL)):
        attacks = runs.attacks(model, defense) & (runs.attacks(model, CONTROL) or runs.attacks(model, defense))
        if not attacks:
            continue
        costs = runs.price(model, defense, tuple(sorted(attacks)), CURRENCY).costs
        if defense == CONTROL:
            found[model] = Pilot(costs)
        elif model in found:
            found[model] = replace(found[model], defended=(*found[model].defended, costs))
    return list(found.values())


def _spacing(sides: Sequence[Costs]) -> float:
    """The median gap between the probes that saw a break; 1 where it was the first that there was."""
    lower, upper = (np.concatenate([getattr(costs, end) for costs in sides]) for end in ("lower", "upper"))
    seen = np.isfinite(upper) & (upper > 0)
    gaps = upper[seen] / np.where(lower[seen] > 0, lower[seen], upper[seen])
    return float(np.median(gaps)) if len(gaps) else powers.SPACING


def _budget(pilots: Sequence[Pilot]) -> float:
    """What runs that held had spent, in medians of the control of their model: the median of all; inf where every run broke."""
    left: list[float] = []
    medians = [_median(pilot.control) for pilot in pilots]
    if not any(map(math.isfinite, medians)):
        raise InvalidPlan("the model as it came held in half of its seeds or more", "nothing can be compared with it; give a larger budget")
    for pilot, median in zip(pilots, medians, strict=True):
        for costs in (pilot.control, *pilot.defended) if 0 < median < math.inf else ():
            left += [float(spend) / median for spend in costs.lower[np.isinf(costs.upper)] if spend > 0]
    return float(np.median(left)) if left else math.inf


def _median(control: Costs) -> float:
    """The spend at which the median run was seen broken."""
    return float(np.sort(control.upper)[(len(control.upper) - 1) // 2]) if len(control.upper) else math.inf


def planned_power(
    document: dict[str, Any],
    study: Study,
    basis: Basis,
    *,
    accelerator: Accelerator,
    multiplier: float,
    power: float,
    studies: int = powers.STUDIES,
) -> dict[str, Any]:
    """The power of a planned study and of larger and smaller ones.

    Args:
        document: its attacks, as :func:`tempering.planning.priced_plan` lists them.
        study: what is planned.
        basis: from :func:`basis_of`.
        accelerator: prices the FLOPs.
        multiplier: what should be seen.
        power: with which probability.
        studies: to simulate of each size.

    Returns:
        JSON values: the question (``multiplier``, ``power``, ``defenses``); ``basis``: ``source``, ``pilot`` and the fields of
        :class:`tempering.economics.power.Prior`, a budget without limit being ``None``; ``simulated``: ``studies`` of each size and their
        ``seed``; ``rows``, see :mod:`tempering.economics.power`; ``this_study``, such a row, ``None`` for more than :data:`MOST_SEEDS`
        seeds; ``seeds``, how many are enough, ``None`` for more than ``most_tried``; ``least_seen``, the least of
        :data:`tempering.economics.power.MULTIPLIERS` that this study's seeds see; ``ceiling``, which no number of seeds exceeds, and
        ``spacing_needed`` of probes, so that it is as high as the power; ``formula``: ``seeds``, and ``seen_exactly``, were there no gaps
        between probes; ``fine_tuning``, whether some attack is that; ``search``: ``trials``, whether they are ``planned``, and ``flops``
        and ``usd`` of searching in a study of so many ``seeds``; ``hardening``, whether the training of defences is in the costs.
    """
    prior, trials = basis.prior, study.search.trials if study.search else 1
    common: dict[str, Any] = {"cost": _cost(document, study), "accelerator": accelerator, "multiplier": multiplier}
    common |= {"power": power, "studies": studies}
    sizes = {*powers.SEEDS, *([len(study.seeds)] if powers.SEEDS[0] <= len(study.seeds) <= MOST_SEEDS else [])}
    table = powers.plan(prior, seeds=sorted(sizes), trials=(trials,), **common)
    enough = table.loc[table["enough"], "seeds"]
    needed = int(enough.min()) if len(enough) else None
    exactly = powers.seeds_by_formula(replace(prior, spacing=1.0), multiplier=multiplier, power=power)
    return {
        "multiplier": multiplier,
        "power": power,
        "defenses": len(study.defenses),
        "basis": {"source": "pilot" if basis.pilot else "assumptions", "pilot": basis.pilot, **_finite(asdict(prior))},
        "simulated": {"studies": studies, "seed": 0},
        "rows": _records(table),
        "this_study": _this_study(prior, study, trials, common),
        "seeds": needed,
        "most_tried": int(table["seeds"].max()),
        "least_seen": _least_seen(prior, study, trials, power, studies),
        "ceiling": powers.ceiling(prior, multiplier),
        "spacing_needed": multiplier ** (1 / (1 + power)),
        "formula": {"seeds": powers.seeds_by_formula(prior, multiplier=multiplier, power=power), "seen_exactly": exactly},
        "fine_tuning": _fine_tunes(study),
        "search": _search(document, study, needed or len(study.seeds), accelerator),
        "hardening": common["cost"].hardening > 0,
    }


def _fine_tunes(study: Study) -> bool:
    from tempering.attacks import FineTuningAttack  # here, because that loads torch

    return any(isinstance(registry.create("attacks", choice.name, choice.config), FineTuningAttack) for choice in study.attacks)


def _this_study(prior: Prior, study: Study, trials: int, common: dict[str, Any]) -> dict[str, Any] | None:
    if len(study.seeds) > MOST_SEEDS:
        return None
    (row,) = _records(powers.plan(prior, seeds=(len(study.seeds),), trials=(trials,), **common))
    return row


def _least_seen(prior: Prior, study: Study, trials: int, power: float, studies: int) -> float | None:
    seeds = len(study.seeds)
    return None if seeds > MOST_SEEDS else powers.least_seen(prior, seeds, trials=trials, power=power, studies=studies)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _cost(document: dict[str, Any], study: Study) -> powers.Cost:
    """What a seed of the study takes, cut in halves because a :class:`tempering.economics.power.Cost` has two sides."""
    seeds, sides = len(study.seeds), 1 if study.defenses else 2
    run = sum(row["each"]["flops"] * row["units"] for row in document["attacks"]) * sides / seeds
    trial = sum(row["each"]["flops"] * row["units"] for row in document["attacks"] if not row["unsearched"]) * sides / seeds
    hardening = sum((row["flops"] or 0.0) * row["units"] for row in document.get("hardening", ())) / seeds
    return powers.Cost(run / 2, trial / 2, hardening)


def _search(document: dict[str, Any], study: Study, seeds: int, accelerator: Accelerator) -> dict[str, Any]:
    cost, trials = _cost(document, study), (study.search or SearchSettings()).trials
    flops = 2 * seeds * trials * cost.trial
    return {"trials": trials, "planned": study.search is not None, "seeds": seeds, "flops": flops, "usd": usd(flops, accelerator)}


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
