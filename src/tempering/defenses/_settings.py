"""What the settings of defences share: which parameters move, by which optimiser, for how long."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.settings import Choices, OnlyIf, Range, Settings
from tempering.training import LoraSettings, Objective, Stage, TrainingSettings


class DefenseTraining(TrainingSettings):
    """The loop's settings with what suits a defence: linear decay after a short warm-up.

    ``batch_size`` is that of each kind of data in a step, unless the defence says otherwise.
    """

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 3e-4
    schedule: Annotated[Literal["constant", "linear", "cosine"], Choices(("constant", "linear", "cosine"))] = "linear"
    warmup_steps: Annotated[int, Field(ge=0), Choices((0, 10, 100))] = 10
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 32


class DefenseSettings(Settings):
    """How a defence trains, whatever it minimises; a defence narrows the fields to its own defaults.

    Attributes:
        training: optimiser, schedule and batch.
        parameters: move all weights, or low-rank adapters that are merged at the end.
        lora: shape and place of the adapters, where they move.
        steps: optimizer steps.
    """

    training: DefenseTraining = DefenseTraining()
    parameters: Annotated[Literal["all", "lora"], Choices(("all", "lora"))] = "all"
    lora: Annotated[LoraSettings, OnlyIf("parameters", "lora")] = LoraSettings()
    steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 200

    def stage(self, name: str, objective: Objective, *, steps: int | None = None, **more: Any) -> Stage:
        """A stage that trains as these settings say.

        Args:
            name: one word.
            objective: what is minimised.
            steps: in place of the settings' own.
            more: further fields of :class:`tempering.training.Stage`.
        """
        lora = self.lora if self.parameters == "lora" else None
        return Stage(name, objective, self.training, self.steps if steps is None else steps, lora, **more)
