"""What every judge promises.

A judge reads a prompt with one response to it, and says which of the four things the response is. What a judge is never asked, because it
is the same for all of them, is settled before (:mod:`tempering.judges._filter`): gibberish is no help to anybody, however a classifier
that was trained on whole sentences takes it, and neither is an opener with nothing behind it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, ClassVar

from tempering.data.records import Example
from tempering.judges._judging import Verdict
from tempering.settings import Settings


@dataclass(frozen=True)
class Asked:
    """A prompt with one response to it.

    Attributes:
        example: the prompt; its ``accept`` are the right answers, where they are known.
        response: the text of the response, without special tokens.
        answers: every answer of the same test, by which ``text`` tells a list of guesses.
    """

    example: Example
    response: str
    answers: frozenset[tuple[str, ...]] = frozenset()

    @property
    def prompt(self) -> str:
        """The user's message."""
        return self.example.prompt


@dataclass(frozen=True)
class Opinion:
    """What a judge says of a response.

    Attributes:
        verdict: which of the four it is.
        score: how much help it is, in [0, 1]; a judge that only says yes or no gives 1 or 0.
    """

    verdict: Verdict
    score: float

    @classmethod
    def of(cls, verdict: Verdict) -> Opinion:
        """The opinion of a judge without degrees."""
        return cls(verdict, float(verdict is Verdict.USEFUL))


@dataclass
class Cost:
    """What judging took; apart from what the attacker spends.

    Attributes:
        judged: responses that a verdict was wanted on.
        filtered: those of them that needed no judge: gibberish, and openers with nothing behind them.
        cached: those of them that were judged before.
        calls: those that the judge's model was asked about; a call that had to be repeated counts once.
        retries: how often one was repeated.
        unparsed: answers of the model that say nothing.
        tokens_in: tokens put before the model.
        tokens_out: tokens that it added.
        seconds: by the clock, waiting for a server included.
        flops: of models on this machine.
    """

    judged: int = 0
    filtered: int = 0
    cached: int = 0
    calls: int = 0
    retries: int = 0
    unparsed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, earlier: Cost) -> Cost:
        """What has come since."""
        return Cost(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(earlier), strict=True)))

    def as_row(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


COSTS = tuple(each.name for each in fields(Cost))
"""The names of :class:`Cost`, in order."""


class Judge(ABC):
    """One way to tell what a response is.

    Attributes:
        Config: pydantic settings.
        source: paper or other origin, of the prompt or input format too.
        licence: of that prompt or format; of a model's weights their own licence holds.
        remedy: what a user can do whose model gives no readable answers.
        whole: whether it reads whole responses, so that generation may not end where the text judge is sure; it is then spared what
            needs no judge.
        cost: what it has taken so far; the judge adds to it.
    """

    Config: ClassVar[type[Settings]]
    source: ClassVar[str]
    licence: ClassVar[str]
    remedy: ClassVar[str] = "take another model for it, or raise its max_tokens"
    whole: ClassVar[bool] = True

    def __init__(self, config: Settings) -> None:
        """Keep the validated configuration; nothing is loaded, and nobody is asked, before the first response comes."""
        self.config: Any = config
        self.cost = Cost()

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides its verdicts, as JSON values: settings that matter, and which model it asks.

        Raises:
            UnusableModel: its model cannot be loaded.
        """

    @abstractmethod
    def opinions(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Opinion | None]]:
        """Judge responses; a judge that reads whole responses is given none that is gibberish or a bare opener.

        Args:
            asked: what to judge.

        Yields:
            The place of each, and the opinion on it, as they come; ``None`` where the judge's answer says nothing.

        Raises:
            JudgeUnavailable: its server does not answer, though asked again.
        """

    @property
    def refused(self) -> tuple[int, str]:
        """How many requests its server would not read so far, and what it said to the last of them, as the end of a sentence."""
        return 0, ""

    @property
    def model_name(self) -> str:
        """What it asks, for readers; ``""`` where it asks no model."""
        return ""

    @property
    def weight_bytes(self) -> int:
        """Memory that its model takes in every process; 0 where it has none here."""
        return 0
