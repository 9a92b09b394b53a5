"""The job of hardening a model: made of choices, named by the hash of everything that decides the weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from tempering import registry
from tempering.canonical import canonical_hash
from tempering.data.records import DefenderView, Division
from tempering.defenses._contract import Defense, require
from tempering.engine.loading import load_model, load_records, restrict
from tempering.engine.plan import resolve
from tempering.engine.units import ResolvedMethod
from tempering.errors import UnusableData, UnusableModel
from tempering.model_choice import ModelChoice
from tempering.models import Target
from tempering.settings import Settings
from tempering.study import SCHEMA_VERSION, DataChoice, MethodChoice

HARDENING_VERSION = 2
"""Raised when a change of the code changes the weights that some job ends with.

2: the guard of ``undo`` and ``data_filtering`` rehearses borderline facts (changed before the number was raised, so that models of 1 are
of either kind); SEAM, and CTRAP's second order, take differences of gradients without autocast.
"""


class HardeningJob(Settings):
    """One training of one defended model.

    Attributes:
        model: what is hardened.
        model_digest: SHA-256 of its weights and chat template.
        dtype: type of its weights, as loaded.
        device: type of the device it is trained on (``cpu``, ``cuda``).
        data: which prompts.
        data_digest: SHA-256 of the dataset.
        supplements_digest: of what the defender has beside it.
        defense: what is done.
        seed: decides every random choice.
        floor: where a stage ends with utility below this share of the target's, the last good weights are kept.
        watch_steps: utility is looked at after so many steps of a stage, and at its end.
        watch_prompts: validation prompts of each role that are asked then, at most.
        schema_version: of stored results.
        code_version: of what trains.
    """

    model: ModelChoice
    model_digest: str
    dtype: str
    device: str
    data: DataChoice
    data_digest: str
    supplements_digest: str = ""
    defense: ResolvedMethod
    seed: int
    floor: Annotated[float, Field(ge=0, le=1)] = 0.9
    watch_steps: Annotated[int, Field(gt=0)] = 20
    watch_prompts: Annotated[int, Field(gt=0)] = 64
    schema_version: int = SCHEMA_VERSION
    code_version: int = HARDENING_VERSION

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides the weights; sixty-four hexadecimal digits."""
        return canonical_hash(self.deciding())

    def deciding(self) -> dict[str, Any]:
        """Everything that decides the weights, without what things are called and where they lie."""
        return {
            "model": {"digest": self.model_digest, "dtype": self.dtype, "device": self.device, **self.model.deployment},
            "data": {
                "digest": self.data_digest,
                "supplements": self.supplements_digest,
                "seed": self.data.seed,
                "domains": sorted(self.data.domains),
            },
            "defense": self.defense.deciding(),
            "seed": self.seed,
            "floor": self.floor,
            "watch": {"steps": self.watch_steps, "prompts": self.watch_prompts},
            "schema_version": self.schema_version,
            "code_version": self.code_version,
        }


@dataclass(frozen=True)
class PlannedHardening:
    """A job with what was loaded to plan it.

    Attributes:
        job: what is to be done.
        target: the model.
        division: of the data; the defence is given its defender's view.
    """

    job: HardeningJob
    target: Target
    division: Division


def plan_hardening(
    model: ModelChoice, data: DataChoice, defense: MethodChoice, *, seed: int = 0, floor: float = 0.9, **more: Any
) -> PlannedHardening:
    """Make choices into a job: the model and the data are looked at once, and what cannot be trained is said beforehand.

    Args:
        model: what to harden; organisms must have been built.
        data: which prompts.
        defense: which defence, with the settings that differ from its defaults.
        seed: decides every random choice.
        floor: share of the target's utility below which a stage is ended.
        more: further fields of :class:`HardeningJob`.

    Raises:
        InvalidStudy: the defence's settings are wrong, or there is no data.
        UnknownName: there is no such defence or organism.
        UnusableModel: the model cannot be loaded.
        UnusableData: the data cannot be read or divided, or do not hold what the defence needs.
    """
    resolved = resolve("defenses", defense)
    records = load_records(data, model)
    division = restrict(records, data.domains).divide(data.seed)
    made: Defense = registry.create("defenses", resolved.name, resolved.config)
    require(made, defense.title, division.defender_view())
    target = load_model(model)
    if target.quantised:
        raise UnusableModel(f"no defence can be trained into weights held in {target.quantised}", "leave quantization out")
    job = HardeningJob(
        model=model,
        model_digest=target.digest,
        dtype=target.dtype,
        device=target.device.type,
        data=data,
        data_digest=records.digest,
        supplements_digest=records.supplements().digest,
        defense=resolved,
        seed=seed,
        floor=floor,
        **more,
    )
    return PlannedHardening(job, target, division)


def planned_target(job: HardeningJob) -> Target:
    """The job's model, loaded and proved to be the one that was planned.

    Raises:
        UnusableModel: it cannot be loaded, or is another one.
    """
    target = load_model(job.model)
    if target.digest != job.model_digest:
        raise UnusableModel(f"the model {job.model.reference} has changed since the training was planned", "put it back, or start anew")
    return target


def planned_view(job: HardeningJob) -> DefenderView:
    """The defender's part of the job's data, likewise.

    Raises:
        UnusableData: they cannot be read, or are others.
    """
    records = load_records(job.data, job.model)
    if records.digest != job.data_digest or records.supplements().digest != job.supplements_digest:
        raise UnusableData(f"the data {records.name} has changed since the training was planned", "put it back, or start anew")
    return restrict(records, job.data.domains).divide(job.data.seed).defender_view()
