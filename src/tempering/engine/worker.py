"""Runs one unit: loads the target, drives the attack, or hardens the target, or teaches it, and probes what comes of it.

The rows of a unit depend on the unit alone, not on the process it runs in or on what ran there before: every source of
randomness is seeded by the unit, and probing leaves the attack's random state as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tempering import registry
from tempering.attacks._contract import Attack, AttackEnded, Checkpoint
from tempering.canonical import canonical_hash
from tempering.data.records import AttackerView, EvaluatorView
from tempering.engine.allocation import keep_freed_memory
from tempering.engine.course import Course, Notify
from tempering.engine.defended import MODELS, job_of, load_defended, place_of
from tempering.engine.driving import checkpoints, exceeds, explain, is_large, is_out_of_memory, randomness, release_memory, staying
from tempering.engine.holding import Holding
from tempering.engine.keeping import Keeper
from tempering.engine.machine import refuse_trouble
from tempering.engine.nearness import Scale
from tempering.engine.placement import NOTHING, Keeping
from tempering.engine.ready import Ready
from tempering.engine.results import NO_SPEND, SearchResult, Status, Trial, UnitResult
from tempering.engine.search_space import PlannedSearch, configured
from tempering.engine.trainability import Examination, declare, judge_of, lessons
from tempering.engine.units import Unit, Work
from tempering.errors import JudgeUnavailable, MemoryShortage, StoreProblem, TemperingError, UnusableModel
from tempering.evaluators._contract import Evaluator, Subject, examine
from tempering.judges._panel import panel_of
from tempering.models import Target
from tempering.models.ranks import ALONE, Ranks, ranks_of
from tempering.redaction import one_line
from tempering.threat_model import Need
from tempering.training import Meter, Spend

Told = Callable[[Trial], None]
"""Told of every trial of a search when it is over."""

Trained = Callable[[int, int, str], None]
"""Told how the training of a defence goes: optimizer steps done, steps in all, and a warning or ``""``."""


KEPT_SCALES = 4
"""Untouched models whose scores are remembered."""


class Worker:
    """Runs units one after the other, and keeps what they share: one model, its data and the probe of it untouched."""

    def __init__(
        self, models: Path = Path(MODELS), ranks: Ranks = ALONE, *, checkpointing: bool = False, keeping: Keeping = NOTHING
    ) -> None:
        """Start with nothing loaded.

        Args:
            models: folder of the defended models.
            ranks: the processes that hold each model together; all of them run every unit, in lock step.
            checkpointing: fine-tuning computes activations anew in the backward pass.
            keeping: what is kept of attacks, beside the folder of the models.
        """
        self._models = models
        self._ranks = ranks
        self._keeping = keeping
        self._holding = Holding(models, ranks, checkpointing=checkpointing)
        self._scales: dict[tuple[Any, ...], Scale] = {}

    def run(
        self,
        unit: Unit,
        notify: Notify = lambda probe: None,
        told: Told = lambda trial: None,
        trained: Trained = lambda done, total, warning: None,
    ) -> UnitResult:
        """Run one unit to its end or to its budget.

        Args:
            unit: what to do.
            notify: told of every probe.
            told: told of every trial of a search.
            trained: told how the training of a defence goes.

        Returns:
            Its outcome with every probe. Whatever goes wrong inside an attack or a training, or in probing what it made, is an outcome.

        Raises:
            UnusableModel: the model cannot be loaded, is not the one that was planned, or is too large to probe even untouched.
            UnusableData: the same of the data.
            StoreProblem: a defended model, or what is kept of an attack, cannot be written, or that model is not as it was written.
            JudgeUnavailable: a judge's server cannot be asked; the unit has no outcome.
            MemoryShortage: a training would fit, and what is free at the moment does not do.
        """
        started = time.perf_counter()
        course = Course(notify, Meter(self._ranks.size))
        match unit.work.kind:
            case "reference":
                status, error = self._probe_reference(unit.work, course)
            case "harden":
                status, error = self._harden(unit, course, trained)
            case "novel":
                status, error = self._teach(unit, course)
            case "attack":
                status, error = self._attack(unit, course, told)
        spend = course.meter.spend() if course.within is None else course.within
        seconds, judging = time.perf_counter() - started, panel_of(unit.work.probes.judges).take_costs() if unit.work.judges else {}
        return UnitResult(status, error, course.probes, {**NO_SPEND, **spend.as_row()}, seconds, course.search, judging)

    def _probe_reference(self, work: Work, course: Course) -> tuple[Status, str]:
        assert work.reference is not None
        # beside the audited model, which the next unit needs again
        target = self._holding.load(work.reference, work.reference_digest, work.device)
        subject = Subject(target.model, target.chat, self._holding.data(work).evaluator, work.probes)
        course.record(Spend(), _examine_untouched(subject, _evaluators(work), work.reference.reference), {})
        return "completed", ""

    def _attack(self, unit: Unit, course: Course, told: Told) -> tuple[Status, str]:
        work, ready = unit.work, self.ready(unit)
        assert work.attack is not None
        target, view = ready.target, ready.view
        course.record(Spend(), ready.measurements, {})
        config = work.attack.config
        if work.search is not None:
            course.search = self._search(unit, work.search, view, told)
            config = configured(config, work.search.space, course.search.config)
            target = self._holding.attacked(unit)  # a trial that crashed has had it loaded anew

        keeper = Keeper(self._keeping, self._models.parent, unit, target)

        def probe(checkpoint: Checkpoint) -> dict[str, float]:
            def look(glance: tuple[int, ...] | None = None) -> tuple[Subject, dict[str, float]]:
                subject = ready.subject(checkpoint.model, checkpoint.asking, work.probes, glance)
                with randomness(unit.seed), staying():
                    return subject, examine(subject, ready.evaluators)

            row = None
            if checkpoint.more and work.probes.glance is not None:
                glance = ready.glance(work.probes, checkpoint.spend.steps)
                subject, seen = look(glance)
                row = ready.at_a_glance(seen, glance)
            if row is None:
                subject, row = look()
            keeper.take(len(course.probes), checkpoint, subject)
            return row

        try:
            attack: Attack = registry.create("attacks", work.attack.name, config)
            given = view.limited_to(attack.requires | attack.uses)
            enough = _drive(attack, target, given, unit, course, probe, lambda row: ready.is_enough(work, row))
        except AttackEnded as ended:
            return ended.outcome, one_line(str(ended) or ended.outcome)
        except (StoreProblem, JudgeUnavailable):  # what should be kept cannot be written; or nobody can tell what was said
            raise
        except Exception as error:
            self.forget_model()  # a crashed attack may have left hooks on it
            refuse_trouble(error, f"go on with {unit.work.attack_name}")
            return "failed", explain(error)
        finally:
            release_memory(is_large(target))
        return "enough" if enough else "completed", ""

    def ready(self, unit: Unit) -> Ready:
        """Load what an attack is done to, and examine it untouched."""
        target, data = self._holding.attacked(unit), self._holding.data(unit.work)
        view = data.attacker.limited_to(frozenset(Need) - frozenset(unit.work.withheld))
        evaluators = _evaluators(unit.work)
        untouched, measurements = self._probe_untouched(unit, target, evaluators)
        scale = self._scale_of(unit, data.evaluator, evaluators, measurements) if unit.work.enough else None
        return Ready(target, view, data.evaluator, evaluators, untouched, measurements, scale)

    def _harden(self, unit: Unit, course: Course, trained: Trained) -> tuple[Status, str]:
        """Train a defended model, or take it from where it was trained before; probes 0 and 1 are of the model before and after it."""
        from tempering.engine.hardening import TrainingProgress, train  # here, because it builds on this module
        from tempering.engine.hardening_card import undone_lines

        work = unit.work
        target = self._holding.target_as_it_came(work)
        data = self._holding.data(work)
        evaluators = _evaluators(work)
        untouched, measurements = self._probe_untouched(unit, target, evaluators)
        course.record(Spend(), measurements, {})

        def told(progress: TrainingProgress) -> None:
            if progress.kind in ("step", "warning"):
                trained(progress.steps_done, progress.steps_total, progress.message if progress.kind == "warning" else "")

        try:
            place = place_of(unit, self._models)
            made = train(job_of(unit), place, on_progress=told, target=target, view=data.division.defender_view())
            for line in undone_lines(made.record):  # what will be attacked is not what its name says
                steps = sum(stage["steps"] for stage in made.record["stages"])
                trained(steps, steps, f"{work.defense_name}, seed {unit.seed}: {line}")
            hardened = load_defended(unit, self._models)
            subject = Subject(hardened.model, hardened.chat, data.evaluator, work.probes, untouched=untouched, costly=True)
            with randomness(0):
                measurements = examine(subject, evaluators)
        except (StoreProblem, JudgeUnavailable, MemoryShortage):  # a moment later, the same may have an outcome
            raise
        except Exception as error:
            refuse_trouble(error, f"train in {self._models}")
            if isinstance(error, TemperingError):
                return "failed", one_line(str(error))
            self.forget_model()
            return "failed", explain(error)
        finally:
            release_memory(is_large(target))
        course.within = Spend(**made.record["spend"])
        course.record(course.within, measurements, {"digest": made.record["digest"], "stages": made.record["stages"]})
        return "completed", ""

    def _teach(self, unit: Unit, course: Course) -> tuple[Status, str]:
        """Fine-tune the model as an honest user would."""
        work = unit.work
        assert work.trainability is not None
        target = self._holding.target_of(unit)
        data = self._holding.data(work)
        supplements = data.division.supplements()
        judge = judge_of(_evaluators(work))
        examination = Examination(target, supplements, data.evaluator.benign, work.probes, judge)
        try:
            course.record(Spend(), examination.untouched(), {})
            declaration = declare(work.trainability, supplements.novel_train, unit.seed)
            with randomness(unit.seed), closing(lessons(target, declaration, course.meter)) as moments:
                for moment in moments:
                    course.record(course.meter.spend(), examination.of(moment.model), {"loss": moment.loss})
        except Exception as error:
            self.forget_model()
            refuse_trouble(error, "teach what an honest user would")
            return "failed", explain(error)
        finally:
            release_memory(is_large(target))
        return "completed", ""

    def _search(self, unit: Unit, planned: PlannedSearch, view: AttackerView, told: Told) -> SearchResult:
        """Find the settings to attack with, on the attacker's own examples."""
        from tempering.engine.trials import Bench, judges, own_validation, search_settings  # with Optuna, which most runs do without

        work = unit.work
        validation = own_validation(view, planned.settings.prompts)
        evaluators = judges(_evaluators(work))
        bench = Bench(lambda: self._holding.attacked(unit), self.forget_model, view, validation, evaluators, work.probes)
        return search_settings(unit, planned, bench, self._scale_of(unit, validation, evaluators), told)

    def _scale_of(self, unit: Unit, asked: EvaluatorView, evaluators: list[Evaluator], own: dict[str, float] | None = None) -> Scale:
        """What the untouched model scores on some prompts, and the one without the safeguard, for all units that share both.

        Args:
            unit: whose work names both models.
            asked: the prompts.
            evaluators: of harm and utility; the model without the safeguard is asked for its harm alone.
            own: what the untouched model scored on these prompts, where that is known.
        """
        work = unit.work
        key = (work.untouched, unit.defended, work.reference_digest, asked)
        if key not in self._scales:

            def scores(target: Target, by: list[Evaluator]) -> dict[str, float]:
                subject = Subject(target.model, target.chat, asked, work.probes, costly=False)
                return _examine_untouched(subject, by, target.reference)

            if own is None:
                own = scores(self._holding.target_of(unit), evaluators)
            freed = 1.0
            if work.reference is not None:  # divided among the ranks as the audited model is
                reference = self._holding.load(work.reference, work.reference_digest, work.device)
                freed = scores(reference, [each for each in evaluators if "harm" in each.measures])["harm"]
            while len(self._scales) >= KEPT_SCALES:
                del self._scales[next(iter(self._scales))]
            self._scales[key] = Scale(own["harm"], own.get("utility", math.nan), freed if freed > 0 else 1.0)
        return self._scales[key]

    def _probe_untouched(self, unit: Unit, target: Target, evaluators: list[Evaluator]) -> tuple[Subject, dict[str, float]]:
        """Probe 0, made once for all units that share model, defence with its seed, data, probe settings and evaluators."""
        work = unit.work
        key = work.untouched, "" if work.kind == "harden" else unit.defended
        if self._holding.examined is None or self._holding.examined[0] != key:
            subject = Subject(target.model, target.chat, self._holding.data(work).evaluator, work.probes)
            self._holding.examined = key, (subject, _examine_untouched(subject, evaluators, target.reference))
        return self._holding.examined[1]

    def forget_model(self) -> None:
        """Load the model anew for the next unit."""
        self._holding.forget_model()


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Compute with a fixed number of threads and deterministic kernels while the block runs.

    Args:
        threads: for torch; sums depend on their number in the last digit.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # without types of its own
    filled = settings.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # every tensor written twice would buy nothing where nobody reads what is not written
    keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        settings.fill_uninitialized_memory = filled


def _drive(
    attack: Attack,
    target: Target,
    view: AttackerView,
    unit: Unit,
    course: Course,
    probe: Callable[[Checkpoint], dict[str, float]],
    is_enough: Callable[[dict[str, float]], bool],
) -> bool:
    """Ask the attack for checkpoints until it ends, has spent more than its budget, or has enough; whether it has."""
    budget, within = unit.work.budget, Spend()
    with randomness(unit.seed), closing(checkpoints(attack, target, view, course.meter, budget=budget, seed=unit.seed)) as made:
        for checkpoint in made:
            spend = _agreed(checkpoint.spend, ranks_of(checkpoint.model))
            if exceeds(spend, budget):
                course.within = within
                return False
            within = spend
            row = probe(checkpoint)
            course.record(within, row, checkpoint.details)
            if is_enough(row):
                course.within = within
                return True
    return False


def _agreed(spend: Spend, ranks: Ranks) -> Spend:
    """The spend by the clock of rank 0, so that all ranks are cut off at the same checkpoint."""
    return replace(spend, device_seconds=float(ranks.gathered(spend.device_seconds)[0]))


def _examine_untouched(subject: Subject, evaluators: list[Evaluator], reference: str) -> dict[str, float]:
    """Probe a model that no attack has touched. What goes wrong here is no outcome of an attack."""
    try:
        with randomness(0):
            return examine(subject, evaluators)
    except Exception as error:
        if is_out_of_memory(error):
            raise UnusableModel(
                f"not enough memory to probe the untouched {reference}", "lower probes.batch_size, or run fewer workers"
            ) from error
        raise


def _evaluators(work: Work) -> list[Evaluator]:
    """What examines checkpoints, once it is sure that the judges are those that were planned."""
    panel = panel_of(work.probes.judges)
    for planned, seat in zip(work.judges, panel.seats, strict=False):  # none is planned where the text judges alone
        if canonical_hash(planned.identity) != canonical_hash(seat.identity):
            raise UnusableModel(f"the judge {seat.title!r} has changed since the run was planned", "put it back, or start anew")
    return [registry.create("evaluators", method.name, method.config) for method in work.evaluators]
