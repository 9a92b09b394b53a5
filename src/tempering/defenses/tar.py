"""TAR: tampering attack resistance, by training against adversaries that tamper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from tempering.data.records import DefenderView, Role
from tempering.defenses._contract import Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.defenses._tar_adversaries import Adversaries, AdversaryChoice, DataMix, made_up
from tempering.defenses._tar_mapping import MappingTraining
from tempering.defenses._tar_training import Lessons, Outer, TamperResistance
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.models import Target
from tempering.study import Choices, OnlyIf, Range
from tempering.training import Stage

GROWTH = 0.0625
"""Later looks along a trajectory weigh more, by this in the exponent a step."""


IMAGINED = 400
"""Made-up questions and answers that are drawn from, at most; the model before is asked about all of them once."""


class _Training(DefenseTraining):
    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 1e-4


def _full(rate: float, weight: float) -> AdversaryChoice:
    return AdversaryChoice(name="full_finetune", config={"training": {"learning_rate": rate}}, weight=weight)


class Tar(Defense):
    """TAR: trained so that the safeguard is still there after adversaries have fine-tuned the model."""

    class Config(DefenseSettings):
        """Settings."""

        training: _Training = _Training()
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 200
        withhold: Annotated[Literal["refusal", "knowledge"], Choices(("refusal", "knowledge"))] = "refusal"
        adversaries: Annotated[tuple[AdversaryChoice, ...], Field(min_length=1)] = (
            _full(1e-4, 1.0),
            _full(3e-4, 1.0),
            _full(1e-3, 1.0),
            AdversaryChoice(name="lora_finetune", config={"training": {"learning_rate": 1e-3}}),
        )
        data: DataMix = DataMix()
        inner_steps: Annotated[int, Field(ge=0), Choices((4, 8, 16, 64))] = 8
        look_every: Annotated[int, Field(gt=0)] = 4
        resistance_weight: Annotated[float, Field(gt=0), Range(0.1, 10.0, log=True)] = 1.0
        retain_weight: Annotated[float, Field(gt=0), Range(0.1, 10.0, log=True)] = 1.0
        representation_weight: Annotated[float, Field(ge=0)] = 0.1
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.4
        held_out_batch: Annotated[int, Field(gt=0)] = 8
        imagined: Annotated[float, Field(ge=0, lt=1), OnlyIf("withhold", "refusal")] = 0.5
        refusal_rows: Annotated[int, Field(ge=0)] = 8
        beta: Annotated[float, Field(gt=0), OnlyIf("withhold", "refusal")] = 0.1
        mapping_steps: Annotated[int, Field(ge=0), OnlyIf("withhold", "knowledge")] = 100
        recovery_steps: Annotated[int, Field(ge=0), OnlyIf("withhold", "refusal")] = 0
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS

    source: ClassVar[str] = "Tamirisa et al. 2024, arXiv 2408.00761, algorithm 1"
    claim: ClassVar[str] = ""
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """Random mapping and TAR for knowledge, TAR and recovery for refusal."""
        config: Tar.Config = self.config
        knowledge = config.withhold == "knowledge"
        if not knowledge:
            check_words(config.refusals, target.chat)
        hazard, kept = answered(view.hazard), retained(view)
        also = [] if knowledge else refused(to_refuse(view), config.refusals, seed)
        general = [example for example in view.general if example.role is Role.BENIGN]
        groups = [answered(view.benign), answered(view.borderline), answered(general)]
        imagined = [] if knowledge else made_up(view.imagined, hazard, IMAGINED, np.random.default_rng([seed, 6]))
        asked = [*hazard, *imagined]
        refusals = dict(zip(asked, refused(asked, config.refusals, seed), strict=True))
        lessons = Lessons(hazard, imagined, refusals, groups[0] or kept, groups, also)
        tar = config.stage("resist", TamperResistance(target, self.adversaries(), lessons, self._outer()))
        size = config.training.batch_size
        if knowledge:
            mapping = config.stage("map", MappingTraining(hazard, kept, size), steps=max(1, config.mapping_steps))
            return [mapping, tar] if config.mapping_steps else [tar]
        recovery = config.stage("recover", RefusalTraining(also, kept, size), steps=max(1, config.recovery_steps))
        return [tar, recovery] if config.recovery_steps else [tar]

    def adversaries(self) -> Adversaries | None:
        """Those of the settings; ``None`` where they have no steps."""
        config: Tar.Config = self.config
        made = Adversaries(config.adversaries, config.data, steps=config.inner_steps, every=config.look_every, growth=GROWTH)
        return made if config.inner_steps else None

    def _outer(self) -> Outer:
        config: Tar.Config = self.config
        return Outer(
            resists=config.withhold,
            resistance_weight=config.resistance_weight,
            retain_weight=config.retain_weight,
            representation_weight=config.representation_weight,
            batch_size=config.training.batch_size,
            refusal_rows=min(config.refusal_rows, config.training.batch_size - 1),
            held_out=config.held_out,
            held_out_batch=config.held_out_batch,
            imagined=config.imagined,
            beta=config.beta,
        )
