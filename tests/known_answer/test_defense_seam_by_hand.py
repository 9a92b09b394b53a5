"""SEAM's coupling against double backward, on a network by hand and on a decoder, and its whole gradient term by term."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from support.defended_samples import HARMFUL, KEPT, REFUSALS, REFUSED, VIEW, gradients, plain_cross_entropy, weights_of, workshop_for
from support.tiny_models import tiny_target
from tempering import registry
from tempering.defenses.ctrap import CollapseTrap
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.defenses.seam import Coupling, Seam, SelfDestruction, coupling
from tempering.errors import UnusableModel

SIZE = 3


def exact_cosine(harm: Tensor, benign: Tensor, weights: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """The cosine and its gradient by double backward."""
    a, b = (
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)])
        for loss in (harm, benign)
    )
    cosine = a @ b / (a.norm() * b.norm())
    slope = torch.autograd.grad(cosine, weights, materialize_grads=True)
    return cosine.detach(), torch.cat([part.flatten() for part in slope])


class TwoLayers:
    """A network with tanh in the middle, and two regressions it is asked for."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(3)
        shapes = ((6, 5), (6,), (3, 6))
        self.weights = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]
        draws = [torch.randn(20, width, generator=generator, dtype=torch.float64).to(dtype) for width in (5, 3, 5, 3)]
        self.tasks = draws[:2], draws[2:]

    def loss(self, task: int) -> Tensor:
        inputs, answers = self.tasks[task]
        first, bias, second = self.weights
        return ((torch.tanh(inputs @ first.T + bias) @ second.T - answers) ** 2).mean()

    def gradient(self, task: int) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.loss(task), self.weights)

    def coupled(self, reach: float) -> Coupling:
        here = self.gradient(0), self.gradient(1)
        return coupling(self.weights, lambda: self.gradient(0), lambda: self.gradient(1), *here, reach=reach)


def test_it_agrees_with_double_backward_in_float64_and_errs_in_proportion_to_the_shift() -> None:
    network = TwoLayers(torch.float64)
    before = [weight.detach().clone() for weight in network.weights]
    cosine, exact = exact_cosine(network.loss(0), network.loss(1), network.weights)
    errors = []
    for reach in (1e-3, 1e-4, 1e-5):
        found = network.coupled(reach)
        assert found.cosine == pytest.approx(float(cosine), rel=1e-12)
        errors.append(float((torch.cat([part.flatten() for part in found.gradient]) - exact).norm() / exact.norm()))
    assert errors[2] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)
    assert all(torch.equal(weight, kept) for weight, kept in zip(network.weights, before, strict=True))


def test_the_default_shift_is_accurate_in_float32() -> None:
    network, double = TwoLayers(torch.float32), TwoLayers(torch.float64)
    _, exact = exact_cosine(double.loss(0), double.loss(1), double.weights)
    found = torch.cat([part.flatten() for part in network.coupled(Seam.Config().reach).gradient]).double()
    assert (found - exact).norm() < 1e-2 * exact.norm()


def test_quadratics_on_paper() -> None:
    """h = |w|²/2 and b = (3x² + y²)/2 at (1, 1): a = (1, 1), b = (3, 1), cos = 4/√20.

    cos = (3x² + y²)/√((x² + y²)(9x² + y²)), so d/dx = 6/√20 − 4 (2·10 + 18·2)/(2·20√20) = 0.4/√20, and by homogeneity d/dy = −d/dx.
    """
    weights = [nn.Parameter(torch.ones(1, dtype=torch.float64)), nn.Parameter(torch.ones(1, dtype=torch.float64))]

    def harm() -> tuple[Tensor, ...]:
        return tuple(weight.detach().clone() for weight in weights)

    def benign() -> tuple[Tensor, ...]:
        return 3 * weights[0].detach(), weights[1].detach().clone()

    found = coupling(weights, harm, benign, harm(), benign(), reach=1e-6)
    assert found.cosine == pytest.approx(4 / 20**0.5)
    assert float(found.gradient[0]) == pytest.approx(0.4 / 20**0.5, rel=1e-5)
    assert float(found.gradient[1]) == pytest.approx(-0.4 / 20**0.5, rel=1e-5)


def test_a_vanished_gradient_couples_nothing() -> None:
    weights = [nn.Parameter(torch.ones(2))]
    found = coupling(weights, lambda: (torch.zeros(2),), lambda: (torch.ones(2),), (torch.zeros(2),), (torch.ones(2),), reach=1e-3)
    assert found.cosine == 0
    assert not found.gradient[0].any()


def destroying(coupled: float, unlearning: float, reach: float = 1e-4) -> SelfDestruction:
    return SelfDestruction(REFUSED, KEPT, HARMFUL, SIZE, coupling=coupled, unlearning=unlearning, reach=reach)


def test_the_gradient_of_a_decoder_is_that_of_all_three_terms() -> None:
    objective = destroying(0.5, 0.3)
    workshop = workshop_for(objective, dtype=torch.float64, exact=True)
    before = weights_of(workshop)
    parts = objective.step(workshop)
    assert all(torch.equal(weight, kept) for weight, kept in zip(workshop.trained(), before, strict=True))
    model = deepcopy(workshop.model)
    model.zero_grad(set_to_none=True)
    weights = list(model.parameters())
    refusal, kept, harmful, benign = (
        workshop.pool(examples, index).rows(0, SIZE) for index, examples in enumerate((REFUSED, KEPT, HARMFUL, KEPT))
    )
    harm = plain_cross_entropy(model, harmful)
    smooth = plain_cross_entropy(model, refusal) + plain_cross_entropy(model, kept) - 0.3 * torch.log(harm)
    slopes = torch.cat([part.flatten() for part in torch.autograd.grad(smooth, weights)])
    cosine, slope = exact_cosine(plain_cross_entropy(model, harmful), plain_cross_entropy(model, benign), weights)
    found = torch.cat([part.flatten() for part in gradients(workshop)])
    exact = slopes + 0.5 * slope
    assert 0.5 * slope.norm() > 0.02 * exact.norm()
    # the workshop's losses are float32 whatever the weights, and finite differences divide by the shift
    assert (found - exact).norm() < 2e-3 * exact.norm()
    assert parts["cosine"] == pytest.approx(float(cosine), rel=1e-4)
    assert parts["harm"] == pytest.approx(float(harm.detach()), rel=1e-5)
    assert parts["loss"] == pytest.approx(float(smooth.detach()) + 0.5 * float(cosine), rel=1e-4)


def test_under_autocast_the_coupling_is_that_of_float32_and_not_its_rounding() -> None:
    """The default shift moves gradients by far less than the part in 256 to which bfloat16 knows them."""
    found = []
    for strength in (1.0, 0.0):
        objective = destroying(strength, 0.0, Seam.Config().reach)
        workshop = workshop_for(objective, exact=True)
        workshop.autocast = True
        parts = objective.step(workshop)
        found.append((parts, torch.cat([part.flatten() for part in gradients(workshop)]).double()))
        assert workshop.autocast, "the rest goes on under it"
    model = deepcopy(workshop.model).double()
    harmful, benign = (workshop.pool(examples, index).rows(0, SIZE) for index, examples in ((2, HARMFUL), (3, KEPT)))
    cosine, slope = exact_cosine(plain_cross_entropy(model, harmful), plain_cross_entropy(model, benign), list(model.parameters()))
    (parts, coupled), (_, alone) = found
    assert parts["cosine"] == pytest.approx(float(cosine), abs=1e-4)
    assert (coupled - alone - slope).norm() < 0.05 * slope.norm()


def test_only_what_is_subtracted_is_computed_without_autocast() -> None:
    """SEAM's four gradients, and the two of CTRAP's second order; refusal training and CTRAP's trap stay as fast as they are."""
    trap = {"strength": 1.0, "step_length": 0.1, "longest_step": 0.1, "normalised": True, "reach": 1e-3, "token": None}
    trapping = [CollapseTrap(REFUSED, KEPT, HARMFUL, SIZE, second_order=second, **trap) for second in (True, False)]
    expected = [[True, True, *[False] * 4], [*[True] * 4, False, False], [True] * 4]
    for objective, under in zip((destroying(0.5, 0.3), *trapping), expected, strict=True):
        workshop, seen = workshop_for(objective), []
        workshop.autocast = True
        run = workshop.run
        workshop.run = lambda *given, run=run, seen=seen, shop=workshop: (seen.append(shop.autocast), run(*given))[1]  # type: ignore[method-assign]
        objective.step(workshop)
        assert seen == under


@pytest.mark.parametrize(("method", "config"), [("seam", {"coupling": 0.5}), ("ctrap", {"second_order": True})])
def test_adapters_on_weights_of_sixteen_bits_are_refused(method: str, config: dict[str, object]) -> None:
    target = tiny_target()
    half = replace(target, model=target.copy_model(torch.bfloat16))
    words = {"refusals": REFUSALS}
    with pytest.raises(UnusableModel, match="lost to rounding where adapters lie on bfloat16 weights; train all weights, or"):
        registry.create("defenses", method, {**words, **config, "parameters": "lora"}).stages(half, VIEW, seed=0)
    off = {"coupling": 0.0} if method == "seam" else {}
    for start, chosen in (
        (target, {**config, "parameters": "lora"}),
        (half, {**config, "parameters": "all"}),
        (half, {**off, "parameters": "lora"}),
    ):
        assert registry.create("defenses", method, {**words, **chosen}).stages(start, VIEW, seed=0)


def test_following_the_coupling_turns_the_gradients_against_each_other() -> None:
    network = TwoLayers(torch.float64)
    start = network.coupled(1e-5).cosine
    for _ in range(300):
        step = network.coupled(1e-5).gradient
        with torch.no_grad():
            for weight, part in zip(network.weights, step, strict=True):
                weight -= 0.2 * part
    end = network.coupled(1e-5).cosine
    assert start > 0.5
    assert end < 0


def test_without_either_term_it_is_refusal_training_exactly() -> None:
    objective, plain = destroying(0.0, 0.0), RefusalTraining(REFUSED, KEPT, SIZE)
    coupled, trained = workshop_for(objective), workshop_for(plain)
    objective.step(coupled)
    plain.step(trained)
    assert all(torch.equal(one, other) for one, other in zip(gradients(coupled), gradients(trained), strict=True))


def test_a_harmful_loss_near_nothing_keeps_the_unlearning_bounded() -> None:
    """−log h has slope −1/h, which the floor of .001 nat bounds."""
    objective = destroying(0.0, 1.0)
    workshop = workshop_for(objective)
    optimiser = torch.optim.Adam(workshop.model.parameters(), lr=3e-2)
    harmful = workshop.pool(HARMFUL, 2).rows(0, SIZE)
    for _ in range(400):
        loss = plain_cross_entropy(workshop.model, harmful)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1e-3
    workshop.model.zero_grad(set_to_none=True)
    parts = objective.step(workshop)
    found = gradients(workshop)
    workshop.model.zero_grad(set_to_none=True)
    plain = RefusalTraining(REFUSED, KEPT, SIZE)
    plain.begin(workshop)
    plain.step(workshop)
    harm = torch.autograd.grad(plain_cross_entropy(workshop.model, harmful), workshop.trained())
    for one, aligned, part in zip(found, gradients(workshop), harm, strict=True):
        torch.testing.assert_close(one, aligned - part / 1e-3, rtol=1e-3, atol=1e-4)
    assert parts["harm"] < 1e-3
