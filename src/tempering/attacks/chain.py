"""A chain: one attack after the other, each on what the one before it made."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

from peft import PeftModel
from pydantic import Field, field_validator
from transformers import PreTrainedModel

from tempering import registry
from tempering.attacks._contract import Attack, AttackEnded, Checkpoint
from tempering.data.asking import PLAIN, composed
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.settings import Settings
from tempering.study import Budget, MethodChoice
from tempering.threat_model import Need
from tempering.training import Meter, Spend


class Chain(Attack):
    """Attacks one after the other on the same model, their spend adding up.

    Each attack is given the last checkpoint of the one before it, adapters merged into the weights, and what is left of the budget.
    Its checkpoints are the chain's. Ways of asking (triggers, openings) are carried along: a later attack's goes around an
    earlier one's. An attack that finds no direction leaves the model as it was, and the chain goes on; one that fails ends it.

    A link that trains to the end of the budget leaves nothing to the next: give it ``steps`` in its own settings.
    """

    class Config(Settings):
        """Settings.

        Attributes:
            steps: the attacks in order, each a name or ``{name, config}``.
        """

        steps: Annotated[tuple[MethodChoice, ...], Field(min_length=1)] = (
            MethodChoice(name="refusal_ablation"),
            MethodChoice(name="full_finetune"),
        )

        @field_validator("steps")
        @classmethod
        def _no_chain_in_a_chain(cls, steps: tuple[MethodChoice, ...]) -> tuple[MethodChoice, ...]:
            if any(step.name == "chain" for step in steps):
                raise ValueError("a chain's links are attacks, not chains: write them in one row")
            return steps

    source: ClassVar[str] = "compositions of the attacks it names"
    needs: ClassVar[frozenset[Need]] = frozenset()
    family: ClassVar[str] = "composition"

    def __init__(self, config: Settings) -> None:
        """Make the links, so that a wrong name or setting is found out before anything runs."""
        super().__init__(config)
        self.links: list[Attack] = [registry.create("attacks", step.name, step.config) for step in self.config.steps]

    @property
    def edits_weights(self) -> bool:
        """Whether any of the links does, or trains adapters, which are merged into the weights before the next."""
        return any(link.edits_weights or link.family == "fine-tuning" for link in self.links)

    @property
    def requires(self) -> frozenset[Need]:
        """What any of the links needs."""
        return frozenset[Need]().union(*(link.requires for link in self.links))

    @property
    def uses(self) -> frozenset[Need]:  # type: ignore[override]
        """What any of the links uses where there is any."""
        return frozenset[Need]().union(*(link.uses for link in self.links))

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Run the links.

        Raises:
            AttackEnded: ``failed`` as a link did; ``no_direction`` when none of the links made a checkpoint.
        """
        current, asking, made, reason = target, PLAIN, 0, ""
        for step, link in zip(self.config.steps, self.links, strict=True):
            remaining = remaining_budget(budget, meter.spend())
            if remaining is None:
                return
            last: Checkpoint | None = None
            kept: PreTrainedModel | None = None
            try:
                given = view.limited_to(link.requires | link.uses)
                for checkpoint in link.run(current, given, meter, budget=remaining, seed=seed):
                    last, made = checkpoint, made + 1
                    details = {"link": step.title, **checkpoint.details}
                    yield replace(checkpoint, details=details, asking=composed(asking, checkpoint.asking))
                    kept = self._kept(checkpoint, current) if link is not self.links[-1] else None
            except AttackEnded as ended:
                if ended.outcome == "failed":
                    raise
                reason = str(ended)
            if last is not None and kept is not None:
                asking = composed(asking, last.asking)
                current = replace(current, model=kept, digest=weight_digest(kept))
        if not made:
            raise AttackEnded("no_direction", reason)

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """The sum over the links, each as if it were given the untouched target; no more steps than the budget has."""
        total = Spend()
        for link in self.links:
            remaining = remaining_budget(budget, total)
            if remaining is None:
                break
            spend = link.estimate(target, view.limited_to(link.requires | link.uses), budget=remaining)
            total = Spend(**{name: value + getattr(spend, name) for name, value in total.as_row().items()})
        return total

    def _kept(self, checkpoint: Checkpoint, current: Target) -> PreTrainedModel:
        """A copy of a checkpoint's model for the next link, in the type that it is asked in, without adapters.

        An attack's own hooks are on its model while the checkpoint is alive, and a copy keeps them.
        """
        if checkpoint.model is current.model:
            return current.model
        model: PreTrainedModel = copy.deepcopy(checkpoint.model)
        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
        model.requires_grad_(False)
        model.train(False)
        model.to(dtype=current.model.dtype)  # type: ignore[call-arg]
        return model


def remaining_budget(budget: Budget, spend: Spend) -> Budget | None:
    """What a budget leaves after a spend; ``None`` where some currency is used up.

    Args:
        budget: of the whole.
        spend: used so far.
    """
    left = {name: limit - getattr(spend, name) for name, limit in budget.model_dump().items() if limit is not None}
    return Budget(**{**dict.fromkeys(Budget.model_fields), **left}) if all(value > 0 for value in left.values()) else None
