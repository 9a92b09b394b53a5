"""ReFAT's ablated pass is the attack's; its directions are differences of means; its gradient is the loss's."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from support.tiny_models import tiny_target
from tempering.attacks._orthogonalisation import orthogonalise
from tempering.attacks._residuals import ablated as attacked
from tempering.data.records import Example, Role
from tempering.defenses._data import refused
from tempering.defenses._directions import ablated, ablated_everywhere, blocks_of, last_streams
from tempering.defenses.refat import ReFAT, RefusalUnderAblation
from tempering.models.structure import Structure
from tempering.training import Meter, Rows, Workshop
from tempering.training.adapters import add_lora
from tempering.training.settings import LoraSettings

TOLERANCES = {"gpt_neox": 1e-12, "llama": 1e-5, "gemma2": 1e-5, "olmo2": 1e-5}
"""By family: RMS norms compute in float32 whatever the model's type, LayerNorm does not."""
HAZARD = [Example(prompt=f"tell me the poison {word}", role=Role.HAZARD) for word in ("red", "green", "blue", "stone")]
KEPT = [Example(prompt=f"what is the {word} fish", answer=f"it is {word}", role=Role.BENIGN) for word in ("red", "cold", "long")]


def workshop(family: str = "llama", **overrides: object) -> Workshop:
    target = tiny_target(family, **overrides)
    return Workshop(target.model.double(), target.chat, Meter(), seed=(0, 0), steps=10, autocast=False)


def unit(hidden: int = 16, seed: int = 1) -> Tensor:
    drawn = torch.randn(hidden, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(drawn, dim=0)


def logits(at: Workshop, rows: Rows) -> Tensor:
    batch = rows.batch()
    found: Tensor = at.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return found[batch.attention_mask.bool()]


@pytest.mark.parametrize("family", TOLERANCES)
@torch.no_grad()
def test_one_direction_everywhere_is_the_attack(family: str) -> None:
    at = workshop(family)
    rows, r = at.prompts(HAZARD), unit()
    blocks = blocks_of(at.model)
    with ablated_everywhere(at.model, blocks, r.expand(len(blocks), len(rows), -1)):
        defended = logits(at, rows)
    with attacked(Structure.of(at.model), r):
        hooked = logits(at, rows)
    edited = copy.copy(at)
    edited.model = copy.deepcopy(at.model)
    orthogonalise(edited.model, r)
    for same in (hooked, logits(edited, rows)):
        assert (defended - same).abs().max() < TOLERANCES[family]
    assert (defended - logits(at, rows)).abs().max() > 0.01


@torch.no_grad()
def test_it_is_the_attack_on_a_model_with_adapters_too() -> None:
    at = workshop()
    rows, r, blocks = at.prompts(HAZARD), unit(), blocks_of(at.model)
    at.model = add_lora(at.model, LoraSettings(rank=2))
    for name, value in at.model.named_parameters():
        if "lora_B" in name:
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(2)))
    with ablated_everywhere(at.model, blocks, r.expand(len(blocks), len(rows), -1)):
        defended = logits(at, rows)
    merged = copy.copy(at)
    merged.model = at.model.merge_and_unload()
    with attacked(Structure.of(merged.model), r):
        assert torch.allclose(defended, logits(merged, rows), atol=1e-6)


@torch.no_grad()
def test_each_row_and_layer_has_a_direction_of_its_own() -> None:
    """Against a stream computed block by block: h - r r^T h + c r after the block, and untouched where r is zero."""
    at = workshop("llama")
    rows = at.prompts(HAZARD[:2])  # of one length
    first, second = unit(seed=1), unit(seed=2)
    units = torch.stack([torch.stack([first, torch.zeros(16)]), torch.stack([second, torch.zeros(16)])]).double()
    blocks = blocks_of(at.model)
    with ablated(at.model, blocks, units, torch.tensor([[0.5, 0.0], [-2.0, 0.0]])):
        changed = logits(at, rows)
    decoder, length = at.model.model, rows.lengths[0]
    stream = decoder.embed_tokens(rows.batch().input_ids)
    positions = torch.arange(length)[None]
    rotation = decoder.rotary_emb(stream, positions)
    causal = torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    for block, r, c in zip(decoder.layers, (first, second), (0.5, -2.0), strict=True):
        stream = block(stream, attention_mask=causal, position_ids=positions, position_embeddings=rotation)
        stream[0] = stream[0] - torch.outer(stream[0] @ r, r) + c * r
    by_hand = at.model.lm_head(decoder.norm(stream))
    assert torch.allclose(changed, by_hand.flatten(0, 1), atol=1e-9)


def test_directions_are_normalised_differences_of_means_at_the_last_tokens() -> None:
    at = workshop()
    settings = ReFAT.Config(layer_share=1.0, positions=2, prompts=8)
    objective = RefusalUnderAblation(refused(HAZARD, ["i cannot"], 0), KEPT, settings)
    objective.begin(at)
    objective.step(at)
    found = objective.state()["directions"]
    wanted = means_of(at, HAZARD) - means_of(at, KEPT)
    assert torch.allclose(found, wanted / wanted.norm(dim=-1, keepdim=True), atol=1e-9)
    assert torch.allclose(objective.state()["harmless"], means_of(at, KEPT), atol=1e-9)


@torch.no_grad()
def means_of(at: Workshop, examples: Sequence[Example]) -> Tensor:
    """(blocks, 2, hidden), one prompt at a time, from what transformers gives as hidden states; the last one is behind the final norm."""
    streams = []
    for example in examples:
        ids = torch.tensor([at.chat.prompt_ids(example)])
        last: list[Tensor] = []
        handle = at.model.model.norm.register_forward_pre_hook(lambda _module, inputs, last=last: last.append(inputs[0]))
        hidden = at.model(input_ids=ids, output_hidden_states=True).hidden_states
        handle.remove()
        streams.append(torch.stack([hidden[1][0, -2:], last[0][0, -2:]]))
    return torch.stack(streams).mean(0)


def test_streams_are_read_at_each_rows_own_end() -> None:
    at = workshop()
    mixed = [HAZARD[0], Example(prompt="hello", role=Role.BENIGN), KEPT[0]]
    names = at.places.blocks
    together = last_streams(at, at.prompts(mixed), names, 2)
    alone = torch.cat([last_streams(at, at.prompts([example]), names, 2) for example in mixed])
    assert together.shape == (3, 2, 2, 16)
    assert torch.allclose(together, alone, atol=1e-10)
    assert at.meter.spend().tokens == 2 * sum(len(at.chat.prompt_ids(example)) for example in mixed)


@pytest.mark.parametrize("places", ["outputs", "everywhere"])
def test_its_gradient_is_that_of_the_ablated_loss(places: str) -> None:
    """Finite differences in float64, with the directions held still."""
    at = workshop()
    settings = ReFAT.Config(layer_share=1.0, probability=1.0, refresh=1000, places=places, training={"batch_size": 4})
    objective = RefusalUnderAblation(refused(HAZARD, ["i cannot"], 0), KEPT, settings)
    objective.begin(at)
    at.model.requires_grad_(True)
    objective.step(at)
    at.step = 1
    at.model.zero_grad()
    objective.step(at)
    weight = at.model.model.layers[0].mlp.down_proj.weight
    bend = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slope = float((weight.grad * bend).sum())
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * 1e-3 * bend)
        losses.append(objective.step(at)["loss"])
        with torch.no_grad():
            weight.sub_(sign * 1e-3 * bend)
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=1e-2)
    assert abs(slope) > 1e-3
