"""The search for a refusal direction with a growing number of prompts, each prompt read once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tempering.attacks._direction import Candidate, candidates
from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusal_gauge import begins_refusals
from tempering.attacks._refusals import REFUSAL_PHRASES, openings, refusal_scores
from tempering.attacks._residuals import ResidualRecorder
from tempering.attacks._selection import Chosen, Rules, Validation, select
from tempering.data.chat import ChatFormat
from tempering.data.records import AttackerView, Example
from tempering.errors import UnusableData
from tempering.models.structure import Structure
from tempering.settings import Choices, Range, Settings
from tempering.study import Budget
from tempering.training import Meter

_FEWEST_PROMPTS = 4
_FEWEST_VALIDATION = 2


class DirectionSettings(Settings):
    """How refusals are recognised and candidate directions are read, for every attack that searches for them.

    Attributes:
        train_prompts: at most so many prompts of each kind for the means.
        validation_prompts: at most so many of each kind for selection, in proportion where there are fewer training prompts.
        layer_share: candidates are read from the first so large a share of the layers.
        positions: candidates are read from at most so many last positions; ``None`` takes the whole template after the instruction.
        refusal_tokens: how refusals begin, as text; empty derives it from the model's own refusals.
        refusal_phrases: what makes an answer read as a refusal.
        answers: on so many prompts a likely first token is tried for whether it begins refusals.
        answer_tokens: so many tokens of each such answer are generated.
    """

    train_prompts: Annotated[int, Field(gt=0), Choices((16, 32, 64, 128))] = 128
    validation_prompts: Annotated[int, Field(gt=0)] = 32
    layer_share: Annotated[float, Field(gt=0, le=1), Range(0.5, 1.0)] = 0.8
    positions: Annotated[int, Field(gt=0)] | None = None
    refusal_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    refusal_phrases: Annotated[tuple[str, ...], Field(min_length=1)] = REFUSAL_PHRASES
    answers: Annotated[int, Field(gt=0)] = 4
    answer_tokens: Annotated[int, Field(gt=0)] = 12


class GrowingSettings(DirectionSettings):
    """A search that is repeated with more and more prompts.

    Attributes:
        prompt_counts: numbers of training prompts at which a direction is sought; ``None`` doubles from 4 to ``train_prompts``.
        divergence_limits: KL above which a candidate is discarded, nats. A looser limit is tried where the stricter ones leave no
            candidate that makes refusal less likely than not, and then only such candidates pass.
        batch_size: prompts a forward pass.
    """

    prompt_counts: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] | None = None
    divergence_limits: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.1, 0.2, 0.5, 1.0)
    batch_size: Annotated[int, Field(gt=0)] = 32


def require_prompts(view: AttackerView, attack: str) -> None:
    """Refuse a view that lacks prompts of some kind.

    Args:
        view: the attacker's own data.
        attack: its registry name, for the message.

    Raises:
        UnusableData: it does.
    """
    for kind in AttackerView.PROMPTS:
        if not getattr(view, kind):
            raise UnusableData(
                f"{attack} has no {kind.replace('_', ' ')} prompts", "give the attacker at least two entities of each of hazard and benign"
            )


def growing_stages(config: GrowingSettings, view: AttackerView, budget: Budget) -> list[Stage]:
    """Numbers of prompts of each kind, rising, within what the attacker holds and may use.

    Args:
        config: how many are wanted.
        view: the attacker's own data.
        budget: its examples limit all kinds together.
    """
    share = config.validation_prompts / config.train_prompts
    most = max(1, min(config.train_prompts, max(len(view.hazard_train), len(view.benign_train))))
    if budget.examples is not None:
        most = max(1, min(most, int(budget.examples / 2 / (1 + share)), budget.examples // 2 - _FEWEST_VALIDATION))
    doubling = [_FEWEST_PROMPTS * 2**power for power in range(most.bit_length())]
    wanted = [*doubling, most] if config.prompt_counts is None else config.prompt_counts
    counts = sorted({min(count, most) for count in wanted})
    return [Stage(count, min(config.validation_prompts, max(_FEWEST_VALIDATION, math.ceil(count * share)))) for count in counts]


def candidate_layers(config: Any, layers: int) -> int:
    """How many of L layers have l < share x L."""
    return max(1, math.ceil(float(config.layer_share) * layers - 1e-9))


def candidate_positions(config: Any, chat: ChatFormat) -> int:
    """How many last positions candidates are read from: the template after the instruction, at least one token."""
    template = max(1, len(chat.post_instruction_ids))
    return int(min(template, config.positions or template))


@dataclass(frozen=True)
class Stage:
    """One search: so many prompts of each kind."""

    train: int
    validation: int


@dataclass(frozen=True)
class Gathered:
    """What a stage has to choose from.

    Attributes:
        proposed: the candidates.
        harmful: the harmful training prompts that are refused.
        harmless: the harmless ones that are answered.
        refused: (prompts, layers, positions, hidden), residual streams of ``harmful``.
        answered: likewise of ``harmless``.
        validation: what candidates are tested with.
    """

    proposed: list[Candidate]
    harmful: list[Example]
    harmless: list[Example]
    refused: Tensor
    answered: Tensor
    validation: Validation


class _Pool:
    """Prompts of one kind, each read once however often it is used."""

    def __init__(self, examples: Sequence[Example], search: DirectionSearch, record: bool) -> None:
        self._all = list(examples)
        self._search = search
        self._record = record
        self.count = 0
        self.log_probabilities = torch.empty(0)
        self.residuals = torch.empty(0)

    @property
    def examples(self) -> list[Example]:
        return self._all[: self.count]

    def grow(self, count: int) -> None:
        """Read the prompts up to ``count`` that have not been read."""
        fresh = self._all[self.count : count]
        if not fresh:
            return
        search = self._search
        if self._record:
            recorder = ResidualRecorder(len(fresh), search.layers, search.positions, search.structure)
            with recorder.recording():
                read = search.reader.first_token(fresh, recorder)
            self.residuals = torch.cat([self.residuals, recorder.values]) if self.count else recorder.values
        else:
            read = search.reader.first_token(fresh)
        self.log_probabilities = torch.cat([self.log_probabilities, read]) if self.count else read
        self.count += len(fresh)


class DirectionSearch:
    """The growing evidence of one attack, and the selection at each stage."""

    def __init__(self, config: Any, reader: MeteredModel, meter: Meter, view: AttackerView, seed: int) -> None:
        self.config = config
        self.reader = reader
        self.structure = Structure.of(reader.model)
        self.layers = candidate_layers(config, len(self.structure.blocks))
        self.positions = candidate_positions(config, reader.chat)
        self.tokens: tuple[int, ...] = ()
        self._meter = meter
        self._verdicts: dict[int, bool] = {}
        generator = np.random.default_rng(seed)

        def pool(examples: Sequence[Example], record: bool) -> _Pool:
            return _Pool([examples[int(index)] for index in generator.permutation(len(examples))], self, record)

        self.harmful, self.harmless = pool(view.hazard_train, True), pool(view.benign_train, True)
        self.harmful_validation, self.harmless_validation = pool(view.hazard_validation, False), pool(view.benign_validation, False)

    def advance(self, stage: Stage) -> Chosen | str:
        """Search with this many prompts; the chosen direction, or in one line why there is none."""
        gathered = self.gather(stage)
        if isinstance(gathered, str):
            return gathered
        rules = Rules(self.config.divergence_limits, self.config.induce_limit, screen=self.config.screen)
        return select(self.reader, self.structure, gathered.proposed, gathered.validation, rules, self._meter.trial)

    def gather(self, stage: Stage) -> Gathered | str:
        """Read this many prompts; the candidates and what to test them with, or in one line why there are none."""
        for pool in (self.harmful, self.harmless):
            pool.grow(stage.train)
        self.tokens = self._refusal_tokens()
        if not self.tokens:
            return f"the model's likely answers to {self.harmful.count} harmful prompts do not read as refusals"
        for pool in (self.harmful_validation, self.harmless_validation):
            pool.grow(stage.validation)
        refused, answered = self._kept(self.harmful, refused=True), self._kept(self.harmless, refused=False)
        refused_validation = self._kept(self.harmful_validation, refused=True)
        answered_validation = self._kept(self.harmless_validation, refused=False)
        for kept, pool, what in (
            (refused, self.harmful, "refuses none of {} harmful training prompts"),
            (answered, self.harmless, "answers none of {} harmless training prompts"),
            (refused_validation, self.harmful_validation, "refuses none of {} harmful validation prompts"),
            (answered_validation, self.harmless_validation, "answers none of {} harmless validation prompts"),
        ):
            if not kept:
                return f"the model {what.format(pool.count)}"
        refusing, answering = self.harmful.residuals[refused], self.harmless.residuals[answered]
        validation = Validation(
            harmful=[self.harmful_validation.examples[index] for index in refused_validation],
            harmless=[self.harmless_validation.examples[index] for index in answered_validation],
            harmless_base=self.harmless_validation.log_probabilities[answered_validation],
            tokens=self.tokens,
        )
        harmful = [self.harmful.examples[index] for index in refused]
        harmless = [self.harmless.examples[index] for index in answered]
        return Gathered(candidates(refusing, answering), harmful, harmless, refusing, answering, validation)

    def details(self, stage: Stage, chosen: Chosen) -> dict[str, Any]:
        """What is worth keeping of a stage, as JSON values."""
        return {
            "prompts": stage.train,
            "layer": chosen.candidate.layer,
            "position": chosen.candidate.position,
            "bypass_score": chosen.bypass,
            "induce_score": chosen.induce,
            "divergence": chosen.divergence,
            "divergence_limit": chosen.divergence_limit,
            "refusal_tokens": [str(self.reader.chat.tokenizer.convert_ids_to_tokens(token)) for token in self.tokens],
            "intervention": self.config.intervention,
        }

    def _kept(self, pool: _Pool, *, refused: bool) -> list[int]:
        scores = refusal_scores(pool.log_probabilities, self.tokens)
        return [index for index, score in enumerate(scores.tolist()) if (score > 0) is refused]

    def _refusal_tokens(self) -> tuple[int, ...]:
        """Named by the configuration, or the first tokens of the model's own refusals of the training prompts read so far."""
        if self.config.refusal_tokens:
            example = self.harmful.examples[0]
            return tuple(sorted({self.reader.chat.answer_ids(example, text)[0] for text in self.config.refusal_tokens}))
        found = openings(self.harmful.log_probabilities, self.harmless.log_probabilities)
        return tuple(sorted(token for token in found if self._begins_refusals(token)))

    def _begins_refusals(self, token: int) -> bool:
        """Whether most answers that are made to begin with a token read as refusals, on the prompts where it is likeliest."""
        if token not in self._verdicts:
            self._verdicts[token] = begins_refusals(
                self.reader,
                self.harmful.examples,
                self.harmful.log_probabilities,
                token,
                self.config.answers,
                self.config.answer_tokens,
                self.config.refusal_phrases,
            )
        return self._verdicts[token]
