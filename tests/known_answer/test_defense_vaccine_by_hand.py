"""Vaccine's push against the gradient of captured hidden states."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.defended_samples import KEPT, REFUSED, gradients, plain_cross_entropy, workshop_for
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.defenses.vaccine import PerturbedRefusalTraining
from tempering.training.streams import outputs_changed, outputs_of

SIZE = 3


def perturbing(radius: float, parts: str = "blocks") -> PerturbedRefusalTraining:
    return PerturbedRefusalTraining(REFUSED, KEPT, SIZE, radius=radius, parts=parts)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("parts", ["blocks", "attention"])
def test_pushes_are_the_gradients_at_the_hidden_states_and_as_long_as_asked(family: str, parts: str) -> None:
    objective = perturbing(1.5, parts)
    workshop = workshop_for(objective, family)
    rows = workshop.pool(REFUSED, 0).rows(0, SIZE)
    pushes = objective.pushes(workshop, rows)
    places = workshop.places.blocks if parts == "blocks" else workshop.places.attention_outputs
    assert list(pushes) == list(places)
    assert all(weight.requires_grad and weight.grad is None for weight in workshop.model.parameters())

    with outputs_of(workshop.model, places) as states:
        loss = plain_cross_entropy(workshop.model, rows)
    slopes = torch.autograd.grad(loss, [states[place] for place in places])
    length = sum(float((slope.double() ** 2).sum()) for slope in slopes) ** 0.5
    for place, slope in zip(places, slopes, strict=True):
        torch.testing.assert_close(pushes[place], 1.5 * slope / length, rtol=1e-4, atol=1e-6)
    assert sum(float((push.double() ** 2).sum()) for push in pushes.values()) ** 0.5 == pytest.approx(1.5, rel=1e-5)
    padded = rows.batch().attention_mask == 0
    assert padded.any()
    assert all(not push[padded].any() for push in pushes.values())


def test_a_step_trains_under_the_pushes() -> None:
    objective = perturbing(0.8)
    workshop = workshop_for(objective)
    parts = objective.step(workshop)
    found = gradients(workshop)
    workshop.model.zero_grad(set_to_none=True)
    for index, (name, examples) in enumerate((("refusal", REFUSED), ("retain", KEPT))):
        rows = workshop.pool(examples, index).rows(0, SIZE)
        pushes = objective.pushes(workshop, rows)
        undisturbed = plain_cross_entropy(workshop.model, rows)
        with outputs_changed(workshop.model, {place: (lambda stream, push=push: stream + push) for place, push in pushes.items()}):
            loss = plain_cross_entropy(workshop.model, rows)
        loss.backward()
        assert parts[name] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert parts[name] > float(undisturbed.detach())
    for one, other in zip(found, gradients(workshop), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert parts["loss"] == pytest.approx(parts["refusal"] + parts["retain"])


def test_the_loss_rises_as_the_first_order_says() -> None:
    objective = perturbing(1e-2)
    workshop = workshop_for(objective)
    rows = workshop.pool(REFUSED, 0).rows(0, SIZE)
    pushes = objective.pushes(workshop, rows)
    with outputs_of(workshop.model, workshop.places.blocks) as states:
        plain = plain_cross_entropy(workshop.model, rows)
    slopes = torch.autograd.grad(plain, list(states.values()))
    rise = sum(float((slope * pushes[place]).sum()) for place, slope in zip(states, slopes, strict=True))
    with outputs_changed(workshop.model, {place: (lambda stream, push=push: stream + push) for place, push in pushes.items()}):
        pushed = plain_cross_entropy(workshop.model, rows)
    assert float((pushed - plain).detach()) == pytest.approx(rise, rel=0.05)


def test_without_a_radius_it_is_refusal_training_exactly() -> None:
    objective, plain = perturbing(0.0), RefusalTraining(REFUSED, KEPT, SIZE)
    perturbed, trained = workshop_for(objective), workshop_for(plain)
    objective.step(perturbed)
    plain.step(trained)
    assert all(torch.equal(one, other) for one, other in zip(gradients(perturbed), gradients(trained), strict=True))


def test_the_first_pass_is_charged_for_what_it_computes() -> None:
    objective = perturbing(1.0)
    workshop = workshop_for(objective, exact=True)
    rows = workshop.pool(REFUSED[:2], 0).rows(0, 1)  # one row, since the counter counts padding too
    objective.pushes(workshop, rows)
    before = workshop.meter.spend().flops
    with FlopCounterMode(display=False) as counter:
        objective.pushes(workshop, rows)
    charged = workshop.meter.spend().flops - before
    assert charged == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert charged < workshop.count.training_step(rows.lengths, rows.labelled)
