"""Refusal directions: candidates from differences of means, and the tests that choose one (Arditi et al. 2024)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusals import divergence, refusal_scores
from tempering.attacks._residuals import ablated, added
from tempering.data.records import Example
from tempering.models.structure import Structure

_ROUNDING = 1e-6
"""A difference of means shorter than this share of the mean's own length is rounding. The stream entering the first block is one:
after the instruction it is the embedding of the template's tokens, whatever was asked."""


@dataclass(frozen=True)
class Candidate:
    """One difference of means.

    Attributes:
        layer: index of the block whose input it was read from and is added to.
        position: from the end of the prompt; -1 is the last token.
        difference: (hidden,), float64: mean over harmful minus mean over harmless prompts.
        usable: finite, and longer than rounding.
    """

    layer: int
    position: int
    difference: Tensor
    usable: bool

    @property
    def unit(self) -> Tensor:
        """(hidden,): the difference, normalised."""
        return torch.nn.functional.normalize(self.difference, dim=0)


@dataclass(frozen=True)
class Chosen:
    """The candidate that passed selection.

    Attributes:
        candidate: which.
        bypass: mean refusal score on harmful validation prompts while it is ablated.
        divergence: mean KL on harmless validation prompts while it is ablated, nats.
        induce: mean refusal score on harmless validation prompts while it is added at its layer.
    """

    candidate: Candidate
    bypass: float
    divergence: float
    induce: float


@dataclass(frozen=True)
class Validation:
    """What candidates are tested with.

    Attributes:
        harmful: prompts that the model refuses.
        harmless: prompts that it answers.
        harmless_base: (prompts, vocabulary) first-token log-probabilities of the untouched model on ``harmless``.
        tokens: the refusal tokens.
    """

    harmful: Sequence[Example]
    harmless: Sequence[Example]
    harmless_base: Tensor
    tokens: tuple[int, ...]


@dataclass
class Failures:
    """Why candidates were discarded, each counted at the first test it failed."""

    counts: Counter[str] = field(default_factory=Counter)

    def sentence(self, total: int) -> str:
        """One line: how many failed which test."""
        parts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items()) if count)
        return f"of {total} candidate directions {parts}"


def candidates(harmful: Tensor, harmless: Tensor) -> list[Candidate]:
    """Differences of means for every layer and position, by layer, then position.

    Args:
        harmful: (prompts, layers, positions, hidden) residual streams.
        harmless: likewise.
    """
    harmful_mean, harmless_mean = harmful.mean(0, dtype=torch.float64), harmless.mean(0, dtype=torch.float64)
    difference = harmful_mean - harmless_mean
    layers, positions = difference.shape[:2]
    found = []
    for layer in range(layers):
        for position in range(positions):
            vector = difference[layer, position]
            shortest = _ROUNDING * float(harmless_mean[layer, position].norm())
            usable = bool(vector.isfinite().all()) and float(vector.norm()) > shortest
            found.append(Candidate(layer, position - positions, vector, usable))
    return found


def select(
    model: MeteredModel,
    structure: Structure,
    proposed: Sequence[Candidate],
    validation: Validation,
    *,
    divergence_limit: float,
    induce_limit: float,
    on_trial: Callable[[], None],
    screen: int | None = None,
) -> tuple[Chosen | None, Failures]:
    """The candidate with the lowest bypass score among those that pass every test.

    Bypass is scored for all; the other tests are then made in rising order of bypass and stop at the first candidate that passes,
    which is the one a full table would name.

    Args:
        model: read through hooks; left without any.
        structure: its parts.
        proposed: the candidates.
        validation: prompts and refusal tokens.
        divergence_limit: discard above this KL, nats.
        induce_limit: discard where adding the direction leaves the mean refusal score of harmless prompts below this.
        on_trial: called once a candidate.
        screen: score bypass on so many of the harmful prompts first, and on all of them only for the better quarter. Unlike the
            rest this may miss the best candidate.
    """
    failures = Failures()
    for _ in proposed:
        on_trial()
    remaining = [candidate for candidate in proposed if candidate.usable]
    if screen is not None and screen < len(validation.harmful):
        few = _ranked(model, structure, remaining, validation.harmful[:screen], validation.tokens)
        failures.counts["are zero or not finite"] += len(proposed) - len(few)
        remaining = [candidate for _, candidate in few[: max(1, len(few) // 4)]]
        failures.counts["fall out of the screening"] += len(few) - len(remaining)
    ranked = _ranked(model, structure, remaining, validation.harmful, validation.tokens)
    failures.counts["are zero or not finite"] += len(proposed) - failures.counts.total() - len(ranked)
    for bypass, candidate in ranked:
        with ablated(structure, candidate.unit):
            change = divergence(validation.harmless_base, model.first_token(validation.harmless))
        if not change <= divergence_limit:
            failures.counts[f"change harmless answers (KL > {divergence_limit:g})"] += 1
            continue
        with added(structure, candidate.difference, candidate.layer):
            induce = _mean_score(model, validation.harmless, validation.tokens)
        if not induce >= induce_limit:
            failures.counts["do not induce refusal when added"] += 1
            continue
        return Chosen(candidate, bypass, change, induce), failures
    return None, failures


def _ranked(
    model: MeteredModel, structure: Structure, remaining: Sequence[Candidate], harmful: Sequence[Example], tokens: tuple[int, ...]
) -> list[tuple[float, Candidate]]:
    """Finite mean refusal scores of harmful prompts under ablation, rising, with their candidates."""
    ranked: list[tuple[float, Candidate]] = []
    for candidate in remaining:
        with ablated(structure, candidate.unit):
            bypass = _mean_score(model, harmful, tokens)
        if math.isfinite(bypass):
            ranked.append((bypass, candidate))
    return sorted(ranked, key=lambda pair: pair[0])


def _mean_score(model: MeteredModel, examples: Sequence[Example], tokens: tuple[int, ...]) -> float:
    return float(refusal_scores(model.first_token(examples), tokens).mean())
