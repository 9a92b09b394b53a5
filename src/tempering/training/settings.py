"""What a fine-tuning run is: the declaration that attacks, defences and the nursery hand to the one loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tempering.data.asking import PLAIN, Asking
from tempering.data.records import Example
from tempering.settings import Choices, Range, Settings

Optimiser = Literal["adamw", "sgd", "adafactor", "schedule-free", "adamw-8bit"]

SEARCHED = ("adamw", "sgd", "adafactor", "schedule-free")
"""What an attacker who searches tries: eight bits save memory and break nothing sooner."""


BY_SHAPE = ("adafactor", "adamw-8bit")
"""Those that look at more of a matrix than one number at a time: given a part of one, or several in a stack, they would do otherwise."""


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), by PEFT.

    Attributes:
        rank: rank of each update.
        alpha: the update is scaled by ``alpha / rank``.
        dropout: on the adapter's input.
        targets: names of the linear layers that get one; ``all-linear`` takes every one but the output head.
    """

    rank: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[Literal["all-linear", "attention", "mlp"], Choices(("all-linear", "attention", "mlp"))] = "all-linear"


class TrainingSettings(Settings):
    """Optimiser, schedule and batch of a run.

    Attributes:
        learning_rate: peak learning rate.
        optimiser: AdamW, SGD with momentum, Adafactor, or schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682), which trains at
            one point and shows another, the average of where it has been; ``adamw-8bit`` keeps AdamW's moments in 8 bits, in blocks of 256
            (Dettmers et al. 2021, arXiv 2110.02861; by bitsandbytes), a quarter of the memory.
        schedule: what follows the warm-up; a schedule-free optimiser has none, and leaves this aside.
        warmup_steps: steps of linear warm-up from zero.
        batch_size: examples a step.
        weight_decay: decoupled, on matrices only.
        betas: AdamW's moments. The first is schedule-free AdamW's interpolation between newest and average weights.
        momentum: SGD's.
        clip_norm: the gradient's global norm is clipped to this; ``None`` leaves it.
        autocast: run the matrix products in bfloat16, over weights in their own type. On a CPU with bfloat16
            instructions and on GPUs that is several times faster.
    """

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 1e-4
    optimiser: Annotated[Optimiser, Choices(SEARCHED)] = "adamw"
    schedule: Annotated[Literal["constant", "linear", "cosine"], Choices(("constant", "linear", "cosine"))] = "constant"
    warmup_steps: Annotated[int, Field(ge=0), Choices((0, 10, 100))] = 0
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    autocast: bool = False

    @model_validator(mode="after")
    def _average_has_weight(self) -> TrainingSettings:
        if self.optimiser == "schedule-free" and not self.betas[0] > 0:
            raise ValueError("schedule-free AdamW needs a first beta above 0")
        return self


@dataclass(frozen=True)
class FineTuning:
    """One fine-tuning run, declared.

    Attributes:
        examples: what is trained on, every one with an answer. Shuffled anew each epoch by the seed.
        settings: optimiser, schedule, batch.
        steps: how many optimizer steps.
        probes: the steps after which the loop stops and shows the model, rising.
        seed: decides order, dropout and adapter initialisation.
        lora: adapters that move in place of the weights; ``None`` moves all weights.
        asking: how prompts are wrapped; an attack that trains in a wrapping asks in it too.
    """

    examples: Sequence[Example]
    settings: TrainingSettings
    steps: int
    probes: tuple[int, ...]
    seed: int
    lora: LoraSettings | None = None
    asking: Asking = PLAIN
