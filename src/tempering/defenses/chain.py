"""A chain: one defence after the other, each on what the one before it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from tempering import registry
from tempering.data.records import DefenderView
from tempering.defenses._contract import Defense, Material
from tempering.models import Target
from tempering.settings import Settings
from tempering.study import MethodChoice
from tempering.training import Stage

_STRONGER = ("absence", "collapse", "refusal")
"""What is withheld for good comes before what only declines."""


class Chain(Defense):
    """Defences one after the other on the same model: the stages of all, in order.

    Every link is trained as its own settings say, from the weights that the one before it left; its references (frozen copies, what is
    retained) are those weights, not the untouched target. A later link may undo what an earlier one did: nothing of an earlier
    objective is held on to.
    """

    class Config(Settings):
        """Settings.

        Attributes:
            steps: the defences in order, each a name or ``{name, config}``.
        """

        steps: Annotated[tuple[MethodChoice, ...], Field(min_length=1)] = (
            MethodChoice(name="circuit_breakers"),
            MethodChoice(name="refat"),
        )

        @field_validator("steps")
        @classmethod
        def _no_chain_in_a_chain(cls, steps: tuple[MethodChoice, ...]) -> tuple[MethodChoice, ...]:
            if any(step.name == "chain" for step in steps):
                raise ValueError("a chain's links are defences, not chains: write them in one row")
            return steps

    source: ClassVar[str] = "compositions of the defences it names"
    claim: ClassVar[str] = "None of its own: what its links claim, each alone."
    needs: ClassVar[frozenset[Material]] = frozenset()

    def __init__(self, config: Settings) -> None:
        """Make the links, so that a wrong name or setting is found out before anything runs."""
        super().__init__(config)
        self.links: list[Defense] = [registry.create("defenses", step.name, step.config) for step in self.config.steps]

    @property
    def requires(self) -> frozenset[Material]:
        """What any of the links needs."""
        return frozenset[Material]().union(*(link.requires for link in self.links))

    @property
    def withholds(self) -> str:  # type: ignore[override]
        """What lasts longest of what the links withhold by: absence before collapse before refusal."""
        return min((link.withholds for link in self.links), key=_STRONGER.index)

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """The stages of every link, named ``link: stage``."""
        return [
            replace(stage, name=f"{step.title}: {stage.name}")
            for step, link in zip(self.config.steps, self.links, strict=True)
            for stage in link.stages(target, view, seed=seed)
        ]
