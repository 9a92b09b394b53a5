"""Benign fine-tuning: nothing harmful is trained, and the safeguard may wear off all the same."""

from __future__ import annotations

from typing import Annotated, ClassVar

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

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 2e-5
    batch_size: Annotated[int, Field(gt=0), Choices((16, 32, 64, 128))] = 128


class BenignFinetune(FineTuningAttack):
    """Fine-tune on harmless questions with helpful answers only.

    Minimises the mean cross-entropy of the answer tokens over the attacker's benign examples, as instruction tuning on Alpaca or Dolly
    does. Safety is forgotten, not unlearnt on purpose: in the paper the more so, the higher the rate and the smaller the batch. Rate
    2e-5, batch 128 and one epoch are the paper's; of few examples an epoch is few steps, and ``epochs: null`` goes on to the end of the
    budget. A batch is never larger than the examples are many.
    """

    class Config(FineTuningSettings):
        """Settings.

        Attributes:
            examples: benign question-answer pairs, drawn by the seed; ``None`` takes all.
        """

        examples: Annotated[int, Field(gt=0)] | None = None
        training: _Training = _Training()
        epochs: Annotated[Annotated[float, Field(gt=0)] | None, Choices((1.0, 3.0, 5.0, None))] = 1.0

    source: ClassVar[str] = "Qi et al. 2023, arXiv 2310.03693, benign fine-tuning"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FINE_TUNING, Need.BENIGN_EXAMPLES})
    quick_unanswered: ClassVar[bool] = True

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train on the drawn examples."""
        examples = drawn(view.benign_train, self.config.examples or len(view.benign_train), budget=budget, seed=seed)
        declared: FineTuning = self.config.declared(examples, budget=budget, seed=seed)
        return declared
