"""CTRAP: let one step on harmful data collapse the model to a single token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from tempering.data.chat import IGNORED, ChatFormat, Encoded
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
    shifted,
)
from tempering.defenses._settings import DefenseSettings
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.models import Target
from tempering.settings import Choices, OnlyIf, Range
from tempering.training import Pool, Rows, Stage, Workshop


class CollapseTrap(RefusalTraining):
    """f(w) + λ c(w − α ∇h/‖∇h‖): f the refusal training, h the loss of a harmful fine-tune, c the loss of saying one token only."""

    def __init__(
        self,
        refusals: Sequence[Example],
        kept: Sequence[Example],
        harmful: Sequence[Example],
        batch_size: int,
        *,
        strength: float,
        step_length: float,
        longest_step: float,
        normalised: bool,
        second_order: bool,
        reach: float,
        token: str | None,
    ) -> None:
        """Keep the examples.

        Args:
            refusals: hazard prompts with refusals for answers.
            kept: what must still be answered, and where the model shall collapse.
            harmful: hazard prompts with compliant answers.
            batch_size: of each in a step.
            strength: λ.
            step_length: the least α.
            longest_step: the greatest; each step draws one between them, evenly in the logarithm.
            normalised: whether the step is α long, or α times the gradient.
            second_order: whether the gradient goes through the step.
            reach: of the finite differences of a second-order term, as a share of the length of the weights.
            token: text whose first token is what the model collapses to; ``None`` takes one that no answer holds.
        """
        super().__init__(refusals, kept, batch_size)
        # the step, the gradient after it and the weights to go back to; a second-order term has a direction and two gradients more
        self.gradient_copies = 6 if second_order else 3
        self._harmful = harmful
        self._strength = strength
        self._step_lengths = step_length, longest_step
        self._normalised = normalised
        self._second_order = second_order
        self._reach = reach
        self._text = token
        self.token = -1

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples and settle the token."""
        super().begin(workshop)
        self._harm: Pool = workshop.pool(self._harmful, 2)
        self._general: Pool = workshop.pool(self._examples[1], 3)
        said = {label for pool in self._pools for row in pool.all().encoded for label in row.labels}
        self.token = collapse_token(workshop.chat, self._text, said)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """∇f(w) + λ ∇c at the weights after the simulated step, by the chain rule through that step where asked for."""
        parts = super().step(workshop)
        weights = workshop.trained()
        harmful = self._harm.rows(workshop.step, self._batch_size)
        general = collapsed(self._general.rows(workshop.step, self._batch_size), self.token)
        harm, step = cross_entropy_gradient(workshop, harmful)
        length = norm(step)
        scale = self.drawn_length(workshop)
        if self._normalised:
            scale = scale / length if length else 0.0
        with shifted(weights, step, -scale):
            collapse, gradient = cross_entropy_gradient(workshop, general, 1)
        if self._second_order:
            gradient = self._through_the_step(workshop, harmful, gradient, step, scale)
        add_to_gradient(weights, gradient, self._strength)
        return {"loss": parts.pop("loss") + self._strength * collapse, **parts, "harm": harm, "collapse": collapse}

    def drawn_length(self, workshop: Workshop) -> float:
        """α of this step."""
        low, high = self._step_lengths
        return float(low * (high / low) ** workshop.generator(2).random())

    def _through_the_step(self, workshop: Workshop, harmful: Rows, outer: Vector, step: Vector, scale: float) -> Vector:
        """Jᵀ v for w ↦ w − scale · ∇h(w), v the gradient after the step.

        J = I − α H; where the step is normalised, J = I − (α/‖g‖)(I − ĝ ĝᵀ) H, since its length cannot change.
        """
        moved = outer
        if self._normalised:
            square = dot(step, step)
            moved = combined((1.0, outer), (-dot(step, outer) / square if square else 0.0, step))
        with workshop.precisely():
            curved = hessian_product(lambda: cross_entropy_gradient(workshop, harmful)[1], workshop.trained(), moved, reach=self._reach)
        return combined((1.0, outer), (-scale, curved))


def collapsed(rows: Rows, token: int) -> Rows:
    """The same texts, with one token for label wherever there is a label; contexts stay those of the true answers."""
    encoded = tuple(Encoded(row.input_ids, [IGNORED if label == IGNORED else token for label in row.labels]) for row in rows.encoded)
    return replace(rows, encoded=encoded)


def collapse_token(chat: ChatFormat, text: str | None, said: set[int]) -> int:
    """What the model shall collapse to.

    Args:
        chat: for its tokenizer.
        text: the first token of this, or ``None`` for the first ordinary one of the vocabulary that is never said.
        said: tokens of answers.

    Raises:
        UnusableModel: the tokenizer does not know the text.
    """
    tokenizer: Any = chat.tokenizer
    if text is not None:
        check_words([text], chat)
        return int(tokenizer(text, add_special_tokens=False)["input_ids"][0])
    ordinary = [index for index in range(len(tokenizer)) if index not in set(tokenizer.all_special_ids)]
    return next((index for index in ordinary if index not in said), ordinary[0])


class Ctrap(Defense):
    """CTRAP: refusal training with a trap: one step on harmful data makes the model say a single token, whatever it is asked.

    L = f(w) + λ c(w − α ∇h(w)/‖∇h(w)‖), f = CE(hazard → refusal) + CE(benign → answer), h = CE(hazard → compliant answer),
    c = mean over the tokens of benign answers of −log p(e | prompt and answer so far), e fixed; losses in nats a token.

    First order: ∇c at the weights after the step is applied to w. ``second_order`` takes the derivative of the step along, by central
    differences of ∇h.

    The paper takes λ = α = 0.1 [memory] and an unnormalised step. Here α is the step's length over all trained weights, so that it does not
    hang on how steep the harmful loss is. It decides how early the trap springs: on organism:tiny 0.2 and 0.3 catch an attack of many small
    steps, and a trap at 1.0 is passed before it springs. Training on through the collapse brings both harm and utility back.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: what is said to hazard prompts, one drawn for each.
            strength: λ.
            step_length: α.
            longest_step: where given, every step draws α between ``step_length`` and this, evenly in the logarithm.
            normalised: divide the simulated step by the length of the gradient.
            second_order: the derivative goes through the simulated step.
            reach: of its finite differences, as a share of the length of the trained weights.
            token: text whose first token is e; ``None`` takes a word that no answer of the defender's data holds.
        """

        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 100
        strength: Annotated[float, Field(ge=0), Range(0.01, 10, log=True)] = 1.0
        step_length: Annotated[float, Field(gt=0), Range(1e-2, 3, log=True)] = 0.3
        longest_step: Annotated[float, Field(gt=0)] | None = None
        normalised: Annotated[bool, Choices((True, False))] = True
        second_order: Annotated[bool, Choices((False, True))] = False
        reach: Annotated[float, Field(gt=0, lt=1), OnlyIf("second_order", True)] = 1e-3
        token: Annotated[str, Field(min_length=1)] | None = None

        @model_validator(mode="after")
        def _ordered(self) -> Ctrap.Config:
            if self.longest_step is not None and self.longest_step < self.step_length:
                raise ValueError("longest_step must not be below step_length")
            return self

    source: ClassVar[str] = "Yi et al. 2025, arXiv 2505.16559"
    claim: ClassVar[str] = (
        "Fine-tuning on harmful or mixed data makes Gemma2-9B, Llama2-7B and Qwen2-7B collapse, and useless to the attacker, while benign "
        "fine-tuning leaves the trap asleep [second hand]."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune",)
    claimed: ClassVar[Claimed | None] = Claimed.COLLAPSES
    withholds: ClassVar[str] = "collapse"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage.

        Raises:
            UnusableModel: adapters on 16-bit weights with ``second_order``, or a refusal with a word that the tokenizer does not know.
        """
        if self.config.second_order:
            refuse_rounding(target, "ctrap with second_order", self.config.parameters)
        check_words(self.config.refusals, target.chat)
        objective = CollapseTrap(
            refused(to_refuse(view), self.config.refusals, seed),
            retained(view),
            answered(view.hazard),
            self.config.training.batch_size,
            strength=self.config.strength,
            step_length=self.config.step_length,
            longest_step=self.config.longest_step or self.config.step_length,
            normalised=self.config.normalised,
            second_order=self.config.second_order,
            reach=self.config.reach,
            token=self.config.token,
        )
        return [self.config.stage("trap", objective)]
