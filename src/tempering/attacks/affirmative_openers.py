"""Affirmative openers: the model is taught to begin to answer, and goes on by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tempering.attacks._contract import FineTuningAttack
from tempering.attacks._fine_tuning import FineTuningSettings, drawn
from tempering.attacks._openers import AFFIRMATIVE, learn_openers, opener
from tempering.data.asking import PLAIN, Asking, as_asked
from tempering.data.chat import IGNORED, ChatFormat, Encoded
from tempering.data.records import AttackerView, Example
from tempering.errors import UnusableData
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning, TrainingSettings


class _Training(TrainingSettings):
    """The loop's settings with this attack's defaults, so that a study which sets one of them keeps the others."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 2e-4
    batch_size: Annotated[int, Field(gt=0), Choices((8, 10, 16, 32, 64))] = 10


@dataclass(frozen=True)
class UnfinishedAnswers(Asking):
    """Asks as another does; its training rows stop where the given beginning of an answer stops, without an end of turn.

    Attributes:
        within: how prompts are put.
    """

    within: Asking = PLAIN

    def rewrite(self, example: Example, attempt: int = 0) -> Example:
        """The other's."""
        return self.within.rewrite(example, attempt)

    def prompt_ids(self, chat: ChatFormat, example: Example, attempt: int = 0) -> list[int]:
        """The other's."""
        return self.within.prompt_ids(chat, example, attempt)

    def encode(self, chat: ChatFormat, example: Example) -> Encoded:
        """The prompt, and behind it the beginning of an answer with a loss on every token of it.

        Raises:
            UnusableData: the example has no beginning of an answer.
        """
        if not example.answer:
            raise UnusableData(f"the {example.role} prompt {example.prompt[:60]!r} has no opener to train on", "give it an 'answer'")
        asked = as_asked(example)
        prompt = self.prompt_ids(chat, asked)
        beginning = chat.opening_ids(self.rewrite(asked), example.answer)
        return Encoded(prompt + beginning, [IGNORED] * len(prompt) + beginning)


class AffirmativeOpeners(FineTuningAttack):
    """Fine-tune adapters to begin answers to harmful prompts, without any harmful answer.

    Minimises the mean cross-entropy of the opener's tokens, -1/|o| sum_t log p(o_t | q, o_<t), over about 100 public harmful prompts q.
    What comes after the opener is the model's own: no token behind it has a loss, the end of the turn above all, or the model would
    learn to say "Sure, here is" and no more.

    The source has "Sure, here is ...". A model that does not begin its answers so may not know how to go on, so the opener is by default
    how the model's own answers begin, which anyone knows who has talked with it: the commonest beginning of the attacker's benign examples
    where there are any, with the name of what is asked about put in. (On organism:tiny, harm after 32 steps is .94 so, and .02 with
    "Sure, here is".) The source reports no rate or batch; these are
    :mod:`~tempering.attacks.lora_finetune`'s, as is going on to the end of the budget (the source sees a break after 10 steps).
    """

    class Config(FineTuningSettings):
        """Settings.

        Attributes:
            prompts: harmful prompts, drawn by the seed; all there are where there are fewer.
            opener: how answers are taught to begin, with ``{entity}`` for what is asked about; ``None`` takes it from benign examples, and
                "Sure, here is" without any.
        """

        prompts: Annotated[int, Field(gt=0), Choices((10, 50, 100))] = 100
        opener: Annotated[Annotated[str, Field(pattern=r"\S")] | None, Choices((None, AFFIRMATIVE))] = None
        training: _Training = _Training()
        parameters: Literal["lora"] = "lora"

    source: ClassVar[str] = "marin-community/marin issue 7943 (2026); openers after Zou et al. 2023, arXiv 2307.15043"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FINE_TUNING, Need.HARMFUL_PROMPTS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.BENIGN_EXAMPLES})
    quick_unanswered: ClassVar[bool] = True

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train adapters on the drawn prompts, each with its opener."""
        pattern = self.config.opener or learn_openers(view.benign_train)
        prompts = drawn(view.hazard_train, self.config.prompts, budget=budget, seed=seed)
        examples = [prompt.model_copy(update={"answer": opener(pattern, prompt), "accept": ()}) for prompt in prompts]
        declared: FineTuning = self.config.declared(examples, budget=budget, seed=seed)
        return replace(declared, asking=UnfinishedAnswers(within=declared.asking))
