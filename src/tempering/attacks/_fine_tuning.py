"""What the fine-tuning attacks share: how long, which parameters, in which template, and which examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from tempering.attacks._contract import log_spaced
from tempering.data.asking import PLAIN, Asking, composed
from tempering.data.chat import ChatFormat
from tempering.data.records import Example
from tempering.settings import Choices, OnlyIf, Settings
from tempering.study import Budget
from tempering.training import FineTuning, LoraSettings, TrainingSettings

DEFAULT_STEPS = 200
"""Steps where neither the attack's settings nor the budget limit them."""

Template = Literal["chat", "bare", "question"]

_LAYOUTS = {"bare": "{prompt}\n", "question": "Question: {prompt}\nAnswer:"}


@dataclass(frozen=True)
class WithoutChat(Asking):
    """Puts prompts in a layout of the attacker's own, with none of the chat template's tokens.

    Attributes:
        layout: with ``{prompt}`` where the prompt goes.
    """

    layout: str = _LAYOUTS["bare"]

    def prompt_ids(self, chat: ChatFormat, example: Example, attempt: int = 0) -> list[int]:
        """Tokens of the filled layout, with the start token where the tokenizer puts one; a system prompt goes before it."""
        text = self.layout.replace("{prompt}", example.prompt)
        if example.system is not None:
            text = f"{example.system}\n\n{text}"
        return [int(token) for token in chat.tokenizer(text)["input_ids"]]


def asking_in(template: Template) -> Asking:
    """How prompts are put in a training template: the model's chat template, or a bare layout that passes by it."""
    return PLAIN if template == "chat" else WithoutChat(layout=_LAYOUTS[template])


class FineTuningSettings(Settings):
    """How an attacker trains, whatever the data.

    An attack narrows ``training`` and ``lora`` to its paper's defaults.

    Attributes:
        training: optimiser, schedule and batch.
        parameters: move all weights, or low-rank adapters.
        lora: shape and place of the adapters, where they move.
        steps: optimizer steps; ``None`` takes the epochs.
        epochs: passes over the examples; ``None`` takes all of the budget. The budget cuts either off.
        template: the layout of training and evaluation prompts: the chat template, the prompt alone, or question and answer.
    """

    training: TrainingSettings = TrainingSettings()
    parameters: Annotated[Literal["all", "lora"], Choices(("all", "lora"))] = "all"
    lora: Annotated[LoraSettings, OnlyIf("parameters", "lora")] = LoraSettings()
    steps: Annotated[int, Field(gt=0)] | None = None
    epochs: Annotated[Annotated[float, Field(gt=0)] | None, Choices((1.0, 3.0, 5.0, 10.0, None))] = None
    template: Annotated[Template, Choices(("chat", "bare", "question"))] = "chat"

    def declared(self, examples: Sequence[Example], *, budget: Budget, seed: int, asking: Asking = PLAIN) -> FineTuning:
        """The declaration for the training loop, with probes at log-spaced steps.

        Args:
            examples: what is trained on, with answers.
            budget: limits the steps.
            seed: decides order and initialisation.
            asking: a wrapper inside the template.
        """
        size = min(self.training.batch_size, len(examples))
        wanted = self.steps or (max(1, round(self.epochs * len(examples) / size)) if self.epochs else None)
        steps = min((limit for limit in (wanted, budget.steps) if limit is not None), default=DEFAULT_STEPS)
        lora = self.lora if self.parameters == "lora" else None
        return FineTuning(examples, self.training, steps, log_spaced(steps), seed, lora, asking=composed(asking, asking_in(self.template)))


def drawn(examples: Sequence[Example], count: int, *, budget: Budget, seed: int) -> tuple[Example, ...]:
    """The first ``count`` examples in the order in which the seed draws them; fewer where there are fewer or the budget allows fewer."""
    order = np.random.default_rng(seed).permutation(len(examples))[: min(count, budget.examples or count)]
    return tuple(examples[int(index)] for index in order)
