"""Many low-rank adapters over one frozen base, side by side in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from tempering.models import Target
from tempering.training.adapters import add_lora
from tempering.training.settings import LoraSettings
from tempering.training.stacked import Bank, CannotStack


class StackedLora(nn.Module):
    """A frozen linear layer and K low-rank updates of it: W x + s_k B_k A_k x for the rows of version k."""

    def __init__(self, base: nn.Module, down: nn.Parameter, up: nn.Parameter, bank: Bank) -> None:
        """Take factors of shapes (K, rank, in) and (K, out, rank); the bank knows the scales, s_k, as the fact "scale"."""
        super().__init__()
        self.base, self.down, self.up, self.bank = base, down, up, bank

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (K · b, …, in) to (K · b, …, out)."""
        outputs: Tensor = self.base(inputs)
        rows, grouped = (values.reshape(len(self.down), -1, values.shape[-1]) for values in (inputs, outputs))
        if not torch.is_autocast_enabled(inputs.device.type):  # which else sees to the types by itself
            rows, grouped = rows.to(self.down.dtype), grouped.to(self.down.dtype)
        low = torch.bmm(rows, self.down.transpose(1, 2)) * self.bank.facts["scale"]  # scaled while it is narrow
        return torch.baddbmm(grouped, low, self.up.transpose(1, 2)).reshape(outputs.shape).to(outputs.dtype)


def stack_lora(target: Target, adapters: Sequence[tuple[LoraSettings, int]]) -> tuple[PreTrainedModel, Bank]:
    """A model's own weights under K adapters, each drawn as a run of its own would draw it.

    Adapters of different ranks lie in the room of the largest: what a smaller one leaves is zero on both sides, and stays so.

    Args:
        target: left untouched.
        adapters: settings and seed of each, all on the same layers.

    Returns:
        The stacked model, and where the factors lie; names are those that PEFT gives them.

    Raises:
        CannotStack: the adapters are not on the same layers, or drop out; or a layer is not an ordinary linear one.
    """
    if len({settings.targets for settings, _ in adapters}) > 1:
        raise CannotStack("the adapters are on different layers")
    if any(settings.dropout > 0 for settings, _ in adapters):
        raise CannotStack("an adapter drops out")
    rank = max(settings.rank for settings, _ in adapters)
    widest = adapters[0][0].model_copy(update={"rank": rank})
    model = add_lora(target.view_model(), widest)
    layers = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
    if strangers := [name for name, module in layers if not isinstance(module, LoraLinear) or type(module.base_layer) is not nn.Linear]:
        raise CannotStack(f"{strangers[0]} is no ordinary linear layer")
    bank = Bank([(name, value) for name, value in model.named_parameters() if value.requires_grad], len(adapters))
    for index, (settings, seed) in enumerate(adapters):
        _draw(target, settings, seed, dict(bank.version(index)))
    scales = torch.tensor([settings.alpha / settings.rank for settings, _ in adapters], dtype=torch.float32, device=target.device)
    bank.facts["scale"] = scales.reshape(-1, 1, 1)
    for name, module in layers:
        parent, _, own = name.rpartition(".")
        down, up = (bank.stacked(f"{name}.lora_{factor}.default.weight") for factor in "AB")
        setattr(model.get_submodule(parent), own, StackedLora(module.base_layer, down, up, bank))
    vars(model)["bank"] = bank
    return model, bank


def _draw(target: Target, settings: LoraSettings, seed: int, version: dict[str, Tensor]) -> None:
    """Put into one version the factors that a run with this seed begins with."""
    torch.manual_seed(seed)
    drawn = add_lora(target.view_model(), settings)  # made anew: layers draw when they are made, and again when they are reset
    with torch.no_grad():
        for name, value in drawn.named_parameters():
            if name in version:
                room = version[name]
                room.zero_()
                room[tuple(slice(0, size) for size in value.shape)] = value
