"""Reading and changing a model by the names of its parts, with and without adapters."""

from __future__ import annotations

import pytest
import torch

from support.tiny_models import FAMILIES, tiny_target
from tempering.training import LoraSettings
from tempering.training.adapters import add_lora
from tempering.training.streams import Places, inputs_changed, outputs_changed, outputs_of, part, plain

IDS = torch.tensor([[7, 8, 9, 10]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapted", [False, True])
def test_streams_are_the_models_hidden_states(family: str, adapted: bool) -> None:
    model = tiny_target(family).copy_model()
    places = Places.of(model)
    if adapted:
        model = add_lora(model, LoraSettings(rank=2))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
    with outputs_of(model, places.blocks) as streams:
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    for name, state in zip(places.blocks[:-1], states[1:-1], strict=True):  # the last one is normed in hidden_states
        assert torch.equal(streams[name], state)
    assert streams[places.blocks[-1]].requires_grad


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_mlp_outputs_include_what_adapters_add(family: str) -> None:
    model = tiny_target(family).copy_model()
    places = Places.of(model)
    with outputs_of(model, places.mlp_outputs) as before:
        model(input_ids=IDS)
    adapted = add_lora(model, LoraSettings(rank=2, targets="mlp"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    with outputs_of(adapted, places.mlp_outputs) as after:
        adapted(input_ids=IDS)
    assert not torch.allclose(before[places.mlp_outputs[0]], after[places.mlp_outputs[0]])
    assert plain(adapted) is plain(plain(adapted))
    assert part(adapted, places.embedding) is not None


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_changes_hold_while_the_block_runs_and_leave_nothing(family: str) -> None:
    model = tiny_target(family).model
    places = Places.of(model)
    with torch.no_grad():
        untouched = model(input_ids=IDS).logits
        with outputs_changed(model, {places.blocks[0]: lambda stream: stream * 0}):
            by_output = model(input_ids=IDS).logits
        with inputs_changed(model, {places.blocks[1]: lambda stream: stream * 0}):
            by_input = model(input_ids=IDS).logits
        assert torch.equal(by_output, by_input)
        assert not torch.equal(by_output, untouched)
        assert torch.equal(model(input_ids=IDS).logits, untouched)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
