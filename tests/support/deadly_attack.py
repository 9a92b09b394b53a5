"""An attack whose first worker dies of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tempering.attacks.full_finetune import FullFinetune
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.study import Budget
from tempering.training import FineTuning


class Deadly(FullFinetune):
    """Full fine-tuning that kills the first process, other than the one named in the environment, that asks what is trained."""

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Die, or declare."""
        mark = Path(os.environ["DEADLY_MARK"])
        if os.getpid() != int(os.environ["DEADLY_DRIVER"]) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().declare(target, view, budget=budget, seed=seed)
