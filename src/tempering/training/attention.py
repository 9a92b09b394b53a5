"""Which form of attention a copy is trained with."""

from __future__ import annotations

from contextlib import suppress

from peft import PeftModel
from transformers import PreTrainedModel


def attend_for_training(model: PreTrainedModel, *, autocast: bool) -> None:
    """Let a copy compute attention as two plain products where the fused kernel is slow: in bfloat16, on a CPU.

    There the kernel's backward pass took 40 % of a tiny model's step and a sixth of SmolLM2's. The results are the same to rounding.

    Args:
        model: a copy that is to be trained; other models keep the form they have.
        autocast: whether its matrix products run in bfloat16.
    """
    decoder = model.get_base_model() if isinstance(model, PeftModel) else model
    if autocast and decoder.device.type == "cpu":
        with suppress(ValueError):  # an architecture that has no such form
            decoder.set_attn_implementation("eager")
