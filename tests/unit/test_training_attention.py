"""The form of attention that a copy is trained with changes its time, not its results."""

from __future__ import annotations

import pytest
import torch

from support.tiny_models import tiny_model
from tempering.training import LoraSettings
from tempering.training.adapters import add_lora
from tempering.training.attention import attend_for_training


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_both_forms_agree_to_rounding(family: str) -> None:
    model = tiny_model(family)[0].eval()
    model.set_attn_implementation("sdpa")
    ids = torch.arange(10).reshape(2, 5) + 3
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])

    def shown() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=mask).logits.float() * mask.unsqueeze(-1)
        logits.logsumexp(-1).sum().backward()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        return logits.detach(), torch.cat(gradients)

    logits, gradients = shown()
    attend_for_training(model, autocast=True)
    assert model.config._attn_implementation == "eager"
    others, slopes = shown()
    assert torch.allclose(logits, others, atol=0.02 * float(logits.abs().max()))
    assert float((gradients - slopes).norm() / gradients.norm()) < 0.03


def test_only_bfloat16_on_a_cpu_is_changed_and_adapters_are_looked_through() -> None:
    model = tiny_model("llama")[0]
    before = model.config._attn_implementation
    assert before != "eager"
    attend_for_training(model, autocast=False)
    assert model.config._attn_implementation == before
    adapted = add_lora(model, LoraSettings(rank=2))
    attend_for_training(adapted, autocast=True)
    assert adapted.get_base_model().config._attn_implementation == "eager"
