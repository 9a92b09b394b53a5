"""The attacks and defences of a study, made and resolved, and why one of them is left out of a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from tempering import registry
from tempering.attacks._contract import Attack
from tempering.canonical import canonical_hash
from tempering.data.records import AttackerView
from tempering.defenses._contract import Defense
from tempering.engine.driving import explain, staying
from tempering.engine.resolving import resolve
from tempering.engine.search_space import Dimension, space_of
from tempering.engine.units import ResolvedMethod, Skipped
from tempering.errors import TemperingError, UnusableModel
from tempering.models import Target
from tempering.study import MethodChoice, Study
from tempering.threat_model import Need, ThreatModel


@dataclass(frozen=True)
class Contender:
    """An attack of the study, made and resolved."""

    method: ResolvedMethod
    attack: Attack
    title: str
    label: str
    space: tuple[Dimension, ...]


@dataclass(frozen=True)
class Defender:
    """A defence of the study, made and resolved."""

    method: ResolvedMethod
    defense: Defense
    title: str
    label: str


Resolved = TypeVar("Resolved", Contender, Defender)


def contender_of(choice: MethodChoice, *, searched: bool) -> Contender:
    """An attack as the study names it; with its search space where it is searched."""
    attack: Attack = registry.create("attacks", choice.name, choice.config)
    space = space_of(attack.config, choice.config) if searched else ()
    return Contender(resolve("attacks", choice), attack, choice.title, choice.label or "", space)


def defender_of(choice: MethodChoice) -> Defender:
    """A defence as the study names it."""
    defense: Defense = registry.create("defenses", choice.name, choice.config)
    return Defender(resolve("defenses", choice), defense, choice.title, choice.label or "")


def distinct(methods: Iterable[Resolved]) -> list[Resolved]:
    """Each method once, though the study may name it twice with the same settings."""
    kept: dict[str, Resolved] = {}
    for method in methods:
        kept.setdefault(canonical_hash(method.method.deciding()), method)
    return list(kept.values())


Accepted = tuple[Contender, dict[str, float]]
"""An attack that is run, and what one run of it is expected to use."""


def accept(
    study: Study, contenders: Iterable[Contender], target: Target, view: AttackerView, title: str
) -> tuple[list[Accepted], list[Skipped]]:
    """The attacks that can be run on a model, the cheapest first, and the others with the reason why not.

    Args:
        study: its threat model and budget are looked at.
        contenders: the attacks.
        target: the model; left as it is.
        view: the attacker's data.
        title: what the study calls the model.

    Raises:
        TemperingError: the data or the settings of one of the package's own attacks are no good; other people's attacks are left out.
    """
    accepted: list[Accepted] = []
    skipped: list[Skipped] = []
    handed = cache(view.limited_to)  # many attacks are given the same, and none may change it
    for contender in contenders:
        reason, spend = "", {}
        try:
            with staying():
                needs = contender.attack.requires
                reason = why_not(contender.attack, study.threat_model, view, target)
                if not reason:
                    given = handed(needs | contender.attack.uses & study.threat_model.allows)
                    spend = contender.attack.estimate(target, given, budget=study.budget).as_row()
        except UnusableModel as error:
            reason = f"cannot be run on this model: {error}"
        except Exception as error:
            if isinstance(error, TemperingError) or registry.is_own("attacks", contender.method.name):
                raise
            reason = f"cannot be planned: {explain(error)}"
        if reason:
            skipped.append(Skipped(attack=contender.title, reason=reason, model=title))
        else:
            accepted.append((contender, spend))
    accepted.sort(key=lambda entry: entry[1]["flops"])
    return accepted, skipped


def why_unsearched(study: Study, contender: Contender, view: AttackerView) -> str:
    """Why an attack is run once as it stands though the study asks for a search; ``""`` where it is searched, or none is asked for."""
    if study.search is None:
        return ""
    if not contender.space:
        return "has no settings to search and is run as it stands"
    if not view.hazard_validation:
        return "is run as it stands: the attacker has no hazard prompts to choose settings by"
    return ""


def why_not(attack: Attack, threat_model: ThreatModel, view: AttackerView, target: Target) -> str:
    """Why an attack cannot be run, as the end of a sentence that begins with its name; ``""`` where it can."""
    needs = attack.requires
    forbidden = sorted(str(need) for need in needs - threat_model.allows)
    if forbidden:
        return f"needs {' and '.join(forbidden)}, which the threat model {threat_model.name!r} does not allow"
    if target.quantised and attack.edits_weights:
        return f"changes the model's weights, and those are held in {target.quantised}; adapters, inputs and hooks can still be tried"
    hazard, benign = view.hazard_train, view.benign_train
    lacking = {
        Need.HARMFUL_PROMPTS: not hazard,
        Need.HARMFUL_EXAMPLES: not hazard or any(example.answer is None for example in hazard),
        Need.BENIGN_PROMPTS: not benign,
        Need.BENIGN_EXAMPLES: not benign or any(example.answer is None for example in benign),
        Need.RETRIEVAL: not view.documents,
    }
    missing = sorted(str(need) for need in needs if lacking.get(need, False))
    if missing:
        return f"needs {' and '.join(missing)}, which the data does not hold"
    return "needs the public base of the model, and none is known" if Need.PUBLIC_BASE in needs and target.public_base is None else ""
