"""One training under way: watched by its utility, kept in snapshots, told of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tempering.engine.hardening_folder import Pace, TrainingFolder
from tempering.engine.hardening_job import HardeningJob
from tempering.engine.hardening_watch import Look, Watch
from tempering.errors import StoreProblem
from tempering.training import Hardening, HardeningStep, Snapshot, Stage


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands.

    Attributes:
        kind: ``resumed`` once where an interrupted one goes on, ``step`` after every step, ``looked`` after a look at utility,
            ``stage_ended`` at the end of each stage, ``measuring`` and ``done`` at the end, ``warning`` where something mended itself.
        stage: name of the stage under way.
        step: steps of it done.
        steps: steps it has at most.
        steps_done: steps done of all stages; those that a stage was spared count as done.
        steps_total: steps of all stages at most.
        parts: of the last step's loss, by name; ``loss`` is the whole.
        kept: utility at the last look as a share of the target's; NaN before the first.
        seconds_left: by the pace so far; NaN while there is too little to go by.
        message: one line for a reader, where there is something to say.
        place: number of the stage, from 1.
        stages: how many there are.
    """

    kind: Literal["resumed", "step", "looked", "stage_ended", "measuring", "done", "warning"]
    stage: str
    step: int
    steps: int
    steps_done: int
    steps_total: int
    parts: dict[str, float]
    kept: float = math.nan
    seconds_left: float = math.nan
    message: str = ""
    place: int = 1
    stages: int = 1


PATIENCE = 0.5
"""Share of a stage's steps for which utility may stay below half of the floor before the stage is given up. Most defences tear a model up
before they mend it: on ``organism:tiny`` circuit breakers left 4 % of its utility after 40 of 300 steps and all of it from 120 on, and
RepNoise 69 % after 220 of 400 and all of it at the end. So what counts is the end, and only what looks lost is not waited for."""

Watcher = Callable[[TrainingProgress], None]
"""Is told where a training stands."""


class Session:
    """A training under way.

    Attributes:
        job: what is trained.
        folder: where snapshots are kept.
        hardening: the training itself.
        watch: looks at utility.
        ended: of every stage that is over, how it ended, as JSON values.
        look: the last one; ``None`` before the first.
    """

    def __init__(self, job: HardeningJob, folder: TrainingFolder, hardening: Hardening, watch: Watch) -> None:
        """Begin at the beginning."""
        self.job = job
        self.folder = folder
        self.hardening = hardening
        self.watch = watch
        self.ended: list[dict[str, Any]] = []
        self.look: Look | None = None
        self._good: dict[str, Tensor] = {}
        self._good_step = 0
        self._below: int | None = None
        self._stages = hardening.stages
        self._before = [sum(stage.steps for stage in self._stages[:place]) for place in range(len(self._stages) + 1)]
        self._message = ""

    def take_up(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Go on where a snapshot was made."""
        self._good = {name.removeprefix("good."): value for name, value in tensors.items() if name.startswith("good.")}
        own = {name: value for name, value in tensors.items() if not name.startswith("good.")}
        try:
            self.hardening.restore(Snapshot(own, record["hardening"]))
        except ValueError as error:
            raise StoreProblem(f"{self.folder.path} cannot be gone on from: {error}", "remove that folder to train anew") from error
        self.ended, self._good_step, self._below = record["ended"], record["good_step"], record["below"]
        self.look = None if record["look"] is None else Look(*record["look"])
        self._message = f"going on after {self.steps_done} of {self._before[-1]} steps"

    @property
    def steps_done(self) -> int:
        """Of all stages; what a stage was spared counts as done."""
        return self._before[self.hardening.stage] + self.hardening.step

    def run(self, tell: Watcher, pace: Pace) -> None:
        """Train to the end of the last stage."""
        if self._message:
            tell(self.progress("resumed", {}, message=self._message))
        begun, first = time.monotonic(), self.steps_done
        steps = iter(self.hardening.run())
        while True:
            with self.hardening.meter.timing():
                step = next(steps, None)
            if step is None:
                break
            done = self._before[step.stage] + step.step
            left = (time.monotonic() - begun) / max(1, done - first) * (self._before[-1] - done)
            tell(self.progress("step", step.parts, step, left if done - first >= 3 else math.nan))
            self._after(step, tell)
            if pace.due or self.hardening.done:
                with pace.timing():
                    self._keep()
            if self.hardening.done:
                break

    def _after(self, step: HardeningStep, tell: Watcher) -> None:
        """Look where a look is due, and end the stage where it has run out or the look says so."""
        stage = self._stages[step.stage]
        last = step.step == stage.steps
        ended = "ran all its steps" if last else ""
        undone = False
        if (stage.floored or stage.until is not None) and not self.watch.is_blind and (last or step.step % self.job.watch_steps == 0):
            self.look = self.watch.look(self.hardening.model)
            tell(self.progress("looked", step.parts, step))
            if stage.floored and self.look.kept < self.job.floor:
                undone = last or self._is_hopeless(step.step, stage)
                ended = f"utility was {self.look.kept:.0%} of the target's, below the floor of {self.job.floor:.0%}" if undone else ""
            elif stage.until is not None and self.look.kept >= stage.until:
                ended = f"utility was back at {self.look.kept:.0%} of the target's"
            elif stage.floored and not last:
                self._good, self._good_step = (
                    {name: value.to("cpu", copy=True) for name, value in self.hardening.trained().items()},
                    step.step,
                )
                self._below = None
        if ended:
            self._end(stage, step, ended, undone, tell)

    def _is_hopeless(self, step: int, stage: Stage) -> bool:
        """Whether utility has been below half of the floor for too long."""
        assert self.look is not None
        if self.look.kept >= self.job.floor / 2:
            self._below = None
            return False
        self._below = step if self._below is None else self._below
        return step - self._below >= PATIENCE * stage.steps

    def _end(self, stage: Stage, step: HardeningStep, why: str, undone: bool, tell: Watcher) -> None:
        kept = step.step
        if undone:
            kept = self._good_step
            if kept:
                self.hardening.end_stage(self._good)
            else:
                self.hardening.undo_stage()
            self.look = self.watch.look(self.hardening.model)
        else:
            self.hardening.end_stage()
        self._good, self._good_step, self._below = {}, 0, None
        entry = {
            "name": stage.name,
            "steps": stage.steps,
            "steps_done": step.step,
            "steps_kept": kept,
            "floored": undone,
            "ended": why,
            "utility_kept": None if self.look is None or math.isnan(self.look.kept) else self.look.kept,
        }
        self.ended.append(entry)
        back = f"the weights of step {kept}" if kept else "the weights it began with"
        went_back = f"; went back to {back}" if undone else ""
        tell(self.progress("stage_ended", step.parts, step, message=f"{stage.name}: {why}{went_back}"))

    def _keep(self) -> None:
        """Write a snapshot."""
        snapshot = self.hardening.snapshot()
        record = {
            "hardening": snapshot.record,
            "ended": self.ended,
            "good_step": self._good_step,
            "below": self._below,
            "look": None if self.look is None else [self.look.utility, self.look.kept],
            "threads": torch.get_num_threads(),
        }
        tensors = {**snapshot.tensors, **{f"good.{name}": value for name, value in self._good.items()}}
        self.folder.write(tensors, record, self.hardening.meter.spend().steps)

    def progress(
        self,
        kind: Literal["resumed", "step", "looked", "stage_ended", "measuring", "done"],
        parts: dict[str, float],
        step: HardeningStep | None = None,
        seconds_left: float = math.nan,
        message: str = "",
    ) -> TrainingProgress:
        """Where it stands, or stood after a step."""
        place = min(self.hardening.stage if step is None else step.stage, len(self._stages) - 1)
        stage, count = self._stages[place], self.hardening.step if step is None else step.step
        done = self.steps_done if step is None or kind == "stage_ended" else self._before[place] + count
        kept = math.nan if self.look is None else self.look.kept
        return TrainingProgress(
            kind,
            stage.name,
            count,
            stage.steps,
            done,
            self._before[-1],
            parts,
            kept,
            seconds_left,
            message,
            place + 1,
            len(self._stages),
        )
