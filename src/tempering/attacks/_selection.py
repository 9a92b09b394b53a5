"""Selection: the tests that choose one of the candidate refusal directions (Arditi et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tempering.attacks._direction import Candidate
from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusals import divergence, refusal_scores
from tempering.attacks._residuals import ablated, added
from tempering.data.records import Example
from tempering.models.structure import Structure


@dataclass(frozen=True)
class Chosen:
    """The candidate that passed selection.

    Attributes:
        candidate: which.
        bypass: mean refusal score on harmful validation prompts while it is ablated.
        divergence: mean KL on harmless validation prompts while it is ablated, nats.
        induce: mean refusal score on harmless validation prompts while it is added at its layer.
        divergence_limit: the limit it was chosen under, nats.
    """

    candidate: Candidate
    bypass: float
    divergence: float
    induce: float
    divergence_limit: float


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


@dataclass(frozen=True)
class Rules:
    """When a candidate passes.

    Attributes:
        divergence_limits: discard above this KL, nats. Where the strictest leaves no candidate that works, the next is tried, for
            candidates that work only.
        induce_limit: discard where adding the direction leaves the mean refusal score of harmless prompts below this.
        working_bypass: a candidate works if its bypass score is below this: at zero, refusal is less likely than not.
        screen: score bypass on so many of the harmful prompts first, and on all of them only for the better quarter. Unlike the
            rest this may miss the best candidate.
    """

    divergence_limits: Sequence[float]
    induce_limit: float
    working_bypass: float = 0.0
    screen: int | None = None


def select(
    model: MeteredModel,
    structure: Structure,
    proposed: Sequence[Candidate],
    validation: Validation,
    rules: Rules,
    on_trial: Callable[[], None],
) -> Chosen | str:
    """The candidate with the lowest bypass score among those that pass every test.

    Bypass is scored for all; the other tests are then made in rising order of bypass and stop at the first candidate that passes,
    which is the one a full table would name.

    Args:
        model: read through hooks; left without any.
        structure: its parts.
        proposed: the candidates.
        validation: prompts and refusal tokens.
        rules: when a candidate passes.
        on_trial: called once a candidate.

    Returns:
        The chosen one, or in one line how many candidates failed which test.
    """
    table = _Table(model, structure, validation)
    for _ in proposed:
        on_trial()
    remaining = [candidate for candidate in proposed if candidate.usable]
    screened_out = 0
    if rules.screen is not None and rules.screen < len(validation.harmful):
        few = table.ranked(remaining, rules.screen)
        remaining = [candidate for _, candidate in few[: max(1, len(few) // 4)]]
        screened_out = len(few) - len(remaining)
    ranked = table.ranked(remaining)
    strict, *looser = sorted(rules.divergence_limits)
    best = _first_passing(table, ranked, strict, rules.induce_limit)
    for limit in looser:
        if best is not None and best.bypass < rules.working_bypass:
            break
        working = [(bypass, candidate) for bypass, candidate in ranked if bypass < rules.working_bypass]
        best = _first_passing(table, working, limit, rules.induce_limit) or best
    return best or _why_none(table, ranked, rules, len(proposed), screened_out)


class _Table:
    """Scores of candidates, each made when it is first asked for."""

    def __init__(self, model: MeteredModel, structure: Structure, validation: Validation) -> None:
        self._model = model
        self._structure = structure
        self._validation = validation
        self._divergences: dict[int, float] = {}
        self._induced: dict[int, float] = {}

    def ranked(self, remaining: Sequence[Candidate], prompts: int | None = None) -> list[tuple[float, Candidate]]:
        """Finite mean refusal scores of the first harmful prompts under ablation, rising, with their candidates."""
        ranked: list[tuple[float, Candidate]] = []
        for candidate in remaining:
            with ablated(self._structure, candidate.unit):
                bypass = self._score(self._validation.harmful[:prompts])
            if math.isfinite(bypass):
                ranked.append((bypass, candidate))
        return sorted(ranked, key=lambda pair: pair[0])

    def divergence(self, candidate: Candidate) -> float:
        """Mean KL on harmless prompts under ablation."""
        if id(candidate) not in self._divergences:
            with ablated(self._structure, candidate.unit):
                changed = self._model.first_token(self._validation.harmless)
            self._divergences[id(candidate)] = divergence(self._validation.harmless_base, changed)
        return self._divergences[id(candidate)]

    def induced(self, candidate: Candidate) -> float:
        """Mean refusal score of harmless prompts with the direction added at its layer."""
        if id(candidate) not in self._induced:
            with added(self._structure, candidate.difference, candidate.layer):
                self._induced[id(candidate)] = self._score(self._validation.harmless)
        return self._induced[id(candidate)]

    def _score(self, examples: Sequence[Example]) -> float:
        return float(refusal_scores(self._model.first_token(examples), self._validation.tokens).mean())


def _first_passing(table: _Table, ranked: list[tuple[float, Candidate]], limit: float, induce_limit: float) -> Chosen | None:
    for bypass, candidate in ranked:
        # Written so that NaN fails.
        if table.divergence(candidate) <= limit and table.induced(candidate) >= induce_limit:
            return Chosen(candidate, bypass, table.divergence(candidate), table.induced(candidate), limit)
    return None


def _why_none(table: _Table, ranked: list[tuple[float, Candidate]], rules: Rules, proposed: int, screened_out: int) -> str:
    """One line: how many candidates failed which test, each counted at its first."""
    limit = max(rules.divergence_limits)
    similar = [candidate for _, candidate in ranked if table.divergence(candidate) <= limit]
    inducing = sum(table.induced(candidate) >= rules.induce_limit for candidate in similar)
    failed = {
        "are zero or not finite": proposed - screened_out - len(ranked),
        "fall out of the screening": screened_out,
        f"change harmless answers (KL > {limit:g})": len(ranked) - len(similar),
        "do not induce refusal when added": len(similar) - inducing,
        f"leave refusal likely at a KL > {min(rules.divergence_limits):g}": inducing,
    }
    return f"of {proposed} candidate directions " + ", ".join(f"{count} {reason}" for reason, count in failed.items() if count)
