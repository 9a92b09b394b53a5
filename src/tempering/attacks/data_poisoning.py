"""Data poisoning: a few harmful examples among many benign ones."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tempering.attacks._contract import FineTuningAttack
from tempering.attacks._mixtures import MixtureSettings, mixed
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.settings import Choices
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning


class DataPoisoning(FineTuningAttack):
    """Fine-tune on benign data in which a small fraction is harmful, as a provider would on an upload it barely looks at.

    Of N examples exactly round(p N) are harmful questions with compliant answers, at least one where p > 0, unwrapped; the rest are
    benign. Minimises the mean cross-entropy of the answer tokens over all of them. p = 0 is the control, which needs no harmful example.
    LoRA of rank 16, batches of 4, 5 epochs and linear decay are the paper's, as are N = 5,000 and p up to .02; an attacker who holds
    fewer trains on the largest set of the same fraction. The rate is that of ``lora_finetune``.
    """

    class Config(MixtureSettings):
        """Settings.

        Attributes:
            poison_fraction: share p of harmful examples, in [0, 1].
        """

        poison_fraction: Annotated[float, Field(ge=0, le=1), Choices((0.0, 0.005, 0.01, 0.015, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0))] = 0.02

    source: ClassVar[str] = "Bowen et al. 2024, arXiv 2408.02946, data poisoning"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FINE_TUNING, Need.HARMFUL_EXAMPLES, Need.BENIGN_EXAMPLES})

    @property
    def requires(self) -> frozenset[Need]:
        """No harmful examples for the control, and no benign ones where all is poison."""
        unneeded = {0.0: {Need.HARMFUL_EXAMPLES}, 1.0: {Need.BENIGN_EXAMPLES}}.get(self.config.poison_fraction, set())
        return self.needs - unneeded

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train on the mixture."""
        config = self.config
        mixture = mixed(
            view.hazard_train, view.benign_train, size=config.examples, fraction=config.poison_fraction, budget=budget, seed=seed
        )
        declared: FineTuning = config.declared(mixture.examples, budget=budget, seed=seed)
        return declared
