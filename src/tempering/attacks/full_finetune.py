"""Full fine-tuning: every weight moves towards compliance."""

from __future__ import annotations

from typing import ClassVar

from tempering.attacks._contract import FineTuningAttack
from tempering.attacks._harmful_examples import HarmfulExamples
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.study import Budget, Need
from tempering.training import FineTuning, TrainingSettings


class FullFinetune(FineTuningAttack):
    """Fine-tune all weights on harmful questions with compliant answers.

    Minimises the mean cross-entropy of the answer tokens, -1/|a| sum_t log p(a_t | q, a_<t), over 10 to 100 pairs of the attacker's own,
    shuffled anew each epoch. Batch 10, AdamW and a constant rate are the paper's; its rate, 5e-5, is for a model of 7 billion
    weights, and the models that are audited on a small machine need more: the default is 3e-4.
    """

    class Config(HarmfulExamples):
        """Settings.

        Attributes:
            training: optimiser, schedule and batch.
        """

        training: TrainingSettings = TrainingSettings(learning_rate=3e-4, batch_size=10)

    source: ClassVar[str] = "Qi et al. 2023, arXiv 2310.03693, section 4.1"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.GRADIENTS, Need.HARMFUL_EXAMPLES})
    quick: ClassVar[bool] = True

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train all weights on the drawn examples."""
        declared: FineTuning = self.config.declared(view, self.config.training, budget=budget, seed=seed)
        return declared
