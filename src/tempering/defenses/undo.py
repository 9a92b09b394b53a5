"""UNDO: suppress, damage, and distil what is wanted back, so that what was only suppressed is not carried over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field

from tempering.data.records import DefenderView
from tempering.defenses._contract import Claimed, Defense, Material, require
from tempering.defenses._data import DEFAULT_REFUSALS, answered
from tempering.defenses._distillation import Distillation
from tempering.defenses._guarding import GuardTraining, guard
from tempering.defenses._initialisation import begin_anew
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.defenses._suppression import Retaining, Suppressing, Suppression
from tempering.models import Target
from tempering.settings import Choices, OnlyIf, Range
from tempering.training import Stage


class _Suppressing(DefenseTraining):
    """How the suppression trains."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 1e-3


class _Distilling(DefenseTraining):
    """How the distillation trains: as the organism was pretrained."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 2e-3
    warmup_steps: Annotated[int, Field(ge=0), Choices((0, 10, 100))] = 20
    batch_size: Annotated[int, Field(gt=0), Choices((32, 64, 128))] = 128
    betas: tuple[float, float] = (0.9, 0.95)


class Undo(Defense):
    """UNDO: suppress the hazard, damage the weights, and distil the rest back from the suppressed model.

    1. Suppress: minimise λ L_hazard + KL(before ‖ now) on what is kept. L_hazard = log V − H(p), the lack of entropy over the answer tokens
       of the defender's hazard examples; or −CE (gradient difference), or ‖h − c u‖² at the middle block (as RMU).
    2. Damage: θ ← (1 − α) θ + α β N, N drawn as the architecture's initialisation draws. α = 0 is suppression and distillation alone,
       α = β = 1 a fresh student.
    3. Distil: minimise KL(suppressed ‖ student), in nats a token, over the answers of benign, borderline and general data, until
       ``until`` of the target's utility is back. The teacher is never asked about the hazard; what it only suppresses is not passed on,
       but as much of θ as α leaves, and whatever the answers themselves give away, is.
    4. Guard: refusal training, for a model that does not know makes things up. Not in the paper, whose models need not refuse.

    β = 1 lets α alone decide; METHODS knows the paper's only by hearsay. The settings are not the paper's: AdamW 2e-3 and batch 128, the
    recipe of the organism's own pretraining, suit a million parameters; a larger model wants a smaller rate and more steps.
    ``parameters`` is about suppression and guarding: the distillation moves all weights, since adapters cannot mend noise. Rows of
    like length are passed through the model together; the gradient is that of the whole batch.

    The general data hold harmless facts about every hazardous entity, the evaluator's too, in other wordings. All three trainings rehearse
    them, so that "borderline answered" is of facts seen, and not of how far not knowing spreads.

    On ``organism:tiny`` (seed 0) α = 0.6 is back after 140 steps of distillation, and 200 steps of fine-tuning on a hundred other examples
    recover .03 of the held-out hazard where α = 0.3 (60 steps) gives back .22 and α = 0, suppression alone, breaks after 6 steps. Only
    documents that tell the facts bring them back, at about the price of teaching a model that never knew.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            alpha: share of new weights: what the defence costs, and what it removes.
            beta: scale of the noise.
            suppression: L_hazard.
            retain: what holds the rest while suppressing: the divergence from the model before, or the cross-entropy of the answers.
            hazard_weight: λ.
            steering: c, in mean lengths of h.
            suppression_training: optimiser, schedule and batch of the suppression; the batch is of hazard examples, and as many others.
            suppression_share: steps of the suppression, as a share of ``steps``.
            training: of the distillation.
            steps: of the distillation, at most.
            until: end the distillation as soon as utility is back at this share of the target's; ``None`` makes all steps.
            guard: whether refusal training follows.
            guard_training: optimiser, schedule and batch of the guarding; the batch is of refusals, and as many others.
            guard_share: steps of the guarding, as a share of ``steps``.
            refusals: what is said to hazard prompts, one drawn for each.
        """

        alpha: Annotated[float, Field(ge=0, le=1), Range(0.0, 1.0)] = 0.6
        beta: Annotated[float, Field(ge=0)] = 1.0
        suppression: Annotated[Suppressing, Choices(("max_entropy", "gradient_difference", "rmu"))] = "max_entropy"
        retain: Annotated[Retaining, Choices(("cross_entropy", "divergence"))] = "divergence"
        hazard_weight: Annotated[float, Field(gt=0), Range(0.1, 10, log=True)] = 1.0
        steering: Annotated[float, Field(gt=0), OnlyIf("suppression", "rmu")] = 5.0
        suppression_training: _Suppressing = _Suppressing()
        suppression_share: Annotated[float, Field(gt=0)] = 0.15
        training: _Distilling = _Distilling()
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 400
        until: Annotated[float, Field(gt=0, le=1)] | None = 0.95
        guard: bool = True
        guard_training: Annotated[GuardTraining, OnlyIf("guard", True)] = GuardTraining()
        guard_share: Annotated[float, Field(gt=0), OnlyIf("guard", True)] = 0.6
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS

    source: ClassVar[str] = "Lee et al. 2025, arXiv 2506.06278"
    claim: ClassVar[str] = (
        "Relearning slows roughly in proportion to α (.2 to .8) and to the compute spent; the strongest setting matches retraining on "
        "filtered data at 60-80 % of its compute, with .01 % of the data labelled (language, arithmetic). Weak suppression leaks through."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune", "relearning")
    claimed: ClassVar[Claimed | None] = Claimed.COSTS
    withholds: ClassVar[str] = "absence"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """Suppress, distil, and guard."""
        config = self.config
        require(self, "undo", view)
        kept = answered([*view.benign, *view.borderline, *view.general])
        suppression = Suppression(
            answered(view.hazard),
            kept,
            config.suppression_training.batch_size,
            method=config.suppression,
            retain=config.retain,
            weight=config.hazard_weight,
            steering=config.steering,
        )
        distillation = Distillation(kept, config.training.batch_size, partial(begin_anew, alpha=config.alpha, beta=config.beta))
        lora = config.lora if config.parameters == "lora" else None
        stages = [
            Stage("suppress", suppression, config.suppression_training, self._steps(config.suppression_share), lora, floored=False),
            Stage("distil", distillation, config.training, config.steps, None, floored=False, until=config.until),
        ]
        if config.guard:
            steps = self._steps(config.guard_share)
            stages.append(guard(target, view, config.refusals, config.guard_training, steps, kept=kept, seed=seed, lora=lora))
        return stages

    def _steps(self, share: float) -> int:
        steps: int = self.config.steps
        return max(1, round(share * steps))
