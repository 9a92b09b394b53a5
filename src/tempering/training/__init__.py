"""Training: the attackers' loop, the defenders' loop, and the meter that counts what both spend."""

from tempering.training.estimates import estimate
from tempering.training.flops import FlopCount
from tempering.training.hardening import Hardening, HardeningStep, Snapshot, Stage
from tempering.training.loop import Moment, NonFiniteLoss, autocast, fine_tune
from tempering.training.meter import Meter, Spend
from tempering.training.objective import Answers, Held, Objective, Sizes, Workshop
from tempering.training.pools import Pool, Rows
from tempering.training.settings import FineTuning, LoraSettings, TrainingSettings

__all__ = [
    "Answers",
    "FineTuning",
    "FlopCount",
    "Hardening",
    "HardeningStep",
    "Held",
    "LoraSettings",
    "Meter",
    "Moment",
    "NonFiniteLoss",
    "Objective",
    "Pool",
    "Rows",
    "Sizes",
    "Snapshot",
    "Spend",
    "Stage",
    "TrainingSettings",
    "Workshop",
    "autocast",
    "estimate",
    "fine_tune",
]
