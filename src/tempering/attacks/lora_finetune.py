"""LoRA fine-tuning: low-rank adapters move towards compliance, the weights stay."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tempering.attacks._contract import FineTuningAttack
from tempering.attacks._harmful_examples import HarmfulExamples
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.study import Budget, Choices, Need, Range
from tempering.training import FineTuning, LoraSettings, TrainingSettings


class _Training(TrainingSettings):
    """The loop's settings with this attack's defaults, so that a study which sets one of them keeps the others."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-3, log=True)] = 2e-4
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 10


class LoraFinetune(FineTuningAttack):
    """Fine-tune low-rank adapters on harmful questions with compliant answers.

    Minimises the mean cross-entropy of the answer tokens over the attacker's own pairs, with W + (alpha / r) B A in place of every linear
    layer's W (Hu et al. 2021, arXiv 2106.09685) and only A and B moving. Adapters take a higher rate than weights do.
    """

    class Config(HarmfulExamples):
        """Settings.

        Attributes:
            training: optimiser, schedule and batch.
            lora: shape and place of the adapters.
        """

        training: _Training = _Training()
        lora: LoraSettings = LoraSettings()

    source: ClassVar[str] = "Qi et al. 2023, arXiv 2310.03693, by LoRA (Hu et al. 2021, arXiv 2106.09685)"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.GRADIENTS, Need.HARMFUL_EXAMPLES})
    quick: ClassVar[bool] = True

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train adapters on the drawn examples."""
        declared: FineTuning = self.config.declared(view, self.config.training, budget=budget, seed=seed, lora=self.config.lora)
        return declared
