"""From the choices of a study to what they name; the planner and every worker load by the same way."""

from __future__ import annotations

from dataclasses import replace

from tempering import organisms, registry
from tempering.data.importers import load_dataset
from tempering.data.joining import COMPANION, join
from tempering.data.members import members
from tempering.data.records import Dataset, Division, Role
from tempering.errors import InvalidStudy, UnusableData
from tempering.model_choice import ModelChoice
from tempering.models import Target, load
from tempering.study import LEAST_GLANCE, DataChoice, MethodChoice, Study

UTILITY = "utility"
"""The measurement, and Tempering's own evaluator that gives it from benign prompts."""

BREAK_MEASURES = ("harm", UTILITY)
"""What a break is told by; see :mod:`tempering.economics.breaks`."""


def load_model(choice: ModelChoice) -> Target:
    """The model that a choice names, called by its title.

    Raises:
        UnusableModel: it cannot be loaded.
        UnknownName: there is no such organism.
    """
    target = load(
        choice.reference,
        dtype=choice.dtype,
        device=choice.device,
        chat_template=choice.chat_template,
        trust_remote_code=choice.trust_remote_code,
        system=choice.system,
        quantization=choice.quantization,
    )
    return replace(target, reference=choice.title)


def load_base(choice: ModelChoice, target: Target) -> Target:
    """The public base of a target. Published bases often come without a chat template: such a one is asked as the target is.

    Raises:
        UnusableModel: it cannot be loaded.
        UnknownName: there is no such organism.
    """
    return load(
        choice.reference,
        dtype=choice.dtype,
        device=choice.device,
        chat_template=choice.chat_template,
        other_template=target.chat.template,
        system=choice.system,
        quantization=choice.quantization,
    )


def load_records(data: DataChoice, model: ModelChoice) -> Dataset:
    """The dataset that a study audits a model with: what it names, or the organism's own world.

    A model that was made from an organism is audited with that one's world by naming it: ``organism:tiny``. Sets are named, and joined with
    others, as ``strongreject+dolly+./mine.jsonl``; a named set may be fetched from the hub.

    Raises:
        InvalidStudy: it names none, and the model is no organism.
        UnknownName: it names an organism that does not exist.
        UnusableData: it cannot be read.
    """
    if data.reference is not None:
        named = members(data.reference)
        if len(named) == 1 and not named[0].name:
            return _own(named[0].reference, alone=True)
        return join(named, _own)
    if organisms.is_organism(model.reference):
        return organisms.world_dataset(organisms.parse_reference(model.reference).size)
    raise InvalidStudy(
        f"no data to audit {model.reference} with", "name a JSONL file, a folder, a saved dataset or a set (temper ls data) with --data"
    )


def _own(reference: str, *, alone: bool = False) -> Dataset:
    """The dataset of a file, a folder or an organism."""
    if organisms.is_organism(reference):
        return organisms.world_dataset(organisms.parse_reference(reference).size)
    return load_dataset(reference, alone=alone)


def divide_for_audit(study: Study, model: ModelChoice) -> tuple[Dataset, Division]:
    """The dataset that a study audits a model with, and its parts.

    Raises:
        InvalidStudy, UnknownName, UnusableData: as :func:`refuse_blind`, :func:`refuse_misread`, :func:`load_records`, :func:`restrict`
            and :func:`refuse_unmeasurable` do, and where it cannot be divided.
    """
    refuse_blind(study.probes.evaluators)
    refuse_misread(study)
    records = load_records(study.data, model)
    division = restrict(records, study.data.domains).divide(study.data.seed)
    refuse_unmeasurable(records.name, division, study.probes.evaluators)
    return records, division


def refuse_blind(evaluators: tuple[MethodChoice, ...]) -> None:
    """Refuse evaluators that would not see a break, however much else they measure: every attack would end without an outcome.

    Args:
        evaluators: of the study; empty is all of Tempering's own.

    Raises:
        InvalidStudy: some are named, and none of them measures harm, or utility.
    """
    measured = {measure for choice in evaluators for measure in registry.get("evaluators", choice.name).measures}
    lacking = [measure for measure in BREAK_MEASURES if evaluators and measure not in measured]
    if lacking:
        raise InvalidStudy(
            f"probes.evaluators measure no {' and no '.join(lacking)}, and a break is told by {' and '.join(BREAK_MEASURES)}",
            f"add {' and '.join(lacking)} to them, or name none for all of Tempering's own",
        )


def refuse_misread(study: Study) -> None:
    """Refuse probes that would end, or pass over, just the runs that break.

    It is asked of a study that is to be run, and not of every study, so that runs of before can still be read.

    Raises:
        InvalidStudy: runs would end before they reach the threshold, or a glance is too short to tell anything.
    """
    if unseen := study.probes.why_unseen(study.threshold.tau):
        raise InvalidStudy(unseen, f"set probes.until to {study.threshold.tau:g} or more, or the threshold's tau lower")
    glance = study.probes.glance
    if glance is not None and glance < LEAST_GLANCE:
        raise InvalidStudy(
            f"probes.glance is {glance}, and so few prompts often miss what an attack has freed",
            f"put at least {LEAST_GLANCE}, or leave it out",
        )


def refuse_unmeasurable(name: str, division: Division, evaluators: tuple[MethodChoice, ...]) -> None:
    """Refuse data that utility cannot be measured on: without it no probe tells a break from a ruin, and no attack has an outcome.

    Args:
        name: of the dataset.
        division: its parts.
        evaluators: of the study; one beside Tempering's own ``utility`` may measure utility without benign prompts.

    Raises:
        UnusableData: the evaluator's part has no benign prompts, and nothing else measures utility.
    """
    if division.evaluator_view().benign:
        return
    others = (choice.name for choice in evaluators if choice.name != UTILITY)
    if any(UTILITY in registry.get("evaluators", other).measures for other in others):
        return
    raise UnusableData(
        f"{name} has no benign prompts to test with, so that nobody can tell what an attack leaves of the model's utility",
        f'add rows with "role": "benign" about at least two entities, give some the part "evaluator", or add a set by name: +{COMPANION}',
    )


def restrict(dataset: Dataset, domains: tuple[str, ...]) -> Dataset:
    """The dataset with the hazards of these domains only; other roles stay as they are.

    Args:
        dataset: every example.
        domains: hazard domains to keep; empty keeps all.

    Raises:
        UnusableData: a domain has no hazard example.
    """
    if not domains:
        return dataset
    known = {example.domain for example in dataset.examples if example.role is Role.HAZARD}
    for domain in domains:
        if domain not in known:
            raise UnusableData(f"{dataset.name} has no hazard of the domain {domain!r}", f"known: {', '.join(sorted(known))}")
    kept = tuple(example for example in dataset.examples if example.role is not Role.HAZARD or example.domain in domains)
    return replace(dataset, examples=kept)


def unguarded_choice(choice: ModelChoice) -> ModelChoice | None:
    """The same model without its safeguard, where the study or the organism knows one.

    Code that ships with it is not run: the user has named the audited model for that, not this one.
    """
    reference = choice.unguarded
    if reference is None and organisms.is_organism(choice.reference):
        reference = organisms.unguarded_of(organisms.parse_reference(choice.reference))
    return _beside(choice, reference)


def base_choice(choice: ModelChoice) -> ModelChoice | None:
    """The published model that this one was made from, where the study or the organism knows one. Its code is not run either."""
    reference = choice.base
    if reference is None and organisms.is_organism(choice.reference):
        reference = organisms.public_base_of(organisms.parse_reference(choice.reference))
    return _beside(choice, reference)


def _beside(choice: ModelChoice, reference: str | None) -> ModelChoice | None:
    """Another model, loaded as the audited one is; ``None`` where it is the audited one."""
    if reference is None or reference == choice.reference:
        return None
    return choice.model_copy(update={"reference": reference, "unguarded": None, "base": None, "trust_remote_code": False, "label": None})
