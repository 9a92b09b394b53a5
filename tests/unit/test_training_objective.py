"""What an objective computes with: answers, their likelihoods, and the charge for each pass."""

from __future__ import annotations

import torch
from torch.nn import functional

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.training import FlopCount, Meter, Workshop

EXAMPLES = [
    Example(prompt="tell me of the stone", answer="the stone is cold", role=Role.BENIGN),
    Example(prompt="the river", answer="yes", role=Role.BENIGN),
]


def workshop() -> Workshop:
    model = tiny_target().copy_model()
    model.requires_grad_(True)
    return Workshop(model, tiny_target().chat, Meter(), seed=(0, 0), steps=5, autocast=False)


def test_likelihoods_are_the_models_row_by_row() -> None:
    shop = workshop()
    rows = shop.pool(EXAMPLES).all()
    answers = shop.run(rows)
    likelihoods = answers.log_likelihoods()
    total = 0.0
    for place, row in enumerate(rows.encoded):
        logits = shop.model(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        expected = sum(logits[at, label] for at, label in enumerate(row.labels[1:]) if label != -100)
        total += float(torch.as_tensor(expected).detach())
        torch.testing.assert_close(likelihoods[place], expected)
    torch.testing.assert_close(float(answers.cross_entropy()), -total / rows.labelled)


def test_a_pass_is_charged_with_what_it_is() -> None:
    shop = workshop()
    rows = shop.pool(EXAMPLES).all()
    count = FlopCount.of(shop.model)
    shop.run(rows)
    trained = shop.meter.spend()
    assert trained.flops == count.training_step(rows.lengths, rows.labelled)
    assert trained.tokens == sum(rows.lengths)
    assert trained.examples == 2
    with torch.no_grad():
        shop.run(rows)
    assert shop.meter.spend().flops - trained.flops == count.forward(rows.lengths, rows.labelled)
    frozen = tiny_target().copy_model()
    frozen.requires_grad_(False)
    before = shop.meter.spend().flops
    shop.run(rows, frozen)
    assert shop.meter.spend().flops - before == count.forward(rows.lengths, rows.labelled)


def test_prompts_have_nothing_to_predict() -> None:
    shop = workshop()
    rows = shop.prompts([example.model_copy(update={"answer": None}) for example in EXAMPLES])
    answers = shop.run(rows)
    assert rows.labelled == 0
    assert len(answers.labels) == 0
    assert answers.logits.shape[0] == 0


def test_randomness_is_the_steps_own() -> None:
    first, second = workshop(), workshop()
    first.step = second.step = 3
    assert first.generator().random() == second.generator().random()
    assert first.generator(0).random() != first.generator(1).random()
    drawn = functional.normalize(torch.randn(3, generator=first.torch_generator()), dim=0)
    assert torch.equal(drawn, functional.normalize(torch.randn(3, generator=second.torch_generator()), dim=0))
    second.step = 4
    assert first.generator().random() != second.generator().random()
