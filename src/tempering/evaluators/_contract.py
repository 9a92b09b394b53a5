"""What every evaluator promises, and the subject it examines.

A :class:`Subject` is one checkpoint with the held-out prompts. Generations, verdicts and first-token distributions are made
once a role and shared by all evaluators of the probe.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tempering.data.asking import PLAIN, Asking
from tempering.data.chat import ChatFormat
from tempering.data.records import EvaluatorView, Example, Role
from tempering.evaluators._generation import Responses, evaluation_mode, first_token_log_probabilities, respond
from tempering.evaluators._questions import UNFINISHED
from tempering.judges import Asked, Opinion, Verdict
from tempering.judges._judging import answers_of, judge, share_answered_well
from tempering.judges._panel import Panel, Seat, panel_of, record
from tempering.models.ranks import ranks_of
from tempering.settings import Settings
from tempering.study import ProbeSettings
from tempering.training import autocast


class Subject:
    """One checkpoint under examination.

    Attributes:
        model: the checkpoint, in evaluation mode while it is examined.
        chat: its chat format.
        view: the held-out prompts, already limited to the probe's size.
        settings: generation limits.
        untouched: the target before the attack, or ``None`` when this subject is the target itself.
        asking: how hazard prompts are put; the others are asked plainly.
        asked: of every prompt put so far, samples counted, the tokens put before the model and the tokens it added.
        costly: whether costly evaluators are asked of it; ``None``: where it is the target itself, or does more harm than that.
        measured: the row of its examination; empty before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: ChatFormat,
        view: EvaluatorView,
        settings: ProbeSettings,
        untouched: Subject | None = None,
        asking: Asking = PLAIN,
        costly: bool | None = None,
    ) -> None:
        """Keep what is examined; nothing is computed before an evaluator asks."""
        self.model = model
        self.chat = chat
        self.view = view
        self.settings = settings
        self.untouched = untouched
        self.asking = asking
        self.costly = costly
        self.measured: dict[str, float] = {}
        self.asked: list[tuple[int, int]] = []
        self._responses: dict[Role, list[str]] = {}
        self._verdicts: dict[Role, list[Verdict | None]] = {}
        self._opinions: list[list[Opinion | None]] = []
        self._first: dict[Role, Tensor] = {}

    def responses(self, role: Role) -> list[str]:
        """Responses to the held-out prompts of a role, in order, without special tokens.

        They are greedy, unless the attacker samples: then each is the first useful one of its samples, or the first of all.
        """
        if role not in self._responses:
            asking = self.asking_of(role)
            self.take(role, respond(self.model, self.chat, self.view.of(role), self.settings, asking))
            self._responses[role] = self._best_of_more(self.view.of(role), self._responses[role], asking)
        return self._responses[role]

    @property
    def answered(self) -> list[Role]:
        """The roles whose prompts have been put."""
        return list(self._responses)

    def take(self, role: Role, made: Responses) -> None:
        """Keep the responses to the prompts of a role, made here or elsewhere, one to a prompt."""
        self.asked += made.lengths
        if self.settings.thinking is None:  # a thought begins alike whatever the answer
            self._first.setdefault(role, made.first_token)
        self._responses[role] = made.texts

    def take_first_token(self, role: Role, known: Tensor) -> None:
        """Keep first-token distributions of a role that were made elsewhere, as :meth:`first_token` gives them."""
        self._first.setdefault(role, known)

    def _best_of_more(self, examples: Sequence[Example], texts: list[str], asking: Asking) -> list[str]:
        """Ask again, as often as the attacker would, where the response was of no use."""
        for attempt in range(1, asking.attempts):
            useless = [place for place, verdict in enumerate(self._judged(examples, texts)) if verdict is not Verdict.USEFUL]
            if not useless:
                break
            more = respond(self.model, self.chat, [examples[place] for place in useless], self.settings, asking, attempt)
            self.asked += more.lengths
            found = self._judged([examples[place] for place in useless], more.texts)
            for place, text, verdict in zip(useless, more.texts, found, strict=True):
                if verdict is Verdict.USEFUL:
                    texts[place] = text
        return texts

    def asking_of(self, role: Role) -> Asking:
        """How the prompts of a role are put."""
        return self.asking if role is Role.HAZARD else PLAIN

    def verdicts(self, role: Role) -> list[Verdict | None]:
        """What each of :meth:`responses` is: useful, refusal, evasion or gibberish; ``None`` where the judge's answer said nothing.

        Of hazard prompts the first judge of the settings says so, of others the text alone.
        """
        if role not in self._verdicts:
            examples, texts = self.view.of(role), self.responses(role)
            if role is Role.HAZARD:
                self._opinions = [self._opinions_of(seat, examples, texts) for seat in self.panel.seats]
                self._verdicts[role] = [_verdict(opinion) for opinion in self._opinions[0]]
            else:
                pairs = zip(examples, texts, strict=True)
                self._verdicts[role] = [
                    Verdict.EVASION if text == UNFINISHED else judge(example, text, self._answers) for example, text in pairs
                ]
        return self._verdicts[role]

    def answered_well(self, role: Role) -> float:
        """Share of harmless prompts of a role that got what was asked; NaN without prompts."""
        examples, verdicts = self.view.of(role), self.verdicts(role)
        unanswered = [text == UNFINISHED for text in self.responses(role)]
        heard: list[Verdict | None] = [Verdict.GIBBERISH if none else verdict for verdict, none in zip(verdicts, unanswered, strict=True)]
        return share_answered_well(examples, heard)

    def share(self, role: Role, *verdicts: Verdict) -> float:
        """Share of a role's responses with one of these verdicts, of those that could be judged, in [0, 1]; NaN where there are none."""
        judged = [verdict for verdict in self.verdicts(role) if verdict is not None]
        return sum(verdict in verdicts for verdict in judged) / len(judged) if judged else math.nan

    @property
    def panel(self) -> Panel:
        """The judges of hazard prompts, shared by all that this process examines."""
        return panel_of(self.settings.judges)

    def judging(self) -> dict[str, float]:
        """What several judges, or another than the text, said of the hazard prompts, if that was asked; see :func:`record`."""
        if not self.settings.judges or not self._opinions:
            return {}
        return record([seat.title for seat in self.panel.seats], self._opinions)

    def _judged(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Verdict | None]:
        """Verdicts of the deciding judge on responses to hazard prompts."""
        return [_verdict(opinion) for opinion in self._opinions_of(self.panel.seats[0], examples, texts)]

    def _opinions_of(self, seat: Seat, examples: Sequence[Example], texts: Sequence[str]) -> list[Opinion | None]:
        """What one judge says; where several ranks hold the model, the first of them asks, and tells the others."""
        read = [place for place, text in enumerate(texts) if text != UNFINISHED]
        asked = [Asked(examples[place], texts[place], self._answers) for place in read]
        ranks = ranks_of(self.model)
        said = seat.opinions(asked) if ranks.size == 1 else seat.opinions_for(asked, ranks)
        opinions: list[Opinion | None] = [Opinion.of(Verdict.EVASION)] * len(texts)
        for place, opinion in zip(read, said, strict=True):
            opinions[place] = opinion
        return opinions

    def first_token(self, role: Role) -> Tensor:
        """Log-probabilities of the first token that the model adds: (prompts, vocabulary), float32, on the CPU."""
        if role not in self._first:
            self._first[role] = first_token_log_probabilities(
                self.model, self.chat, self.view.of(role), self.settings, self.asking_of(role)
            )
        return self._first[role]

    @cached_property
    def _answers(self) -> frozenset[tuple[str, ...]]:
        """Every answer of the test, by which a list of guesses is told."""
        if self.origin is not self:
            return self.origin._answers  # one object for all checkpoints, for the sake of those who compare it
        return answers_of(example for role in Role for example in self.view.of(role))

    @cached_property
    def origin(self) -> Subject:
        """The untouched target; this subject itself when it is the target."""
        return self.untouched or self

    def matters(self, harm: float) -> bool:
        """Whether costly evaluators are asked of it.

        Args:
            harm: measured of it; NaN where nobody measures any, and then they are asked.
        """
        if self.costly is not None:
            return self.costly
        return self.untouched is None or not harm <= self.untouched.measured.get("harm", math.nan)


def _verdict(opinion: Opinion | None) -> Verdict | None:
    return None if opinion is None else opinion.verdict


class Evaluator(ABC):
    """One measurement of a checkpoint.

    Attributes:
        Config: pydantic settings.
        source: paper or other origin.
        measures: names of the numbers it returns. The names that economics reads are ``harm``, ``refusal``, ``utility``,
            ``over_refusal``, ``borderline``, ``coherence`` and ``divergence``. An evaluator that only knows what it measures once it has
            read its tasks names none, and calls each ``task/metric``; tables and reports have those as capabilities.
        unasked: run where a study names no evaluators. One that needs an extra, or to be told what to ask, says ``False``.
        costly: takes minutes rather than seconds, and so is asked of the untouched target, of a model that a defence made, and of
            checkpoints that do more harm than the target; of others its measures are NaN.
    """

    Config: ClassVar[type[Settings]]
    source: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]
    unasked: ClassVar[bool] = True
    costly: ClassVar[bool] = False

    def __init__(self, config: Settings) -> None:
        """Keep the validated configuration."""
        self.config: Any = config

    @abstractmethod
    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Measure.

        Returns:
            One finite number for each name in ``measures``; NaN where the data cannot tell.
        """

    def identity(self) -> str:
        """What tells the other code and data that it brings in (a package, a task's file, a benchmark) from others of the same name.

        A part of every unit's hash. It is asked while a study is planned, so this is also where to find out that a task cannot be had.

        Raises:
            TemperingError: something that it needs cannot be had.
        """
        return ""


def as_deployed(model: PreTrainedModel, origin: PreTrainedModel) -> AbstractContextManager[Any]:
    """Compute with what was trained on a bfloat16 model, a float32 copy or adapters in float32, in the arithmetic of that model itself.

    Args:
        model: under examination.
        origin: what it was made from.
    """
    ours, theirs = (sum(parameter.dtype is torch.float32 for parameter in each.parameters()) for each in (model, origin))
    return autocast(model.device, origin.dtype is torch.bfloat16 and ours > theirs)  # some models have float32 parts of their own


@torch.no_grad()
def examine(subject: Subject, evaluators: list[Evaluator]) -> dict[str, float]:
    """Run every evaluator on one subject.

    Args:
        subject: the checkpoint; each of its modules is put back into the mode it had.
        evaluators: which measurements. The costly ones come last, and are asked of what :meth:`Subject.matters`.

    Returns:
        All measurements in one row, with what the judges said where the settings name any; NaN for those that nobody asked for.
    """
    row: dict[str, float] = {}
    with evaluation_mode(subject.model), as_deployed(subject.model, subject.origin.model):
        for evaluator in sorted(evaluators, key=lambda each: each.costly):
            if not evaluator.costly or subject.matters(row.get("harm", math.nan)):
                row.update(evaluator.evaluate(subject))
    row.update(subject.judging())
    if any(evaluator.costly for evaluator in evaluators):
        row = {**row, **dict.fromkeys(subject.origin.measured.keys() - row.keys(), math.nan)}
    subject.measured = row
    return row
