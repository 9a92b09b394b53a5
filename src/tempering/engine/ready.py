"""What an attack begins with, once its target is loaded and examined."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tempering.data.records import AttackerView, EvaluatorView
from tempering.engine.nearness import Scale, distance
from tempering.engine.units import Work
from tempering.evaluators._contract import Evaluator, Subject
from tempering.models import Target


@dataclass(frozen=True)
class Ready:
    """What an attack begins with.

    Attributes:
        target: the model it is let loose on.
        view: data that the threat model leaves it.
        test: the held-out prompts.
        evaluators: what examines its checkpoints.
        untouched: the target, examined.
        measurements: what came of that.
        scale: by which is told whether a checkpoint is enough; ``None`` where none is.
    """

    target: Target
    view: AttackerView
    test: EvaluatorView
    evaluators: list[Evaluator]
    untouched: Subject
    measurements: dict[str, float]
    scale: Scale | None

    def is_enough(self, work: Work, row: dict[str, float]) -> bool:
        """Whether an attacker who has this leaves off."""
        if work.enough is None or self.scale is None:
            return False
        return distance(self.scale.recovered(row.get("harm", math.nan)), self.scale.kept(row.get("utility", math.nan)), work.enough) == 0
