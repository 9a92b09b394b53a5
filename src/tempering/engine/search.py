"""The adaptive attacker: which settings of an attack break the model for the least compute?

Each trial runs the attack from the start with settings that Optuna suggests, and is judged by the attacker's own validation prompts:
this module never sees the test. The objective is the compute at the break,

    objective = log10(max(1, FLOPs at the first break))                 where the trial breaks,
    objective = 30 + d                                                  where it does not,

d the least distance of any of its probes from a break, with r the share of harm recovered and u the share of utility kept,

    d = max(0, τ − r) / τ + max(0, (1 − ε) − u) / (1 − ε),

at most 1, the distance of the untouched model, and 2 where the attack crashed or found nothing before there was anything to measure.
10^30 FLOPs are beyond any budget, so a censored trial is behind every broken one and is told to the sampler all the same; TPE looks at
ranks alone.

A trial stops where it breaks; where it has spent more than the best break so far, since it cannot win; and where successive halving
(Jamieson and Talwalkar 2016; asynchronous: Li et al. 2020) finds it behind: at 1/27, 1/9, 1/3 and all of the compute that the attack's
own settings are expected to take, only the third of the trials that came nearest by then may go on.

Sources: Bergstra et al. 2011 and Falkner et al. 2018 (multivariate TPE), through Optuna.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tempering.engine.nearness import SLACK, Scale, distance
from tempering.engine.results import Outcome, SearchResult, Stopped, Trial
from tempering.engine.search_space import Dimension, PlannedSearch, place_of
from tempering.training import Spend

optuna.logging.set_verbosity(optuna.logging.ERROR)

CENSORED = 30.0
"""Objective of a trial that all but breaks: the logarithm of more FLOPs than there are."""

UNMEASURED = 2.0
"""Distance from a break of a trial that left nothing to measure."""

REDUCTION = 3
"""One in so many trials goes on at each rung of the halving."""

FIRST_RUNG = REDUCTION**3
"""The first rung is at this part of the compute that the attack is expected to take."""

_RESOLUTION = 1000
"""Steps of the pruner's clock up to the first rung."""

_MOST_REPEATS = 50
"""Suggestions in a row that were tried before, after which the space counts as exhausted."""


@dataclass
class OpenTrial:
    """A trial while it runs.

    Attributes:
        number: from 0.
        values: what it sets, by dotted name.
        search: what it belongs to.
        asked: Optuna's own record of it; ``None`` where it is not told to the sampler.
        stopped: why it shall not be run on; ``""`` while it may.
        looks: probes judged, those that could not be measured too.
        nearest: least distance from a break so far; inf while nothing was measured.
        recovered: most harm recovered at kept utility; NaN while unknown.
        kept: share of utility where it came nearest.
        harmful: whether some probe recovered enough, whatever became of utility.
        broke_at: the attack's spend at the break.
    """

    number: int
    values: dict[str, Any]
    search: Search
    asked: optuna.Trial | None
    stopped: Stopped = ""
    looks: int = 0
    nearest: float = math.inf
    recovered: float = math.nan
    kept: float = math.nan
    harmful: bool = False
    broke_at: Spend | None = None
    _clock: int = field(default=0, repr=False)

    def beaten(self, flops: float) -> bool:
        """Whether so much compute exceeds the best break so far, so that this trial cannot win; then it is stopped."""
        if flops > self.search.best_flops:
            self.stopped = "beaten"
        return bool(self.stopped)

    def look(self, spend: Spend, harm: float, utility: float) -> bool:
        """Judge a probe.

        Args:
            spend: the attack's, up to here.
            harm: on the validation prompts.
            utility: likewise.

        Returns:
            Whether the trial is to be stopped.
        """
        self.looks += 1
        threshold = self.search.planned.threshold
        recovered, kept = self.search.scale.recovered(harm), self.search.scale.kept(utility)
        far = distance(recovered, kept, threshold)
        if math.isnan(far):
            return False
        if min(far, 1.0) < self.nearest:
            self.nearest = min(far, 1.0)
            self.kept = kept
        self.harmful |= recovered >= threshold.tau - SLACK
        if kept >= 1.0 - threshold.epsilon - SLACK:
            self.recovered = recovered if math.isnan(self.recovered) else max(self.recovered, recovered)
        if far == 0.0:
            self.broke_at, self.stopped = spend, "broke"
        elif self._lags(spend.flops):
            self.stopped = "halved"
        return bool(self.stopped)

    def _lags(self, flops: float) -> bool:
        """Whether successive halving stops it after so much compute."""
        clock = int(flops / self.search.first_rung_flops * _RESOLUTION)
        if self.asked is None or not self.search.planned.settings.halving or clock <= self._clock:
            return False
        self._clock = clock
        self.asked.report(self.nearest, clock)
        return self.asked.should_prune()

    def outcome(self, ended: Outcome | None) -> Outcome:
        """What came of it, as :func:`tempering.economics.breaks.find_breaks` would say.

        Args:
            ended: ``failed`` or ``no_direction`` where the attack ended so.
        """
        if self.broke_at is not None:
            return "broken"
        if ended is not None:
            return ended
        blind = self.looks > 0 and math.isinf(self.nearest)
        return "failed" if blind else "destroyed" if self.harmful else "held"

    def objective(self, outcome: Outcome) -> float:
        """What the search minimises."""
        if self.broke_at is not None:
            return math.log10(max(1.0, self.broke_at.flops))
        unmeasured = UNMEASURED if outcome in ("failed", "no_direction") else 1.0
        return CENSORED + (self.nearest if math.isfinite(self.nearest) else unmeasured)


class Search:
    """Suggests settings, one trial after the other, and keeps what came of each.

    Attributes:
        planned: settings, threshold and space.
        scale: by which probes are judged.
        best_flops: least compute at which a trial broke so far.
        first_rung_flops: compute at the first rung of the halving.
        trials: what has been tried.
    """

    def __init__(self, planned: PlannedSearch, scale: Scale, *, expected_flops: float, seed: int) -> None:
        """Begin a search.

        Args:
            planned: settings, threshold and space.
            scale: scores of the untouched model on the validation prompts.
            expected_flops: compute of the attack with its own settings, to the end of the budget; places the rungs.
            seed: decides every suggestion.
        """
        self.planned = planned
        self.scale = scale
        self.best_flops = math.inf
        self.first_rung_flops = max(expected_flops / FIRST_RUNG, 1.0)
        self.trials: list[Trial] = []
        self._distributions = {dimension.name: _distribution(dimension) for dimension in planned.space}
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=_RESOLUTION, reduction_factor=REDUCTION)
        self._study = optuna.create_study(direction="minimize", sampler=_sampler(planned, seed), pruner=pruner)

    def open_trials(self) -> Iterator[OpenTrial]:
        """The trials to run, each suggested when the one before it has been closed; the attack's own settings come first."""
        for number in range(self.planned.settings.trials):
            trial = self._first() if number == 0 else self._suggested(number)
            if trial is None:
                return
            yield trial

    def close(self, trial: OpenTrial, ended: Outcome | None, *, error: str, spend: dict[str, float], checks: dict[str, float]) -> Trial:
        """Take in a trial that is over.

        Args:
            trial: from :meth:`open_trials`.
            ended: ``failed`` or ``no_direction`` where the attack ended so.
            error: why, in one line.
            spend: what the attack used.
            checks: what asking the validation prompts took.
        """
        outcome = trial.outcome(ended)
        objective = trial.objective(outcome)
        broke_at = {} if trial.broke_at is None else trial.broke_at.as_row()
        closed = Trial(
            trial.number, trial.values, outcome, trial.stopped, objective, trial.recovered, trial.kept, spend, broke_at, checks, error
        )
        self.trials.append(closed)
        if trial.broke_at is not None:
            self.best_flops = min(self.best_flops, trial.broke_at.flops)
        if trial.asked is not None:
            self._study.tell(trial.asked, objective)
        return closed

    def result(self, examples: int) -> SearchResult:
        """What was tried and what won: the least objective, and of equals the earliest.

        Args:
            examples: distinct examples that the trials and checks have seen.
        """
        return SearchResult(self.trials, min(self.trials, key=lambda trial: (trial.objective, trial.number)).number, examples)

    def _first(self) -> OpenTrial:
        """The attack's own settings. A default that its own range does not hold cannot be told to the sampler."""
        space = self.planned.space
        values = {dimension.name: dimension.default for dimension in space}
        if not all(dimension.holds_default for dimension in space):
            return OpenTrial(0, values, self, None)
        self._study.enqueue_trial({dimension.name: _suggestion(dimension, values[dimension.name]) for dimension in space})
        return OpenTrial(0, values, self, self._study.ask(self._distributions))

    def _suggested(self, number: int) -> OpenTrial | None:
        """Settings that were not tried yet; ``None`` where the sampler finds no more of them."""
        known = {_key(trial.config): trial.objective for trial in self.trials}
        for _ in range(_MOST_REPEATS):
            asked = self._study.ask(self._distributions)
            values = {dimension.name: _value(dimension, asked.params[dimension.name]) for dimension in self.planned.space}
            if _key(values) not in known:
                return OpenTrial(number, values, self, asked)
            self._study.tell(asked, known[_key(values)])
        return None


def _key(values: dict[str, Any]) -> str:
    return repr(sorted(values.items()))


def _sampler(planned: PlannedSearch, seed: int) -> optuna.samplers.BaseSampler:
    settings = planned.settings
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of Optuna 4, for multivariate
        return optuna.samplers.TPESampler(n_startup_trials=settings.drawn_first, multivariate=True, seed=seed)


def _distribution(dimension: Dimension) -> BaseDistribution:
    """Choices are told to Optuna by their places, since it wants plain values and a choice may be any."""
    if dimension.options:
        return CategoricalDistribution(tuple(range(len(dimension.options))))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _suggestion(dimension: Dimension, value: Any) -> Any:
    return place_of(value, dimension.options) if dimension.options else value


def _value(dimension: Dimension, suggestion: Any) -> Any:
    return dimension.options[suggestion] if dimension.options else suggestion
