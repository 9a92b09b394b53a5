"""A hardened model, from the job that names it to the directory that holds it; killed anywhere, it goes on where it was.

A :class:`HardeningJob` is to a defence what a unit is to an attack: the hash of everything that decides the weights. The training
itself is :class:`tempering.training.Hardening`; here it is watched, kept in snapshots, and ended with a card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tempering import registry
from tempering.canonical import canonical_hash
from tempering.data.records import DefenderView
from tempering.defenses._contract import Defense, require
from tempering.engine.driving import explain, is_large, is_out_of_memory, randomness, release_memory
from tempering.engine.environment import available_memory, whole_memory
from tempering.engine.files import UNREADABLE
from tempering.engine.hardening_card import RECORD, SCHEMA, make_record, write_card
from tempering.engine.hardening_folder import Pace, TrainingFolder, file_sha256
from tempering.engine.hardening_job import HARDENING_VERSION, HardeningJob, PlannedHardening, plan_hardening, planned_target, planned_view
from tempering.engine.hardening_session import Session, TrainingProgress, Watcher
from tempering.engine.hardening_watch import Watch
from tempering.engine.worker import reproducible
from tempering.errors import FailedTraining, LeftAlone, MemoryShortage, StoreProblem, UnusableModel
from tempering.models import Target
from tempering.models.digest import target_digest
from tempering.models.saving import save
from tempering.training import Hardening, NonFiniteLoss, Stage
from tempering.training.memory import estimate_memory

__all__ = [
    "HARDENING_VERSION",
    "HardenedModel",
    "HardeningJob",
    "Measure",
    "PlannedHardening",
    "TrainingProgress",
    "Watcher",
    "finished",
    "plan_hardening",
    "record_in",
    "train",
]


@dataclass(frozen=True)
class HardenedModel:
    """A hardened model on disk.

    Attributes:
        directory: an ordinary Hugging Face directory with a card.
        record: the content of its ``tempering.json``.
    """

    directory: Path
    record: dict[str, Any]


Measure = Callable[[Target], dict[str, Any]]
"""Measures a model, for its card."""


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

    def warn(message: str) -> None:
        on_progress(TrainingProgress("warning", "", 0, 0, 0, 0, {}, message=message))

    folder = TrainingFolder(directory, job.hash, warn)
    if (there := finished(job, directory)) is not None:
        if folder.path.is_dir():
            folder.clear()
        on_progress(TrainingProgress("done", "", 0, 0, 0, 0, {}, message=f"{directory} holds this model already"))
        return there
    target = planned_target(job) if target is None else target
    view = planned_view(job) if view is None else view
    defense: Defense = registry.create("defenses", job.defense.name, job.defense.config)
    require(defense, job.defense.name, view)
    stages = tuple(defense.stages(target, view, seed=job.seed))
    check_memory(job, target, stages, view)
    with folder.held():
        if (there := finished(job, directory)) is not None:  # another process was faster
            return there
        kept = folder.latest()
        threads = torch.get_num_threads() if kept is None else int(kept[1]["threads"])
        with reproducible(threads), randomness(job.seed):
            session = Session(job, folder, Hardening(target, stages, seed=job.seed), Watch(target, view.validation, job.watch_prompts))
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
        LeftAlone: as :func:`record_in`.
    """
    record = record_in(directory)
    if record is None:
        return None
    files: dict[str, str] = record["files"]
    if record["job"] != job.hash:
        raise StoreProblem(f"{directory} holds a model that was hardened in another way", "choose another --out or remove it")
    for name, expected in files.items():
        path = directory / name
        if not _is(path, expected):
            raise StoreProblem(f"{path} is not as it was written", "remove the directory and harden anew, or choose another --out")
    return HardenedModel(directory, record)


def record_in(directory: Path) -> dict[str, Any] | None:
    """The record of the hardened model in a directory; ``None`` where the directory is absent or empty.

    Raises:
        StoreProblem: it holds something else.
        LeftAlone: it cannot be read just now, or was written by another version; it may be sound.
    """
    if not directory.exists() or (directory.is_dir() and not (directory / RECORD).exists() and not any(directory.iterdir())):
        return None
    try:
        record: dict[str, Any] = json.loads((directory / RECORD).read_bytes())
        unsealed = {name: value for name, value in record.items() if name != "seal"}
        if "seal" in record and record["seal"] != canonical_hash(unsealed):
            raise StoreProblem(
                f"{directory / RECORD} is not as it was written", "remove the directory and harden anew, or choose another --out"
            )
        if (schema := record.get("schema", SCHEMA)) != SCHEMA:
            raise _of_another_schema(directory, schema)
        if not isinstance(record["job"], str) or not isinstance(record["files"], dict):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno not in UNREADABLE:
            raise _not_now(directory / RECORD, error) from error
        raise StoreProblem(f"{directory} exists already and holds no hardened model", "choose another --out or remove it") from error
    return record


def _is(path: Path, expected: str) -> bool:
    """Whether a file is as it was written."""
    try:
        return path.is_file() and file_sha256(path) == expected
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise _not_now(path, error) from error
        return False


def _not_now(path: Path, error: OSError) -> LeftAlone:
    return LeftAlone(f"{path} cannot be read just now: {error.strerror or error}", "it may be sound: give the same command again")


def _of_another_schema(directory: Path, schema: Any) -> LeftAlone:
    newer = isinstance(schema, int) and schema > SCHEMA
    age, way = ("a newer", "install that version to use it") if newer else ("an older", "use it with that version")
    told = f"{directory} was hardened by {age} version of Tempering (schema {str(schema)[:20]}; this version reads {SCHEMA})"
    return LeftAlone(told, f"{way}, or choose another --out and harden anew")


def _save(job: HardeningJob, directory: Path, target: Target, session: Session, measure: Measure | None, tell: Watcher) -> HardenedModel:
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


def check_memory(job: HardeningJob, target: Target, stages: Sequence[Stage], view: DefenderView) -> None:
    """Refuse a training that will not fit, before anything of it is made.

    Raises:
        MemoryShortage: it needs more memory than is free at the moment.
        UnusableModel: it needs more than there is.
    """
    need = estimate_memory(target, stages, (*view.hazard, *view.benign, *view.borderline, *view.general, *view.imagined))
    rooms = [("memory", need.host, available_memory(), whole_memory())]
    if target.device.type == "cuda":
        unused = torch.cuda.memory_reserved(target.device) - torch.cuda.memory_allocated(target.device)
        free, whole = torch.cuda.mem_get_info(target.device)
        rooms.append((f"memory of {target.device}", need.device, free + unused, whole))
    else:
        rooms[0] = ("memory", need.host + need.device, available_memory(), whole_memory())
    for what, needed, free, whole in rooms:
        if free and needed > free:
            told = (
                f"hardening {job.model.reference} by {job.defense.name!r} needs about {_size(needed)} of {what} and {_size(free)} are free"
            )
            less = _less_memory(stages, need.parts, target)
            if needed <= whole:
                raise MemoryShortage(told, f"give the command again when more of its {_size(whole)} are free, {less}")
            raise UnusableModel(told, less)


def _size(count: int) -> str:
    """Bytes in the unit that suits them."""
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:.0f} {name}" if count >= 10 * unit else f"{count / unit:.2g} {name}"


def _less_memory(stages: Sequence[Stage], parts: dict[str, int], target: Target) -> str:
    """What would need less, the most useful first."""
    ways = []
    if any(stage.lora is None for stage in stages):
        ways.append("train adapters with --lora")
    if parts["activations"] > sum(parts.values()) / 5:
        ways.append("lower training.batch_size in --config")
    if target.dtype == "float32":
        ways.append("take --dtype bfloat16")
    return ", ".join([*ways, "or take another --device"])


_OTHER_SETTINGS = "try a lower learning rate, or another seed"
_LESS_MEMORY = "train adapters with --lora, lower training.batch_size, or take --dtype bfloat16 or another --device"
