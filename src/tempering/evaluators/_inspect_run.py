"""Runs an Inspect task on a model in memory, in this process, and leaves nothing of it behind.

Imported only once somebody asks for it; needs the extra ``inspect``. Inspect keeps an event loop, writes logs, remembers runs in the user's
data folder and hooks itself into logging and uncaught exceptions: it is given a thread and a folder of its own, and both end with the run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any
from unittest import mock

import inspect_ai
import torch
from inspect_ai._util import appdirs
from inspect_ai._util.registry import RegistryInfo, registry_tag
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig, Model
from transformers import PreTrainedModel

from tempering.data.chat import ChatFormat
from tempering.errors import UnusableData
from tempering.evaluators._guests import guest
from tempering.evaluators._inspect_model import LoadedModel

LOGGERS = ("inspect_ai", "httpx", "asyncio", "anyio")


def run_task(task: str, model: PreTrainedModel, chat: ChatFormat, *, batch_size: int, settings: dict[str, Any]) -> dict[str, float]:
    """Scores of a task.

    Args:
        task: ``file.py@task``, or ``package/task`` of an installed package.
        model: any decoder.
        chat: its chat format.
        batch_size: conversations answered in one pass.
        settings: further arguments of :func:`inspect_ai.eval`.

    Returns:
        ``task/metric``, or ``task/scorer/metric`` where a task has several scorers; errors of means are left out.

    Raises:
        UnusableData: there is no such task, or the run of it failed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tempering-inspect-")))
        stack.enter_context(guest(*LOGGERS))
        stack.enter_context(mock.patch.object(sys, "excepthook", sys.excepthook))
        for place in ("user_data_path", "user_cache_path"):
            stack.enter_context(mock.patch.object(appdirs, place, lambda name, at=folder / place: at / name))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        loaded = LoadedModel("model", model, chat, batch_size=batch_size, arithmetic=_arithmetic_here(model))
        registry_tag(lambda name: None, loaded, RegistryInfo(type="modelapi", name="tempering/memory"), "model")
        logs = pool.submit(_evaluated, task, loaded, folder / "logs", settings).result()
    if not logs:
        raise UnusableData(f"there is no Inspect task {task}", "write file.py@task, or package/task of an installed package")
    measures: dict[str, float] = {}
    for log in logs:
        if log.status != "success":
            raise UnusableData(f"the Inspect task {task} failed: {_why(log)}", "mend the task, or leave it out")
        measures |= _scores(log)
    return measures


def _evaluated(task: str, loaded: LoadedModel, logs: Path, settings: dict[str, Any]) -> Sequence[EvalLog]:
    """In a thread of its own, where no event loop runs."""
    found: Sequence[EvalLog] = inspect_ai.eval(
        task,
        model=Model(loaded, GenerateConfig()),
        log_dir=str(logs),
        log_format="json",
        log_realtime=False,
        log_samples=False,
        log_images=False,
        display="none",
        score_display=False,
        ctl_server=False,
        acp_server=False,
        max_tasks=1,
        **settings,
    )
    return found


def _arithmetic_here(model: PreTrainedModel) -> Callable[[], AbstractContextManager[Any]]:
    """The arithmetic of this thread, for another."""
    kind = model.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled)


def _scores(log: EvalLog) -> dict[str, float]:
    task = log.eval.task.rpartition("/")[2]
    scores = log.results.scores if log.results is not None else []
    several = len({score.name for score in scores}) > 1
    return {
        "/".join([task, *([score.name] if several else []), name]): float(metric.value)
        for score in scores
        for name, metric in score.metrics.items()
        if not name.endswith(("stderr", "std", "var"))
    }


def _why(log: EvalLog) -> str:
    said = log.error.message if log.error is not None else log.status
    return " ".join(said.split())[:300]


def inspect_version() -> str:
    """Inspect with its version."""
    return f"inspect_ai {version('inspect_ai')}"


def package_of(task: str) -> str:
    """The distribution that brings ``package/task``, with its version.

    Raises:
        UnusableData: none of that name is installed.
    """
    package = task.partition("/")[0]
    for point in entry_points(group="inspect_ai"):
        if point.name == package and point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    raise UnusableData(f"no installed package brings the Inspect task {task}", f"install {package}, or write file.py@task")
