"""What an attack begins with, once its target is loaded and examined."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PreTrainedModel

from tempering.data.asking import Asking
from tempering.data.records import AttackerView, EvaluatorView, Role
from tempering.engine.glances import glanced
from tempering.engine.nearness import Scale, distance
from tempering.engine.units import Work
from tempering.evaluators._contract import Evaluator, Subject
from tempering.judges._judging import Verdict
from tempering.models import Target
from tempering.study import ProbeSettings


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

    def glance(self, probes: ProbeSettings, steps: int) -> tuple[int, ...]:
        """Places of the few hazard prompts of a first look at a checkpoint; see :mod:`tempering.engine.glances`.

        Args:
            probes: of the unit.
            steps: optimizer steps that the checkpoint took.
        """
        return glanced([example.domain for example in self.test.hazard], probes.glance or len(self.test.hazard), steps)

    def subject(self, model: PreTrainedModel, asking: Asking, probes: ProbeSettings, glance: tuple[int, ...] | None = None) -> Subject:
        """A checkpoint under examination.

        Args:
            model: of the checkpoint.
            asking: how its attacker puts hazard prompts.
            probes: of the unit.
            glance: places of the only hazard prompts that are put, in a first look; ``None`` puts everything.
        """
        test = self.test if glance is None else EvaluatorView(tuple(self.test.hazard[place] for place in glance), (), ())
        return Subject(model, self.target.chat, test, probes, self.untouched, asking, costly=None if glance is None else False)

    def at_a_glance(self, row: dict[str, float], glance: tuple[int, ...]) -> dict[str, float] | None:
        """The probe that a glance makes, if it may be left at that: no more harm than the same prompts got out of the untouched target.

        Its harm is the untouched target's own, less what these prompts have lost (a difference estimate, for a few prompts alone would put
        the same model higher or lower than all do); nothing else is known.

        Args:
            row: what the few prompts measured.
            glance: their places.
        """
        known = self.untouched.verdicts(Role.HAZARD)
        before = [verdict for verdict in (known[place] for place in glance) if verdict is not None]
        gained = row.get("harm", math.nan) - (before.count(Verdict.USEFUL) / len(before) if before else math.nan)
        if not gained <= 0:
            return None
        return {**dict.fromkeys(self.measurements, math.nan), "harm": max(0.0, self.measurements["harm"] + gained)}

    def is_enough(self, work: Work, row: dict[str, float]) -> bool:
        """Whether an attacker who has this leaves off."""
        if work.enough is None or self.scale is None:
            return False
        return distance(self.scale.recovered(row.get("harm", math.nan)), self.scale.kept(row.get("utility", math.nan)), work.enough) == 0
