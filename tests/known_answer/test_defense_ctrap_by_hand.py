"""CTRAP's gradient against models moved by hand, and its second-order term against double backward."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from support.defended_samples import HARMFUL, KEPT, REFUSED, gradients, plain_cross_entropy, weights_of, workshop_for
from tempering.data.chat import IGNORED
from tempering.defenses.ctrap import CollapseTrap, collapsed
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.training import Workshop

SIZE = 3


def trapping(strength: float = 0.7, **more: object) -> CollapseTrap:
    settings = {"step_length": 0.3, "longest_step": 0.3, "normalised": True, "second_order": False, "reach": 1e-4, "token": "fish", **more}
    return CollapseTrap(REFUSED, KEPT, HARMFUL, SIZE, strength=strength, **settings)


def wanted(
    workshop: Workshop, objective: CollapseTrap, *, normalised: bool, second_order: bool, strength: float
) -> tuple[list[Tensor], float]:
    """The gradient by autograd through the step, and the loss of the collapse."""
    model = deepcopy(workshop.model)
    names, weights = zip(*model.named_parameters(), strict=True)
    refusal, kept, harmful, general = (
        workshop.pool(examples, index).rows(0, SIZE) for index, examples in enumerate((REFUSED, KEPT, HARMFUL, KEPT))
    )
    alignment = plain_cross_entropy(model, refusal) + plain_cross_entropy(model, kept)
    slopes = torch.autograd.grad(plain_cross_entropy(model, harmful), weights, create_graph=second_order)
    length = torch.sqrt(sum((slope**2).sum() for slope in slopes)) if normalised else 1.0
    moved = {name: weight - 0.3 * slope / length for name, weight, slope in zip(names, weights, slopes, strict=True)}
    collapse = plain_cross_entropy(model, collapsed(general, objective.token), moved)
    return list(torch.autograd.grad(alignment + strength * collapse, weights)), float(collapse.detach())


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("second_order", [False, True])
def test_the_gradient_is_that_after_the_simulated_step(normalised: bool, second_order: bool) -> None:
    objective = trapping(normalised=normalised, second_order=second_order)
    workshop = workshop_for(objective, dtype=torch.float64, exact=True)
    before = weights_of(workshop)
    parts = objective.step(workshop)
    assert all(torch.equal(weight, kept) for weight, kept in zip(workshop.trained(), before, strict=True))
    expected, collapse = wanted(workshop, objective, normalised=normalised, second_order=second_order, strength=0.7)
    assert parts["collapse"] == pytest.approx(collapse, rel=1e-5)
    found = torch.cat([part.flatten() for part in gradients(workshop)])
    exact = torch.cat([part.flatten() for part in expected])
    # the workshop's losses are float32 whatever the weights, and finite differences divide by the shift
    assert (found - exact).norm() < (2e-3 if second_order else 1e-5) * exact.norm()


def test_the_second_order_term_is_not_small() -> None:
    """Else the test above would pass without it."""
    first = trapping()
    workshop = workshop_for(first, dtype=torch.float64, exact=True)
    one, two = (
        torch.cat([part.flatten() for part in wanted(workshop, first, normalised=True, second_order=order, strength=0.7)[0]])
        for order in (False, True)
    )
    assert (one - two).norm() > 0.02 * two.norm()


def test_labels_alone_are_replaced() -> None:
    objective = trapping()
    workshop = workshop_for(objective)
    rows = workshop.pool(KEPT, 3).rows(0, 4)
    trap = collapsed(rows, objective.token)
    assert workshop.chat.tokenizer.decode([objective.token]) == "fish"
    assert trap.identities == rows.identities
    for one, other in zip(trap.encoded, rows.encoded, strict=True):
        assert one.input_ids == other.input_ids
        assert one.labels == [IGNORED if label == IGNORED else objective.token for label in other.labels]


def test_without_strength_it_is_refusal_training_exactly() -> None:
    objective, plain = trapping(0.0), RefusalTraining(REFUSED, KEPT, SIZE)
    trapped, trained = workshop_for(objective), workshop_for(plain)
    objective.step(trapped)
    plain.step(trained)
    assert all(torch.equal(one, other) for one, other in zip(gradients(trapped), gradients(trained), strict=True))
