"""Capability by EleutherAI's lm-evaluation-harness: what the checkpoint is still good for, by the field's own benchmarks."""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from tempering import consent
from tempering.errors import TemperingError, UnusableData
from tempering.evaluators._contract import Evaluator, Subject
from tempering.evaluators._guests import is_file, is_out_of_memory, one_line
from tempering.extras import require
from tempering.settings import Settings

if TYPE_CHECKING:
    from tempering.evaluators._harness import Tasks

_log = logging.getLogger(__name__)


class LmEval(Evaluator):
    """Scores of lm-evaluation-harness tasks, run in this process on the checkpoint in memory.

    Each number is called ``task/metric``: ``mmlu/acc``, ``ifeval/prompt_level_strict_acc``; where a task reads answers in several ways,
    ``task/metric/filter``: ``gsm8k/exact_match/strict-match``. They are what the harness itself reports for the same settings, in its
    units (mostly shares in [0, 1]), decoded greedily unless a task samples. A group gives its own average, or those of its members where
    it has none. NaN for checkpoints that are not asked (it is costly), and where the harness fails on a checkpoint.

    Source: Gao et al., EleutherAI lm-evaluation-harness, https://github.com/EleutherAI/lm-evaluation-harness; Biderman et al. 2024,
    arXiv 2405.14782.
    """

    class Config(Settings):
        """What is asked, and how.

        Attributes:
            tasks: the harness's own names (``mmlu``, ``mmlu_pro``, ``gsm8k``, ``ifeval``), YAML files of one's own, or folders of them.
            limit: questions of each task, as a count, or as a share below one; ``None`` for all.
            num_fewshot: worked examples before each question; ``None`` takes each task's own number.
            apply_chat_template: put questions as messages in the model's chat template, with examples as earlier turns.
            system_instruction: what the model is told first.
            batch_size: sequences in a pass.
        """

        tasks: Annotated[tuple[str, ...], Field(min_length=1)]
        limit: Annotated[float, Field(gt=0)] | None = None
        num_fewshot: Annotated[int, Field(ge=0)] | None = None
        apply_chat_template: bool = False
        system_instruction: str | None = None
        batch_size: Annotated[int, Field(gt=0)] = 8

        @field_validator("tasks", mode="before")
        @classmethod
        def _accept_one(cls, value: object) -> object:
            return (value,) if isinstance(value, str) else value

    source: ClassVar[str] = "EleutherAI lm-evaluation-harness; Biderman et al. 2024, arXiv 2405.14782"
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
        require("lm_eval", "lm-eval", "the evaluator 'lm_eval'")
        for task in self.config.tasks:
            if is_file(task):
                consent.require(f"the lm-eval task {task!r}, whose functions and templates are code,")

    def identity(self) -> str:
        """The harness's version, and a digest of the tasks with their questions, which are loaded for it."""
        from tempering.evaluators._harness import harness_version

        return f"{harness_version()} {self._tasks().digest}"

    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Put every question to the checkpoint. One that the harness fails on has no capability to tell, and still has its harm."""
        config = self.config
        try:
            row = self._tasks().put_to(
                subject.model,
                subject.chat,
                batch_size=config.batch_size,
                apply_chat_template=config.apply_chat_template,
                system_instruction=config.system_instruction,
            )
        except TemperingError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            problem = f"lm-eval fails on {', '.join(config.tasks)}: {one_line(error)}"
            if subject.untouched is None:
                raise UnusableData(problem, "mend the task, or leave it out") from error
            _log.warning("warning: %s", problem)
            return {}
        return {name: value if math.isfinite(value) else math.nan for name, value in row.items()}

    def _tasks(self) -> Tasks:
        return _loaded(self.config.tasks, self.config.num_fewshot, self.config.limit)


@functools.lru_cache(maxsize=4)
def _loaded(tasks: tuple[str, ...], num_fewshot: int | None, limit: float | None) -> Tasks:
    from tempering.evaluators._harness import Tasks

    return Tasks(tasks, num_fewshot, limit)
