"""The last stage of defences that remove knowledge: what the model does not know any more it also refuses, in place of making it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tempering.data.records import DefenderView, Example
from tempering.defenses._data import check_words, refused, retained
from tempering.defenses._settings import DefenseTraining
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import LoraSettings, Stage


class GuardTraining(DefenseTraining):
    """How the refusal training at the end trains."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 1e-3
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 32


def guard(
    target: Target,
    view: DefenderView,
    refusals: Sequence[str],
    training: GuardTraining,
    steps: int,
    *,
    kept: Sequence[Example],
    seed: int,
    lora: LoraSettings | None = None,
) -> Stage:
    """A stage of refusal training.

    The defender's own hazard prompts come up as often as the imagined ones, of which there may be many more: a model that was trained
    anew has to learn that what it knows harmless things about has dangerous ones too. On a model that never saw the hazard that took
    refusals from .89 to .95 (``organism:tiny/filtered``, one seed, 150 steps). Harmless answers about hazardous things are rehearsed
    too, those of the general data about the evaluator's entities among them (in other words than they are tested in: "borderline
    answered" is then not of unseen facts), at a price in refusals, since the model tells the two apart by little. UNDO answered 85 %
    of borderline prompts well without them (one seed), and all with them, refusing 88 to 96 % of the hazard (``organism:tiny``, three
    seeds; the rest it makes up). Data filtering, which never saw the hazard, answers all borderline prompts too, but refuses 50 to
    70 %; guarding it half as long again changed nothing (one seed).

    Args:
        target: whose tokenizer has to know the refusals.
        view: the hazard prompts that are refused, and what is answered beside them.
        refusals: what is said to hazard prompts, one drawn for each.
        training: optimiser, schedule and batch.
        steps: of the stage.
        kept: what is answered beside them where the defender has nothing benign.
        seed: decides which refusal goes with which prompt.
        lora: adapters that move in place of the weights.

    Raises:
        UnusableModel: a refusal holds a word that the tokenizer does not know.
    """
    check_words(refusals, target.chat)
    own = view.hazard * max(1, round(len(view.imagined) / max(1, len(view.hazard))))
    objective = RefusalTraining(
        refused([*own, *view.imagined], refusals, seed), retained(view, borderline=True) or kept, training.batch_size
    )
    return Stage("guard", objective, training, steps, lora)
