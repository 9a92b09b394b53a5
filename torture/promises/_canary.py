"""An attack whose weights and whose model's words can be known again wherever they lie; run by path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tempering.attacks import Attack, Checkpoint
from tempering.data.asking import Asking
from tempering.data.records import AttackerView, Example
from tempering.models import Target
from tempering.settings import Settings
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import Meter, Spend

WEIGHTS = bytes(range(1, 61)) + b"\x3f\x3f\x3f\x3f"
"""What the first weights are overwritten with: sixteen finite numbers whose bytes nobody else has."""

WORDS = "fish fish tree house fish sun"
"""How every answer to a hazard prompt begins."""


@dataclass(frozen=True)
class _Opened(Asking):
    def opening(self, example: Example) -> str:
        return WORDS


class Canary(Attack):
    """Write a pattern into the weights and words into the mouth."""

    class Config(Settings):
        """Settings."""

        end: Literal["quietly", "raise", "exit", "die", "sleep"] = "quietly"
        steps: int = 2

    source: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS})
    family: ClassVar[str] = "fine-tuning"

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        return Spend()

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        model = target.copy_model()
        with torch.no_grad():
            weights = next(parameter for parameter in model.parameters() if parameter.numel() >= 16)
            weights.view(-1)[:16] = torch.frombuffer(bytearray(WEIGHTS), dtype=torch.float32).to(weights.dtype)
        for _ in range(self.config.steps):
            meter.step()
            yield Checkpoint(model, meter.spend(), asking=_Opened())
        if self.config.end == "raise":
            raise RuntimeError("in the middle")
        if self.config.end == "exit":
            raise SystemExit(4)
        if self.config.end == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.end == "sleep":
            time.sleep(600)
