"""The analytic count against torch's own counter, and against arithmetic done on paper."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.tiny_models import tiny_model
from tempering.training.adapters import add_lora
from tempering.training.flops import FlopCount
from tempering.training.loop import labelled_positions_only
from tempering.training.settings import LoraSettings

FAMILIES = ("llama", "qwen3", "gemma2", "mistral", "phi", "gpt_neox", "olmo2")
ROWS, LENGTH, LABELLED = 3, 24, 4


def _batch(model):
    torch.manual_seed(0)
    ids = torch.randint(8, model.config.vocab_size, (ROWS, LENGTH))
    labels = torch.full_like(ids, -100)
    labels[:, -LABELLED:] = ids[:, -LABELLED:]
    return ids, labels


def _counted(model, *, backward: bool) -> float:
    ids, labels = _batch(model)
    counter = FlopCounterMode(display=False)
    with counter, labelled_positions_only(model, labels) as targets:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        if backward:
            torch.nn.functional.cross_entropy(logits.float(), targets).backward()
    return float(counter.get_total_flops())


def _eager(family):
    model, _ = tiny_model(family, attn_implementation="eager", hidden_size=64, intermediate_size=176)
    model.train()
    model.requires_grad_(True)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_agrees_with_torch_within_one_percent(family):
    model = _eager(family)
    with torch.no_grad():
        counted = _counted(model, backward=False)
    assert FlopCount.of(model).forward([LENGTH] * ROWS, ROWS * LABELLED) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_training_step_agrees_with_torch_within_one_percent(family):
    model = _eager(family)
    assert FlopCount.of(model).training_step([LENGTH] * ROWS, ROWS * LABELLED) == pytest.approx(_counted(model, backward=True), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
def test_lora_training_step_agrees_with_torch_within_one_percent(family, targets):
    model = add_lora(_eager(family), LoraSettings(rank=4, targets=targets))
    assert FlopCount.of(model).training_step([LENGTH] * ROWS, ROWS * LABELLED) == pytest.approx(_counted(model, backward=True), rel=0.01)


def test_a_llama_worked_out_on_paper():
    """Hidden 16, two heads of 8, one key-value head, MLP 32, two blocks, vocabulary V."""
    model, _ = tiny_model("llama")
    model.requires_grad_(True)
    vocabulary = model.config.vocab_size
    block = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32  # queries, keys and values, output, gate with up and down
    body, head, attention = 2 * block, 16 * vocabulary, 2 * 2 * 8
    count = FlopCount.of(model)
    lengths = [5, 7]
    forward = 2 * body * 12 + 2 * head * 3 + 4 * attention * (25 + 49)
    assert count.forward(lengths, 3) == forward
    # every weight and every input has a gradient, for the embedding below them learns
    assert count.training_step(lengths, 3) == 3 * forward
    assert count.forward(lengths) == 2 * (body + head) * 12 + 4 * attention * (25 + 49)


def test_frozen_models_cost_no_backward_of_weights():
    model, _ = tiny_model("llama")
    model.requires_grad_(False)
    model.get_output_embeddings().weight.requires_grad_(True)
    count = FlopCount.of(model)
    assert (count.body_input_gradient, count.body_weight_gradient) == (0, 0)
    assert count.head_weight_gradient == count.head


def test_counting_leaves_mode_and_random_state_alone():
    model, _ = tiny_model("llama")
    model.train()
    model.model.layers[0].eval()
    state = torch.random.get_rng_state()
    FlopCount.of(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
