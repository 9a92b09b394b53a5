"""From a study to units: every model and dataset is looked at once, and what cannot be run is said beforehand."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tempering.data.records import AttackerView, Dataset, Division, Role
from tempering.defenses._contract import missing
from tempering.engine.contenders import Contender, Defender, accept, contender_of, defender_of, distinct, why_unsearched
from tempering.engine.loading import base_choice, divide_for_audit, load_base, load_model, unguarded_choice
from tempering.engine.placement import on_host
from tempering.engine.resolving import compliance_rules, resolve, resolve_evaluators, resolve_judges
from tempering.engine.search_space import PlannedSearch
from tempering.engine.trainability import lesson_spend
from tempering.engine.units import Estimate, Plan, PlannedTarget, Skipped, Unit, Work
from tempering.errors import InvalidStudy, TemperingError
from tempering.model_choice import ModelChoice
from tempering.models import Target
from tempering.models.loading import device_type
from tempering.study import Study, Threshold
from tempering.threat_model import OWN_DATA, Need, ThreatModel
from tempering.training.memory import estimate_memory

__all__ = ["Plan", "Skipped", "make_plan", "resolve", "resolve_evaluators"]


COLLECTED_BYTES = 2**26
"""From this size on, a model is collected at once after it was looked at; that takes a third of a second."""


@dataclass(frozen=True)
class _Planned:
    """A work with what one unit of it is expected to use, and why it is not searched."""

    work: Work
    spend: dict[str, float]
    unsearched: str = ""


@dataclass(frozen=True)
class _PlannedModel:
    """Everything that one model adds to the plan.

    ``groups`` holds what is done to each target, the model as it came first, then one for each defence.
    """

    target: PlannedTarget
    hardenings: tuple[_Planned, ...]
    groups: tuple[tuple[_Planned, ...], ...]
    reference: Work | None
    skipped: tuple[Skipped, ...]

    @property
    def works(self) -> tuple[_Planned, ...]:
        """All of it but the reference."""
        return (*self.hardenings, *(planned for group in self.groups for planned in group))


def make_plan(study: Study, *, divided: bool = False) -> Plan:
    """Make a study into units.

    Each model is loaded once, for its digest and for the estimates; those for a defended model are of the undefended one, which it shares
    its architecture with. Organisms must have been built.

    The order is such that something is known of everything early, and that a study cut short has whole seeds: by model, then by seed, in
    each the training of the defended models and then the cheapest attack first; with defences, the first seed's attacks begin with the
    cheapest on each of them. The model without the safeguard comes after the first seed's attacks on the undefended model.

    Args:
        study: what was asked for.
        divided: the models will lie over several devices, and may be too large for one: they are looked at in the host's memory.

    Returns:
        The units, what is left out and why, and what one unit of each attack is expected to use.

    Raises:
        InvalidStudy: a method's settings are wrong or no good for a model, there is no data, every attack or every defence is left out,
            or two models are the same.
        UnknownName: there is no such method or organism.
        UnusableModel: a model cannot be loaded.
        UnusableData: the data cannot be read or divided.
    """
    contenders = distinct(contender_of(choice, searched=study.search is not None) for choice in study.attacks)
    defenders = distinct(defender_of(choice) for choice in study.defenses)
    judges, judging_bytes = resolve_judges(study.probes.judges)
    examined = {"probes": study.probes, "evaluators": resolve_evaluators(study.probes.evaluators), "judges": judges}
    models = [_plan_model(study, choice, contenders, defenders, examined, divided=divided) for choice in study.models]
    models = [replace(model, target=model.target.model_copy(update={"judging_bytes": judging_bytes})) for model in models]
    _refuse_twins([model.target for model in models])
    skipped = tuple(entry for model in models for entry in model.skipped)
    if not any(planned.work.kind == "attack" for model in models for planned in model.works):
        raise InvalidStudy(f"no attack is left to run: {_reasons(skipped)}", "choose other attacks, data or threat model")
    if defenders and not any(model.hardenings for model in models):
        raise InvalidStudy(f"no defence is left to compare: {_reasons(skipped)}", "choose other defences or data")
    units = tuple(unit for model in models for unit in _in_order(model, study.seeds))
    estimates = tuple(_estimate(model, planned, len(study.seeds)) for model in models for planned in model.works)
    return Plan(study=study, units=units, skipped=skipped, estimates=estimates, targets=tuple(model.target for model in models))


def _reasons(skipped: Iterable[Skipped]) -> str:
    return "; ".join(dict.fromkeys(f"{entry.attack or entry.defense} {entry.reason}" for entry in skipped))


def _estimate(model: _PlannedModel, planned: _Planned, units: int) -> Estimate:
    work = planned.work
    return Estimate(
        model=model.target.reference,
        defense=work.defense_name,
        kind=work.kind,
        attack=work.attack_name,
        trial=work.trial,
        units=units,
        spend=planned.spend,
        search_trials=work.search.settings.trials if work.search else 0,
        unsearched=planned.unsearched,
    )


def _plan_model(
    study: Study,
    choice: ModelChoice,
    contenders: list[Contender],
    defenders: list[Defender],
    examined: dict[str, Any],
    *,
    divided: bool,
) -> _PlannedModel:
    records, division = divide_for_audit(study, choice)
    view = division.attacker_view()
    target, base_digest = _with_base(load_model(on_host(choice) if divided else choice), choice, study.threat_model, contenders)
    reference = unguarded_choice(choice)
    device = device_type(choice.device) if divided else target.device.type
    told = all(example.accept for example in records.examples if example.role is Role.HAZARD)
    shared = {**_shared(study, choice, target, records, device), **examined, "compliance": compliance_rules(examined["judges"], told=told)}
    accepted, skipped = accept(study, contenders, target, view, choice.title)
    hardenings, refused, memory = _hardenings(study, defenders, target, division, shared)
    lesson = lesson_spend(study.trainability, target, division)
    planned = _describe(target, reference, records, memory, device).model_copy(update={"benign_told": _share_told(division)})
    del target  # before another model is loaded
    if planned.weight_bytes >= COLLECTED_BYTES:
        gc.collect()
    unguarded = _reference_work(reference, shared, divided=divided) if accepted else None
    held = view.limited_to(study.threat_model.allows)
    attacks = [
        _Planned(_attack_work(study, contender, held, shared, unguarded, base_digest), spend, why_unsearched(study, contender, held))
        for contender, spend in accepted
    ]
    if lesson is not None:
        attacks.append(_Planned(_lesson_work(study, division, shared), lesson))
    groups = tuple(
        tuple(replace(entry, work=Work(**{**dict(entry.work), **change})) for entry in attacks)
        for change in ({}, *(_defended(entry.work) for entry in hardenings))
    )
    return _PlannedModel(planned, tuple(hardenings), groups, unguarded, (*skipped, *refused))


def _shared(study: Study, choice: ModelChoice, target: Target, records: Dataset, device: str) -> dict[str, Any]:
    """What all works on a model have in common, but for how it is examined."""
    return {
        "model": choice,
        "model_digest": target.digest,
        "dtype": target.dtype,
        "device": device,
        "data": study.data,
        "data_digest": records.digest,
        "budget": study.budget,
    }


def _hardenings(
    study: Study, defenders: list[Defender], target: Target, division: Division, shared: dict[str, Any]
) -> tuple[list[_Planned], list[Skipped], int]:
    """The training of each defence, those that the data cannot feed, and the most memory that one takes beside the target."""
    from tempering.engine.hardening_job import HARDENING_VERSION  # here, because it builds on this module

    planned: list[_Planned] = []
    skipped: list[Skipped] = []
    if not defenders:
        return planned, skipped, 0
    if target.quantised:
        raise InvalidStudy(f"no defence can be trained into weights held in {target.quantised}", "leave quantization out, or the defences")
    view, digest, most = division.defender_view(), division.supplements().digest, 0
    for defender in defenders:
        if lacking := missing(defender.defense.requires, view):
            reason = f"needs {' and '.join(lacking)}, which the defender's part of the data does not hold"
            skipped.append(Skipped(attack="", defense=defender.title, reason=reason, model=target.reference))
            continue
        try:
            stages = defender.defense.stages(target, view, seed=study.seeds[0])
        except TemperingError as error:
            raise InvalidStudy(f"the defence {defender.title!r} cannot be trained on {target.reference}: {error}") from None
        work = Work(
            kind="harden",
            defense=defender.method,
            defense_label=defender.label,
            utility_floor=study.utility_floor,
            hardening_version=HARDENING_VERSION,
            supplements_digest=digest,
            **shared,
        )
        planned.append(_Planned(work, {"steps": float(sum(stage.steps for stage in stages))}))
        most = max(most, estimate_memory(target, stages, ()).device)
    return planned, skipped, most


def _defended(hardening: Work) -> dict[str, Any]:
    """What makes a work on a model one on the model that a defence made of it."""
    names = ("defense", "defense_label", "utility_floor", "hardening_version", "supplements_digest")
    return {name: getattr(hardening, name) for name in names}


def _lesson_work(study: Study, division: Division, shared: dict[str, Any]) -> Work:
    # no hazard prompt is put, so that nobody judges one
    beside = {"supplements_digest": division.supplements().digest, "judges": (), "compliance": 0}
    return Work(kind="novel", trainability=study.trainability, **{**shared, **beside})


def _attack_work(
    study: Study, contender: Contender, view: AttackerView, shared: dict[str, Any], unguarded: Work | None, base_digest: str
) -> Work:
    """What an attack does to the model, with the models that it, or its search, is given beside."""
    given: dict[str, Any] = {}
    if Need.PUBLIC_BASE in contender.attack.requires:
        given |= {"base": base_choice(shared["model"]), "base_digest": base_digest}
    if study.search is not None and not why_unsearched(study, contender, view):
        given["search"] = PlannedSearch(settings=study.search, threshold=study.threshold, space=contender.space)
    if study.probes.until is not None:
        given["enough"] = Threshold(tau=study.probes.until, epsilon=study.threshold.epsilon)
    if unguarded is not None and given.keys() & {"search", "enough"}:
        given |= {"reference": unguarded.reference, "reference_digest": unguarded.reference_digest}
    withheld = tuple(sorted(OWN_DATA - study.threat_model.allows))
    if "search" in given and Need.HARMFUL_EXAMPLES in withheld:  # its trials are judged by prompts whose right answers the attacker lacks
        given["compliance"] = compliance_rules(shared["judges"], told=False)
    return Work(kind="attack", attack=contender.method, label=contender.label, withheld=withheld, **{**shared, **given})


def _with_base(target: Target, choice: ModelChoice, threat_model: ThreatModel, contenders: list[Contender]) -> tuple[Target, str]:
    """The target with its public base and that one's digest, where one is known and some attack may use it."""
    reference = base_choice(choice)
    wanted = Need.PUBLIC_BASE in threat_model.allows and any(Need.PUBLIC_BASE in contender.attack.requires for contender in contenders)
    if reference is None or not wanted:
        return target, ""
    base = load_base(reference, target)
    return replace(target, public_base=base), base.digest


def _reference_work(reference: ModelChoice | None, shared: dict[str, Any], *, divided: bool) -> Work | None:
    """The one probe of the model without its safeguard; ``None`` where that is the audited model itself."""
    if reference is None:
        return None
    digest = load_model(on_host(reference) if divided else reference).digest
    if digest == shared["model_digest"]:
        return None
    return Work(kind="reference", reference=reference, reference_digest=digest, **shared)


def _describe(target: Target, reference: ModelChoice | None, data: Dataset, memory: int, device: str) -> PlannedTarget:
    weights = list(target.model.parameters())
    return PlannedTarget(
        reference=target.reference,
        digest=target.digest,
        dtype=target.dtype,
        device=device,
        safeguard=target.safeguard,
        parameters=sum(weight.numel() for weight in weights),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        unguarded=reference.reference if reference else "",
        data=data.name,
        revision=target.revision,
        system=target.chat.system,
        hardening_bytes=memory,
        provenance=data.provenance,
    )


def _share_told(division: Division) -> float | None:
    """Share of the benign test prompts whose right answers are known; ``None`` without such prompts."""
    benign = division.evaluator_view().benign
    return sum(bool(example.accept) for example in benign) / len(benign) if benign else None


def _in_order(model: _PlannedModel, seeds: tuple[int, ...]) -> list[Unit]:
    """Seed by seed: what is trained, and then target by target, so that what is loaded is used."""
    ahead = 1 if len(model.groups) > 1 else 0
    units: list[Unit] = []
    for position, seed in enumerate(seeds):
        units += [Unit(planned.work, seed) for planned in model.hardenings]
        taken = 0 if position else ahead
        units += [Unit(planned.work, seed) for group in model.groups for planned in group[:taken]]
        for number, group in enumerate(model.groups):
            units += [Unit(planned.work, seed) for planned in group[taken:]]
            if position == number == 0 and model.reference is not None:
                units.append(Unit(model.reference, 0))
    return units


def _refuse_twins(targets: list[PlannedTarget]) -> None:
    """Two names of one model would share their units, and a table could not tell them apart."""
    seen: dict[tuple[str, str, str, str | None], str] = {}
    for target in targets:
        key = (target.digest, target.dtype, target.device, target.system)
        if key in seen:
            raise InvalidStudy(f"the models {seen[key]} and {target.reference} are the same, weight for weight", "name it once")
        seen[key] = target.reference
