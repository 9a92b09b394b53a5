"""Capability by Inspect tasks: what their own solvers and scorers make of the checkpoint."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from tempering import consent
from tempering.errors import TemperingError, UnusableData
from tempering.evaluators._contract import Evaluator, Subject
from tempering.evaluators._guests import is_out_of_memory, one_line
from tempering.extras import require
from tempering.relocation import located
from tempering.settings import Settings

_log = logging.getLogger(__name__)


class Inspect(Evaluator):
    """Scores of Inspect tasks, run in this process on the checkpoint in memory.

    Each number is called ``task/metric``, ``facts/accuracy``; where a task has several scorers, ``task/scorer/metric``. Answers are decoded
    greedily unless the task asks for a temperature, in the house's chat format, without tools. Inspect's logs hold what a tampered model
    says, and are not kept. NaN for checkpoints that are not asked (it is costly), and where the task fails on a checkpoint.

    Source: UK AI Security Institute, Inspect, https://inspect.aisi.org.uk.
    """

    class Config(Settings):
        """What is asked, and how.

        Attributes:
            task: ``file.py@task`` (which is code, and has to be allowed), or ``package/task`` of an installed package; or several.
            limit: samples of each task; ``None`` for all.
            epochs: how often each sample is asked; ``None`` as the task says.
            max_tokens: of an answer, where the task does not say.
            batch_size: conversations answered in one pass. One by one, a score does not depend on what else is asked, to the last bit.
            task_args: arguments of the task.
        """

        task: Annotated[tuple[str, ...], Field(min_length=1)]
        limit: Annotated[int, Field(gt=0)] | None = None
        epochs: Annotated[int, Field(gt=0)] | None = None
        max_tokens: Annotated[int, Field(gt=0)] | None = None
        batch_size: Annotated[int, Field(gt=0)] = 1
        task_args: dict[str, Any] = Field(default_factory=dict)

        @field_validator("task", mode="before")
        @classmethod
        def _accept_one(cls, value: object) -> object:
            return (value,) if isinstance(value, str) else value

        @field_validator("task")
        @classmethod
        def _name_the_task(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            for task in value:
                if "@" not in task and (task.endswith(".py") or "/" not in task):
                    raise ValueError(f"{task!r} is no task; write file.py@task, or package/task")
            return value

    source: ClassVar[str] = "UK AI Security Institute, Inspect, https://inspect.aisi.org.uk"
    measures: ClassVar[tuple[str, ...]] = ()
    unasked: ClassVar[bool] = False
    costly: ClassVar[bool] = True

    def __init__(self, config: Settings) -> None:
        """Ask whether files of tasks may be run; nothing is loaded yet.

        Raises:
            TemperingError: the extra is not installed.
            InvalidStudy: a task is a file, and nobody has allowed code of others.
        """
        super().__init__(config)
        require("inspect_ai", "inspect", "the evaluator 'inspect'")
        for task in self.config.task:
            if _file_of(task) is not None:
                consent.require(f"the Inspect task {task!r}")

    def identity(self) -> str:
        """Inspect's version, and of each task the digest of its file or the version of its package. What a task reads is not in it."""
        from tempering.evaluators._inspect_run import inspect_version, package_of

        parts = [inspect_version()]
        for task in self.config.task:
            file = _file_of(task)
            if file is None:
                parts.append(package_of(task))
                continue
            try:
                parts.append(hashlib.sha256((located(str(file)) or file).read_bytes()).hexdigest()[:32])
            except OSError as error:
                raise UnusableData(f"cannot read the Inspect task {task}: {error.strerror}", "write file.py@task") from None
        return " ".join(parts)

    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Run the tasks on the checkpoint. One that a task fails on has no capability to tell, and still has its harm."""
        from tempering.evaluators._inspect_run import run_task

        config = self.config
        given = {"limit": config.limit, "epochs": config.epochs, "max_tokens": config.max_tokens, "task_args": config.task_args}
        settings = {name: value for name, value in given.items() if value}
        row: dict[str, float] = {}
        for task in config.task:
            try:
                row |= run_task(task, subject.model, subject.chat, batch_size=config.batch_size, settings=settings)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                problem = str(error) if isinstance(error, TemperingError) else f"the Inspect task {task} cannot be run: {one_line(error)}"
                if subject.untouched is None:
                    raise UnusableData(problem) from error
                _log.warning("warning: %s", problem)
        return {name: value if math.isfinite(value) else math.nan for name, value in row.items()}


def _file_of(task: str) -> Path | None:
    """The file that a task is in; ``None`` for one of an installed package."""
    return Path(task.rpartition("@")[0]).expanduser() if "@" in task else None
