from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import prune

from support.planted_refusal import Planted, as_target, planted_refusal, prompts
from support.tiny_models import tiny_model
from tempering.attacks import AttackEnded, Checkpoint
from tempering.attacks._importance import Calibration, least_of_all, least_of_rows, of_safety_alone, ranks, top_places, wanda
from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusals import is_refusal
from tempering.attacks._surgery import LayerSettings, linear_layers
from tempering.attacks.pruning import Pruning
from tempering.data.chat import IGNORED, Encoded
from tempering.data.records import AttackerView, Role
from tempering.errors import UnusableData
from tempering.models.target import Target
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import Meter

NOTHING = AttackerView((), (), (), ())
FAMILIES = ("llama", "qwen3", "gemma2", "gpt_neox")
ROWS = [
    Encoded([2, 5, 12, 30, 41, 7, 6], [IGNORED] * 4 + [41, 7, 6]),
    Encoded([2, 5, 60, 33], [IGNORED] * 3 + [33]),
    Encoded([2, 9, 9, 11, 6], [IGNORED] * 2 + [9, 11, 6]),
]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return planted_refusal(noise=True)


def run(target: Target, view: AttackerView = NOTHING, budget: Budget | None = None, **settings: Any) -> list[Any]:
    attack = Pruning(Pruning.Config(**settings))
    return [
        (point.details, {name: tensor.clone() for name, tensor in point.model.state_dict().items()}, point.spend)
        for point in attack.run(target, view, Meter(), budget=budget or Budget(), seed=0)
    ]


# --- scores and masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.9])
def test_magnitude_is_torchs_own_unstructured_pruning(share: float) -> None:
    layer = torch.nn.Linear(24, 17)
    weight = layer.weight.detach().clone()
    prune.l1_unstructured(layer, "weight", amount=share)
    assert torch.equal(least_of_all(weight.abs(), share), layer.weight_mask == 0)


@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.9])
def test_rows_lose_their_own_least(share: float) -> None:
    scores = torch.randn(17, 24).abs()
    mask = least_of_rows(scores, share).numpy()
    for row, removed in zip(scores.numpy(), mask, strict=True):
        least = set(np.argsort(row)[: round(share * 24)])
        assert set(np.flatnonzero(removed)) == least


def test_ranks_put_the_greatest_first_and_equals_in_order() -> None:
    assert ranks(torch.tensor([[1.0, 5.0, 5.0, 0.0]])).tolist() == [[2, 0, 1, 3]]


def test_what_does_not_matter_is_at_the_top_of_nothing() -> None:
    assert top_places(torch.tensor([[0.0, 2.0, 1.0, 0.0]])).tolist() == [[2**31 - 1, 0, 1, 2**31 - 1]]


def test_set_difference_is_that_of_sets() -> None:
    safety, utility = torch.rand(9, 40), torch.rand(9, 40)
    mask = of_safety_alone(top_places(safety), top_places(utility), 0.25, 0.1)
    for row in range(9):
        top_safety = set(safety[row].argsort(descending=True)[:10].tolist())
        top_utility = set(utility[row].argsort(descending=True)[:4].tolist())
        assert set(mask[row].nonzero().flatten().tolist()) == top_safety - top_utility


@pytest.mark.parametrize("family", FAMILIES)
def test_input_norms_are_those_of_the_counted_positions_read_row_by_row(family: str) -> None:
    model, _ = tiny_model(family)
    layers = linear_layers(model, LayerSettings())
    found = Calibration(model, layers, 0, Meter(), batch_size=2).input_norms(ROWS)
    expected = {layer.name: torch.zeros(layer.matrix.shape[1], dtype=torch.float64) for layer in layers}
    for row in ROWS:
        for name, inputs in inputs_of(model, layers, row).items():
            for position, label in enumerate(row.labels[1:]):
                if label != IGNORED:
                    expected[name] += inputs[position].double() ** 2
    for name, squares in expected.items():
        torch.testing.assert_close(found[name], squares.sqrt(), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def inputs_of(model: Any, layers: Any, row: Encoded) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for layer in layers:

            def keep(_module: Any, inputs: Any, name: str = layer.name) -> None:
                seen[name] = inputs[0][0]

            hooks.callback(layer.module.register_forward_pre_hook(keep).remove)
        model(input_ids=torch.tensor([row.input_ids]))
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_sensitivities_are_the_mean_over_examples_of_weight_times_gradient(family: str) -> None:
    model, _ = tiny_model(family)
    layers = linear_layers(model, LayerSettings())
    found = Calibration(model, layers, 0, Meter(), batch_size=2).sensitivities(ROWS)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    expected = {layer.name: torch.zeros_like(layer.matrix) for layer in layers}
    model.requires_grad_(True)
    for row in ROWS:
        model.zero_grad()
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        functional.cross_entropy(logits, torch.tensor(row.labels[1:]), ignore_index=IGNORED).backward()
        for layer in layers:
            expected[layer.name] += (layer.module.weight * layer.module.weight.grad).abs().detach() / len(ROWS)
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores, rtol=1e-3, atol=1e-7)


def test_wanda_is_magnitude_where_all_inputs_are_alike() -> None:
    weight = torch.randn(6, 9)
    torch.testing.assert_close(wanda(weight, torch.full((9,), 2.0)), 2 * weight.abs())


# --- the attack -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_sparsity_rises_and_what_is_left_is_the_targets(family: str, method: str) -> None:
    target = as_target(*tiny_model(family))
    view = AttackerView((), (), prompts(Role.BENIGN, 4), ())
    points = run(target, view, method=method, sparsities=(0.5, 0.25))
    linear = {f"{layer.name}.weight" for layer in linear_layers(target.model, LayerSettings())}
    for (details, state, _), share in zip(points, (0.25, 0.5), strict=True):
        assert details["sparsity"] == pytest.approx(share, abs=0.01)
        for name, before in target.model.state_dict().items():
            removed = state[name] != before
            assert removed.any().item() is (name in linear)
            assert (state[name][removed] == 0).all()
            if name in linear:
                assert float(removed.float().mean()) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("score", ["wanda", "snip"])
def test_planted_circuit_is_cut_and_harmless_answers_stay(planted: Planted, score: str) -> None:
    attack = Pruning(Pruning.Config(score=score, safety_shares=(0.05,), utility_shares=(0.05,)))
    with closing(attack.run(planted.target, planted.view, Meter(), budget=Budget(), seed=0)) as points:
        point = next(points)
        reader = MeteredModel(point.model, planted.target.chat, Meter(), 32)
        assert refusals(planted, point, Role.HAZARD) == 0
        before = MeteredModel(planted.target.copy_model(), planted.target.chat, Meter(), 32)
        benign = prompts(Role.BENIGN, 20, start=60)
        assert torch.equal(reader.first_token(benign).argmax(-1), before.first_token(benign).argmax(-1))
    assert point.details["refusal_score"] < 0
    assert point.details["sparsity"] < 0.07


def refusals(planted: Planted, point: Checkpoint, role: Role) -> int:
    answers = MeteredModel(point.model, planted.target.chat, Meter(), 32).answers(prompts(role, 20, start=60), 1)
    return sum(is_refusal(planted.target.chat.decode(answer), ["sorry"]) for answer in answers)


def test_the_best_of_the_protected_shares_is_kept(planted: Planted) -> None:
    settings: dict[str, Any] = {"score": "wanda", "safety_shares": (0.1,)}
    ((chosen, _, spend),) = run(planted.target, planted.view, utility_shares=(0.05, 0.3, 0.9), **settings)
    alone = [run(planted.target, planted.view, utility_shares=(share,), **settings)[0][0] for share in (0.05, 0.3, 0.9)]
    assert chosen["refusal_score"] == min(details["refusal_score"] for details in alone)
    assert spend.trials == 3


def test_model_that_never_refuses_has_nothing_to_cut() -> None:
    planted = planted_refusal(refuses=False)
    with pytest.raises(AttackEnded, match="do not read as refusals") as ended:
        run(planted.target, planted.view)
    assert ended.value.outcome == "no_direction"


def test_needs_follow_the_method() -> None:
    def needs(**settings: Any) -> set[Need]:
        return set(Pruning(Pruning.Config(**settings)).requires)

    assert needs(method="magnitude") == {Need.WEIGHTS}
    assert needs(method="wanda") == {Need.WEIGHTS, Need.BENIGN_PROMPTS}
    assert needs(score="wanda") == {Need.WEIGHTS, Need.BENIGN_PROMPTS, Need.HARMFUL_PROMPTS}
    assert needs(score="snip") == needs(score="wanda") | {Need.GRADIENTS}


@pytest.mark.parametrize(("settings", "kind"), [({"method": "wanda"}, "benign train"), ({}, "hazard train")])
def test_missing_prompts_are_named(planted: Planted, settings: dict[str, Any], kind: str) -> None:
    with pytest.raises(UnusableData, match=f"pruning has no {kind} prompts"):
        run(planted.target, NOTHING, **settings)


def test_magnitude_reads_nothing() -> None:
    spend = run(as_target(*tiny_model("llama")), method="magnitude")[-1][2]
    assert spend.tokens == spend.examples == spend.queries == 0
    assert (spend.trials, spend.flops > 0) == (7, True)


@pytest.mark.parametrize("settings", [{"method": "magnitude"}, {"method": "wanda"}, {"score": "wanda"}, {"score": "snip"}])
def test_estimate_is_near_the_spend(planted: Planted, settings: dict[str, Any]) -> None:
    settings = {**settings, "answer_tokens": 1}
    spend = run(planted.target, planted.view, **settings)[-1][2]
    estimate = Pruning(Pruning.Config(**settings)).estimate(planted.target, planted.view, budget=Budget())
    assert estimate.trials == spend.trials
    assert estimate.examples == spend.examples
    assert estimate.flops == pytest.approx(spend.flops, rel=0.25)


@pytest.mark.parametrize("settings", [{"method": "wanda"}, {"score": "wanda"}, {"score": "snip"}])
def test_budget_is_kept(planted: Planted, settings: dict[str, Any]) -> None:
    spend = run(planted.target, planted.view, Budget(examples=12, trials=4, queries=12), **settings)[-1][2]
    assert spend.examples <= 12
    assert spend.trials <= 4
    assert spend.queries <= 12


def test_bfloat16_weights_are_pruned_as_they_are() -> None:
    target = as_target(*tiny_model("llama"))
    target.model.to(torch.bfloat16)
    ((_, state, _),) = run(target, method="magnitude", sparsities=(0.5,))
    for name, before in target.model.state_dict().items():
        assert state[name].dtype == torch.bfloat16
        assert ((state[name] == before) | (state[name] == 0)).all()
