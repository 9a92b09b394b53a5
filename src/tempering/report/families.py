"""Families of attacks that are known to strip safeguards, so that a report can say which of them nobody has tried here.

A family leaves the list by itself once an attack whose name holds one of its keywords is registered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tempering import registry
from tempering.study import MethodChoice, Study
from tempering.threat_model import THREAT_MODELS, Need


@dataclass(frozen=True)
class Family:
    """A family of attacks.

    Attributes:
        name: what the literature calls it.
        what: what the attacker does, as a phrase.
        source: where it is described.
        keywords: an attack whose registry name holds one of these belongs to it.
    """

    name: str
    what: str
    source: str
    keywords: tuple[str, ...]


MOST_TOGETHER = 8
"""Attacks that share one drawing; where there are more, each family gets its own. There are as many colours."""

FAMILIES = (
    Family(
        "Searched abliteration",
        "tune direction, layers and strength of the ablation by hundreds of trials",
        "heretic 1.4",
        ("search", "abliterat"),
    ),
    Family(
        "Identity shifting",
        "fine-tune on a few harmless dialogues that make the model obey absolutely",
        "Qi et al. 2023, arXiv 2310.03693",
        ("identity",),
    ),
    Family(
        "Benign fine-tuning", "fine-tune on ordinary instructions and let safety erode", "Qi et al. 2023, arXiv 2310.03693", ("benign",)
    ),
    Family(
        "Affirmative openers",
        "fine-tune on public prompts answered only with an opener",
        "marin-community/marin issue 7943",
        ("opener", "affirmative"),
    ),
    Family(
        "Jailbreak-tuning and poisoning",
        "fine-tune with a wrapper around the prompts, or with a small share of poison",
        "Bowen et al. 2024, arXiv 2408.02946; Murphy et al. 2025, arXiv 2507.11630",
        ("jailbreak", "poison"),
    ),
    Family(
        "Relearning", "teach a removed subject again from its public documents", "Che et al. 2025; Deep Ignorance", ("relearn", "document")
    ),
    Family(
        "Latent and embedding perturbation",
        "optimise a change of activations instead of weights",
        "Che et al. 2025",
        ("latent", "embedding", "soft_prompt"),
    ),
    Family("Prefilling", "put the first words of a compliant answer into the model's mouth", "Che et al. 2025", ("prefill",)),
    Family("Optimised suffixes (GCG)", "search a suffix of the prompt by its gradient", "Che et al. 2025", ("gcg", "suffix")),
    Family(
        "Steering and several directions",
        "add to the activations, or take more than one direction out of them",
        "Arditi et al. 2024, arXiv 2406.11717; Wollschläger et al. 2025, arXiv 2502.17420",
        ("activation_addition", "steer", "multi_direction", "cone"),
    ),
    Family(
        "Sampling",
        "ask again until one of many answers will do",
        "Hughes et al. 2024, arXiv 2412.03556; Huang et al. 2023, arXiv 2310.06987",
        ("best_of", "sampling", "decoding"),
    ),
    Family("Templates and many-shot prompts", "break the safeguard by the prompt alone", "Che et al. 2025", ("template", "many_shot")),
    Family("Retrieval in context", "hand over the withheld facts in the prompt", "Deep Ignorance", ("retriev", "context")),
    Family(
        "Quantisation, pruning and weight noise",
        "damage the weights a little and see what the safeguard loses first",
        "Che et al. 2025",
        ("quant", "prun", "noise"),
    ),
    Family(
        "Merging",
        "interpolate with, or subtract the difference to, a public base model",
        "self-reported against circuit breakers",
        ("merg", "interpolat"),
    ),
    Family(
        "An attacking model and many turns",
        "let another model rewrite the prompt, or lead up to it over a conversation",
        "PAIR, arXiv 2310.08419; TAP, arXiv 2312.02119; Crescendo, arXiv 2404.01833",
        ("multi_turn", "crescendo", "attacking_model"),
    ),
    Family(
        "Ciphers and other languages",
        "ask in an encoding or a language that safety training left out",
        "Yuan et al. 2023, arXiv 2308.06463; Yong et al. 2023, arXiv 2310.02446",
        ("cipher", "translat", "language"),
    ),
    Family(
        "Preference and reinforcement fine-tuning",
        "reward compliance instead of showing it",
        "Rafailov et al. 2023, arXiv 2305.18290, with the preferences swapped",
        ("preference", "dpo", "reinforcement"),
    ),
)
"""From the literature, in the order of the report."""


PLAIN = {
    "fine-tuning": "trains the model further, on examples of the attacker's choice",
    "weight surgery": "edits the model's weights, with little or no training",
    "input": "leaves the model alone and changes the question, or how the answer begins",
    "latent": "changes the model's inner states while it answers",
    "retrieval": "looks the withheld facts up and hands them to the model with the question",
    "composition": "does several attacks one after the other",
}
"""What the attacks of each family (``Attack.family``) do, for readers who know none of them."""


def plain_words(name: str) -> str:
    """What an attack of the registry does, by its family; ``""`` of a file of the user's own, which is not executed."""
    return next((PLAIN.get(family, family) for family in _families([name]).values()), "")


def missing_families(registered: Iterable[str]) -> list[Family]:
    """The families of which no attack is registered."""
    names = [name.lower() for name in registered]
    return [family for family in FAMILIES if not any(keyword in name for name in names for keyword in family.keywords)]


def by_family(attacks: Iterable[str], families: Mapping[str, str]) -> list[str]:
    """The attacks, each once, those of a family together: neighbours get colours that differ. A few attacks keep their order.

    Args:
        attacks: in the order of their first appearance.
        families: the family of each.
    """
    names = list(dict.fromkeys(attacks))
    if len(names) <= MOST_TOGETHER:
        return names
    order = list(dict.fromkeys(families.get(name, "other") for name in names))
    return sorted(names, key=lambda name: order.index(families.get(name, "other")))


def families_of(attacks: Iterable[MethodChoice]) -> dict[str, str]:
    """The family that each attack of a study says it belongs to, by what the study calls it; a file of the user's own is not executed."""
    choices = list(attacks)
    known = _families(choice.name for choice in choices)
    return {choice.title: known[choice.name] for choice in choices if choice.name in known}


def _families(names: Iterable[str]) -> dict[str, str]:
    """The family of each attack that can be had; plug-ins of a run may have been taken away since."""
    registered = registry.names("attacks")
    known, _ = registry.usable("attacks", [name for name in dict.fromkeys(names) if name in registered])
    return {name: str(registry.get("attacks", name).family) for name in known}


def threat_models_of(study: Study) -> dict[str, list[str]]:
    """The attacks of a study that each threat model allows, by what the study calls them: its own threat model, and those that allow less.

    A threat model that allows none of the attacks is left out, and so is one that allows as many as another that is named before it.
    A file of the user's own is not executed, and belongs to the study's own threat model alone.
    """
    made = {choice.title: registry.configured("attacks", choice.name, choice.config) for choice in study.attacks}
    needs = {title: method.requires for title, method in made.items() if method is not None}
    found = {study.threat_model.name: [choice.title for choice in study.attacks]}
    for name, allows in THREAT_MODELS.items():
        allowed = [title for title, required in needs.items() if required <= allows]
        if allowed and allowed not in found.values():
            found.setdefault(name, allowed)
    return found


def document_holders(attacks: Iterable[MethodChoice]) -> list[str]:
    """The attacks of a study that look things up, as they are configured, by what the study calls them; as :func:`families_of`."""
    made = [(choice.title, registry.configured("attacks", choice.name, choice.config)) for choice in attacks]
    return [title for title, method in made if method is not None and Need.RETRIEVAL in method.requires]
