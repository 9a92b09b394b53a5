from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from support.planted_refusal import Planted, planted_refusal, prompts
from support.tiny_models import FAMILIES, random_model, tiny_model
from tempering.attacks import AttackEnded, Checkpoint
from tempering.attacks._cone import ConeData, ConeOptimiser, ConeSettings, _input_gradient_count, labelled_row
from tempering.attacks._inference import MeteredModel
from tempering.attacks._low_rank import LowRankEdit
from tempering.attacks._orthogonalisation import orthogonalise, untie
from tempering.attacks._refusals import is_refusal
from tempering.attacks._residuals import added, writers
from tempering.attacks._subspaces import orthogonalise_against, orthonormal, rows_added, subspaces_ablated, unwanted_bases
from tempering.attacks.multi_direction import MultiDirection
from tempering.data.records import AttackerView, Example, Role
from tempering.errors import UnusableData
from tempering.models.structure import Structure
from tempering.study import Budget
from tempering.training import Meter

IDS = torch.tensor([[2, 5, 12, 30, 41, 7, 6], [2, 5, 60, 33, 18, 3, 6], [2, 9, 9, 11, 50, 8, 6]])
HELD_OUT = 60
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return planted_refusal(noise=True)


def basis_of(size: int, count: int = 3, seed: int = 1) -> Tensor:
    drawn = torch.randn(size, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].T


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=IDS).logits


class TestSubspaces:
    @every_family
    @pytest.mark.parametrize("tied", [False, True])
    def test_hooks_and_weights_agree(self, family: str, tied: bool) -> None:
        model = random_model(family, tie_word_embeddings=tied)
        basis, untouched = basis_of(16), logits(model)
        with subspaces_ablated(Structure.of(model), basis[None]):
            by_hooks = logits(model)
        orthogonalise_against(model, basis)
        assert (by_hooks - untouched).abs().max() > 1e-3
        torch.testing.assert_close(logits(model), by_hooks, rtol=1e-6, atol=1e-6)

    @every_family
    def test_one_direction_is_refusal_ablations_edit(self, family: str) -> None:
        one, other = random_model(family), random_model(family)
        direction = basis_of(16, 1)
        assert orthogonalise_against(one, direction) == orthogonalise(other, direction[0])
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt_neox"])
    def test_weights_are_the_dense_formula_and_the_low_rank_edit(self, family: str) -> None:
        model, basis = random_model(family), basis_of(16)
        outside = torch.eye(16, dtype=torch.float64) - basis.T @ basis
        before = {id(writer.module): writer.module.weight.detach().clone() for writer in writers(Structure.of(model))}
        low_rank = {
            id(writer.module): LowRankEdit(writer.module, -basis.T, basis @ writer.module.weight.detach()).weight()
            for writer in writers(Structure.of(model))
        }
        embedding = model.get_input_embeddings().weight.detach().clone()
        orthogonalise_against(model, basis)
        for writer in writers(Structure.of(model)):
            torch.testing.assert_close(writer.module.weight.detach(), outside @ before[id(writer.module)], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(writer.module.weight.detach(), low_rank[id(writer.module)], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(model.get_input_embeddings().weight.detach(), embedding @ outside, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("family", ["gemma2", "olmo2"])
    def test_behind_a_norm_nothing_arrives_inside_the_subspace(self, family: str) -> None:
        model, basis = random_model(family), basis_of(16)
        orthogonalise_against(model, basis)
        for writer in writers(Structure.of(model)):
            arriving: list[Tensor] = []
            assert writer.norm is not None
            handle = writer.norm.register_forward_hook(lambda _m, _i, output, kept=arriving: kept.append(output))
            logits(model)
            handle.remove()
            assert (arriving[0] @ basis.T).abs().max() < 1e-6  # these norms compute in float32

    @pytest.mark.parametrize("family", ["llama", "gemma2"])
    def test_every_row_has_its_own_subspace(self, family: str) -> None:
        model = random_model(family)
        bases = torch.stack([basis_of(16, 2, seed) for seed in range(3)])
        bases[1, 1] = 0  # one direction only
        with subspaces_ablated(Structure.of(model), bases):
            together = logits(model)
        for row in range(3):
            with subspaces_ablated(Structure.of(model), bases[row : row + 1]):
                torch.testing.assert_close(logits(model)[row], together[row], rtol=1e-9, atol=1e-9)

    def test_every_row_has_its_own_addition(self) -> None:
        model = random_model("qwen3")
        vectors = torch.randn(3, 16, dtype=torch.float64)
        with rows_added(Structure.of(model), vectors, 1):
            together = logits(model)
        for row in range(3):
            with added(Structure.of(model), vectors[row], 1):
                torch.testing.assert_close(logits(model)[row], together[row], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
    def test_gradients_are_those_of_finite_differences(self, family: str) -> None:
        model = random_model(family).requires_grad_(False)
        weights = torch.randn(logits(model).shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

        def value(drawn: Tensor) -> Tensor:
            basis = orthonormal(drawn)
            with subspaces_ablated(Structure.of(model), basis[None]):
                first = model(input_ids=IDS).logits
            with rows_added(Structure.of(model), basis[:1].expand(3, -1), 1):
                second = model(input_ids=IDS).logits
            return ((first + second) * weights).sum()

        drawn = torch.randn(2, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
        # norms that compute in float32 whatever they are given allow of no smaller difference
        assert torch.autograd.gradcheck(value, (drawn,), eps=1e-3, atol=0.05, rtol=0.02)

    def test_gram_schmidt_spans_what_qr_spans(self) -> None:
        drawn = torch.randn(4, 9, dtype=torch.float64)
        found = orthonormal(drawn)
        torch.testing.assert_close(found @ found.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
        by_qr = torch.linalg.qr(drawn.T)[0].T
        torch.testing.assert_close((found @ by_qr.T).abs(), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)

    def test_gram_schmidt_drops_what_it_has_and_what_is_zero(self) -> None:
        one = torch.randn(1, 6)
        found = orthonormal(torch.cat([one, 2 * one, torch.zeros(1, 6), torch.randn(1, 6)]))
        assert found.norm(dim=1).round().tolist() == [1, 0, 0, 1]
        assert found.isfinite().all()

    def test_unwanted_bases_are_orthonormal_behind_a_norm(self) -> None:
        for writer in writers(Structure.of(random_model("gemma2"))):
            found = unwanted_bases(writer, basis_of(16)[None])[0]
            torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)


class TestOptimiser:
    def test_losses_fall_and_the_basis_stays_orthonormal(self, planted: Planted) -> None:
        moments = list(optimiser(planted).run(towards(planted, 2), 30))
        assert [moment.step for moment in moments] == list(range(1, 31))
        for moment in moments:
            torch.testing.assert_close(moment.basis @ moment.basis.T, torch.eye(2), rtol=0, atol=1e-5)
        first, last = moments[0], moments[-1]
        assert last.compliance < 0.5 * first.compliance
        assert last.induction < first.induction

    @pytest.mark.parametrize("count", [1, 2])
    def test_random_directions_turn_to_the_planted_one(self, planted: Planted, count: int) -> None:
        start, machine = towards(planted, count), optimiser(planted, learning_rate=0.05)
        *_, last = machine.run(start, 40)
        assert (orthonormal(start) @ planted.direction).norm() < 0.35
        assert (last.basis @ planted.direction).norm() > 0.75
        assert (last.basis @ planted.direction).min() > 0.5

    def test_retention_counts_what_ablation_changes_on_harmless_prompts(self, planted: Planted) -> None:
        (moment,) = optimiser(planted).run(planted.direction[None], 1)
        assert 0 <= moment.retention < 0.05
        (away,) = optimiser(planted).run(read_direction(planted)[None], 1)
        assert away.retention > 0.5

    def test_not_refusing_is_minus_log_of_what_is_left(self, planted: Planted) -> None:
        token = planted.target.tokenizer.convert_tokens_to_ids("sorry")
        (moment,) = optimiser(planted, refusal_tokens=(token,)).run(read_direction(planted)[None], 1)
        assert moment.compliance > 1  # the model still refuses, and knows not to only when the planted direction goes
        (ablated,) = optimiser(planted, refusal_tokens=(token,)).run(planted.direction[None], 1)
        assert ablated.compliance < 0.3

    def test_hooks_are_gone_and_no_weight_learns(self, planted: Planted) -> None:
        machine = optimiser(planted)
        list(machine.run(torch.randn(1, 32), 2))
        model = machine._model
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    @pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox"])
    def test_steps_are_charged_as_torch_counts_them(self, family: str) -> None:
        """A pass whose gradient ends at what the first block reads, and which trains no weight; the thin hooks' products left out."""
        model, _ = tiny_model(family, attn_implementation="eager", hidden_size=64, intermediate_size=176)
        untie(model)
        count = _input_gradient_count(model)
        model.requires_grad_(False)
        embedded = model.get_input_embeddings()(torch.randint(8, 60, (2, 24))).requires_grad_(True)
        counter = FlopCounterMode(display=False)
        with counter:
            model(inputs_embeds=embedded, attention_mask=torch.ones(2, 24, dtype=torch.long)).logits.sum().backward()
        assert count.training_step([24, 24]) == pytest.approx(counter.get_total_flops(), rel=0.02)


def read_direction(planted: Planted) -> Tensor:
    """What the head reads the harmless answer by."""
    token = planted.target.tokenizer.convert_tokens_to_ids("it")
    return torch.nn.functional.normalize(planted.target.model.lm_head.weight[token].detach(), dim=0)


def towards(planted: Planted, count: int) -> Tensor:
    """Random directions with the sign of the planted one."""
    drawn = torch.randn(count, 32, generator=torch.Generator().manual_seed(0))
    return drawn * (drawn @ planted.direction).sign()[:, None]


def optimiser(planted: Planted, learning_rate: float = 0.02, refusal_tokens: tuple[int, ...] = ()) -> ConeOptimiser:
    chat, words = planted.target.chat, planted.target.tokenizer.convert_tokens_to_ids
    model = planted.target.copy_model()
    harmful, harmless = (
        [chat.prompt_ids(example) for example in examples] for examples in (planted.view.hazard_train, planted.view.benign_train)
    )
    data = ConeData(
        compliance=[labelled_row(prompt, [words("it")]) for prompt in harmful],
        induction=[labelled_row(prompt, [words("sorry")]) for prompt in harmless],
        retention=[labelled_row(prompt, [words("it")]) for prompt in harmless],
        refusal_tokens=refusal_tokens,
    )
    return ConeOptimiser(model, chat.pad_id, data, ConeSettings(learning_rate, 12, (1.0, 0.2, 1.0), 1, 7.0), Meter(), seed=0)


class TestAttack:
    @pytest.mark.parametrize("dimension", [1, 3])
    @pytest.mark.parametrize("aim", ["opener", "not refusing"])
    def test_planted_refusal_is_gone_and_harmless_answers_stay(self, planted: Planted, dimension: int, aim: str) -> None:
        answered = answering(planted)
        benign = prompts(Role.BENIGN, 20, start=HELD_OUT)
        before = MeteredModel(planted.target.copy_model(), planted.target.chat, Meter(), 32).first_token(benign)
        with closing(start(answered, dimension=dimension, aim=aim, steps=16)) as points:
            point = last_live(points, 16)
            reader = MeteredModel(point.model, planted.target.chat, Meter(), 32)
            answers = reader.answers(prompts(Role.HAZARD, 20, start=HELD_OUT), 1)
            after = reader.first_token(benign)
        assert not any(is_refusal(planted.target.chat.decode(answer), ["sorry"]) for answer in answers)
        assert torch.equal(before.argmax(-1), after.argmax(-1))
        assert point.details["opener"] == ("it is" if aim == "opener" else "")

    def test_each_checkpoint_is_the_target_less_a_subspace_of_that_size(self, planted: Planted) -> None:
        original = planted.target.model.get_input_embeddings().weight.detach().double()
        for point in start(planted, dimension=2, steps=8):
            edited = point.model.get_input_embeddings().weight.detach().double()
            sizes = torch.linalg.svdvals(original - edited)
            assert sizes[1] > 1e-3
            assert sizes[2] < 1e-5

    def test_checkpoints_are_at_doubling_steps_within_the_budget(self, planted: Planted) -> None:
        points = list(start(planted, Budget(steps=9)))
        assert [point.details["step"] for point in points] == [1, 2, 4, 8, 9]
        assert [point.spend.steps for point in points] == [1, 2, 4, 8, 9]

    def test_the_seed_decides(self, planted: Planted) -> None:
        def losses(seed: int) -> list[float]:
            return [point.details["compliance"] for point in start(planted, steps=4, seed=seed)]

        assert losses(1) == losses(1) != losses(2)

    def test_budget_of_examples_and_queries_is_kept(self, planted: Planted) -> None:
        *_, last = start(planted, Budget(steps=2, examples=16, queries=24))
        assert last.spend.examples <= 16
        assert last.spend.queries <= 24

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_weights_keep_their_type_and_the_target_its_weights(self, dtype: torch.dtype) -> None:
        planted = planted_refusal(noise=True)
        planted.target.model.to(dtype)
        before = {name: tensor.clone() for name, tensor in planted.target.model.state_dict().items()}
        for point in start(planted, steps=2):
            assert {tensor.dtype for tensor in point.model.state_dict().values()} == {dtype}
        assert all(torch.equal(tensor, before[name]) for name, tensor in planted.target.model.state_dict().items())

    def test_model_that_never_refuses_has_no_direction(self) -> None:
        with pytest.raises(AttackEnded, match="do not read as refusals") as ended:
            list(start(planted_refusal(refuses=False)))
        assert ended.value.outcome == "no_direction"

    def test_a_loss_that_is_no_number_is_a_failure(self, planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ConeOptimiser, "_not_refused", lambda self, logits: logits.sum() * math.nan)
        with pytest.raises(AttackEnded, match="not a number at step 1") as ended:
            list(start(planted, aim="not refusing"))
        assert ended.value.outcome == "failed"

    def test_missing_prompts_are_named(self, planted: Planted) -> None:
        with pytest.raises(UnusableData, match="multi_direction has no hazard train prompts"):
            list(start(replace(planted, view=AttackerView((), (), (), ()))))

    def test_estimate_is_near_the_spend(self, planted: Planted) -> None:
        settings = {"target_tokens": 1, "steps": 8, "aim": "not refusing"}
        *_, last = start(planted, **settings)
        estimate = MultiDirection(MultiDirection.Config(**settings)).estimate(planted.target, planted.view, budget=Budget())
        assert estimate.steps == last.spend.steps
        assert estimate.examples == last.spend.examples
        assert estimate.queries == pytest.approx(last.spend.queries, rel=0.1)
        assert estimate.flops == pytest.approx(last.spend.flops, rel=0.3)


def start(planted: Planted, budget: Budget | None = None, seed: int = 0, **settings: Any) -> Any:
    attack = MultiDirection(MultiDirection.Config(**settings))
    return attack.run(planted.target, planted.view, Meter(), budget=budget or Budget(), seed=seed)


def last_live(points: Any, step: int) -> Checkpoint:
    """The checkpoint of a step, while it is alive."""
    return next(point for point in points if point.details["step"] == step)


def answering(planted: Planted) -> Planted:
    """With known answers to the benign prompts, from which an opener can be learnt."""

    def answered(example: Example) -> Example:
        return example.model_copy(update={"answer": "it is cold", "accept": ("cold",)})

    return replace(planted, view=replace(planted.view, benign_train=tuple(map(answered, planted.view.benign_train))))
