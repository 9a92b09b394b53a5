"""Vectors over parameter lists: lengths and products over all tensors together, weights that come back to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from support.defended_samples import HARMFUL, KEPT, REFUSED, plain_cross_entropy, workshop_for
from tempering.defenses._gradients import add_to_gradient, combined, cross_entropy_gradient, dot, hessian_product, norm, shifted
from tempering.defenses.refusal_sft import RefusalTraining


def test_lengths_and_products_run_over_all_tensors() -> None:
    first = (torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]))
    second = (torch.tensor([1.0, 9.0]), torch.tensor([[-2.0]]))
    assert norm(first) == 5.0
    assert dot(first, second) == 3 - 8
    total = combined((2.0, first), (-1.0, second))
    assert [part.tolist() for part in total] == [[5.0, -9.0], [[10.0]]]
    assert first[0].tolist() == [3.0, 0.0]


def test_lengths_are_added_up_beyond_float32() -> None:
    many = (torch.full((4,), 1.0), torch.full((2_000_000,), 1e-4))
    assert norm(many) == pytest.approx((4 + 2e6 * 1e-8) ** 0.5, rel=1e-7)


def test_gradients_are_added_to_what_is_there() -> None:
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))]
    weights[0].grad = torch.tensor([1.0, 2.0])
    vector = (torch.tensor([10.0, 10.0]), torch.tensor([3.0]))
    add_to_gradient(weights, vector, 0.5)
    assert weights[0].grad.tolist() == [6.0, 7.0]
    assert weights[1].grad is not None
    assert weights[1].grad.tolist() == [1.5]
    add_to_gradient(weights, vector)
    assert weights[1].grad.tolist() == [4.5]
    assert vector[1].tolist() == [3.0]


def test_weights_come_back_to_the_last_bit_even_after_a_failure() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(50, 50, generator=generator)), nn.Parameter(torch.randn(7, generator=generator) * 1e-6)]
    before = [weight.detach().clone() for weight in weights]
    direction = tuple(torch.randn(weight.shape, generator=generator) * 1e4 for weight in weights)
    with shifted(weights, direction, 0.3):
        assert torch.allclose(weights[0], before[0] + 0.3 * direction[0])
    assert all(torch.equal(weight, kept) for weight, kept in zip(weights, before, strict=True))
    # taking the shift away again would not have done
    assert not torch.equal((before[0] + 0.3 * direction[0]) - 0.3 * direction[0], before[0])
    with pytest.raises(RuntimeError), shifted(weights, direction, 0.3):
        raise RuntimeError
    assert all(torch.equal(weight, kept) for weight, kept in zip(weights, before, strict=True))


def test_hessian_products_of_a_quadratic_are_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    matrix = root @ root.T
    weights = [nn.Parameter(torch.randn(2, generator=generator, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    direction = (torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.0, 5.0, 1.0], dtype=torch.float64))

    def gradient() -> tuple[torch.Tensor, ...]:
        whole = matrix @ torch.cat([weight.detach() for weight in weights])
        return whole[:2], whole[2:]

    wanted = matrix @ torch.cat(direction)
    for here in (None, gradient()):
        product = torch.cat(hessian_product(gradient, weights, direction, reach=1e-3, here=here))
        assert torch.allclose(product, wanted, rtol=1e-9)
    still = hessian_product(gradient, weights, tuple(part * 0 for part in direction), reach=1e-3)
    assert all(not part.any() for part in still)


def test_the_gradient_is_the_models_and_leaves_grad_and_random_state_alone() -> None:
    objective = RefusalTraining(REFUSED, KEPT, 3)
    workshop = workshop_for(objective)
    rows = workshop.pool(HARMFUL, 2).rows(0, 3)
    state = torch.get_rng_state()
    loss, gradient = cross_entropy_gradient(workshop, rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in workshop.trained())
    plain = plain_cross_entropy(workshop.model, rows)
    wanted = torch.autograd.grad(plain, workshop.trained())
    assert loss == pytest.approx(float(plain.detach()), rel=1e-6)
    assert norm(combined((1.0, gradient), (-1.0, wanted))) < 1e-5 * norm(wanted)
    assert workshop.meter.spend().flops == workshop.count.training_step(rows.lengths, rows.labelled)


def test_dropout_is_drawn_alike_within_a_step() -> None:
    workshop = workshop_for(RefusalTraining(REFUSED, KEPT, 3), "gpt_neox")
    for module in workshop.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    workshop.model.train()
    rows = workshop.pool(HARMFUL, 2).rows(0, 3)
    first, second, other = (cross_entropy_gradient(workshop, rows, purpose)[0] for purpose in (0, 0, 1))
    workshop.step = 1
    later = cross_entropy_gradient(workshop, rows)[0]
    assert first == second
    assert len({first, other, later}) == 3
