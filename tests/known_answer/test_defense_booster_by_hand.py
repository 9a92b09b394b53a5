"""Booster's gradient against one put together from three separate models."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from support.defended_samples import HARMFUL, KEPT, REFUSED, gradients, plain_cross_entropy, weights_of, workshop_for
from tempering.defenses.booster import AttenuatedHarm
from tempering.defenses.refusal_sft import RefusalTraining

SIZE = 3


def boosting(strength: float, step_length: float = 0.3) -> AttenuatedHarm:
    return AttenuatedHarm(REFUSED, KEPT, HARMFUL, REFUSED, SIZE, strength=strength, step_length=step_length)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_gradient_is_that_of_the_paper(family: str) -> None:
    objective = boosting(2.5)
    workshop = workshop_for(objective, family)
    workshop.step = 1
    before = weights_of(workshop)
    parts = objective.step(workshop)
    assert all(torch.equal(weight, kept) for weight, kept in zip(workshop.trained(), before, strict=True))

    refusal, kept, harmful = (workshop.pool(examples, index).rows(1, SIZE) for index, examples in enumerate((REFUSED, KEPT, HARMFUL)))
    here, there = deepcopy(workshop.model), deepcopy(workshop.model)
    here.zero_grad(set_to_none=True)
    there.zero_grad(set_to_none=True)
    guard = workshop.pool(REFUSED, 2).rows(1, SIZE)
    assert [row.input_ids[:4] for row in guard.encoded] == [row.input_ids[:4] for row in harmful.encoded]
    alignment = plain_cross_entropy(here, refusal) + plain_cross_entropy(here, kept) + plain_cross_entropy(here, guard)
    aligned = torch.autograd.grad(alignment, list(here.parameters()))
    harm = plain_cross_entropy(here, harmful)
    harmed = torch.autograd.grad(harm, list(here.parameters()))
    length = sum(float((part.double() ** 2).sum()) for part in harmed) ** 0.5
    with torch.no_grad():
        for weight, part in zip(there.parameters(), harmed, strict=True):
            weight -= 0.3 * part / length
    after = plain_cross_entropy(there, harmful)
    moved = torch.autograd.grad(after, list(there.parameters()))

    for found, f, h, m in zip(gradients(workshop), aligned, harmed, moved, strict=True):
        torch.testing.assert_close(found, f + 2.5 * (h - m), rtol=1e-3, atol=1e-5)
    assert parts["harm"] == pytest.approx(float(harm.detach()), rel=1e-5)
    assert parts["harm_after_step"] == pytest.approx(float(after.detach()), rel=1e-4)
    assert parts["harm_after_step"] < parts["harm"]
    assert parts["loss"] == pytest.approx(float((alignment + 2.5 * (harm - after)).detach()), rel=1e-4)


def test_without_strength_it_is_refusal_training_on_the_harmful_prompts_too() -> None:
    objective, plain = boosting(0.0), RefusalTraining(REFUSED, KEPT, SIZE)
    boosted, trained = workshop_for(objective), workshop_for(plain)
    objective.step(boosted)
    plain.step(trained)
    guard = plain_cross_entropy(trained.model, trained.pool(REFUSED, 2).rows(0, SIZE))
    more = torch.autograd.grad(guard, trained.trained())
    for one, other, part in zip(gradients(boosted), gradients(trained), more, strict=True):
        torch.testing.assert_close(one, other + part, rtol=1e-4, atol=1e-6)


def test_two_passes_over_the_harmful_batch_and_one_over_its_refusals_are_charged() -> None:
    objective, plain = boosting(1.0), RefusalTraining(REFUSED, KEPT, SIZE)
    boosted, trained = workshop_for(objective), workshop_for(plain)
    objective.step(boosted)
    plain.step(trained)
    rows, guard = (boosted.pool(examples, 2).rows(0, SIZE) for examples in (HARMFUL, REFUSED))
    more = boosted.meter.spend().flops - trained.meter.spend().flops
    harm, refusing = (boosted.count.training_step(each.lengths, each.labelled) for each in (rows, guard))
    assert more == 2 * harm + refusing
