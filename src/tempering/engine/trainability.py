"""Benign trainability: can an honest user still teach the model something new?

A safeguard that resists fine-tuning may resist all of it. So a user fine-tunes the model on a benign domain that it has never seen, and
each probe asks held-out questions about that domain, and the usual benign prompts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from transformers import PreTrainedModel

from tempering import registry
from tempering.attacks._contract import log_spaced
from tempering.data.records import Division, EvaluatorView, Example
from tempering.data.supplements import Supplements
from tempering.engine.driving import randomness
from tempering.evaluators._contract import Evaluator, Subject, examine
from tempering.models import Target
from tempering.study import ProbeSettings, TrainabilitySettings
from tempering.training import FineTuning, Meter, Moment, TrainingSettings, estimate, fine_tune

NOVEL = "novel"
"""Measurement: share of the held-out questions about the new domain that are answered right."""

UTILITY = "utility"


def declare(settings: TrainabilitySettings, examples: Sequence[Example], seed: int) -> FineTuning:
    """The honest user's training: all weights, AdamW at a constant rate.

    Args:
        settings: rate, batch, steps.
        examples: of the new domain.
        seed: decides the order.
    """
    training = TrainingSettings(learning_rate=settings.learning_rate, batch_size=settings.batch_size)
    return FineTuning(examples, training, settings.steps, log_spaced(settings.steps), seed)


def lesson_spend(settings: TrainabilitySettings | None, target: Target, division: Division) -> dict[str, float] | None:
    """What the honest user's training is expected to use.

    Args:
        settings: of the study; ``None`` where it does not ask.
        target: what is trained.
        division: of the data.

    Returns:
        The spend; ``None`` where the study does not ask, or the data have nothing new to teach or to test by.
    """
    if settings is None or target.quantised:  # such weights cannot be trained
        return None
    supplements = division.supplements()
    if not supplements.novel_train or not supplements.novel_test:
        return None
    return estimate(target, declare(settings, supplements.novel_train, seed=0)).as_row()


def lessons(target: Target, declaration: FineTuning, meter: Meter) -> Generator[Moment, None, None]:
    """Train a copy of the target; the clock runs only while it is trained."""
    moments = fine_tune(target, declaration, meter)
    while True:
        with meter.timing():
            moment = next(moments, None)
        if moment is None:
            return
        yield moment


class Examination:
    """What the honest user asks: the new domain, and what the model could answer before."""

    def __init__(
        self, target: Target, supplements: Supplements, benign: Sequence[Example], probes: ProbeSettings, judge: Evaluator
    ) -> None:
        """Choose the prompts.

        Args:
            target: the model before the training.
            supplements: with the questions about the new domain.
            benign: the usual benign prompts.
            probes: how a model is asked.
            judge: the evaluator that gives the utility; it judges both.
        """
        views = {
            NOVEL: EvaluatorView((), supplements.novel_test, ()).limited(probes.prompts),
            UTILITY: EvaluatorView((), tuple(benign), ()),
        }
        self._subjects = {name: Subject(target.model, target.chat, view, probes) for name, view in views.items()}
        self._judge = judge

    def untouched(self) -> dict[str, float]:
        """``novel`` and ``utility`` of the model before the training."""
        return {name: self._share(subject) for name, subject in self._subjects.items()}

    def of(self, model: PreTrainedModel) -> dict[str, float]:
        """``novel`` and ``utility`` of a model on the way."""
        return {
            name: self._share(Subject(model, before.chat, before.view, before.settings, untouched=before))
            for name, before in self._subjects.items()
        }

    def _share(self, subject: Subject) -> float:
        with randomness(0):
            return examine(subject, [self._judge])[UTILITY]


def judge_of(evaluators: Sequence[Evaluator]) -> Evaluator:
    """The evaluator among these that gives the utility; the ordinary one where none does."""
    own = next((evaluator for evaluator in evaluators if UTILITY in evaluator.measures), None)
    return own or registry.create("evaluators", UTILITY)
