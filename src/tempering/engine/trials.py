"""Runs the trials of a search: each the whole attack with other settings, judged by the attacker's own validation prompts.

Nothing here reaches the test: what is asked are examples of the attacker's part. The attacker pays for all of it, the asking too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace

from tempering import registry
from tempering.attacks._contract import Attack, AttackEnded, Checkpoint
from tempering.data.records import AttackerView, EvaluatorView
from tempering.engine.driving import checkpoints, exceeds, explain, is_large, randomness, release_memory
from tempering.engine.machine import refuse_trouble
from tempering.engine.nearness import Scale
from tempering.engine.results import Outcome, SearchResult, Trial
from tempering.engine.search import OpenTrial, Search
from tempering.engine.search_space import PlannedSearch, configured
from tempering.engine.units import ResolvedMethod, Unit
from tempering.errors import JudgeUnavailable, TemperingError
from tempering.evaluators._contract import Evaluator, Subject, examine
from tempering.models import Target
from tempering.redaction import one_line
from tempering.study import ProbeSettings
from tempering.threat_model import Need
from tempering.training import FlopCount, Meter, NonFiniteLoss

JUDGED_BY = frozenset({"harm", "utility"})
"""Measurements that a trial is judged by."""

Told = Callable[[Trial], None]
"""Told of every trial when it is over."""


def own_validation(view: AttackerView, prompts: int) -> EvaluatorView:
    """What an attacker has to judge its trials by: the examples it kept back from training.

    Args:
        view: the attacker's examples.
        prompts: at most so many of each role.
    """
    return EvaluatorView(view.hazard_validation, view.benign_validation, ()).limited(prompts)


@dataclass(frozen=True)
class Bench:
    """What the trials of a search are run on.

    Attributes:
        load: gives the target, loading it where it was given up.
        give_up: forgets the target after a crash that may have left hooks on it.
        view: the attacker's examples, all of them.
        validation: from :func:`own_validation`.
        evaluators: of harm and utility.
        probes: how a model is asked.
    """

    load: Callable[[], Target]
    give_up: Callable[[], None]
    view: AttackerView
    validation: EvaluatorView
    evaluators: list[Evaluator]
    probes: ProbeSettings

    def measure(self, subject: Subject, seed: int) -> dict[str, float]:
        """Ask the validation prompts; the attack's random state stays as it is."""
        with randomness(seed):
            return examine(subject, self.evaluators)


def judges(methods: Iterable[Evaluator]) -> list[Evaluator]:
    """Those evaluators that a trial is judged by."""
    return [method for method in methods if JUDGED_BY & set(method.measures)]


def search_settings(unit: Unit, planned: PlannedSearch, bench: Bench, scale: Scale, told: Told = lambda trial: None) -> SearchResult:
    """Try settings until there are as many trials as planned, and say which are best.

    Args:
        unit: attack, budget and seed.
        planned: the search.
        bench: what to run on.
        scale: what the untouched model scores on the validation prompts.
        told: told of every trial.

    Returns:
        Every trial with its outcome and spend, and the choice.
    """
    assert unit.work.attack is not None
    own: Attack = registry.create("attacks", unit.work.attack.name, unit.work.attack.config)
    target = bench.load()
    expected = own.estimate(target, bench.view.limited_to(own.requires | own.uses), budget=unit.work.budget)
    search = Search(planned, scale, expected_flops=expected.flops, seed=unit.seed)
    run = _Run(unit, unit.work.attack, planned, bench, own.requires, search, FlopCount.of(target.model), is_large(target))
    for trial in search.open_trials():
        told(run.carry_out(trial))
    return search.result(len(run.seen))


@dataclass
class _Counted(Meter):
    """A meter that also tells the whole search which examples were seen."""

    seen: set[str]

    def __post_init__(self) -> None:
        super().__init__()

    def examples(self, identities: Iterable[str]) -> None:
        """Count examples, here and for the search."""
        known = list(identities)
        self.seen.update(known)
        super().examples(known)


@dataclass
class _Run:
    """One search at work."""

    unit: Unit
    method: ResolvedMethod
    planned: PlannedSearch
    bench: Bench
    allowed: frozenset[Need]
    search: Search
    count: FlopCount
    large: bool
    seen: set[str] = field(default_factory=set)

    def carry_out(self, trial: OpenTrial) -> Trial:
        """Run one trial to where it breaks, is stopped or ends. Whatever goes wrong in it is its outcome."""
        meter, checks = _Counted(self.seen), _Counted(self.seen)
        ended: Outcome | None = None
        error = ""
        try:
            self._attack(trial, meter, checks)
        except AttackEnded as end:
            ended, error = end.outcome, one_line(str(end) or end.outcome)
        except JudgeUnavailable:
            raise
        except Exception as problem:
            refuse_trouble(problem, f"go on with {self.unit.work.attack_name}")
            if not isinstance(problem, (TemperingError, NonFiniteLoss)):  # settings that do not go together, or do not converge, do no harm
                self.bench.give_up()
            ended, error = "failed", explain(problem)
        release_memory(self.large)
        return self.search.close(trial, ended, error=error, spend=meter.spend().as_row(), checks=checks.spend().as_row())

    def _attack(self, trial: OpenTrial, meter: Meter, checks: Meter) -> None:
        attack: Attack = registry.create("attacks", self.method.name, configured(self.method.config, self.planned.space, trial.values))
        self._refuse_to_need_more(attack)
        target, budget, seed = self.bench.load(), self.unit.work.budget, self.unit.seed
        view = self.bench.view.limited_to(attack.requires | attack.uses)
        with randomness(seed), closing(checkpoints(attack, target, view, meter, budget=budget, seed=seed)) as made:
            for checkpoint in made:
                if exceeds(checkpoint.spend, budget):
                    trial.stopped = "budget"
                    return
                if trial.beaten(checkpoint.spend.flops):
                    return
                row = self._check(checkpoint, target, attack, checks)
                if trial.look(checkpoint.spend, row.get("harm", float("nan")), row.get("utility", float("nan"))):
                    return

    def _check(self, checkpoint: Checkpoint, target: Target, attack: Attack, checks: Meter) -> dict[str, float]:
        """Ask the validation prompts, at the attacker's expense."""
        bench = self.bench
        untouched = Subject(target.model, target.chat, bench.validation, bench.probes)
        subject = Subject(checkpoint.model, target.chat, bench.validation, bench.probes, untouched=untouched, asking=checkpoint.asking)
        with checks.timing():
            row = bench.measure(subject, self.unit.seed)
        lengths = [given + added for given, added in subject.asked]
        checks.compute(tokens=sum(lengths), flops=self.count.forward(lengths, sum(added for _, added in subject.asked)))
        checks.query(len(lengths))
        checks.examples(self._identities(attack))
        return row

    def _identities(self, attack: Attack) -> list[str]:
        """The validation examples by the names under which this attack would see them, so that none counts twice."""
        asked = self.bench.validation
        own = replace(self.bench.view, hazard_validation=asked.hazard, benign_validation=asked.benign)
        given = own.limited_to(attack.requires | attack.uses)
        examples = (*(given.hazard_validation or asked.hazard), *(given.benign_validation or asked.benign))
        return [example.identity for example in examples]

    def _refuse_to_need_more(self, attack: Attack) -> None:
        """A search may not lead an attack beyond the threat model, so it may not ask for more than it was planned with.

        Raises:
            AttackEnded: it would.
        """
        if more := sorted(str(need) for need in attack.requires - self.allowed):
            raise AttackEnded("failed", f"with these settings it needs {' and '.join(more)}, and it was planned without")
