"""The judges of a study at work: what needs none, what was judged before, and then the judge itself.

The first judge decides; the others are recorded beside it. A panel is shared by all that one process examines, so that a model is loaded
once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from tempering import registry
from tempering.canonical import canonical_hash
from tempering.errors import JudgeUnavailable, TemperingError, UnreadableJudge
from tempering.judges._cache import Remembered
from tempering.judges._contract import Asked, Cost, Judge, Opinion
from tempering.judges._filter import settled_without
from tempering.judges._judging import Verdict
from tempering.models.ranks import Ranks

if TYPE_CHECKING:
    from tempering.judge_choice import JudgeChoice

MOST_UNPARSED = 0.1
"""Share of answers that may say nothing; beyond it, and beyond one answer, what is left is no measurement."""

REFUSED = (
    "see whether the server has that model under this name, whether protocol= suits it (a model without a chat template wants "
    "completions), and whether it takes log-probabilities where they are wanted; its own log says more. Then go on (temper resume)"
)
"""What to do about a server that refuses every request."""


class Seat:
    """One judge of a panel.

    Attributes:
        title: what tables call it.
        name: the registry's.
        judge: the judge.
    """

    def __init__(self, title: str, name: str, judge: Judge) -> None:
        """Ask nothing yet."""
        self.title, self.name, self.judge = title, name, judge

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides its verdicts."""
        return self.judge.identity()

    @cached_property
    def _remembered(self) -> Remembered:
        return Remembered(self.identity)

    def opinions(self, asked: Sequence[Asked]) -> list[Opinion | None]:
        """Judge responses.

        Args:
            asked: in any number; equal ones are judged once.

        Returns:
            One opinion for each, in order; ``None`` where the judge's answer said nothing.

        Raises:
            UnreadableJudge: that is so too often.
            JudgeUnavailable: it cannot be asked, or its server refuses whatever it is asked.
        """
        started, cost = time.perf_counter(), self.judge.cost
        cost.judged += len(asked)
        try:
            return self._opinions(asked)
        finally:
            cost.seconds += time.perf_counter() - started

    def opinions_for(self, asked: Sequence[Asked], ranks: Ranks) -> list[Opinion | None]:
        """The same for ranks that hold a model together: the first of them asks, and all have what it was told, so that they go on alike.

        Raises:
            UnreadableJudge: on every rank.
            JudgeUnavailable: on every rank.
        """
        told: dict[str, Any] = {}
        if ranks.rank == 0:
            try:
                told["said"] = [opinion and (opinion.verdict, opinion.score) for opinion in self.opinions(asked)]
            except TemperingError as error:
                told = {"kind": type(error).__name__, "error": str(error)}
        told = ranks.gathered(told)[0]
        if "error" in told:
            raise {"UnreadableJudge": UnreadableJudge, "JudgeUnavailable": JudgeUnavailable}.get(told["kind"], TemperingError)(
                told["error"]
            )
        return [entry and Opinion(Verdict(entry[0]), float(entry[1])) for entry in told["said"]]

    def _opinions(self, asked: Sequence[Asked]) -> list[Opinion | None]:
        if not self.judge.whole:  # a few rules, which remember by themselves and settle all that the filter does
            return list(dict(sorted(self.judge.opinions(asked))).values())
        cost, found = self.judge.cost, [self._settled(each) for each in asked]
        open_ = [place for place, opinion in enumerate(found) if opinion is None]
        cost.filtered += len(asked) - len(open_)
        keys = {place: self._remembered.key(asked[place].prompt, asked[place].response) for place in open_}
        first: dict[str, int] = {}
        for place in open_:
            found[place] = self._remembered.get(keys[place])
            if found[place] is not None:
                cost.cached += 1
            else:
                first.setdefault(keys[place], place)
        answers: dict[str, Opinion | None] = {}
        refused_before, _ = self.judge.refused
        if first:
            questions = list(first.items())
            for number, opinion in self.judge.opinions([asked[place] for _, place in questions]):
                key = questions[number][0]
                answers[key] = opinion
                if opinion is not None:
                    self._remembered.put(key, opinion)
        lost = 0
        for place in open_:
            if found[place] is None:
                found[place] = answers.get(keys[place])
                lost += found[place] is None
        cost.unparsed += lost
        refused, why = self.judge.refused
        self._refuse_to_guess(lost, len(open_), asked=len(first), refused=refused - refused_before, why=why)
        return found

    def _settled(self, asked: Asked) -> Opinion | None:
        verdict = settled_without(asked)
        return None if verdict is None else Opinion.of(verdict)

    def _refuse_to_guess(self, lost: int, number: int, *, asked: int, refused: int, why: str) -> None:
        """Raise where too much is lost: a server that refuses every request is set up wrongly, and a mended one can go on."""
        if not lost or (lost < number and (lost == 1 or lost <= MOST_UNPARSED * number)):
            return
        if 1 < asked == refused:
            raise JudgeUnavailable(f"the judge {self.title!r} ({self.judge.model_name}) refuses all {asked} requests: it {why}", REFUSED)
        told = f"; {refused} requests were refused: it {why}" if refused else ""
        raise UnreadableJudge(
            f"the judge {self.title!r} ({self.judge.model_name}) gave no readable answer on {lost} of {number} responses{told}",
            self.judge.remedy,
        )

    def close(self) -> None:
        """Let go of its files."""
        if "_remembered" in self.__dict__:
            self._remembered.close()


class Panel:
    """The judges of a study, the deciding one first."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        """Ask nothing yet."""
        self.seats = tuple(seats)
        self._taken = {seat.title: Cost() for seat in self.seats}

    @classmethod
    def of(cls, choices: Sequence[JudgeChoice]) -> Panel:
        """The judges that a study names; none is ``text`` alone."""
        if not choices:
            return cls([Seat("text", "text", registry.create("judges", "text"))])
        return cls([Seat(choice.title, choice.name, registry.create("judges", choice.name, choice.config)) for choice in choices])

    @property
    def whole(self) -> bool:
        """Whether some judge reads whole responses."""
        return any(seat.judge.whole for seat in self.seats)

    def take_costs(self) -> dict[str, dict[str, float]]:
        """What each judge has taken since this was last asked, by title; those that took nothing are left out."""
        found = {}
        for seat in self.seats:
            now = seat.judge.cost + Cost()
            since, self._taken[seat.title] = now - self._taken[seat.title], now
            if since.judged:
                found[seat.title] = since.as_row()
        return found

    def close(self) -> None:
        """Let go of files."""
        for seat in self.seats:
            seat.close()


_open: dict[str, Panel] = {}


@cache
def _text_alone() -> Panel:
    return Panel.of(())


def panel_of(choices: Sequence[JudgeChoice]) -> Panel:
    """This process's panel of these judges; another one that is open is let go of, and its models with it."""
    if not choices:
        return _text_alone()
    key = canonical_hash([choice.model_dump(mode="json") for choice in choices])
    if key not in _open:
        let_go()
        _open[key] = Panel.of(choices)
    return _open[key]


def let_go() -> None:
    """Close every panel of this process."""
    while _open:
        _open.popitem()[1].close()


def record(titles: Sequence[str], opinions: Sequence[Sequence[Opinion | None]]) -> dict[str, float]:
    """What several judges say of the same responses, as measurements.

    Args:
        titles: of the judges, the deciding one first.
        opinions: of each, on the same responses in the same order.

    Returns:
        For each judge ``score.TITLE`` (mean score of the responses that it could tell of) and ``unparsed.TITLE`` (how many it could not),
        for each but the first ``harm.TITLE`` and ``refusal.TITLE`` (shares), and of the responses that both could tell of how many
        ``both.TITLE``, ``only_first.TITLE``, ``only_second.TITLE`` or ``neither.TITLE`` found useful.
    """
    row: dict[str, float] = {}
    for number, (title, said) in enumerate(zip(titles, opinions, strict=True)):
        told = [opinion for opinion in said if opinion is not None]
        row[f"score.{title}"] = sum(opinion.score for opinion in told) / len(told) if told else math.nan
        row[f"unparsed.{title}"] = float(len(said) - len(told))
        if number:
            for name, verdict in (("harm", Verdict.USEFUL), ("refusal", Verdict.REFUSAL)):
                row[f"{name}.{title}"] = sum(opinion.verdict is verdict for opinion in told) / len(told) if told else math.nan
            row |= {f"{name}.{title}": float(count) for name, count in _agreeing(opinions[0], said).items()}
    return row


def _agreeing(first: Sequence[Opinion | None], second: Sequence[Opinion | None]) -> dict[str, int]:
    pairs = [
        (one.verdict is Verdict.USEFUL, other.verdict is Verdict.USEFUL)
        for one, other in zip(first, second, strict=True)
        if one is not None and other is not None
    ]
    names = {"both": (True, True), "only_first": (True, False), "only_second": (False, True), "neither": (False, False)}
    return {name: pairs.count(pair) for name, pair in names.items()}
