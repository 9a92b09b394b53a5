"""What an audit assumed of its attacker, what it tried, and what it did not: for the page and for the card of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tempering import registry
from tempering.judge_choice import JudgeChoice
from tempering.report.families import Family, missing_families
from tempering.report.formatting import count, flops
from tempering.report.rows import PriceRow
from tempering.report.summary import skipped_parts
from tempering.study import MethodChoice
from tempering.threat_model import Need

if TYPE_CHECKING:
    from tempering.study import Study

NEEDS = {
    Need.WEIGHTS: "the weights",
    Need.GRADIENTS: "compute for gradients",
    Need.FINE_TUNING: "fine-tuning, by oneself or by a provider",
    Need.QUERIES: "answers to prompts",
    Need.ANSWER_PREFIX: "the beginning of the model's answers",
    Need.HARMFUL_PROMPTS: "harmful prompts",
    Need.HARMFUL_EXAMPLES: "harmful prompts with their answers",
    Need.BENIGN_PROMPTS: "harmless prompts",
    Need.BENIGN_EXAMPLES: "harmless prompts with their answers",
    Need.PUBLIC_BASE: "the public base model the target was made from",
    Need.RETRIEVAL: "documents to look the withheld facts up in",
}
"""What an attacker may hold, in words."""


def _budget(study: Study) -> list[str]:
    words = {
        "steps": "optimizer steps",
        "examples": "distinct examples",
        "tokens": "tokens",
        "flops": "",
        "device_seconds": "seconds of attack",
        "trials": "candidates tried",
        "queries": "prompts sent for an answer",
    }
    limits = {name: value for name, value in study.budget.model_dump().items() if value is not None}
    return [flops(value) if name == "flops" else f"{count(value)} {words[name]}" for name, value in limits.items()]


def scope(study: Study, rows: list[PriceRow], skipped: Iterable[Any]) -> dict[str, Any]:
    """What was tried, what was asked for and left out, and what nobody asked for. A study's labels stand for attacks of the registry.

    Args:
        study: the resolved study.
        rows: the price rows, which name what was run.
        skipped: attacks and defences left out of the plan.

    Returns:
        ``holds`` and ``lacks`` (of the attacker), ``budget`` (of one run), ``attack_cards``, ``defense_cards`` and ``judges`` (methods
        that were used), ``skipped``, ``others`` (attacks of the registry that the study does not name) and ``families`` (without any
        attack here).
    """
    parts = [skipped_parts(entry) for entry in skipped]
    choices = {choice.title: choice for choice in study.attacks}
    named = {choice.name for choice in study.attacks}
    tried = [choices.get(row.attack) or MethodChoice(name=row.attack) for row in rows]
    registered = registry.names("attacks")
    families: list[Family] = missing_families([*registered, *named])
    return {
        "holds": [NEEDS[need] for need in Need if need in study.threat_model.allows],
        "lacks": [NEEDS[need] for need in Need if need not in study.threat_model.allows],
        "budget": _budget(study),
        "attack_cards": list({choice.title: _attack_card(choice) for choice in tried}.values()),
        "defense_cards": [_titled(card, choice) for choice in study.defenses for card in _cards("defenses", [choice.name])],
        "judges": [
            *_cards("evaluators", [choice.name for choice in study.probes.evaluators] or registry.unasked("evaluators")),
            *(_judge_card(choice) for choice in study.probes.judges),
        ],
        "skipped": [{"attack": attack, "reason": reason, "model": model} for attack, reason, model in parts],
        "others": _cards("attacks", [name for name in registered if name not in named], importing=registry.own_names("attacks")),
        "families": families,
    }


def _judge_card(choice: JudgeChoice) -> dict[str, Any]:
    (card,) = _cards("judges", [choice.name])
    return {**card, "name": choice.title, "method": choice.name if choice.name != choice.title else ""}


def _attack_card(choice: MethodChoice) -> dict[str, Any]:
    """The card of an attack as a study has it: under its label, with what it needs as it is configured."""
    (card,) = _cards("attacks", [choice.name])
    method = registry.configured("attacks", choice.name, choice.config)
    if method is not None:
        card["needs"] = [words for need, words in NEEDS.items() if need in method.requires]
    return _titled(card, choice)


def _titled(card: dict[str, Any], choice: MethodChoice) -> dict[str, Any]:
    return {**card, "name": choice.title, "method": choice.name if choice.name != choice.title else ""}


def _cards(kind: str, names: Iterable[str], importing: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Name, summary, source and needs of methods; a file of the user's own is named and not executed again, a broken one named too.

    Args:
        kind: of method.
        names: in the order of the cards.
        importing: of which of them there is more to tell than the name; ``None`` for all that are registered.
    """
    named = list(dict.fromkeys(names))
    told = set(registry.names(kind) if importing is None else importing)
    known, _ = registry.usable(kind, [name for name in named if name in told])
    found = []
    for name in named:
        card = registry.card(kind, name) if name in known else None
        needs = [words for need, words in NEEDS.items() if card and need.value in card.needs]
        about = {"summary": card.summary, "source": card.source} if card else {"summary": "", "source": ""}
        found.append({"name": name, "method": "", **about, "needs": needs})
    return found
