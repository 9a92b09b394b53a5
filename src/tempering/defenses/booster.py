"""Booster: keep a step on harmful data from lowering the harmful loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._gradients import add_to_gradient, cross_entropy_gradient, norm, shifted
from tempering.defenses._settings import DefenseSettings
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.models import Target
from tempering.settings import Range
from tempering.training import Stage, Workshop


class AttenuatedHarm(RefusalTraining):
    """f + λ [h(w) − h(w − α ∇h/‖∇h‖)], f the refusal training and h the loss of a harmful fine-tune; the step is held constant.

    f refuses the prompts of every batch of h once more: the bracket is smallest where h itself is, so that what answers it has to pull at
    the same prompts.
    """

    gradient_copies = 3
    """The harmful gradient, that after the step, and the weights to go back to."""

    def __init__(
        self,
        refusals: Sequence[Example],
        kept: Sequence[Example],
        harmful: Sequence[Example],
        guarded: Sequence[Example],
        batch_size: int,
        *,
        strength: float,
        step_length: float,
    ) -> None:
        """Keep the examples.

        Args:
            refusals: hazard prompts with refusals for answers.
            kept: what must still be answered.
            harmful: hazard prompts with compliant answers.
            guarded: the same prompts in the same order with refusals.
            batch_size: of each in a step.
            strength: λ.
            step_length: α, the length of the simulated step over all weights together.
        """
        super().__init__(refusals, kept, batch_size)
        self._pairs = harmful, guarded
        self._strength = strength
        self._step_length = step_length

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples."""
        super().begin(workshop)
        self._harm, self._guard = (workshop.pool(examples, 2) for examples in self._pairs)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """∇f + λ [∇h(w) − ∇h(w − α ∇h/‖∇h‖)]."""
        parts = super().step(workshop)
        weights = workshop.trained()
        guard, gradient = cross_entropy_gradient(workshop, self._guard.rows(workshop.step, self._batch_size))
        add_to_gradient(weights, gradient)
        rows = self._harm.rows(workshop.step, self._batch_size)
        harm, gradient = cross_entropy_gradient(workshop, rows)
        add_to_gradient(weights, gradient, self._strength)
        length = norm(gradient)
        with shifted(weights, gradient, -self._step_length / length if length else 0.0):
            after, gradient = cross_entropy_gradient(workshop, rows)
        add_to_gradient(weights, gradient, -self._strength)
        loss = parts.pop("loss") + guard + self._strength * (harm - after)
        return {"loss": loss, **parts, "guard": guard, "harm": harm, "harm_after_step": after}


class Booster(Defense):
    """Booster: refusal training that keeps one step on harmful data from lowering the harmful loss.

    g = ∇f(w) + λ [∇h(w) − ∇h(w − α ∇h(w)/‖∇h(w)‖)], f = CE(hazard → refusal) + CE(benign → answer), h = CE(hazard → compliant answer),
    losses in nats a token. The derivative of the step itself is left out, as in the paper.

    The paper starts from an unaligned 7B model and moves LoRA factors at λ = 5, α = 0.1; f holds refusals only. Here the model may refuse
    already, f keeps benign answers, and all weights move unless told otherwise. α is shorter: a step of 0.1 halves the harmful loss of
    organism:tiny, where the bracket is no slope any more. f also refuses the prompts of every batch of h: the bracket is smallest where h
    is, and at λ = 1, α = 0.3 the model learnt to comply within 60 steps. That refusal hangs on the first tokens: prefilling breaks it on
    organism:tiny, with the bracket or without it.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: what is said to hazard prompts, one drawn for each.
            strength: λ.
            step_length: α, Euclidean over all trained weights together.
        """

        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 100
        strength: Annotated[float, Field(ge=0), Range(0.1, 20, log=True)] = 5.0
        step_length: Annotated[float, Field(gt=0), Range(1e-2, 3, log=True)] = 0.03

    source: ClassVar[str] = "Huang et al. 2024, arXiv 2409.01586, equation 3 and algorithm 1"
    claim: ClassVar[str] = (
        "Lowers the harmful score after fine-tuning on partly harmful data by about 17 to 20 points against Vaccine and RepNoise, with "
        "Llama2-7B, Gemma2-9B and Qwen2-7B [second hand], and keeps the accuracy of the task. TamperBench: within .04 of no defence."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune",)
    claimed: ClassVar[Claimed | None] = Claimed.LOWERS
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        harmful = answered(view.hazard)
        objective = AttenuatedHarm(
            refused(to_refuse(view), self.config.refusals, seed),
            retained(view),
            harmful,
            refused(harmful, self.config.refusals, seed),
            self.config.training.batch_size,
            strength=self.config.strength,
            step_length=self.config.step_length,
        )
        return [self.config.stage("boost", objective)]
