"""Training: the one loop, and the meter that counts what it spends."""

from tempering.training.flops import FlopCount
from tempering.training.loop import Moment, NonFiniteLoss, autocast, estimate, fine_tune
from tempering.training.meter import Meter, Spend
from tempering.training.settings import FineTuning, LoraSettings, TrainingSettings

__all__ = [
    "FineTuning",
    "FlopCount",
    "LoraSettings",
    "Meter",
    "Moment",
    "NonFiniteLoss",
    "Spend",
    "TrainingSettings",
    "autocast",
    "estimate",
    "fine_tune",
]
