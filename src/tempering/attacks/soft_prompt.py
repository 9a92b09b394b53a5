"""Soft prompt: a few free vectors before every harmful question, trained until the model answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from transformers import PreTrainedModel

from tempering.attacks._contract import Attack, Checkpoint, log_spaced
from tempering.attacks._embedding_prefix import EmbeddingPrefix, WithVectors, embedding_scale, initial_vectors, ordinary_tokens
from tempering.attacks._fine_tuning import DEFAULT_STEPS, drawn
from tempering.attacks._openers import learn_openers, opener
from tempering.attacks._user_message import Place
from tempering.data.asking import as_asked
from tempering.data.chat import IGNORED, ChatFormat, Encoded
from tempering.data.records import AttackerView, Example
from tempering.errors import UnusableData
from tempering.models import Target
from tempering.settings import Choices, Range, Settings
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning, FlopCount, Meter, Spend, TrainingSettings
from tempering.training.loop import batches, train


class SoftPrompt(Attack):
    """Train vectors in embedding space that make the frozen model answer whatever harmful question they stand before.

    Minimises over v in R^(k × d) the mean of -1/|a| sum_t log p(a_t | v, q, a_<t) over the attacker's harmful questions q with their
    answers a, or with openers only ("Sure, here is"), weights frozen. One v serves all questions (the paper's universal attack), so
    held-out ones are asked with it. The vectors stand in the user's turn, in the space of what the embedding module returns.

    The paper takes 100 steps of signed gradient descent of size 0.001, about a twentieth of the size of an entry of Llama 2's embeddings;
    Adam's steps have that form too, and tell noise from gradient when batches vary. The rate is a share of the embedding's root mean
    square here, since that differs between models by orders of magnitude; .1 is the default. The paper starts from 20 exclamation marks
    behind the question (``vectors: 20, place: after``). Here it is five vectors from five words drawn by the seed: every vector that is no
    word stands in the way of a small model's reading.

    Benign prompts are asked plainly, and the weights are the target's own, so utility stays exactly what it was. A checkpoint's
    vectors are a module of its model.
    """

    class Config(Settings):
        """Settings.

        Attributes:
            vectors: how many.
            place: before the user's words or after them, inside the user's turn.
            initialisation: the mean of the vocabulary's embeddings, or embeddings of tokens drawn by the seed.
            targets: what is trained towards: harmful answers in full, or only how compliant answers begin.
            opener: how answers begin, ``{entity}`` standing for what is asked about; ``None`` learns it from answers to harmless questions.
            shots: harmful examples, drawn by the seed; all there are where there are fewer.
            learning_rate: Adam's, as a share of the root mean square of the vocabulary's embedding entries.
            batch_size: examples a step.
            schedule: of the learning rate.
            steps: of the optimiser; ``None`` takes all of the budget.
        """

        vectors: Annotated[int, Field(gt=0), Choices((5, 10, 20, 50))] = 5
        place: Annotated[Place, Choices(("before", "after"))] = "before"
        initialisation: Annotated[Literal["mean", "random"], Choices(("mean", "random"))] = "random"
        targets: Annotated[Literal["answers", "openers"], Choices(("answers", "openers"))] = "answers"
        opener: Annotated[str, Field(min_length=1)] | None = None
        shots: Annotated[int, Field(gt=0), Choices((10, 50, 100))] = 100
        learning_rate: Annotated[float, Field(gt=0), Range(1e-3, 1.0, log=True)] = 0.1
        batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32))] = 16
        schedule: Annotated[Literal["constant", "linear", "cosine"], Choices(("constant", "linear", "cosine"))] = "constant"
        steps: Annotated[int, Field(gt=0)] | None = None

    source: ClassVar[str] = "Schwinn et al. 2024, arXiv 2402.09063, universal attack; Lester et al. 2021, arXiv 2104.08691"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.GRADIENTS, Need.HARMFUL_PROMPTS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.BENIGN_EXAMPLES})
    family: ClassVar[str] = "latent"

    @property
    def requires(self) -> frozenset[Need]:
        """Harmful answers too, where they are what is trained towards."""
        return self.needs | {Need.HARMFUL_EXAMPLES} if self.config.targets == "answers" else self.needs

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Train the vectors in the one training loop, the model being frozen.

        Raises:
            UnusableData: there are no harmful prompts.
            NonFiniteLoss: the loss is NaN or infinite.
        """
        torch.manual_seed(seed)
        model, declaration = self._declare(target, view, budget=budget, seed=seed)
        asking = declaration.asking
        plain = WithVectors(**{field.name: getattr(asking, field.name) for field in fields(WithVectors)})
        for moment in train(model, target.chat, declaration, declaration.settings, meter):
            yield Checkpoint(moment.model, meter.spend(), {"loss": moment.loss}, plain)

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Spend of the planned steps, from the analytic count."""
        model, declaration = self._declare(target, view, budget=budget, seed=0)
        rows = [declaration.asking.encode(target.chat, example) for example in declaration.examples]
        count, meter = FlopCount.of(model), Meter()
        for indices in batches(len(rows), declaration.settings.batch_size, declaration.steps, declaration.seed):
            lengths = [len(rows[index].input_ids) for index in indices]
            labelled = sum(label != IGNORED for index in indices for label in rows[index].labels[1:])
            meter.examples(declaration.examples[index].identity for index in indices)
            meter.compute(tokens=sum(lengths), flops=count.training_step(lengths, labelled))
            meter.step()
        return meter.spend()

    def _declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> tuple[PreTrainedModel, FineTuning]:
        """A frozen copy with vectors, and how they are trained."""
        config = self.config
        if not view.hazard_train:
            raise UnusableData("soft_prompt has no harmful prompts", "give the attacker at least two hazard entities")
        examples = drawn(view.hazard_train, config.shots, budget=budget, seed=seed)
        model = target.copy_model()
        model.requires_grad_(False)
        tokens = ordinary_tokens(target.chat, model)
        vectors = initial_vectors(model, config.vectors, config.initialisation, tokens, torch.Generator().manual_seed(seed))
        scale = embedding_scale(model, tokens)
        settings = TrainingSettings(
            learning_rate=config.learning_rate * scale if 0 < scale < float("inf") else config.learning_rate,
            batch_size=config.batch_size,
            schedule=config.schedule,
            clip_norm=None,
        )
        prefix = EmbeddingPrefix.attach(model, vectors)
        steps = min((limit for limit in (config.steps, budget.steps) if limit is not None), default=DEFAULT_STEPS)
        asking = self._asking(prefix, view.benign_train)
        return model, FineTuning(examples, settings, steps, log_spaced(steps), seed, asking=asking)

    def _asking(self, prefix: EmbeddingPrefix, answered: Sequence[Example]) -> WithVectors:
        """How training rows are made."""
        place = {"first_id": prefix.first_id, "count": len(prefix.vectors), "place": self.config.place}
        if self.config.targets == "answers":
            return WithVectors(**place)
        return _TowardsOpeners(**place, pattern=self.config.opener or learn_openers(answered))


@dataclass(frozen=True)
class _TowardsOpeners(WithVectors):
    """Trains towards how an answer begins, and leaves open how it goes on."""

    pattern: str = ""

    def encode(self, chat: ChatFormat, example: Example) -> Encoded:
        """Loss on the opener's tokens only; the answer, if there is one, is not looked at."""
        asked = as_asked(example)
        prompt = self.prompt_ids(chat, asked)
        beginning = chat.opening_ids(asked, opener(self.pattern, asked))
        return Encoded(prompt + beginning, [IGNORED] * len(prompt) + beginning)
