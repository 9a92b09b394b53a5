"""Editing weights and hooking activations do the same, in every model family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from support.planted_refusal import Planted, planted_refusal
from support.tiny_models import CONVOLUTIONS, FAMILIES, random_model, tiny_model
from tempering.attacks._orthogonalisation import orthogonalise, untie
from tempering.attacks._residuals import ablated, added, writers
from tempering.models.structure import Structure

IDS = torch.tensor([[2, 5, 12, 30, 41, 7, 6], [2, 5, 60, 33, 18, 3, 6]])

every_family = pytest.mark.parametrize("family", [*FAMILIES, *CONVOLUTIONS])


@pytest.fixture(scope="module")
def planted() -> Planted:
    return planted_refusal(noise=True)


def unit_vector(model: PreTrainedModel, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(model.config.hidden_size, generator=generator, dtype=torch.float64)
    return vector / vector.norm()


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=IDS).logits


def streams(model: PreTrainedModel) -> list[Tensor]:
    """The residual stream entering each block and, last, the final norm."""
    structure = Structure.of(model)
    passing: list[Tensor] = []
    assert structure.final_norm is not None
    handles = [
        module.register_forward_pre_hook(lambda _, args: passing.append(args[0])) for module in (*structure.blocks, structure.final_norm)
    ]
    logits(model)
    for handle in handles:
        handle.remove()
    return passing


@every_family
@pytest.mark.parametrize("tied", [False, True])
def test_hooks_and_weights_agree(family: str, tied: bool) -> None:
    model = random_model(family, tie_word_embeddings=tied)
    direction = unit_vector(model)
    untouched = logits(model)
    with ablated(Structure.of(model), direction):
        by_hooks = logits(model)
    orthogonalise(model, direction)
    assert (by_hooks - untouched).abs().max() > 1e-3
    torch.testing.assert_close(logits(model), by_hooks, rtol=1e-6, atol=1e-6)


def test_hooks_and_weights_agree_without_parallel_residual() -> None:
    model = random_model("gpt_neox", use_parallel_residual=False)
    direction = unit_vector(model)
    with ablated(Structure.of(model), direction):
        by_hooks = logits(model)
    orthogonalise(model, direction)
    torch.testing.assert_close(logits(model), by_hooks, rtol=1e-6, atol=1e-6)


def test_learned_positions_are_edited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "opt", {"ffn_dim": 32, "word_embed_proj_dim": 16})
    model = random_model("opt")
    assert Structure.of(model).position_embedding is not None
    direction = unit_vector(model)
    with ablated(Structure.of(model), direction):
        by_hooks = logits(model)
    orthogonalise(model, direction)
    torch.testing.assert_close(logits(model), by_hooks, rtol=1e-6, atol=1e-6)


@every_family
def test_edited_weights_write_nothing_along_the_direction(family: str) -> None:
    model = random_model(family)
    direction = unit_vector(model)
    before = max(float((stream @ direction).abs().max() / stream.norm(dim=-1).max()) for stream in streams(model))
    orthogonalise(model, direction)
    after = max(float((stream @ direction).abs().max() / stream.norm(dim=-1).max()) for stream in streams(model))
    assert before > 0.01
    assert after <= 1e-6


@every_family
def test_edited_float32_weights_hold_nothing_along_what_is_kept_out(family: str) -> None:
    model, _ = tiny_model(family)
    direction = unit_vector(model)
    orthogonalise(model, direction)
    for writer in writers(Structure.of(model)):
        assert writer.columns()
        for columns in writer.columns():
            assert (writer.unwanted(direction) @ columns.double()).norm() <= 1e-6 * columns.double().norm()
    embedding = model.get_input_embeddings().weight.detach().double()
    assert (embedding @ direction).norm() <= 1e-6 * embedding.norm()


def test_orthogonalising_twice_changes_nothing_more() -> None:
    model = random_model("gemma2")
    direction = unit_vector(model)
    edited = orthogonalise(model, direction)
    once = logits(model)
    assert orthogonalise(model, direction) == edited
    torch.testing.assert_close(logits(model), once, rtol=0, atol=1e-12)


def test_large_matrices_are_projected_whole() -> None:
    model, _ = tiny_model("llama", intermediate_size=5000, num_hidden_layers=1)
    direction = unit_vector(model)
    orthogonalise(model, direction)
    weight = Structure.of(model).mlp_outputs[0].weight.detach().double()
    assert (direction @ weight).abs().max() <= 1e-6


def test_tied_head_keeps_its_weights_and_survives_saving(tmp_path: Path) -> None:
    model, _ = tiny_model("gemma", tie_word_embeddings=True)
    head = model.get_output_embeddings().weight.detach().clone()
    orthogonalise(model, unit_vector(model))
    assert torch.equal(model.get_output_embeddings().weight, head)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


def test_untying_leaves_the_function_alone() -> None:
    model, _ = tiny_model("qwen2", tie_word_embeddings=True)
    before = logits(model)
    untie(model)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("layer", [0, 1])
def test_addition_moves_one_block_input_by_the_vector(layer: int) -> None:
    model = random_model("llama")
    vector = 3 * unit_vector(model)
    before = streams(model)
    with added(Structure.of(model), vector, layer):
        after = streams(model)
    # The test's own hooks run after the addition's, so they see the changed input.
    for index in range(layer):
        torch.testing.assert_close(after[index], before[index])
    torch.testing.assert_close(after[layer] - before[layer], vector.expand_as(before[layer]))


def test_bfloat16_ablation_is_computed_in_float32() -> None:
    model = tiny_model("llama", hidden_size=64)[0].to(torch.bfloat16)
    direction = unit_vector(model)
    with ablated(Structure.of(model), direction):
        stream = streams(model)[0]
    left = (stream.double() @ direction).abs().max() / stream.double().norm(dim=-1).max()
    assert left < 2**-8


def test_hooks_are_gone_even_after_an_error(planted: Planted) -> None:
    model = planted.target.copy_model()
    with pytest.raises(RuntimeError, match="stop"), ablated(Structure.of(model), planted.direction):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
