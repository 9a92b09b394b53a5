"""What UNDO computes: entropy, divergence and steering against hand-made numbers, and damage bit by bit."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from support.defended_samples import HARMFUL, KEPT, gradients, plain_cross_entropy, workshop_for
from support.tiny_models import tiny_model
from tempering.defenses._batches import pieces
from tempering.defenses._distillation import Distillation, divergence
from tempering.defenses._initialisation import begin_anew, initial_weights, shrink_and_perturb
from tempering.defenses._suppression import Suppression, lack_of_entropy, steering_loss
from tempering.training import Workshop
from tempering.training.streams import outputs_of

FAMILIES = ["llama", "qwen3", "gemma2", "gpt_neox"]
SIZE = 4


class TestEntropy:
    def test_against_numbers_worked_out_by_hand(self) -> None:
        probabilities = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)
        # log 4 less 1.75 bits, halved by the token that is uniform already
        assert float(lack_of_entropy(probabilities.log())) == pytest.approx(0.5 * 0.25 * math.log(2), abs=1e-12)

    def test_it_is_zero_where_all_is_as_likely_and_log_v_where_one_is_certain(self) -> None:
        assert float(lack_of_entropy(torch.full((3, 7), 2.5))) == pytest.approx(0, abs=1e-6)
        assert float(lack_of_entropy(torch.tensor([[60.0, 0.0, 0.0]]))) == pytest.approx(math.log(3), rel=1e-6)

    def test_gradient(self) -> None:
        logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        assert torch.autograd.gradcheck(lack_of_entropy, (logits,))


class TestDivergence:
    def test_against_numbers_worked_out_by_hand(self) -> None:
        teacher = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
        student = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64).log() + 3
        assert float(divergence(teacher, student)) == pytest.approx(0.25 * math.log(2) / 2, abs=1e-12)
        assert float(divergence(student, teacher)) == pytest.approx(0.25 * math.log(2) / 2, abs=1e-12)  # by symmetry of the numbers

    def test_it_is_the_teachers_expectation(self) -> None:
        teacher = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
        student = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
        assert float(divergence(teacher, student)) == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), abs=1e-12)

    def test_gradient_is_the_difference_of_probabilities(self) -> None:
        generator = torch.Generator().manual_seed(1)
        teacher = torch.randn(3, 5, dtype=torch.float64, generator=generator)
        student = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
        assert torch.autograd.gradcheck(lambda logits: divergence(teacher, logits), (student,))
        (found,) = torch.autograd.grad(divergence(teacher, student), student)
        torch.testing.assert_close(found, (student.softmax(-1) - teacher.softmax(-1)) / 3)


def test_steering_counts_only_what_the_mask_shows() -> None:
    states = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[2.0, 2.0], [100.0, -100.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert float(steering_loss(states, mask, torch.tensor([1.0, 1.0]))) == pytest.approx((2 + 16 + 1) / 3)


class TestDamage:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_none_of_it_leaves_every_bit(self, family: str) -> None:
        model, _ = tiny_model(family)
        before = {name: value.clone() for name, value in model.named_parameters()}
        shrink_and_perturb(model, initial_weights(model, seed=5), alpha=0.0, beta=1.0)
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("tied", [False, True])
    def test_all_of_it_is_a_fresh_initialisation_bit_by_bit(self, family: str, tied: bool) -> None:
        model, _ = tiny_model(family, seed=0, tie_word_embeddings=tied)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            fresh = type(model)(copy.deepcopy(model.config))
        shrink_and_perturb(model, initial_weights(model, seed=5), alpha=1.0)
        wanted = dict(fresh.named_parameters())
        assert all(torch.equal(value, wanted[name]) for name, value in model.named_parameters())
        assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied

    @pytest.mark.parametrize("family", FAMILIES)
    def test_in_between_by_the_formula_norms_and_biases_without_beta(self, family: str) -> None:
        model, _ = tiny_model(family)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1)
        before = {name: value.detach().double().numpy().copy() for name, value in model.named_parameters()}
        initial = initial_weights(model, seed=5)
        shrink_and_perturb(model, initial, alpha=0.3, beta=0.5)
        drawn = 0
        for name, value in model.named_parameters():
            noise = initial[name].double().numpy()
            constant = np.ptp(noise) == 0
            drawn += not constant
            assert constant == ("norm" in name or "bias" in name), name
            wanted = 0.7 * before[name] + 0.3 * (1.0 if constant else 0.5) * noise
            np.testing.assert_allclose(value.detach().double().numpy(), wanted, rtol=1e-5, atol=1e-7)
        assert drawn > 5

    def test_the_draw_is_as_wide_as_the_configuration_says_and_leaves_global_randomness_alone(self) -> None:
        model, _ = tiny_model("llama", initializer_range=0.05, hidden_size=64)
        state = torch.get_rng_state()
        first, again, other = (initial_weights(model, seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        name = "model.layers.0.mlp.up_proj.weight"
        assert float(first[name].std()) == pytest.approx(0.05, rel=0.1)
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_pieces_have_the_gradient_of_the_whole_batch() -> None:
    objective = Suppression(HARMFUL, KEPT, SIZE, retain="cross_entropy")
    workshop = workshop_for(objective)
    long = [
        example.model_copy(update={"prompt": example.prompt + " and then red fish in the cold water by the house" * 3}) for example in KEPT
    ]
    rows = workshop.pool([*KEPT, *long]).rows(0, 12)
    found = list(pieces(rows))
    assert len(found) == 2
    assert sum(share for _, share in found) == pytest.approx(1)
    assert sorted(identity for piece, _ in found for identity in piece.identities) == sorted(rows.identities)
    for piece, share in found:
        assert max(piece.lengths) <= 1.5 * min(piece.lengths)
        (share * workshop.run(piece).cross_entropy()).backward()
    together = gradients(workshop)
    workshop.model.zero_grad(set_to_none=True)
    plain_cross_entropy(workshop.model, rows).backward()
    for one, other in zip(together, gradients(workshop), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def moved(workshop: Workshop) -> PreTrainedModel:
    """Push the trained model away from where it began; gives back a copy of what it was."""
    before = copy.deepcopy(workshop.model)
    with torch.no_grad():
        for index, weight in enumerate(workshop.trained()):
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)))
    return before


def predictions(model: PreTrainedModel, workshop: Workshop, purpose: int) -> tuple[Tensor, Tensor]:
    """Probabilities where a label is predicted, and the labels, from all logits of the padded batch."""
    examples = (HARMFUL, KEPT)[purpose]
    batch = workshop.pool(examples, purpose).rows(0, SIZE).batch()
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits[:, :-1].double()
    labels = batch.labels[:, 1:]
    return logits[labels != -100].softmax(-1), labels[labels != -100]


def expect(workshop: Workshop, parts: dict[str, float], hazard: Tensor, retain: Tensor) -> None:
    """Compare loss and gradients of a step with those of two losses computed otherwise."""
    assert parts["hazard"] == pytest.approx(float(hazard.detach()), rel=1e-4)
    assert parts["retain"] == pytest.approx(float(retain.detach()), rel=1e-4, abs=1e-7)
    assert parts["loss"] == pytest.approx(float((hazard + retain).detach()), rel=1e-4)
    found = gradients(workshop)
    workshop.model.zero_grad(set_to_none=True)
    (hazard + retain).backward()
    for one, other in zip(found, gradients(workshop), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_step_of_maximum_entropy(family: str) -> None:
    objective = Suppression(HARMFUL, KEPT, SIZE, weight=2.0)
    workshop = workshop_for(objective, family)
    before = moved(workshop)
    parts = objective.step(workshop)
    p, _ = predictions(workshop.model, workshop, 0)
    now, _ = predictions(workshop.model, workshop, 1)
    was, _ = predictions(before, workshop, 1)
    hazard = 2 * (math.log(p.shape[-1]) + (p * p.log()).sum(-1).mean())
    retain = (was.detach() * (was.detach() / now).log()).sum(-1).mean()
    assert float(retain.detach()) > 1e-3
    expect(workshop, parts, hazard, retain)


def test_a_step_of_gradient_difference() -> None:
    objective = Suppression(HARMFUL, KEPT, SIZE, method="gradient_difference", retain="cross_entropy", weight=0.5)
    assert objective.frozen_copies == 0
    workshop = workshop_for(objective)
    parts = objective.step(workshop)
    (p, wrong), (q, right) = (predictions(workshop.model, workshop, purpose) for purpose in (0, 1))
    hazard = 0.5 * p[torch.arange(len(wrong)), wrong].log().mean()
    retain = -q[torch.arange(len(right)), right].log().mean()
    assert parts["hazard"] < 0
    expect(workshop, parts, hazard, retain)


def test_a_step_of_steering() -> None:
    objective = Suppression(HARMFUL, KEPT, SIZE, method="rmu", retain="cross_entropy", steering=3.0)
    assert objective.frozen_copies == 1
    workshop = workshop_for(objective)
    block = workshop.places.blocks[0]
    before = moved(workshop)
    parts = objective.step(workshop)

    def states(model: PreTrainedModel, purpose: int) -> tuple[Tensor, Tensor]:
        batch = workshop.pool((HARMFUL, KEPT)[purpose], purpose).rows(0, SIZE).batch()
        with outputs_of(model, [block]) as kept:
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        return kept[block], batch.attention_mask.bool()

    began, counted = states(before, 0)
    towards = objective._towards
    assert float(towards.norm()) == pytest.approx(3 * float(began[counted].norm(dim=-1).mean()), rel=1e-4)
    now, counted = states(workshop.model, 0)
    hazard = (now[counted] - towards).pow(2).mean()
    now, counted = states(workshop.model, 1)
    was, _ = states(before, 1)
    q, right = predictions(workshop.model, workshop, 1)
    retain = (now[counted] - was[counted].detach()).pow(2).mean() - q[torch.arange(len(right)), right].log().mean()
    expect(workshop, parts, hazard, retain)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_step_of_distillation_from_what_the_model_was_before_the_damage(alpha: float) -> None:
    objective = Distillation(KEPT, SIZE, lambda workshop: begin_anew(workshop, alpha))
    workshop = workshop_for(objective)
    intact, _ = tiny_model("llama")
    parts = objective.step(workshop)
    batch = workshop.pool(KEPT).rows(0, SIZE).batch()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    counted = batch.labels[:, 1:] != -100
    p, q = (model(**inputs).logits[:, :-1][counted].double().softmax(-1) for model in (intact, workshop.model))
    wanted = (p.detach() * (p.detach() / q).log()).sum(-1).mean()
    assert parts["loss"] == pytest.approx(float(wanted.detach()), rel=1e-4, abs=1e-6)
    assert (parts["loss"] < 1e-6) is (alpha == 0)
    found = gradients(workshop)
    workshop.model.zero_grad(set_to_none=True)
    wanted.backward()
    for one, other in zip(found, gradients(workshop), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
