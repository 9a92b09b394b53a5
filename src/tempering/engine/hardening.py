"""A hardened model, from the job that names it to the directory that holds it; killed anywhere, it goes on where it was.

A :class:`HardeningJob` is to a defence what a unit is to an attack: the hash of everything that decides the weights. The training
itself is :class:`tempering.training.Hardening`; here it is watched, kept in snapshots, and ended with a card.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tempering import registry
from tempering.data.records import DefenderView, Division
from tempering.defenses._contract import Defense, require
from tempering.engine.driving import explain, is_large, is_out_of_memory, randomness, release_memory
from tempering.engine.hardening_card import RECORD, make_record, write_card
from tempering.engine.hardening_folder import Pace, TrainingFolder, file_sha256
from tempering.engine.hardening_watch import Look, Watch
from tempering.engine.loading import load_model, load_records, restrict
from tempering.engine.plan import resolve
from tempering.engine.units import ResolvedMethod
from tempering.engine.worker import reproducible
from tempering.errors import FailedTraining, StoreProblem, UnusableData, UnusableModel
from tempering.models import Target
from tempering.models.digest import target_digest
from tempering.models.saving import save
from tempering.study import SCHEMA_VERSION, DataChoice, MethodChoice, ModelChoice, Settings, canonical_hash
from tempering.training import Hardening, HardeningStep, NonFiniteLoss, Snapshot, Stage

HARDENING_VERSION = 1
"""Raised when a change of the code changes the weights that some job ends with."""


class HardeningJob(Settings):
    """One training of one defended model.

    Attributes:
        model: what is hardened.
        model_digest: SHA-256 of its weights and chat template.
        dtype: type of its weights, as loaded.
        device: type of the device it is trained on (``cpu``, ``cuda``).
        data: which prompts.
        data_digest: SHA-256 of the dataset.
        supplements_digest: of what the defender has beside it.
        defense: what is done.
        seed: decides every random choice.
        floor: the training of a stage is ended, and the last good weights kept, where utility falls below this share of the target's.
        watch_steps: utility is looked at after so many steps of a stage, and at its end.
        watch_prompts: validation prompts of each role that are asked then, at most.
        schema_version: of stored results.
        code_version: of what trains.
    """

    model: ModelChoice
    model_digest: str
    dtype: str
    device: str
    data: DataChoice
    data_digest: str
    supplements_digest: str = ""
    defense: ResolvedMethod
    seed: int
    floor: Annotated[float, Field(ge=0, le=1)] = 0.9
    watch_steps: Annotated[int, Field(gt=0)] = 20
    watch_prompts: Annotated[int, Field(gt=0)] = 64
    schema_version: int = SCHEMA_VERSION
    code_version: int = HARDENING_VERSION

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides the weights; sixty-four hexadecimal digits."""
        return canonical_hash(self.deciding())

    def deciding(self) -> dict[str, Any]:
        """Everything that decides the weights, without what things are called and where they lie."""
        return {
            "model": {"digest": self.model_digest, "dtype": self.dtype, "device": self.device},
            "data": {
                "digest": self.data_digest,
                "supplements": self.supplements_digest,
                "seed": self.data.seed,
                "domains": sorted(self.data.domains),
            },
            "defense": self.defense.deciding(),
            "seed": self.seed,
            "floor": self.floor,
            "watch": {"steps": self.watch_steps, "prompts": self.watch_prompts},
            "schema_version": self.schema_version,
            "code_version": self.code_version,
        }


@dataclass(frozen=True)
class HardenedModel:
    """A hardened model on disk.

    Attributes:
        directory: an ordinary Hugging Face directory with a card.
        record: the content of its ``tempering.json``.
    """

    directory: Path
    record: dict[str, Any]


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


Watcher = Callable[[TrainingProgress], None]
"""Is told where a training stands."""

Measure = Callable[[Target], dict[str, Any]]
"""Measures a model, for its card."""


@dataclass(frozen=True)
class PlannedHardening:
    """A job with what was loaded to plan it.

    Attributes:
        job: what is to be done.
        target: the model.
        division: of the data; the defence is given its defender's view.
    """

    job: HardeningJob
    target: Target
    division: Division


def plan_hardening(
    model: ModelChoice, data: DataChoice, defense: MethodChoice, *, seed: int = 0, floor: float = 0.9, **more: Any
) -> PlannedHardening:
    """Make choices into a job: the model and the data are looked at once, and what cannot be trained is said beforehand.

    Args:
        model: what to harden; organisms must have been built.
        data: which prompts.
        defense: which defence, with the settings that differ from its defaults.
        seed: decides every random choice.
        floor: share of the target's utility below which a stage is ended.
        more: further fields of :class:`HardeningJob`.

    Raises:
        InvalidStudy: the defence's settings are wrong, or there is no data.
        UnknownName: there is no such defence or organism.
        UnusableModel: the model cannot be loaded.
        UnusableData: the data cannot be read or divided, or do not hold what the defence needs.
    """
    resolved = resolve("defenses", defense)
    records = load_records(data, model)
    division = restrict(records, data.domains).divide(data.seed)
    made: Defense = registry.create("defenses", resolved.name, resolved.config)
    require(made, defense.title, division.defender_view())
    target = load_model(model)
    job = HardeningJob(
        model=model,
        model_digest=target.digest,
        dtype=target.dtype,
        device=target.device.type,
        data=data,
        data_digest=records.digest,
        supplements_digest=records.supplements().digest,
        defense=resolved,
        seed=seed,
        floor=floor,
        **more,
    )
    return PlannedHardening(job, target, division)


def train(
    job: HardeningJob,
    directory: Path,
    *,
    on_progress: Watcher = lambda progress: None,
    target: Target | None = None,
    view: DefenderView | None = None,
    measure: Measure | None = None,
    snapshot_seconds: float = 3.0,
) -> HardenedModel:
    """Train a hardened model into a directory, or take it from there where it is already.

    The directory appears whole or not at all. Until then snapshots are kept beside it, in ``<directory>.training``; the same job goes
    on from them after a kill, and ends with the same weights, bit for bit, as long as the machine computes the same.

    Args:
        job: what to train.
        directory: where to; absent or empty, or holding this very job's model.
        on_progress: told after every step.
        target: the job's model, where it is loaded already; left as it is.
        view: the defender's part of the job's data, likewise.
        measure: measures target and hardened model for the card; ``None`` leaves that out.
        snapshot_seconds: least time between two snapshots.

    Raises:
        StoreProblem: the directory holds something else, or cannot be written.
        UnusableModel: the model cannot be loaded, is not the one that was planned, or does not fit into memory.
        UnusableData: likewise for the data.
        FailedTraining: a loss is not finite.
    """
    directory = Path(directory)
    if (there := finished(job, directory)) is not None:
        return there
    target = _planned_target(job) if target is None else target
    view = _planned_view(job) if view is None else view
    defense: Defense = registry.create("defenses", job.defense.name, job.defense.config)
    require(defense, job.defense.name, view)
    stages = tuple(defense.stages(target, view, seed=job.seed))
    directory.parent.mkdir(parents=True, exist_ok=True)

    def warn(message: str) -> None:
        on_progress(TrainingProgress("warning", stages[0].name, 0, 0, 0, 0, {}, message=message))

    folder = TrainingFolder(directory, job.hash, warn)
    with folder.held():
        if (there := finished(job, directory)) is not None:  # another process was faster
            return there
        kept = folder.latest()
        threads = torch.get_num_threads() if kept is None else int(kept[1]["threads"])
        with reproducible(threads), randomness(job.seed):
            session = _Session(job, folder, Hardening(target, stages, seed=job.seed), Watch(target, view.validation, job.watch_prompts))
            if kept is not None:
                session.take_up(*kept)
            try:
                session.run(on_progress, Pace(snapshot_seconds))
                hardened = _save(job, directory, target, session, measure, on_progress)
            except NonFiniteLoss as error:
                folder.remove()  # the same training would fail in the same way
                raise FailedTraining(f"the defence {job.defense.name!r} failed: {error}", _OTHER_SETTINGS) from None
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise UnusableModel(f"the defence {job.defense.name!r} ran {explain(error)}", _LESS_MEMORY) from error
            finally:
                release_memory(is_large(target))
        folder.remove()
    return hardened


def finished(job: HardeningJob, directory: Path) -> HardenedModel | None:
    """The job's model, where the directory holds it already; ``None`` where the directory is absent or empty.

    Raises:
        StoreProblem: it holds something else, or the model is not as it was written.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    try:
        record = json.loads((directory / RECORD).read_bytes())
        belongs, files = record["job"] == job.hash, dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreProblem(f"{directory} exists already and holds no hardened model", "choose another --out or remove it") from error
    if not belongs:
        raise StoreProblem(f"{directory} holds a model that was hardened in another way", "choose another --out or remove it")
    for name, expected in files.items():
        path = directory / name
        if not path.is_file() or file_sha256(path) != expected:
            raise StoreProblem(f"{path} is not as it was written", "remove the directory and harden anew, or choose another --out")
    return HardenedModel(directory, record)


class _Session:
    """A training under way: watched, kept, told of."""

    def __init__(self, job: HardeningJob, folder: TrainingFolder, hardening: Hardening, watch: Watch) -> None:
        self.job = job
        self.folder = folder
        self.hardening = hardening
        self.watch = watch
        self.ended: list[dict[str, Any]] = []
        self.look: Look | None = None
        self._good: dict[str, Tensor] = {}
        self._good_step = 0
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
        self.ended, self._good_step = record["ended"], record["good_step"]
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
                undone = True
                ended = f"utility fell to {self.look.kept:.0%} of the target's, below the floor of {self.job.floor:.0%}"
            elif stage.until is not None and self.look.kept >= stage.until:
                ended = f"utility was back at {self.look.kept:.0%} of the target's"
            elif stage.floored and not last:
                self._good, self._good_step = (
                    {name: value.to("cpu", copy=True) for name, value in self.hardening.trained().items()},
                    step.step,
                )
        if ended:
            self._end(stage, step, ended, undone, tell)

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
        self._good, self._good_step = {}, 0
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
        went_back = f"; went back to the weights of step {kept}" if undone else ""
        tell(self.progress("stage_ended", step.parts, step, message=f"{stage.name}: {why}{went_back}"))

    def _keep(self) -> None:
        """Write a snapshot."""
        snapshot = self.hardening.snapshot()
        record = {
            "hardening": snapshot.record,
            "ended": self.ended,
            "good_step": self._good_step,
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
        place = min(self.hardening.stage if step is None else step.stage, len(self._stages) - 1)
        stage, count = self._stages[place], self.hardening.step if step is None else step.step
        done = self.steps_done if step is None or kind == "stage_ended" else self._before[place] + count
        kept = math.nan if self.look is None else self.look.kept
        return TrainingProgress(kind, stage.name, count, stage.steps, done, self._before[-1], parts, kept, seconds_left, message)


def _save(job: HardeningJob, directory: Path, target: Target, session: _Session, measure: Measure | None, tell: Watcher) -> HardenedModel:
    """Measure the finished model and write it with its card."""
    model = session.hardening.finished()
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise NonFiniteLoss("the last step left weights that are not finite")
    hardened = replace(target, model=model, digest=target_digest(model, target.chat.template), public_base=None)
    if measure is not None:
        tell(session.progress("measuring", {}))
    watch = session.watch
    training = {
        "stages": session.ended,
        "spend": session.hardening.meter.spend().as_row(),
        "watch": {"prompts": watch.prompts, "steps": job.watch_steps, "own": None if watch.is_blind else watch.own},
        "measurements": None if measure is None else {"before": measure(target), "after": measure(hardened)},
    }
    record = make_record(job, target, hardened, training)
    save(model, target.tokenizer, directory, beside=lambda folder: write_card(record, folder))
    tell(session.progress("done", {}))
    return HardenedModel(directory, json.loads((directory / RECORD).read_bytes()))


def _planned_target(job: HardeningJob) -> Target:
    target = load_model(job.model)
    if target.digest != job.model_digest:
        raise UnusableModel(f"the model {job.model.reference} has changed since the training was planned", "put it back, or start anew")
    return target


def _planned_view(job: HardeningJob) -> DefenderView:
    records = load_records(job.data, job.model)
    if records.digest != job.data_digest or records.supplements().digest != job.supplements_digest:
        raise UnusableData(f"the data {records.name} has changed since the training was planned", "put it back, or start anew")
    return restrict(records, job.data.domains).divide(job.data.seed).defender_view()


_OTHER_SETTINGS = "try a lower learning rate, or another seed"
_LESS_MEMORY = "train adapters with --lora, lower training.batch_size, or take --dtype bfloat16 or another --device"
