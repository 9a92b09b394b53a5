"""Refusal training: the plain safeguard that every other defence is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, check_words, refused, retained, to_refuse
from tempering.defenses._settings import DefenseSettings
from tempering.models import Target
from tempering.training import Objective, Pool, Stage, Workshop


class RefusalTraining(Objective):
    """CE(hazard prompt -> refusal) + CE(benign prompt -> its answer), each the mean over its labelled tokens."""

    def __init__(self, refusals: Sequence[Example], kept: Sequence[Example], batch_size: int) -> None:
        """Keep the examples.

        Args:
            refusals: hazard prompts with refusals for answers.
            kept: what must still be answered.
            batch_size: of each in a step.
        """
        self._examples = refusals, kept
        self._batch_size = batch_size
        self._pools: tuple[Pool, ...] = ()

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples."""
        self._pools = tuple(workshop.pool(examples, purpose) for purpose, examples in enumerate(self._examples))

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of both parts, one after the other, so that only one graph is held."""
        parts = {}
        for name, pool in zip(("refusal", "retain"), self._pools, strict=True):
            loss = workshop.run(pool.rows(workshop.step, self._batch_size)).cross_entropy()
            loss.backward()  # type: ignore[no-untyped-call]
            parts[name] = float(loss.detach())
        return {"loss": sum(parts.values()), **parts}


class RefusalSft(Defense):
    """Refusal training: hazard prompts are refused, everything else is answered as before; the control.

    L = CE(hazard -> refusal) + CE(benign -> answer). Nothing in it resists tampering; a defence that costs as much training must do
    better than this.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: what is said to hazard prompts, one drawn for each.
        """

        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS

    source: ClassVar[str] = "Bai et al. 2022, arXiv 2204.05862, and every chat model since; the control of METHODS"
    claim: ClassVar[str] = "None about tampering: it makes a model refuse. Shallow by all accounts (Qi et al. 2024, arXiv 2406.05946)."
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.BENIGN_ANSWERS})
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        objective = RefusalTraining(refused(to_refuse(view), self.config.refusals, seed), retained(view), self.config.training.batch_size)
        return [self.config.stage("refuse", objective)]
