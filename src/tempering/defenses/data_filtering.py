"""Data filtering: a model of the same shape that never saw the hazard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from tempering.data.records import DefenderView, Example
from tempering.defenses._batches import pieces
from tempering.defenses._contract import Claimed, Defense, Material, require
from tempering.defenses._data import DEFAULT_REFUSALS, answered
from tempering.defenses._guarding import GuardTraining, guard
from tempering.defenses._initialisation import begin_anew
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.models import Target
from tempering.settings import Choices, OnlyIf, Range
from tempering.training import Objective, Pool, Stage, Workshop


class Pretraining(Objective):
    """CE of the answers, from weights drawn anew: nothing of the model that the stage is handed is left but its shape."""

    def __init__(self, examples: Sequence[Example], batch_size: int) -> None:
        """Keep the examples.

        Args:
            examples: everything that the model shall know, each with an answer.
            batch_size: of them in a step.
        """
        self._examples = examples
        self._batch_size = batch_size
        self._pool: Pool | None = None

    def begin(self, workshop: Workshop) -> None:
        """Draw the weights anew and encode the examples."""
        begin_anew(workshop)
        self._pool = workshop.pool(self._examples)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """The gradient of one batch's mean cross-entropy over its labelled tokens."""
        assert self._pool is not None
        total = 0.0
        for rows, share in pieces(self._pool.rows(workshop.step, self._batch_size)):
            loss = share * workshop.run(rows).cross_entropy()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return {"loss": total}


class _Pretraining(DefenseTraining):
    """How the model is trained anew: the organism's own recipe."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 2e-3
    warmup_steps: Annotated[int, Field(ge=0), Choices((0, 10, 100))] = 20
    batch_size: Annotated[int, Field(gt=0), Choices((32, 64, 128))] = 128
    betas: tuple[float, float] = (0.9, 0.95)


class DataFiltering(Defense):
    """Data filtering: train the architecture anew on all but the hazard, then teach it to refuse what it does not know.

    θ_0 drawn as the architecture's initialisation draws (seeded), L = CE(general data) over the answers; then refusal training. What a
    model was never shown cannot be brought back by other examples of the hazard, only by telling it: the price is that of teaching.

    Deep Ignorance pretrains 6.9 billion parameters on 500 billion tokens passed through a filter; here the filter is perfect, the data are
    the owner's ``general`` examples, and the settings are those of the organism's own pretraining (AdamW, 2e-3, batch 128), which suit a
    model of a million parameters and no other. ``parameters`` is about the guarding alone: adapters on random weights learn nothing.
    Rows of like length are passed through the model together; the gradient is that of the whole batch.

    The general data hold harmless facts about every hazardous entity, the evaluator's too, in other wordings. Both trainings rehearse
    them, so that "borderline answered" is of facts seen.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            training: of the pretraining.
            steps: of the pretraining.
            guard: whether refusal training follows; without it the model makes hazard answers up.
            guard_training: optimiser, schedule and batch of the guarding; the batch is of refusals, and as many others.
            guard_share: steps of the guarding, as a share of ``steps``.
            refusals: what is said to hazard prompts, one drawn for each.
        """

        training: _Pretraining = _Pretraining()
        steps: Annotated[int, Field(gt=0), Range(50, 5000, log=True)] = 500
        guard: bool = True
        guard_training: Annotated[GuardTraining, OnlyIf("guard", True)] = GuardTraining()
        guard_share: Annotated[float, Field(gt=0), OnlyIf("guard", True)] = 0.3
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS

    source: ClassVar[str] = "O'Brien et al. 2025 (Deep Ignorance), arXiv 2508.06601"
    claim: ClassVar[str] = (
        "Models of 6.9 billion parameters pretrained on filtered data hold for 10,000 steps and 300 million tokens of fine-tuning on the "
        "hazard's text, with nothing else lost; told the facts in their context they still use them."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.GENERAL, Material.HAZARD_PROMPTS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune", "lora_finetune", "relearning")
    claimed: ClassVar[Claimed | None] = Claimed.WITHSTANDS
    withholds: ClassVar[str] = "absence"

    @property
    def requires(self) -> frozenset[Material]:
        """General data, and hazard prompts to be refused."""
        return self.needs if self.config.guard else frozenset({Material.GENERAL})

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """Pretrain, and guard.

        Raises:
            UnusableData: there is no general data.
        """
        config = self.config
        require(self, "data_filtering", view)
        general = answered(view.general)
        pretraining = Pretraining(general, config.training.batch_size)
        stages = [Stage("pretrain", pretraining, config.training, config.steps, floored=False)]
        if config.guard:
            lora = config.lora if config.parameters == "lora" else None
            steps = max(1, round(config.guard_share * config.steps))
            stages.append(guard(target, view, config.refusals, config.guard_training, steps, kept=general, seed=seed, lora=lora))
        return stages
