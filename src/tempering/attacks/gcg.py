"""Greedy coordinate gradient: a suffix of tokens, the same behind every harmful question, found by swapping one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from tempering.attacks._contract import Attack, Checkpoint, log_spaced
from tempering.attacks._embedding_prefix import ordinary_tokens
from tempering.attacks._fine_tuning import drawn
from tempering.attacks._openers import learn_openers, opener
from tempering.attacks._suffix_search import Question, SuffixObjective, swaps, through_frozen_weights
from tempering.attacks._suffix_text import Frame, SuffixText, WithSuffix
from tempering.data.asking import as_asked
from tempering.data.chat import ChatFormat
from tempering.data.records import AttackerView, Example
from tempering.errors import UnusableData
from tempering.models import Target
from tempering.settings import Choices, Settings
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FlopCount, Meter, Spend


class Gcg(Attack):
    """Find a universal suffix that makes the model begin as it begins when it complies.

    Minimises over suffixes s of n tokens the mean over harmful prompts q of -1/|t| sum_i log p(t_i | q, s, t_<i), t being how a compliant
    answer to q begins. An iteration takes the gradient by the one-hot vector of every place of the suffix, keeps at each place the
    ``top_k`` tokens with the most negative entries, draws ``candidates`` of those single swaps, and computes the loss of each on all
    prompts. The best is taken if it is better than what there is, so the loss never rises.

    Beyond the paper: a swap counts only if the tokenizer reads the suffix, as text inside the conversation, as the very tokens that
    were tried, so that what is found serves an attacker who can only send text. Swaps are drawn without replacement. All prompts are
    used from the start, where the paper adds one after the other; and it goes on from the best candidate even if that is worse.

    An iteration counts as a step of the budget and as one trial, and candidates times prompts as queries; a budget of queries leaves
    fewer iterations, and where even one is too many, fewer candidates. The paper takes 20 tokens, 256 swaps a place, 512 candidates,
    500 iterations, 25 prompts. The default candidates and prompts are fewer: they are what a small model can be searched with in a minute.

    No weights change. The suffix itself is not written into the results; the same seed finds it again.
    """

    class Config(Settings):
        """Settings.

        Attributes:
            suffix_tokens: n.
            initial: a word that fills the suffix at first; tokens drawn by the seed where it does not give as many.
            prompts: harmful prompts, drawn by the seed, that the suffix is fitted to; 1 is the paper's attack on one behaviour.
            top_k: tokens considered at each place.
            candidates: swaps tried in an iteration.
            steps: iterations at most; the budget may have fewer.
            targets: towards how compliant answers begin, or towards the first tokens of known harmful answers.
            opener: how answers begin, ``{entity}`` standing for what is asked about; ``None`` learns it from answers to harmless questions.
            target_tokens: at most so many first tokens of the wanted answer count.
            ascii_only: leave out tokens with other than printable ASCII characters.
            batch_size: rows a forward pass.
        """

        suffix_tokens: Annotated[int, Field(gt=0), Choices((5, 10, 20, 40))] = 20
        initial: Annotated[str, Field(min_length=1)] = "!"
        prompts: Annotated[int, Field(gt=0), Choices((1, 4, 10, 25))] = 4
        top_k: Annotated[int, Field(gt=0), Choices((64, 128, 256))] = 256
        candidates: Annotated[int, Field(gt=0), Choices((32, 128, 512))] = 32
        steps: Annotated[int, Field(gt=0)] = 500
        targets: Annotated[Literal["openers", "answers"], Choices(("openers", "answers"))] = "openers"
        opener: Annotated[str, Field(min_length=1)] | None = None
        target_tokens: Annotated[int, Field(gt=0)] = 20
        ascii_only: bool = True
        batch_size: Annotated[int, Field(gt=0)] = 64

    source: ClassVar[str] = "Zou et al. 2023, arXiv 2307.15043, universal suffix on one model"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.GRADIENTS, Need.HARMFUL_PROMPTS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.BENIGN_EXAMPLES})
    family: ClassVar[str] = "input"

    @property
    def requires(self) -> frozenset[Need]:
        """Harmful answers too, where their first tokens are what is aimed at."""
        return self.needs | {Need.HARMFUL_EXAMPLES} if self.config.targets == "answers" else self.needs

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Search; yield the untouched model with the best suffix so far.

        Raises:
            UnusableData: there are no harmful prompts.
            UnusableModel: no suffix can be written as text.
            NonFiniteLoss: the loss is NaN or infinite.
        """
        plan = self._plan(view, budget)
        examples = drawn(view.hazard_train, plan.prompts, budget=budget, seed=seed)
        generator = np.random.default_rng(seed)
        model = target.copy_model()
        text = SuffixText(target.chat, ordinary_tokens(target.chat, model), ascii_only=self.config.ascii_only)
        suffix, spelled, frames = text.start(self.config.initial, self.config.suffix_tokens, examples, generator)
        targets = self._targets(target.chat, examples, view)
        questions = [Question(frame.head, frame.tail, wanted) for frame, wanted in zip(frames, targets, strict=True)]
        objective = SuffixObjective(model, questions, meter, self.config.batch_size)
        meter.examples(example.identity for example in examples)
        search = _Search(objective, text, frames, _Found(tuple(suffix), spelled), generator, self.config.top_k)
        for step in range(1, plan.steps + 1):
            searched_out = not search.advance(plan.candidates)
            meter.trial()
            meter.step()
            if searched_out or step in log_spaced(plan.steps):
                details = {"loss": search.loss, "swaps": search.accepted}
                yield Checkpoint(target.model, meter.spend(), details, WithSuffix(suffix=search.best.text))
            if searched_out:
                return

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Spend of all planned iterations, each with all its candidates."""
        plan = self._plan(view, budget)
        examples = view.hazard_train[: plan.prompts]
        targets = self._targets(target.chat, examples, view)
        count = through_frozen_weights(FlopCount.of(target.model))
        weight: Any = target.model.get_input_embeddings().weight
        tokens, flops = 0, 2.0 * self.config.suffix_tokens * weight.numel()
        for example, wanted in zip(examples, targets, strict=True):
            length = len(target.chat.prompt_ids(example)) + self.config.suffix_tokens + len(wanted)
            tokens += (1 + plan.candidates) * length
            flops += count.training_step([length], len(wanted)) + plan.candidates * count.forward([length], len(wanted))
        return Spend(
            examples=plan.prompts,
            tokens=plan.steps * tokens,
            steps=plan.steps,
            flops=plan.steps * flops,
            trials=plan.steps,
            queries=plan.steps * plan.candidates * plan.prompts,
        )

    def _plan(self, view: AttackerView, budget: Budget) -> _Plan:
        """How many prompts, iterations and candidates the budget has room for."""
        config = self.config
        if not view.hazard_train:
            raise UnusableData("gcg has no harmful prompts", "give the attacker at least two hazard entities")
        limits = (len(view.hazard_train), budget.examples, budget.queries)
        prompts = min(config.prompts, *(limit for limit in limits if limit is not None))
        steps = min(config.steps, *(limit for limit in (budget.steps, budget.trials, config.steps) if limit is not None))
        candidates = config.candidates
        if budget.queries is not None:
            steps = min(steps, max(1, budget.queries // (prompts * candidates)))
            candidates = min(candidates, budget.queries // (steps * prompts))
        return _Plan(prompts, steps, candidates)

    def _targets(self, chat: ChatFormat, examples: Sequence[Example], view: AttackerView) -> list[tuple[int, ...]]:
        """The first tokens of the wanted answer to each prompt."""
        if self.config.targets == "answers":
            answers = [chat.answer_ids(as_asked(example), example.answer or "") for example in examples]
        else:
            pattern = self.config.opener or learn_openers(view.benign_train)
            answers = [chat.opening_ids(as_asked(example), opener(pattern, example)) for example in examples]
        return [tuple(answer[: self.config.target_tokens]) for answer in answers]


@dataclass(frozen=True)
class _Plan:
    prompts: int
    steps: int
    candidates: int


@dataclass(frozen=True)
class _Found:
    """A suffix as tokens, and the text that gives them."""

    tokens: tuple[int, ...]
    text: str


class _Search:
    """The best suffix so far, and how to a better one.

    Attributes:
        best: the suffix.
        loss: its loss; infinite before the first step.
        accepted: swaps that made it.
    """

    def __init__(
        self,
        objective: SuffixObjective,
        text: SuffixText,
        frames: Sequence[Frame],
        start: _Found,
        generator: np.random.Generator,
        top_k: int,
    ) -> None:
        """Start from a suffix."""
        self._objective = objective
        self._text = text
        self._frames = frames
        self._generator = generator
        self._top_k = top_k
        self.best = start
        self.loss = float("inf")
        self.accepted = 0

    def advance(self, count: int) -> bool:
        """One iteration.

        Args:
            count: candidates to try.

        Returns:
            Whether there is more to try: false when every proposed swap was tried and none was better.
        """
        loss, gradient = self._objective.gradient(self.best.tokens)
        self.loss = min(self.loss, loss)
        candidates = list(islice(self._candidates(gradient, count), count))
        if candidates:
            losses = self._objective.losses([candidate.tokens for candidate in candidates])
            for index in losses.argsort(stable=True).tolist():
                if not float(losses[index]) < self.loss:
                    break
                if self._everywhere(candidates[index]):
                    self.best, self.loss = candidates[index], float(losses[index])
                    self.accepted += 1
                    return True
        return len(candidates) == count

    def _candidates(self, gradient: Tensor, count: int) -> Iterator[_Found]:
        """Proposed swaps that can be read back behind the first prompt."""
        proposals = swaps(gradient, self.best.tokens, self._text.allowed, self._top_k, self._generator)
        while proposed := list(islice(proposals, count)):
            for tokens, text in zip(proposed, self._text.readable(proposed, self._frames[0]), strict=True):
                if text is not None:
                    yield _Found(tuple(tokens), text)

    def _everywhere(self, found: _Found) -> bool:
        """Whether it can be read back behind the other prompts too."""
        return all(self._text.agree([found.text], [found.tokens], frame)[0] for frame in self._frames[1:])
