from __future__ import annotations

import itertools
import json
import math
from contextlib import closing, suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from support.planted_refusal import Planted, planted_refusal
from support.tiny_models import FAMILIES, MIXTURES, tiny_model
from tempering.attacks import AttackEnded, Checkpoint
from tempering.attacks._abliteration import (
    Ablations,
    Profile,
    ablation,
    interpolation,
    leading_directions,
    pareto_front,
    refusal_directions,
)
from tempering.attacks._abliteration_search import AbliterationSearch, Trial, all_trials, front, parameters_of, search_space
from tempering.attacks._inference import MeteredModel
from tempering.attacks._low_rank import LowRankEdit, applied, written
from tempering.attacks._refusals import is_refusal
from tempering.attacks.searched_abliteration import SearchedAbliteration
from tempering.data.records import AttackerView
from tempering.errors import UnusableData
from tempering.models.outputs import written_matrices
from tempering.models.structure import Structure
from tempering.models.target import Target
from tempering.study import Budget
from tempering.training import Meter

IDS = torch.tensor([[2, 5, 12, 30, 41, 7, 6], [2, 5, 60, 33, 18, 3, 6]])
CONFIG = SearchedAbliteration.Config(trials=12, random_trials=4)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return in_the_last_layer(planted_refusal(noise=True))


def in_the_last_layer(planted: Planted) -> Planted:
    """The refusing circuit moved from the first layer, which the published search space does not reach, to the last."""
    layers = planted.target.model.model.layers
    first, last = ({name: tensor.clone() for name, tensor in layers[place].state_dict().items()} for place in (0, -1))
    layers[0].load_state_dict(last)
    layers[-1].load_state_dict(first)
    return planted


def attack(**settings: Any) -> SearchedAbliteration:
    return SearchedAbliteration(CONFIG.model_copy(update=settings))


def checkpoints(planted: Planted, budget: Budget | None = None, seed: int = 0, **settings: Any) -> list[Checkpoint]:
    return list(attack(**settings).run(planted.target, planted.view, Meter(), budget=budget or Budget(), seed=seed))


def random_layer(outputs: int = 6, inputs: int = 9, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias).double().requires_grad_(False)


def unit(size: int, seed: int = 1) -> Tensor:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vector / vector.norm()


def orthonormal(count: int, size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, count, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0].T


class TestEditsOfOneWeight:
    @pytest.mark.parametrize("weight", [0.3, 1.0, 1.5])
    def test_the_plain_edit_is_the_formula(self, weight):
        layer, v = random_layer(), unit(6)
        expected = layer.weight - weight * torch.outer(v, v) @ layer.weight
        torch.testing.assert_close(ablation(layer, v, weight, keep_row_norms=False).weight(), expected, rtol=1e-12, atol=1e-12)

    def test_a_weight_of_one_removes_the_direction(self):
        layer, v = random_layer(), unit(6)
        assert (v @ ablation(layer, v, 1.0, keep_row_norms=False).weight()).abs().max() < 1e-12

    @pytest.mark.parametrize("weight", [0.3, 1.0, 1.5])
    @pytest.mark.parametrize("kept", [0, 4])
    def test_with_row_norms_it_is_the_dense_recipe_step_by_step(self, weight, kept):
        layer, v, basis = random_layer(), unit(6), orthonormal(kept, 9)
        norms = layer.weight.norm(dim=1, keepdim=True)
        rows = layer.weight / norms
        edited = rows - weight * torch.outer(v, v) @ rows @ (torch.eye(9, dtype=torch.float64) - basis.T @ basis)
        expected = norms * edited / edited.norm(dim=1, keepdim=True)
        found = ablation(layer, v, weight, keep_row_norms=True, preserved=basis).weight()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.norm(dim=1), layer.weight.norm(dim=1), rtol=1e-12, atol=1e-12)

    def test_preserved_inputs_come_out_as_before_and_others_do_not(self):
        layer, v, basis = random_layer(bias=False), unit(6), orthonormal(3, 9)
        edit = ablation(layer, v, 1.0, keep_row_norms=False, preserved=basis)
        inside = torch.randn(5, 3, dtype=torch.float64) @ basis
        torch.testing.assert_close(inside @ edit.weight().T, layer(inside), rtol=1e-10, atol=1e-12)
        outside = torch.randn(5, 9, dtype=torch.float64)
        assert (outside @ edit.weight().T - layer(outside)).abs().max() > 0.01

    @pytest.mark.parametrize("keep_row_norms", [True, False])
    def test_a_row_of_zeros_and_a_direction_of_zeros_stay_finite(self, keep_row_norms):
        layer = random_layer()
        layer.weight[2] = 0
        edited = ablation(layer, unit(6), 1.0, keep_row_norms=keep_row_norms).weight()
        assert edited.isfinite().all()
        assert not keep_row_norms or edited[2].abs().max() < 1e-9
        unchanged = ablation(layer, torch.zeros(6, dtype=torch.float64), 1.0, keep_row_norms=keep_row_norms).weight()
        torch.testing.assert_close(unchanged, layer.weight.data, rtol=1e-12, atol=1e-12)

    def test_a_bfloat16_layer_is_computed_in_float32(self):
        layer = random_layer().bfloat16()
        edit = ablation(layer, unit(6), 1.0, keep_row_norms=True)
        assert edit.weight().dtype == torch.float32
        assert edit.output(torch.ones(2, 9).bfloat16(), layer(torch.ones(2, 9).bfloat16())).dtype == torch.bfloat16

    @pytest.mark.parametrize("keep_row_norms", [True, False])
    @pytest.mark.parametrize("preserved", [0, 2, 4])
    def test_what_is_computed_once_gives_what_each_edit_alone_gives(self, keep_row_norms, preserved):
        layer, basis = random_layer(), orthonormal(4, 9)
        directions = torch.stack([3.0 * unit(6, 1), unit(6, 2), torch.zeros(6, dtype=torch.float64)])  # of any length
        every = Ablations(layer, directions, keep_row_norms=keep_row_norms, preserved=basis)
        for mixture in ([1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]):
            shares = torch.tensor(mixture, dtype=torch.float64)
            mixed = nn.functional.normalize(shares @ directions, dim=0)
            alone = ablation(layer, mixed, 1.3, keep_row_norms=keep_row_norms, preserved=basis[:preserved])
            found = every.edit(shares, 1.3, preserved)
            torch.testing.assert_close(found.weight(), alone.weight(), rtol=1e-12, atol=1e-12)

    def test_an_edit_does_not_read_the_weight_again(self):
        layer, v = random_layer(), unit(6)
        every = Ablations(layer, v[None], keep_row_norms=True)
        before = every.edit(torch.ones(1), 1.0)
        with torch.no_grad():
            layer.weight.mul_(float("nan"))
        after = every.edit(torch.ones(1), 1.0)
        assert torch.equal(before.left, after.left)
        assert after.right.isfinite().all()


class TestHooksAndWeights:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("scaled", [True, False])
    def test_hooks_give_what_the_dense_weight_gives(self, bias, scaled):
        layer = random_layer(bias=bias)
        scale = torch.rand(6, dtype=torch.float64) + 0.5 if scaled else None
        edit = LowRankEdit(layer, torch.randn(6, 2, dtype=torch.float64), torch.randn(2, 9, dtype=torch.float64), scale)
        inputs = torch.randn(3, 4, 9, dtype=torch.float64)
        with applied([edit]):
            hooked = layer(inputs)
        torch.testing.assert_close(hooked, nn.functional.linear(inputs, edit.weight(), layer.bias), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(hooked, layer(inputs))
        assert not layer._forward_hooks

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_on_every_family_hooks_equal_weights_and_leave_every_bit(self, family, dtype):
        model = tiny_model(family)[0].to(dtype)
        structure = Structure.of(model)
        modules = (*structure.attention_outputs, *structure.mlp_outputs)
        edits = [
            ablation(module, unit(16, seed), 1.2, keep_row_norms=True, written=matrix)
            for seed, module in enumerate(modules)
            for matrix in written_matrices(module)
        ]
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        plain = logits(model)
        with applied(edits):
            hooked = logits(model)
        with written(edits):
            dense = logits(model)
        if dtype is torch.float64:
            torch.testing.assert_close(hooked, dense, rtol=1e-9, atol=1e-9)
        elif family not in MIXTURES:  # rounding may send a token to another expert
            torch.testing.assert_close(hooked, dense, rtol=0.1, atol=0.1)
        assert (hooked - plain).abs().max() > 0.05
        assert torch.equal(logits(model), plain)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_weights_come_back_when_the_block_fails(self):
        layer = random_layer()
        before = layer.weight.clone()
        with pytest.raises(RuntimeError), written([ablation(layer, unit(6), 1.0, keep_row_norms=True)]):
            raise RuntimeError
        assert torch.equal(layer.weight, before)


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=IDS, use_cache=False).logits


class TestProfile:
    def test_by_hand(self):
        profile = Profile(max_weight=1.2, max_weight_position=6.5, min_weight=0.2, min_weight_distance=4.0)
        expected = {2: 0.0, 3: 1.2 - 1.0 * 3.5 / 4, 6: 1.2 - 1.0 * 0.5 / 4, 7: 1.2 - 1.0 * 0.5 / 4, 10: 1.2 - 1.0 * 3.5 / 4, 11: 0.0}
        assert {layer: profile.weight(layer) for layer in expected} == pytest.approx(expected)

    def test_the_ends_belong_to_it(self):
        profile = Profile(1.0, 5.0, 0.25, 2.0)
        assert [profile.weight(layer) for layer in (2, 3, 5, 7, 8)] == pytest.approx([0, 0.25, 1, 0.25, 0])

    def test_negative_weights_count_as_none(self):
        space = search_space(10, (0,))
        drawn = {name: getattr(one, "low", None) for name, one in space.items()} | {"scope": "per layer", "preserved": 0}
        assert drawn["mlp.max_weight"] == -0.25
        parameters = parameters_of(drawn)
        assert parameters.mlp.max_weight == 0
        assert all(parameters.mlp.weight(layer) == 0 for layer in range(11))
        assert parameters.attention.weight(6) == pytest.approx(0.8)


def test_the_search_space_is_the_published_one():
    space = {name: (one.low, one.high) for name, one in search_space(30, (0,)).items() if hasattr(one, "low")}
    assert space == {
        "direction_index": (12, 27),
        "attention.max_weight": (0.8, 1.5),
        "attention.max_weight_position": (18, 30),
        "attention.min_weight_share": (0, 1),
        "attention.min_weight_distance": (1, 18),
        "mlp.max_weight": (-0.25, 1.5),
        "mlp.max_weight_position": (18, 30),
        "mlp.min_weight_share": (0, 1),
        "mlp.min_weight_distance": (1, 18),
    }


class TestDirections:
    def test_difference_of_means_normalised(self):
        harmful, harmless = torch.tensor([[[3.0, 4.0]], [[5.0, 8.0]]]), torch.tensor([[[1.0, 2.0]]])
        torch.testing.assert_close(refusal_directions(harmful, harmless, orthogonalise=False), torch.tensor([[0.6, 0.8]]))

    def test_orthogonal_to_the_harmless_mean(self):
        torch.manual_seed(0)
        harmful, harmless = torch.randn(5, 3, 8), torch.randn(7, 3, 8) + 1
        directions = refusal_directions(harmful, harmless, orthogonalise=True)
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(3))
        assert (directions * harmless.mean(0)).sum(-1).abs().max() < 1e-5

    def test_equal_means_give_zeros(self):
        same = torch.ones(2, 1, 4)
        assert torch.equal(refusal_directions(same, same, orthogonalise=True), torch.zeros(1, 4))

    def test_interpolation_meets_the_layers_and_stays_a_unit_vector(self):
        assert interpolation(3, 1.0).tolist() == [0, 1, 0]
        assert interpolation(3, 2.0).tolist() == [0, 0, 1]
        assert interpolation(3, 0.25).tolist() == [0.75, 0.25, 0]
        layer, directions = random_layer(bias=False), torch.eye(6, dtype=torch.float64)[:3]
        between = torch.tensor([0.75, 0.25, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64) / math.hypot(0.75, 0.25)
        mixed = Ablations(layer, directions, keep_row_norms=False).edit(interpolation(3, 0.25), 1.0)
        torch.testing.assert_close(mixed.weight(), ablation(layer, between, 1.0, keep_row_norms=False).weight(), rtol=1e-12, atol=1e-12)

    def test_leading_directions_span_the_inputs_and_no_more(self):
        torch.manual_seed(0)
        inputs = torch.randn(9, 2) @ torch.randn(2, 6)
        basis = leading_directions(inputs, 5)
        assert basis.shape == (2, 6)
        torch.testing.assert_close(basis @ basis.T, torch.eye(2), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(inputs @ basis.T @ basis, inputs, rtol=1e-4, atol=1e-4)
        assert leading_directions(torch.zeros(3, 6), 2).shape[0] in (0, 1)


@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=12))
def test_the_front_is_what_brute_force_finds(points):
    def beaten(point):
        return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)

    found = pareto_front(points)
    assert [points[index] for index in found] == sorted({point for point in points if not beaten(point)})
    assert all(points.index(points[index]) == index for index in found)


def test_the_front_leaves_out_broken_models():
    parameters = parameters_of({name: getattr(one, "low", 0) for name, one in search_space(1, (0,)).items()})
    trials = [Trial(0, 0, 4, math.inf, parameters), Trial(1, 3, 4, 0.1, parameters), Trial(2, 4, 4, 0.2, parameters)]
    assert [trial.number for trial in front(trials)] == [1]


class TestAttack:
    def test_it_finds_the_planted_direction_and_the_checkpoint_keeps_to_what_it_says(self, planted):
        shown = 0
        for checkpoint in attack().run(planted.target, planted.view, Meter(), budget=Budget(), seed=0):
            shown += 1
            details = checkpoint.details
            reader = MeteredModel(checkpoint.model, planted.target.chat, Meter(), 8)
            answers = [planted.target.chat.decode(answer) for answer in reader.answers(planted.view.hazard_validation, 16)]
            refusals = sum(is_refusal(answer, CONFIG.refusal_phrases) for answer in answers)
            assert refusals == details["refusals"] < details["refusals_untouched"] == details["asked"] == 8
            assert details["divergence"] <= details["divergence_limit"]
            assert [details["refusals"], details["divergence"], details["parameters"]] in details["front"]
            json.dumps(details, allow_nan=False)
        assert shown >= 1
        assert refusals == 0

    def test_same_seed_same_checkpoints_and_another_seed_others(self, planted):
        first, again, other = ([(c.details, c.spend.flops) for c in checkpoints(planted, seed=seed)] for seed in (0, 0, 1))
        assert first == again
        assert first != other

    def test_the_target_is_untouched_and_the_copy_is_restored(self, planted):
        before = {name: tensor.clone() for name, tensor in planted.target.model.state_dict().items()}
        models = [checkpoint.model for checkpoint in checkpoints(planted)]
        assert all(model is not planted.target.model for model in models)
        for model in (planted.target.model, models[-1]):
            assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_a_closed_generator_leaves_nothing_behind(self, planted):
        with closing(attack().run(planted.target, planted.view, Meter(), budget=Budget(), seed=0)) as run:
            model = next(run).model
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), planted.target.model.state_dict().values(), strict=True))

    def test_spend_rises_and_counts_trials_queries_and_examples(self, planted):
        meter = Meter()
        found = list(attack().run(planted.target, planted.view, meter, budget=Budget(), seed=0))
        spends = [checkpoint.spend for checkpoint in found]
        assert all(earlier.flops <= later.flops for earlier, later in itertools.pairwise(spends))
        end = meter.spend()
        assert end.trials == 12
        assert end.queries == 13 * 8
        assert end.examples == 32 + 32 + 8 + 8
        expected = attack().estimate(planted.target, planted.view, budget=Budget())
        assert (expected.trials, expected.queries, expected.examples) == (end.trials, end.queries, end.examples)
        assert expected.flops == pytest.approx(end.flops, rel=0.5)

    @pytest.mark.parametrize(
        ("budget", "trials"),
        [(Budget(trials=3), 3), (Budget(queries=40), 4), (Budget(queries=1), 1), (Budget(trials=500), 12)],
    )
    def test_the_budget_limits_the_trials(self, planted, budget, trials):
        meter = Meter()
        with suppress(AttackEnded):
            list(attack().run(planted.target, planted.view, meter, budget=budget, seed=0))
        assert meter.spend().trials == trials == attack().estimate(planted.target, planted.view, budget=budget).trials

    def test_the_budget_limits_the_examples(self, planted):
        meter = Meter()
        with suppress(AttackEnded):
            list(attack().run(planted.target, planted.view, meter, budget=Budget(examples=8, trials=2), seed=0))
        assert 4 <= meter.spend().examples <= 8

    def test_a_model_that_refuses_nothing_has_no_direction(self):
        harmless = planted_refusal(refuses=False)
        with pytest.raises(AttackEnded) as ended:
            checkpoints(harmless)
        assert ended.value.outcome == "no_direction"
        assert "refuses none of 8" in str(ended.value)

    def test_a_limit_that_no_trial_keeps_has_no_direction(self, planted):
        with pytest.raises(AttackEnded) as ended:
            checkpoints(planted, divergence_limits=(1e-12,))
        assert ended.value.outcome == "no_direction"
        assert "KL of at most 1e-12" in str(ended.value)

    def test_a_broken_model_fails(self, planted):
        model = planted.target.copy_model()
        model.get_input_embeddings().weight.data[:] = math.nan
        broken = Target("broken", model, planted.target.tokenizer, planted.target.chat, "0" * 64)
        with pytest.raises(AttackEnded) as ended:
            list(attack().run(broken, planted.view, Meter(), budget=Budget(), seed=0))
        assert ended.value.outcome == "failed"

    @pytest.mark.parametrize("kind", ["hazard_train", "hazard_validation", "benign_train", "benign_validation"])
    def test_missing_prompts_are_named(self, planted, kind):
        view = AttackerView(**{**vars(planted.view), kind: ()})
        with pytest.raises(UnusableData, match=f"no {kind.replace('_', ' ')} prompts"):
            list(attack().run(planted.target, view, Meter(), budget=Budget(), seed=0))
        assert math.isfinite(attack().estimate(planted.target, view, budget=Budget()).flops)

    @pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox", "olmo2", "phi"])
    def test_it_runs_on_every_shape_of_decoder(self, planted, family):
        """Random models refuse nothing: their own commonest word is made the refusal."""
        model, tokenizer = tiny_model(family)
        target = Target(family, model, tokenizer, type(planted.target.chat)(tokenizer), "0" * 64)
        reader = MeteredModel(target.copy_model(), target.chat, Meter(), 8)
        answer = next(filter(None, (target.chat.decode(tokens) for tokens in reader.answers(planted.view.hazard_validation, 16))))
        config = CONFIG.model_copy(update={"refusal_phrases": (answer.split()[0],), "trials": 4})
        trials = all_trials(target, planted.view, config, trials=4, seed=0)
        assert len(trials) == 4
        assert all(math.isfinite(trial.divergence) and 0 <= trial.refusals <= trial.asked == 8 for trial in trials)
        assert max(trial.divergence for trial in trials) > 0


class TestAnswersThatAreSettled:
    def test_the_verdict_does_not_depend_on_stopping_early(self, planted):
        config = CONFIG
        reader = MeteredModel(planted.target.copy_model(), planted.target.chat, Meter(), 3)
        chat, examples = planted.target.chat, (*planted.view.hazard_validation, *planted.view.benign_validation)

        def refuses(tokens):
            return is_refusal(chat.decode(tokens), config.refusal_phrases)

        whole = reader.answers(examples, 12)
        cut = reader.answers(examples, 12, settled=refuses)
        assert [refuses(answer) for answer in whole] == [refuses(answer) for answer in cut]
        for long, short in zip(whole, cut, strict=True):
            assert long[: len(short)] == short
            assert len(short) < len(long) or not refuses(long) or not refuses(long[:-1])
        assert any(len(short) < len(long) for long, short in zip(whole, cut, strict=True))

    def test_what_is_not_generated_is_not_charged(self, planted):
        chat, examples = planted.target.chat, planted.view.hazard_validation
        spent = {}
        for name, settled in (("whole", None), ("cut", lambda tokens: True)):
            meter = Meter()
            MeteredModel(planted.target.copy_model(), chat, meter, 8).answers(examples, 12, settled=settled)
            spent[name] = meter.spend()
        prompt_tokens = sum(len(chat.prompt_ids(example)) for example in examples)
        assert spent["cut"].tokens == prompt_tokens
        assert spent["whole"].tokens > prompt_tokens


def test_a_trial_leaves_the_model_as_it_was(planted):
    model = planted.target.copy_model()
    search = AbliterationSearch(CONFIG, MeteredModel(model, planted.target.chat, Meter(), 8), Meter(), planted.view, seed=0)
    before = logits(model)
    trials = list(search.run(3))
    assert torch.equal(logits(model), before)
    for trial in trials:
        again = search.measure(trial.number, trial.parameters)
        assert (again.refusals, again.asked) == (trial.refusals, trial.asked)
        assert again.divergence == pytest.approx(trial.divergence, rel=1e-2, abs=1e-6)  # read among other answers, so rounded otherwise
