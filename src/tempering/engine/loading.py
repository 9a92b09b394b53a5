"""From the choices of a study to what they name; the planner and every worker load by the same way."""

from __future__ import annotations

from dataclasses import replace

from tempering import organisms
from tempering.data.importers import load_dataset
from tempering.data.records import Dataset, Role
from tempering.errors import InvalidStudy, UnusableData
from tempering.models import Target, load
from tempering.study import DataChoice, ModelChoice


def load_model(choice: ModelChoice) -> Target:
    """The model that a choice names.

    Raises:
        UnusableModel: it cannot be loaded.
        UnknownName: there is no such organism.
    """
    return load(
        choice.reference,
        dtype=choice.dtype,
        device=choice.device,
        chat_template=choice.chat_template,
        trust_remote_code=choice.trust_remote_code,
    )


def load_base(choice: ModelChoice, target: Target) -> Target:
    """The public base of a target. Published bases often come without a chat template: such a one is asked as the target is.

    Raises:
        UnusableModel: it cannot be loaded.
        UnknownName: there is no such organism.
    """
    return load(
        choice.reference, dtype=choice.dtype, device=choice.device, chat_template=choice.chat_template, other_template=target.chat.template
    )


def load_records(data: DataChoice, model: ModelChoice) -> Dataset:
    """The dataset that a study audits a model with: the one it names, or the organism's own world.

    A model that was made from an organism is audited with that one's world by naming it: ``organism:tiny``.

    Raises:
        InvalidStudy: it names none, and the model is no organism.
        UnknownName: it names an organism that does not exist.
        UnusableData: it cannot be read.
    """
    if data.reference is not None:
        if organisms.is_organism(data.reference):
            return organisms.world_dataset(organisms.parse_reference(data.reference).size)
        return load_dataset(data.reference)
    if organisms.is_organism(model.reference):
        return organisms.world_dataset(organisms.parse_reference(model.reference).size)
    raise InvalidStudy(f"no data to audit {model.reference} with", "name a JSONL file, a folder or a saved dataset with --data")


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
    return ModelChoice(reference=reference, dtype=choice.dtype, device=choice.device, chat_template=choice.chat_template)
