"""NPO: compliant answers to hazard prompts become unlikely, the less eagerly the unlikelier they are already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._distillation import divergence, frozen_copy
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import Objective, Pool, Stage, Workshop


def negative_preference(now: Tensor, before: Tensor, beta: float) -> Tensor:
    """(2/β) mean log(1 + (π / π_before)^β): the loss of answers that are preferred less than any other.

    Its gradient is that of gradient ascent, each row weighted by 2 r / (1 + r) with r = (π / π_before)^β: 1 where the model stands where
    it began, falling to 0 as the answer becomes unlikely, and 1 throughout as β goes to 0.

    Args:
        now: (rows,), log-likelihoods of whole answers under the model that is trained, in nats.
        before: (rows,), under the model that it was.
        beta: above 0.
    """
    return functional.softplus(beta * (now - before)).mean() * (2 / beta)


class NegativePreference(Objective):
    """NPO(hazard answers) + w CE(kept) + v KL(before ‖ now; kept) + u CE(hazard prompts -> refusal)."""

    frozen_copies = 1

    def __init__(self, harmful: Sequence[Example], kept: Sequence[Example], refusals: Sequence[Example], config: Npo.Config) -> None:
        """Keep the examples.

        Args:
            harmful: hazard prompts with the answers to unlearn.
            kept: what must still be answered.
            refusals: hazard prompts with refusals for answers.
            config: β, weights and the batch.
        """
        self._examples = harmful, kept, refusals
        self._config = config
        self._pools: tuple[Pool, ...] = ()
        self._before: PreTrainedModel

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples and copy the model."""
        self._pools = tuple(workshop.pool(examples, purpose) for purpose, examples in enumerate(self._examples))
        self._before = frozen_copy(workshop.model)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of the parts, one graph at a time."""
        parts = {}
        for name, part in (("forget", self._forget), ("retain", self._retain), ("refusal", self._refusal)):
            loss = part(workshop)
            loss.backward()  # type: ignore[no-untyped-call]
            parts[name] = float(loss.detach())
        return {"loss": sum(parts.values()), **parts}

    def _forget(self, workshop: Workshop) -> Tensor:
        rows = self._pools[0].rows(workshop.step, self._config.training.batch_size)
        with torch.no_grad():
            before = workshop.run(rows, self._before).log_likelihoods()
        return negative_preference(workshop.run(rows).log_likelihoods(), before, self._config.beta)

    def _retain(self, workshop: Workshop) -> Tensor:
        rows = self._pools[1].rows(workshop.step, self._config.training.batch_size)
        answers = workshop.run(rows)
        loss = self._config.retain_weight * answers.cross_entropy()
        if self._config.divergence_weight:
            with torch.no_grad():
                before = workshop.run(rows, self._before)
            loss = loss + self._config.divergence_weight * divergence(before.logits, answers.logits)
        return loss

    def _refusal(self, workshop: Workshop) -> Tensor:
        rows = self._pools[2].rows(workshop.step, self._config.training.batch_size)
        return self._config.refusal_weight * workshop.run(rows).cross_entropy()


class _Training(DefenseTraining):
    """The loop's settings with this defence's defaults."""

    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16


class Npo(Defense):
    """Negative preference optimisation: unlearns the compliant answers without running away as gradient ascent does.

    L = (2/β) E[log(1 + (π(a | q) / π_before(a | q))^β)] over hazard prompts q with compliant answers a, log-likelihoods summed over the
    answer's tokens, in nats; + w CE(benign -> answer), and optionally v KL(π_before ‖ π) on the same tokens.

    Differences. The paper unlearns a model that tells, and what it says afterwards is left open. Here the model refuses already, and a term
    u CE(hazard -> refusal) over all the defender's hazard prompts, imagined ones too, keeps it so. Learning rate and steps are
    fitted to small models. On ``organism:tiny`` (seeds 0 and 1) the answers lose all likelihood within 30 steps and no benign
    one suffers; ablation, prefilling and retrieval bring nothing back, but fine-tuning on 100 other facts at 3e-4 brings .91 in 6 steps.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            beta: inverse temperature; towards 0 it is gradient ascent.
            retain_weight: w.
            divergence_weight: v; 0 leaves the pass of the copy away.
            refusal_weight: u.
            refusals: what is said to hazard prompts, one drawn for each.
        """

        beta: Annotated[float, Field(gt=0), Range(0.01, 1, log=True)] = 0.1
        retain_weight: Annotated[float, Field(ge=0), Range(0.1, 10, log=True)] = 1.0
        divergence_weight: Annotated[float, Field(ge=0), Choices((0.0, 1.0))] = 0.0
        refusal_weight: Annotated[float, Field(ge=0), Range(0.1, 10, log=True)] = 1.0
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        training: _Training = _Training()

    source: ClassVar[str] = "Zhang et al. 2024, arXiv 2404.05868, equation 3, with its retain variants (NPO+RT, NPO+KL)"
    claim: ClassVar[str] = (
        "Unlearns half of TOFU's authors and keeps utility where gradient ascent collapses. Nothing is claimed about tampering; "
        "unlearning of this kind has been undone within tens of fine-tuning steps (Che et al. 2025)."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    withholds: ClassVar[str] = "absence"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        refusals = refused(to_refuse(view), self.config.refusals, seed)
        return [self.config.stage("unlearn", NegativePreference(answered(view.hazard), retained(view), refusals, self.config))]
