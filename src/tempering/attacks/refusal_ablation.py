"""Refusal ablation: find the one direction that mediates refusal, and take it out of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from transformers import PreTrainedModel

from tempering.attacks._contract import Attack, AttackEnded, Checkpoint
from tempering.attacks._inference import MeteredModel
from tempering.attacks._orthogonalisation import orthogonalise
from tempering.attacks._refusal_search import (
    DirectionSearch,
    GrowingSettings,
    candidate_layers,
    candidate_positions,
    growing_stages,
    require_prompts,
)
from tempering.attacks._residuals import ablated
from tempering.attacks._selection import Chosen
from tempering.data.records import AttackerView, Example
from tempering.models import Target
from tempering.models.structure import Structure
from tempering.settings import Choices
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FlopCount, Meter, Spend

_EXPECTED_TESTS = 4
"""Candidates that a plan expects to be tested for KL and induction before one passes."""
_EXPECTED_OPENINGS = 2
"""First tokens that a plan expects to be tried for refusals."""


class RefusalAblation(Attack):
    """Directional ablation of refusal: one direction out of every weight that writes into the residual stream.

    For every layer l < 0.8 L and every template position i after the instruction, r = mean(harmful) - mean(harmless) of the residual
    stream entering block l. The refusal score of a prompt is log P_ref - log(1 - P_ref), P_ref the probability that its answer begins
    with a refusal token. Chosen is the r whose ablation gives harmful validation prompts the lowest mean score, among those whose
    ablation leaves KL(base || ablated) <= 0.1 on the last token of harmless ones, and whose addition at layer l makes the mean score
    of harmless ones >= 0. Then x <- x - r r^T x by hooks, or W <- W - r r^T W, which is the same function.

    Beyond the paper: an attacker whom its limit on KL leaves without a working direction relaxes the limit, since what is lost
    by it is for the study's utility bound to judge. ``divergence_limits: [0.1]`` is the paper's selection.

    Only prompts are used. Refusal tokens come from the model's own refusals: of the first tokens that are likely on harmful training
    prompts, and likelier than on harmless ones, those after which its greedy answer reads as a refusal. A harmful prompt is
    kept if its score is above zero (the model refuses), a harmless one if it is not.

    The search is repeated with 4, 8, 16, ... training prompts of each kind, the validation prompts growing in proportion, as an attacker
    would who gathers prompts until the attack works; each that finds a direction is a checkpoint. Spend is cumulative and holds
    the earlier searches, which together cost about as much as the last. With ``prompt_counts: [128]`` there is only one.
    """

    class Config(GrowingSettings):
        """Settings, with the paper's defaults.

        Attributes:
            intervention: edit the weights, or leave them and ablate by hooks.
            divergence_limits: as there; the paper has 0.1 only.
            induce_limit: refusal score below which a candidate that was added is discarded, log odds.
            screen: score bypass on so many validation prompts first and on all of them only for the better quarter of the candidates; a
                shortcut for large models that may miss the best. ``None`` scores all.
        """

        intervention: Annotated[Literal["orthogonalise", "ablate"], Choices(("orthogonalise", "ablate"))] = "orthogonalise"
        induce_limit: float = 0.0
        screen: Annotated[int, Field(gt=0)] | None = None

    source: ClassVar[str] = "Arditi et al. 2024, arXiv 2406.11717"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.HARMFUL_PROMPTS, Need.BENIGN_PROMPTS})
    family: ClassVar[str] = "weight surgery"
    quick: ClassVar[bool] = True

    @property
    def edits_weights(self) -> bool:
        """Not where it ablates by hooks."""
        return bool(self.config.intervention == "orthogonalise")

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Search with more and more prompts; yield the edited copy each time a direction passes selection.

        Raises:
            AttackEnded: ``no_direction``, when no search found one.
            UnusableData: there are no prompts of some kind.
        """
        require_prompts(view, "refusal_ablation")
        model = target.copy_model()
        search = DirectionSearch(self.config, MeteredModel(model, target.chat, meter, self.config.batch_size), meter, view, seed)
        reason, found_any = "", False
        for stage in growing_stages(self.config, view, budget):
            found = search.advance(stage)
            if isinstance(found, str):
                reason = found
                continue
            found_any = True
            with self._intervened(model, found, search.reader):
                yield Checkpoint(model, meter.spend(), search.details(stage, found))
            if self.edits_weights:
                model.load_state_dict(target.model.state_dict())
        if not found_any:
            raise AttackEnded("no_direction", reason)

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Spend of all searches, if the fourth-ranked candidate is the first to pass every test; the edits themselves left out.

        Asks nothing of the model or the prompts that :meth:`run` may find missing: that is one attack's failure, not the plan's.
        """
        flops = FlopCount.of(target.model)
        layers = len(Structure.of(target.model).blocks)
        proposed = candidate_layers(self.config, layers) * candidate_positions(self.config, target.chat)
        length = {kind: _mean_length(target, getattr(view, kind)) for kind in AttackerView.PROMPTS}
        total = {"tokens": 0, "flops": 0.0}

        def charge(prompts: int, kind: str, more: int = 0, labelled: int = 1) -> None:
            total["tokens"] += prompts * (length[kind] + more)
            total["flops"] += flops.forward([length[kind] + more] * prompts, prompts * labelled)

        seen = dict.fromkeys(length, 0)
        trials = 0
        queries = 0 if self.config.refusal_tokens else _EXPECTED_OPENINGS * min(self.config.answers, len(view.hazard_train))
        charge(queries, "hazard_train", self.config.answer_tokens, self.config.answer_tokens)
        for stage in growing_stages(self.config, view, budget):
            for kind, earlier in seen.items():
                now = min(stage.train if kind.endswith("train") else stage.validation, len(getattr(view, kind)))
                charge(now - earlier, kind)
                seen[kind] = now
            charge(_bypass_passes(proposed, seen["hazard_validation"], self.config.screen), "hazard_validation")
            charge(2 * _EXPECTED_TESTS * seen["benign_validation"], "benign_validation")
            trials += proposed
        return Spend(examples=sum(seen.values()), tokens=int(total["tokens"]), flops=total["flops"], trials=trials, queries=queries)

    @contextmanager
    def _intervened(self, model: PreTrainedModel, chosen: Chosen, reader: MeteredModel) -> Iterator[None]:
        if self.config.intervention == "ablate":
            with ablated(Structure.of(model), chosen.candidate.unit):
                yield
        else:
            reader.charge_edit(orthogonalise(model, chosen.candidate.unit))
            yield


def _mean_length(target: Target, examples: Sequence[Example], sample: int = 64) -> int:
    """Tokens of a prompt, by the first few; zero where there are none."""
    lengths = [len(target.chat.prompt_ids(example)) for example in examples[:sample]]
    return round(float(np.mean(lengths))) if lengths else 0


def _bypass_passes(proposed: int, harmful: int, screen: int | None) -> int:
    """Prompts that are read to rank the candidates."""
    if screen is None or screen >= harmful:
        return proposed * harmful
    return proposed * screen + max(1, proposed // 4) * harmful
