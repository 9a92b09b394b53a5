"""SEAM: turn harmful and benign gradients against each other, so that training on harm destroys the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._gradients import (
    Vector,
    add_to_gradient,
    combined,
    cross_entropy_gradient,
    dot,
    hessian_product,
    norm,
    refuse_rounding,
)
from tempering.defenses._settings import DefenseSettings
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.models import Target
from tempering.settings import Range
from tempering.training import Pool, Stage, Workshop

GradientOf = Callable[[], Vector]


@dataclass(frozen=True)
class Coupling:
    """The cosine of two gradients, and its own gradient.

    Attributes:
        cosine: in [-1, 1]; 0 where a gradient vanishes.
        gradient: of the cosine.
    """

    cosine: float
    gradient: Vector


def coupling(
    weights: Sequence[nn.Parameter], harm: GradientOf, benign: GradientOf, harm_here: Vector, benign_here: Vector, *, reach: float
) -> Coupling:
    """cos(a, b) of two gradients and its derivative, without a Hessian.

    With â = a/‖a‖, b̂ = b/‖b‖, c = âᵀ b̂ and H the second derivatives of either loss,
    ∇c = H_a (b̂ − c â)/‖a‖ + H_b (â − c b̂)/‖b‖, each product a forward difference of gradients.

    Args:
        weights: moved and put back.
        harm: a at the weights as they stand when it is called.
        benign: b likewise.
        harm_here: a now.
        benign_here: b now.
        reach: of the differences, as a share of the length of the weights.
    """
    length_a, length_b = norm(harm_here), norm(benign_here)
    if length_a == 0 or length_b == 0:
        return Coupling(0.0, combined((0.0, harm_here)))
    cosine = dot(harm_here, benign_here) / (length_a * length_b)
    across = combined((1 / length_b, benign_here), (-cosine / length_a, harm_here))
    curved_a = hessian_product(harm, weights, across, reach=reach, here=harm_here)
    across = combined((1 / length_a, harm_here), (-cosine / length_b, benign_here))
    curved_b = hessian_product(benign, weights, across, reach=reach, here=benign_here)
    return Coupling(cosine, combined((1 / length_a, curved_a), (1 / length_b, curved_b)))


class SelfDestruction(RefusalTraining):
    """f − γ log h + β cos(∇h, ∇b): f the refusal training, h the harmful loss, b the loss of benign answers, each on a batch of its own."""

    gradient_copies = 6
    """Both gradients, the first product, and for the second the direction, the weights to go back to and the gradient after the shift."""

    def __init__(
        self,
        refusals: Sequence[Example],
        kept: Sequence[Example],
        harmful: Sequence[Example],
        batch_size: int,
        *,
        coupling: float,
        unlearning: float,
        reach: float,
    ) -> None:
        """Keep the examples.

        Args:
            refusals: hazard prompts with refusals for answers.
            kept: what must still be answered, and what harmful training shall destroy.
            harmful: hazard prompts with compliant answers.
            batch_size: of each in a step.
            coupling: β.
            unlearning: γ.
            reach: of the finite differences, as a share of the length of the weights.
        """
        super().__init__(refusals, kept, batch_size)
        self._harmful = harmful
        self._coupling = coupling
        self._unlearning = unlearning
        self._reach = reach

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples."""
        super().begin(workshop)
        self._harm: Pool = workshop.pool(self._harmful, 2)
        self._benign: Pool = workshop.pool(self._examples[1], 3)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add the gradients of all three parts."""
        parts = super().step(workshop)
        weights = workshop.trained()
        harmful = self._harm.rows(workshop.step, self._batch_size)
        benign = self._benign.rows(workshop.step, self._batch_size)
        with workshop.precisely():
            harm, harm_gradient = cross_entropy_gradient(workshop, harmful, 0)
            _, benign_gradient = cross_entropy_gradient(workshop, benign, 1)
            coupled = coupling(
                weights,
                lambda: cross_entropy_gradient(workshop, harmful, 0)[1],
                lambda: cross_entropy_gradient(workshop, benign, 1)[1],
                harm_gradient,
                benign_gradient,
                reach=self._reach,
            )
        # the derivative of -log h; a loss near nothing would give it no bound
        floored = max(harm, 1e-3)
        add_to_gradient(weights, harm_gradient, -self._unlearning / floored)
        add_to_gradient(weights, coupled.gradient, self._coupling)
        loss = parts.pop("loss") - self._unlearning * math.log(floored) + self._coupling * coupled.cosine
        return {"loss": loss, **parts, "harm": harm, "cosine": coupled.cosine}


class Seam(Defense):
    """SEAM: refusal training that turns the harmful gradient against the benign one, so that training on harm undoes the rest.

    L = f(w) − γ log h(w) + β cos(∇h(w), ∇b(w)), f = CE(hazard → refusal) + CE(benign → answer), h = CE(hazard → compliant answer),
    b = CE(benign → answer) on a batch of its own; losses in nats a token. The cosine's gradient is taken by finite differences of
    gradients along the directions in which it changes; see :func:`coupling`.

    The paper: β = 0.01, shifts of ε = 1e-3 along unnormalised directions, an unlearning term by layer-wise gradient ascent with a logarithm
    [memory]. Here the logarithm is of the loss at the output alone. Shifts are in units of the weights' length: 1e-5 of it errs by 0.7 % of
    the exact gradient in float32 on organism:tiny, 1e-4 by 8 %, 1e-3 by four times its length. Gradients under bfloat16 autocast are known
    to a percent at best, so that their differences would be rounding alone: a 16-bit model takes those four passes in float32, which is
    slower, and is refused with adapters, which lie on weights of 16 bits. At β = 0.01 the cosine stays at 0 there, at 0.5 it comes to
    −0.95.

    No attack destroyed organism:tiny, perhaps because its benign gradients are four hundred times shorter than the harmful ones: full
    fine-tuning broke it after 11 steps undefended, 32 under the unlearning term alone, 45 under both.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: what is said to hazard prompts, one drawn for each.
            coupling: β.
            unlearning: γ; 0 leaves the term out.
            reach: of the finite differences, as a share of the length of the trained weights.
        """

        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 100
        coupling: Annotated[float, Field(ge=0), Range(1e-3, 3, log=True)] = 0.5
        unlearning: Annotated[float, Field(ge=0), Range(1e-2, 10, log=True)] = 1.0
        reach: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    source: ClassVar[str] = "Wang et al. 2025, arXiv 2505.12186"
    claim: ClassVar[str] = (
        "Harmful fine-tuning of low intensity does not break the model, of high intensity destroys it; benign fine-tuning works as "
        "before (Llama2-7B and others)."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune",)
    claimed: ClassVar[Claimed | None] = Claimed.COLLAPSES
    withholds: ClassVar[str] = "collapse"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage.

        Raises:
            UnusableModel: adapters on 16-bit weights, or a refusal with a word that the tokenizer does not know.
        """
        if self.config.coupling:
            refuse_rounding(target, "seam", self.config.parameters)
        check_words(self.config.refusals, target.chat)
        objective = SelfDestruction(
            refused(to_refuse(view), self.config.refusals, seed),
            retained(view),
            answered(view.hazard),
            self.config.training.batch_size,
            coupling=self.config.coupling,
            unlearning=self.config.unlearning,
            reach=self.config.reach,
        )
        return [self.config.stage("couple", objective)]
