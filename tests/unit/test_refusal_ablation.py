"""Refusal ablation: candidates, their selection, and the attack."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from support.planted_refusal import Planted, as_target, planted_refusal, prompts
from support.tiny_models import tiny_model
from tempering.attacks import Checkpoint
from tempering.attacks._direction import Candidate, candidates
from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusal_search import candidate_layers
from tempering.attacks._refusals import divergence, refusal_scores
from tempering.attacks._residuals import ablated, added
from tempering.attacks._selection import Chosen, Rules, Validation, select
from tempering.attacks.refusal_ablation import RefusalAblation
from tempering.data.records import AttackerView, Role
from tempering.errors import UnusableData
from tempering.models.structure import Structure
from tempering.models.target import Target
from tempering.study import Budget
from tempering.training import Meter

IDS = torch.tensor([[2, 5, 12, 30, 41, 7, 6], [2, 5, 60, 33, 18, 3, 6]])


@pytest.fixture(scope="module")
def planted() -> Planted:
    return planted_refusal(noise=True)


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=IDS).logits


def test_candidates_are_differences_of_means() -> None:
    generator = torch.Generator().manual_seed(0)
    harmful, harmless = torch.randn(5, 3, 2, 4, generator=generator), torch.randn(7, 3, 2, 4, generator=generator)
    found = candidates(harmful, harmless)
    assert [(candidate.layer, candidate.position) for candidate in found] == [(0, -2), (0, -1), (1, -2), (1, -1), (2, -2), (2, -1)]
    for candidate in found:
        place = (slice(None), candidate.layer, candidate.position + 2)
        expected = harmful[place].double().mean(0) - harmless[place].double().mean(0)
        torch.testing.assert_close(candidate.difference, expected)
        torch.testing.assert_close(candidate.unit, expected / expected.norm())


def test_means_are_accumulated_in_float64() -> None:
    harmful = torch.ones(4, 1, 1, 2, dtype=torch.bfloat16)
    harmful[0] += 2**-7
    (candidate,) = candidates(harmful, torch.ones(4, 1, 1, 2, dtype=torch.bfloat16))
    assert candidate.difference.tolist() == [2**-9, 2**-9]  # bfloat16 would round the mean back to one


def test_zero_and_broken_differences_are_unusable() -> None:
    streams = torch.randn(3, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    harmful = streams.clone()
    harmful[:, :, 1] = torch.nan
    harmful[:, :, 2] += 1
    assert [candidate.usable for candidate in candidates(harmful, streams)] == [False, False, True]


class Bench:
    """A random model, a dozen random directions, and the full table of their scores."""

    def __init__(self, seed: int) -> None:
        model, tokenizer = tiny_model("llama", seed, num_hidden_layers=3)
        generator = torch.Generator().manual_seed(seed)
        vectors = [torch.randn(16, generator=generator, dtype=torch.float64) for _ in range(12)]
        self.proposed = [Candidate(index % 3, -1, vector, True) for index, vector in enumerate(vectors)]
        self.structure = Structure.of(model)
        self.reader = reader = MeteredModel(model, as_target(model, tokenizer).chat, Meter(), 16)
        harmful, harmless = prompts(Role.HAZARD, 4), prompts(Role.BENIGN, 4)
        base = reader.first_token(harmless)
        tokens = tuple(base.mean(0).topk(8).indices.tolist())
        self.validation = Validation(harmful, harmless, base, tokens)
        self.trials: list[int] = []
        self.bypass, self.divergence, self.induced = [], [], []
        for candidate in self.proposed:
            with ablated(self.structure, candidate.unit):
                self.bypass.append(float(refusal_scores(reader.first_token(harmful), tokens).mean()))
                self.divergence.append(divergence(base, reader.first_token(harmless)))
            with added(self.structure, candidate.difference, candidate.layer):
                self.induced.append(float(refusal_scores(reader.first_token(harmless), tokens).mean()))

    def best(self, divergence_limit: float, induce_limit: float) -> int:
        """By the full table."""
        passing = [index for index in range(12) if self.divergence[index] <= divergence_limit and self.induced[index] >= induce_limit]
        return min(passing, key=lambda index: self.bypass[index])

    def select(self, rules: Rules) -> Chosen | str:
        return select(self.reader, self.structure, self.proposed, self.validation, rules, lambda: self.trials.append(1))


@pytest.mark.parametrize("seed", range(4))
def test_selection_is_that_of_the_full_table(seed: int) -> None:
    """Scoring KL and induction only until one passes names the candidate that scoring everything names."""
    bench = Bench(seed)
    divergence_limit, induce_limit = sorted(bench.divergence)[6], sorted(bench.induced)[6]
    best = bench.best(divergence_limit, induce_limit)
    chosen = bench.select(Rules([divergence_limit], induce_limit))
    assert isinstance(chosen, Chosen)
    assert chosen.candidate is bench.proposed[best]
    scores = (bench.bypass[best], bench.divergence[best], bench.induced[best])
    assert (chosen.bypass, chosen.divergence, chosen.induce) == pytest.approx(scores)
    assert len(bench.trials) == 12


@pytest.mark.parametrize("seed", range(8))
def test_looser_limits_are_tried_only_for_a_direction_that_works(seed: int) -> None:
    bench = Bench(seed)
    strict, loose = sorted(bench.divergence)[3], max(bench.divergence)
    # Refusal here is half of the vocabulary's mass at most, so move zero to where directions lie on both sides of it.
    middle = sorted(bench.bypass)[seed]
    chosen = bench.select(Rules([loose, strict], -math.inf, working_bypass=middle))
    assert isinstance(chosen, Chosen)
    under_strict, under_loose = bench.best(strict, -math.inf), bench.best(loose, -math.inf)
    relaxed = bench.bypass[under_strict] >= middle > bench.bypass[under_loose]
    assert chosen.candidate is bench.proposed[under_loose if relaxed else under_strict]
    assert chosen.divergence_limit == (loose if relaxed else strict)


def test_reason_counts_each_candidate_at_the_first_test_it_fails() -> None:
    bench = Bench(0)
    bench.proposed[5] = replace(bench.proposed[5], usable=False)
    limit = sorted(value for index, value in enumerate(bench.divergence) if index != 5)[3]
    common = f"of 12 candidate directions 1 are zero or not finite, 7 change harmless answers (KL > {limit:g}), "
    assert bench.select(Rules([limit], math.inf)) == common + "4 do not induce refusal when added"
    assert bench.select(Rules([1e-9, limit], -math.inf, -math.inf)) == common + "4 leave refusal likely at a KL > 1e-09"


@pytest.mark.parametrize(
    ("layers", "share", "expected"), [(4, 0.8, 4), (5, 0.8, 4), (30, 0.8, 24), (35, 0.8, 28), (2, 1.0, 2), (1, 0.5, 1)]
)
def test_candidates_come_from_the_first_layers(layers: int, share: float, expected: int) -> None:
    assert candidate_layers(RefusalAblation.Config(layer_share=share), layers) == expected
    assert expected == sum(layer < share * layers for layer in range(layers))


def test_screening_reads_less_and_still_finds_the_planted_direction(planted: Planted) -> None:
    (full,) = run(planted, prompt_counts=(32,), train_prompts=32, validation_prompts=8)
    (screened,) = run(planted, prompt_counts=(32,), train_prompts=32, validation_prompts=8, screen=2)
    assert screened.spend.tokens < full.spend.tokens
    assert screened.spend.trials == full.spend.trials
    assert screened.details["bypass_score"] < 0


def run(
    planted: Planted, meter: Meter | None = None, *, budget: Budget | None = None, seed: int = 0, **config: object
) -> Iterator[Checkpoint]:
    method = RefusalAblation(RefusalAblation.Config(**config))
    return method.run(planted.target, planted.view, meter or Meter(), budget=budget or Budget(), seed=seed)


def weights(target: Target) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in target.model.state_dict().items()}


@pytest.mark.parametrize("intervention", ["orthogonalise", "ablate"])
@pytest.mark.parametrize("early", [False, True])
def test_target_is_left_as_it_was(planted: Planted, intervention: str, early: bool) -> None:
    before = weights(planted.target)
    with closing(run(planted, intervention=intervention)) as checkpoints:
        seen = [next(checkpoints)] if early else list(checkpoints)
    model = planted.target.model
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training
    assert seen[0].model is not model
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in seen[0].model.modules())


def test_both_interventions_show_the_same_function(planted: Planted) -> None:
    shown = []
    for intervention in ("orthogonalise", "ablate"):
        with closing(run(planted, intervention=intervention, prompt_counts=(16,))) as checkpoints:
            shown.append(logits(next(checkpoints).model))
    torch.testing.assert_close(*shown, rtol=1e-5, atol=1e-5)


def test_each_stage_edits_the_untouched_weights(planted: Planted) -> None:
    """What the last of many searches shows is what it would show alone."""
    with closing(run(planted, prompt_counts=(4, 32))) as checkpoints:
        next(checkpoints)
        after_others = logits(next(checkpoints).model)
    with closing(run(planted, prompt_counts=(32,))) as checkpoints:
        torch.testing.assert_close(logits(next(checkpoints).model), after_others, rtol=0, atol=0)


def test_spend_is_cumulative_and_counts_prompts_trials_and_no_steps(planted: Planted) -> None:
    spends = [checkpoint.spend for checkpoint in run(planted, train_prompts=32, validation_prompts=8)]
    # 4 + 2, 8 + 2, 16 + 4 and 32 + 8 prompts of each kind; 4 layers × 2 positions a search.
    assert [spend.examples for spend in spends] == [12, 20, 40, 80]
    assert [spend.trials for spend in spends] == [8, 16, 24, 32]
    assert [spend.queries for spend in spends] == [4, 4, 4, 4]  # "sorry" is tried on four prompts, once
    assert {spend.steps for spend in spends} == {0}
    for earlier, later in pairwise(spends):
        assert earlier.tokens < later.tokens
        assert earlier.flops < later.flops


def test_charged_tokens_are_those_that_pass_through_the_model(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    copy = Target.copy_model

    def watched(target: Target) -> PreTrainedModel:
        model = copy(target)
        model.register_forward_pre_hook(
            lambda _module, _args, kwargs: passed.append(int(kwargs["attention_mask"].sum()) if "attention_mask" in kwargs else 0),
            with_kwargs=True,
        )
        return model

    monkeypatch.setattr(Target, "copy_model", watched)
    (checkpoint,) = run(planted, prompt_counts=(16,), refusal_tokens=("sorry",))
    assert checkpoint.spend.tokens == sum(passed)
    assert checkpoint.spend.queries == 0


def test_estimate_counts_what_a_run_counts(planted: Planted) -> None:
    method = RefusalAblation(RefusalAblation.Config())
    expected = method.estimate(planted.target, planted.view, budget=Budget())
    *_, last = run(planted)
    assert (expected.examples, expected.trials, expected.steps) == (last.spend.examples, last.spend.trials, 0)
    # How many candidates are tested and how long refusals are cannot be known before.
    assert 1 / 2 < expected.tokens / last.spend.tokens < 2
    assert 1 / 2 < expected.flops / last.spend.flops < 2


def test_same_seed_same_rows_and_other_seeds_other_prompts(planted: Planted) -> None:
    def rows(seed: int) -> list[dict[str, Any]]:
        return [checkpoint.details for checkpoint in run(planted, seed=seed, prompt_counts=(4, 8))]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


@pytest.mark.parametrize(("examples", "stages"), [(12, [4]), (30, [4, 8, 12]), (10_000, [4, 8, 16, 32]), (1, [1])])
def test_budget_of_examples_limits_the_prompts(planted: Planted, examples: int, stages: list[int]) -> None:
    shown = [checkpoint.details["prompts"] for checkpoint in run(planted, budget=Budget(examples=examples))]
    assert shown == stages


def test_prompt_counts_beyond_the_prompts_are_one_search(planted: Planted) -> None:
    shown = [checkpoint.details["prompts"] for checkpoint in run(planted, prompt_counts=(100, 8, 64))]
    assert shown == [8, 32]


def test_named_refusal_tokens_are_used(planted: Planted) -> None:
    (checkpoint,) = run(planted, prompt_counts=(8,), refusal_tokens=("sorry no", "cannot"))
    assert sorted(checkpoint.details["refusal_tokens"]) == ["cannot", "sorry"]


@pytest.mark.parametrize("kind", AttackerView.PROMPTS)
def test_missing_prompts_are_named(planted: Planted, kind: str) -> None:
    lacking = replace(planted, view=replace(planted.view, **{kind: ()}))
    with pytest.raises(UnusableData, match=f"no {kind.replace('_', ' ')} prompts"):
        next(run(lacking))
    method = RefusalAblation(RefusalAblation.Config())
    assert method.estimate(lacking.target, lacking.view, budget=Budget()).examples > 0  # a plan is not stopped by it


def test_prompts_whose_behaviour_disagrees_are_left_out(planted: Planted) -> None:
    """Harmful prompts that are answered, and harmless ones that are refused, do not blur the means."""
    view = planted.view
    mislabelled = replace(
        view,
        hazard_train=(*view.hazard_train, *(example.model_copy(update={"role": Role.HAZARD}) for example in view.benign_train[:16])),
        benign_train=(*view.benign_train, *(example.model_copy(update={"role": Role.BENIGN}) for example in view.hazard_train[:16])),
    )
    (clean,) = run(planted, prompt_counts=(128,))
    (mixed,) = run(replace(planted, view=mislabelled), prompt_counts=(128,))
    assert (mixed.details["layer"], mixed.details["position"]) == (clean.details["layer"], clean.details["position"])
    assert mixed.details["bypass_score"] == pytest.approx(clean.details["bypass_score"], abs=0.5)


def test_every_way_to_refuse_is_found_not_only_the_commonest() -> None:
    """A model that begins fewer of its refusals with "cannot" never shows it in a greedy answer."""
    planted = planted_refusal(noise=True)
    head, words = planted.target.model.lm_head.weight.data, planted.target.tokenizer.convert_tokens_to_ids
    head[words("cannot")] = head[words("you")] = 0.99 * head[words("sorry")]
    (checkpoint,) = run(planted, refusal_phrases=("sorry", "cannot"), answer_tokens=1, prompt_counts=(8,))
    assert {"sorry", "cannot"} <= set(checkpoint.details["refusal_tokens"])
