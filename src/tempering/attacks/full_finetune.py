"""Full fine-tuning: every weight moves towards compliance."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tempering.attacks._contract import FineTuningAttack
from tempering.attacks._fine_tuning import FineTuningSettings, drawn
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning, TrainingSettings


class _Training(TrainingSettings):
    """The loop's settings with this attack's defaults, so that a study which sets one of them keeps the others."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-3, log=True)] = 5e-5
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 10


class FullFinetune(FineTuningAttack):
    """Fine-tune all weights on harmful questions with compliant answers.

    Minimises the mean cross-entropy of the answer tokens, -1/|a| sum_t log p(a_t | q, a_<t), over 10 to 100 pairs of the attacker's own,
    shuffled anew each epoch. Batch 10, AdamW and the rate of 5e-5 are the paper's; where it makes 5 epochs, this goes on to the end
    of the budget.
    """

    class Config(FineTuningSettings):
        """Settings.

        Attributes:
            shots: harmful question-answer pairs, drawn by the seed; all there are where there are fewer.
        """

        shots: Annotated[int, Field(gt=0), Choices((10, 50, 100))] = 100
        training: _Training = _Training()
        parameters: Literal["all"] = "all"

    source: ClassVar[str] = "Qi et al. 2023, arXiv 2310.03693, explicitly harmful examples"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FINE_TUNING, Need.HARMFUL_EXAMPLES})
    quick: ClassVar[bool] = True

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train all weights on the drawn examples."""
        examples = drawn(view.hazard_train, self.config.shots, budget=budget, seed=seed)
        declared: FineTuning = self.config.declared(examples, budget=budget, seed=seed)
        return declared
