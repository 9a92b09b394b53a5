"""Hardens a tiny model many times over, kills it at many moments, and prints what it saw as one JSON document.

Imports take seconds, so this process does them once and forks for every run.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from support.toy_study import rows, toy_models, write_rows
from tempering.engine import hardening
from tempering.engine.hardening import HardeningJob, TrainingProgress, plan_hardening, train
from tempering.engine.hardening_folder import STAGES, TrainingFolder
from tempering.engine.hardening_watch import Look, Watch
from tempering.study import DataChoice, MethodChoice, ModelChoice

LINK = {"name": "refusal_sft", "config": {"steps": 9, "refusals": ["no, i can not say that."], "training": {"learning_rate": 1e-2}}}
WITH_LORA = {**LINK, "config": {**LINK["config"], "parameters": "lora", "steps": 7}}

Told = Callable[[TrainingProgress], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Falling(Watch):
    """A utility that falls as the weights move away from the target's, so that the floor is reached in the middle of the first stage."""

    @property
    def own(self) -> float:
        return 1.0

    @property
    def is_blind(self) -> bool:
        return False

    def look(self, model: Any) -> Look:
        pairs = zip(model.get_input_embeddings().weight, self._untouched.model.get_input_embeddings().weight, strict=True)
        moved = sum(float((one.detach() - other.detach()).abs().mean()) for one, other in pairs)
        return Look(1 - moved, 1 - moved)


def trained(job: HardeningJob, directory: Path, told: Told = lambda progress: None, reached: Callable[[str], None] | None = None) -> int:
    """Train in a process of its own; its exit status, minus the signal where one killed it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            hardening.Watch = Falling  # type: ignore[misc]
            if reached is not None:
                hardening.TrainingFolder = partial(TrainingFolder, reached=reached)  # type: ignore[misc,assignment]
            train(job, directory, on_progress=told, measure=lambda target: {}, snapshot_seconds=0)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def after(number: int, kind: str) -> Told:
    """Kills the process when it is told so often of such a moment."""
    seen = 0

    def told(progress: TrainingProgress) -> None:
        nonlocal seen
        seen += progress.kind == kind
        if seen == number and progress.kind == kind:
            die()

    return told


def at(stage: str, snapshot: int) -> Callable[[str], None]:
    """Kills the process at a moment of one of its snapshots."""
    seen = 0

    def reached(moment: str) -> None:
        nonlocal seen
        seen += moment == stage
        if seen == snapshot and moment == stage:
            die()

    return reached


def left(directory: Path) -> dict[str, Any]:
    """What a finished training left, without clocks."""
    record = json.loads((directory / "tempering.json").read_text())
    return {
        "device_seconds": record["spend"].pop("device_seconds"),
        "weights": hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(),
        "record": record,
        "beside": sorted(path.name for path in directory.parent.iterdir()),
    }


def spent(directory: Path) -> float:
    """Seconds on the device that the latest snapshot has counted; 0 without one."""
    records = sorted(directory.with_name(f"{directory.name}.training").glob("[0-9]*/record.json"))
    return float(json.loads(records[-1].read_text())["record"]["hardening"]["spend"]["device_seconds"]) if records else 0.0


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    choices = (
        ModelChoice(reference=str(folder / "guarded"), device="cpu"),
        DataChoice(reference=str(folder / "data.jsonl")),
        MethodChoice(name="chain", config={"steps": [LINK, WITH_LORA]}),
    )
    job = plan_hardening(*choices, watch_steps=3, floor=0.5).job
    report: dict[str, Any] = {"whole": {"end": trained(job, folder / "whole" / "model"), **left(folder / "whole" / "model")}}

    place = folder / "snapshots" / "model"
    ends, seconds = [], []
    for number, stage in enumerate(STAGES):
        ends.append(trained(job, place, reached=at(stage, 1 + number % 3)))
        seconds.append(spent(place))
    report["killed in snapshots"] = {"ends": [*ends, trained(job, place)], "spent": seconds, **left(place)}

    place = folder / "steps" / "model"
    moments = [(2, "step"), (3, "step"), (1, "looked"), (1, "stage_ended"), (2, "step"), (1, "looked"), (1, "measuring")]
    ends, kept, seconds = [], [], []
    for number, kind in moments:
        ends.append(trained(job, place, after(number, kind)))
        kept.append(place.exists())
        seconds.append(spent(place))
    report["killed in steps"] = {"ends": [*ends, trained(job, place)], "appeared": kept, "spent": seconds, **left(place)}

    place = folder / "saving" / "model"
    write_card = hardening.write_card
    hardening.write_card = lambda record, folder: die()
    ends = [trained(job, place)]
    hardening.write_card = write_card
    appeared = [place.exists(), any(path.name.endswith(".partial") for path in place.parent.iterdir())]
    ends.append(trained(job, place, after(1, "done")))
    appeared.append(place.exists())
    report["killed in saving"] = {"ends": [*ends, trained(job, place)], "appeared": appeared, **left(place)}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
