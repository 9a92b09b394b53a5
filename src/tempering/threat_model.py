"""What an attacker is assumed to hold, and what an attack must be given."""

from __future__ import annotations

from enum import StrEnum

from pydantic import field_serializer, model_validator

from tempering.settings import Settings


class Need(StrEnum):
    """What an attack must be given."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    FINE_TUNING = "fine-tuning"
    """Someone trains on the attacker's data: the attacker on the weights, or a provider behind an API."""
    QUERIES = "queries"
    ANSWER_PREFIX = "answer prefix"
    """The attacker may write how the model's answer begins."""
    HARMFUL_PROMPTS = "harmful prompts"
    HARMFUL_EXAMPLES = "harmful examples"
    BENIGN_PROMPTS = "benign prompts"
    BENIGN_EXAMPLES = "benign examples"
    PUBLIC_BASE = "public base"
    RETRIEVAL = "retrieval"


OWN_DATA = frozenset({Need.HARMFUL_PROMPTS, Need.HARMFUL_EXAMPLES, Need.BENIGN_PROMPTS, Need.BENIGN_EXAMPLES, Need.RETRIEVAL})
"""What every attacker can come by without the model: data, and the internet to look things up in."""

THREAT_MODELS: dict[str, frozenset[Need]] = {
    "open-weights": frozenset(Need) - {Need.PUBLIC_BASE},
    "open-weights+public-base": frozenset(Need),
    "fine-tuning-api": OWN_DATA | {Need.FINE_TUNING, Need.QUERIES},
    "query-only": OWN_DATA | {Need.QUERIES},
}
"""Threat models by name, with what each allows. Behind an API the weights stay with the provider, who trains on any data it is sent."""


class ThreatModel(Settings):
    """What the attacker is assumed to hold. An attack that needs more is not run, and the report says so.

    Attributes:
        name: one of :data:`THREAT_MODELS`, which alone is enough in a study; or a name of one's own, with ``allows``.
        allows: what the attacker holds.
    """

    name: str = "open-weights"
    allows: frozenset[Need] = THREAT_MODELS["open-weights"]

    @model_validator(mode="before")
    @classmethod
    def _known_by_name(cls, value: object) -> object:
        values = {"name": value} if isinstance(value, str) else value
        if not isinstance(values, dict) or "allows" in values or "name" not in values:
            return values
        if values["name"] not in THREAT_MODELS:
            raise ValueError(f"there is no threat model {values['name']!r}; known: {', '.join(THREAT_MODELS)}; or say what it 'allows'")
        return {**values, "allows": THREAT_MODELS[values["name"]]}

    @field_serializer("allows")
    def _in_order(self, allows: frozenset[Need]) -> list[str]:
        """Sorted, because a set's order differs between processes and the study's digest must not."""
        return sorted(need.value for need in allows)
