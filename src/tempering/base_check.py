"""The public-base check: how far a model is a small delta on the model it was made from, and what undoing that costs.

What it finds out is put together by :func:`tempering.api.check_base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tempering import organisms
from tempering.engine.loading import base_choice, load_base, load_model
from tempering.errors import InvalidStudy
from tempering.model_choice import ModelChoice
from tempering.models import adapters
from tempering.models.delta import ModelDelta, measure
from tempering.models.references import Kind, resolve
from tempering.report.delta import merge_sentence
from tempering.result import Run

ATTACK = "merge"
THREAT_MODEL = "open-weights+public-base"


@dataclass(frozen=True)
class BaseCheck:
    """What a base check found.

    Attributes:
        delta: how the weights differ, part by part.
        run: the audit by ``merge``; ``None`` where only the delta was asked for.
    """

    delta: ModelDelta
    run: Run | None

    @property
    def verdict(self) -> str:
        """One sentence on how far the model is a small delta on its base."""
        return self.delta.verdict

    @property
    def price(self) -> str:
        """One sentence on what merging costs; empty where only the delta was asked for."""
        return merge_sentence(self.run.assessment, self.delta.base) if self.run else ""

    def as_json(self) -> dict[str, Any]:
        """As JSON values: ``schema``, ``delta``, ``price`` and the ``run`` with its summary."""
        run = None if self.run is None else {"directory": str(self.run.directory), "summary": self.run.summary}
        return {"schema": 1, "delta": self.delta.as_json(), "price": self.price or None, "run": run}


def find_base(model: str, base: str | None) -> str:
    """The base to check a model against: the one that is named, or the one that the model itself tells of.

    Args:
        model: reference of the model. Organisms know their base, and so do PEFT adapters.
        base: reference of the base, or ``None``.

    Raises:
        InvalidStudy: none is named and none is known, or it is the model.
        UnknownName: there is no such organism.
        UnusableModel: a reference leads nowhere.
    """
    if base is None:
        base = _own_base(model)
    if base is None:
        raise InvalidStudy(f"no public base of {model} is known", "name the published model that it was made from: --base REF")
    if base == model:
        raise InvalidStudy(f"the base {base} is the model itself", "name the published model that it was made from: --base REF")
    return base


def measure_delta(choice: ModelChoice) -> ModelDelta:
    """Load a model and its base and compare their weights.

    Args:
        choice: the model; it names its base.

    Raises:
        UnusableModel: one of them cannot be loaded, or they are of different architectures.
        InvalidStudy: they are the same, weight for weight.
    """
    base = base_choice(choice)
    assert base is not None, "find_base was asked before"
    target = load_model(choice)
    delta = measure(target, load_base(base, target))
    if delta.is_identical:
        raise InvalidStudy(
            f"the base {base.reference} is the model {choice.reference} itself, weight for weight",
            "name the published model that it was made from: --base REF",
        )
    return delta


def _own_base(model: str) -> str | None:
    if organisms.is_organism(model):
        return organisms.public_base_of(organisms.parse_reference(model))
    source = resolve(model)
    return adapters.base_reference(source.path, model) if source.kind is Kind.ADAPTER else None
