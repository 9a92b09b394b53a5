"""Trainings of a toy model by refusal training, for tests of what is done around a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from support.toy_study import rows, toy_models, write_rows
from tempering import models
from tempering.engine.hardening import HardeningJob, TrainingProgress, plan_hardening, train
from tempering.model_choice import ModelChoice
from tempering.study import DataChoice, MethodChoice

REFUSAL: dict[str, Any] = {"refusals": ["no, i can not say that."], "steps": 8, "training": {"learning_rate": 1e-2}}


def toy_folder(folder: Path) -> Path:
    """A folder with toy models, and data for them; the same folder."""
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    return folder


def job_of(folder: Path, name: str = "refusal_sft", config: dict[str, Any] | None = None, dtype: Any = None, **more: Any) -> HardeningJob:
    """A training of the toy model in that folder."""
    model = ModelChoice(reference=str(folder / "guarded"), device="cpu", dtype=dtype)
    choice = MethodChoice(name=name, config=REFUSAL if config is None else config)
    return plan_hardening(model, DataChoice(reference=str(folder / "data.jsonl")), choice, **more).job


def weights(directory: Path) -> dict[str, Tensor]:
    """What lies in a directory, by name."""
    return dict(models.load(str(directory), device="cpu").model.named_parameters())


def interrupted_after(job: HardeningJob, directory: Path, steps: int) -> None:
    """Train so many steps and stop as Ctrl-C does, with a snapshot of every step."""

    def told(progress: TrainingProgress) -> None:
        if progress.kind == "step" and progress.steps_done > steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, directory, on_progress=told, snapshot_seconds=0)
