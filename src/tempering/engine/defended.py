"""Defended models of a run: trained once, kept in the run directory, and attacked by many units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tempering.engine.agenda import dependents
from tempering.engine.machine import refuse_trouble
from tempering.engine.units import Plan, Skipped, Unit
from tempering.errors import LeftAlone, StoreProblem, UnusableModel
from tempering.models import Target, load

if TYPE_CHECKING:
    import pandas as pd

    from tempering.engine.hardening import HardeningJob

MODELS = "models"
"""Folder of the defended models in a run directory."""

_CARD = "tempering.json"


def job_of(unit: Unit) -> HardeningJob:
    """The training that makes the model which a unit trains or is done to."""
    from tempering.engine.hardening import HardeningJob  # here, because it builds on the worker, which needs this

    work = unit.work
    assert work.defense is not None
    assert work.utility_floor is not None
    return HardeningJob(
        model=work.model,
        model_digest=work.model_digest,
        dtype=work.dtype,
        device=work.device,
        data=work.data,
        data_digest=work.data_digest,
        supplements_digest=work.supplements_digest,
        defense=work.defense,
        seed=unit.seed,
        floor=work.utility_floor,
        code_version=work.hardening_version,
    )


def place_of(unit: Unit, models: Path) -> Path:
    """Where the defended model of a unit stands, or will."""
    return models / job_of(unit).hash[:16]


def is_trained(unit: Unit, models: Path) -> bool:
    """Whether the defended model of a unit is there."""
    return (place_of(unit, models) / _CARD).is_file()


def damage_of(unit: Unit, models: Path) -> str | None:
    """What is wrong with the files of a defended model that is there; ``None`` where it is as it was written, or gone.

    Raises:
        LeftAlone: they cannot be read just now, or were written by another version, which says nothing of what they hold.
    """
    from tempering.engine.hardening import finished

    try:
        finished(job_of(unit), place_of(unit, models))
    except LeftAlone:
        raise
    except StoreProblem as problem:
        return str(problem).partition("; ")[0]
    return None


def tidy(unit: Unit, models: Path) -> None:
    """See that a defended model that is there has its card, and that nothing is left of its training.

    Something is where the power went before the disk knew that it was removed.
    """
    from tempering.engine.hardening_card import mend_card
    from tempering.engine.hardening_folder import TrainingFolder

    place = place_of(unit, models)
    if not (place / _CARD).is_file():
        return
    mend_card(place)
    folder = TrainingFolder(place, job_of(unit).hash, lambda message: None)
    if folder.path.is_dir():
        folder.clear()


def load_defended(unit: Unit, models: Path) -> Target:
    """The defended model that a unit is done to, called by the name of the model that it was made from.

    Raises:
        UnusableModel: it is gone, or not the one that was trained.
        StoreProblem: its files are not as they were written, or the disk has failed.
    """
    from tempering.engine.hardening import finished

    place, choice = place_of(unit, models), unit.work.model
    hardened = finished(job_of(unit), place)
    if hardened is None:
        raise UnusableModel(f"the model hardened by {unit.work.defense_name} with seed {unit.seed} is gone from {place}", _RESUME)
    trusted, device, system = choice.trust_remote_code, choice.device, choice.system
    try:
        target = load(str(place), dtype=unit.work.dtype, device=device, trust_remote_code=trusted, system=system)
    except Exception as error:
        refuse_trouble(error, f"read the hardened model in {place}")
        raise
    if target.digest != hardened.record["digest"]:
        raise UnusableModel(f"the hardened model in {place} is not the one that was trained", f"remove that directory; {_RESUME}")
    return replace(target, reference=choice.title)


def not_hardened(plan: Plan, units: pd.DataFrame) -> tuple[Skipped, ...]:
    """The defended models that could not be trained, for the report: what was to be done to them was left out, and counts neither way.

    Args:
        plan: of the run.
        units: its units table.
    """
    errors = units[(units["kind"] == "harden") & (units["status"] == "failed")].set_index("unit")["error"].to_dict()
    found = []
    counted = dependents(plan.units if errors else ())
    for hardening in (unit for unit in plan.units if unit.hash in errors):
        lost = counted[hardening.defended]
        runs = f"{lost} {'run' if lost == 1 else 'runs'} against that model left out"
        reason = f"could not be trained with seed {hardening.seed}, {runs}: {errors[hardening.hash]}"
        work = hardening.work
        found.append(Skipped(attack="", defense=work.defense_name, reason=reason, model=work.model.title))
    return tuple(found)


_RESUME = "have it trained anew with: temper resume"
