"""Models that lie over several devices by FSDP2: every rank keeps its share of each weight, and a layer is whole only while it is at work.

Source: Zhao et al. 2023, "PyTorch FSDP", arXiv 2304.11277; ``torch.distributed.fsdp.fully_shard`` is its second version, with one
``DTensor`` a weight.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from tempering.models.ranks import ALONE, Ranks
from tempering.models.structure import decoder_blocks
from tempering.models.target import Target


@dataclass(frozen=True)
class ShardedTarget(Target):
    """A target whose weights lie over the devices of several ranks.

    Attributes:
        bare: the model without memory for its weights (on torch's ``meta`` device), to make copies from; FSDP's own models refuse to be
            copied.
        ranks: who holds it.
    """

    bare: PreTrainedModel | None = None
    ranks: Ranks = ALONE

    def copy_model(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """A copy that shares no memory with the target and lies over the same devices. Every rank has to ask for it.

        Args:
            dtype: type of the copy's weights; ``None`` keeps the target's.
        """
        assert self.bare is not None
        model = _without_weights(self.bare, dtype)
        _shard(model, self.ranks, self.device.type)
        made: dict[int, nn.Parameter] = {}  # weights that are tied stay tied

        def copied(weight: nn.Parameter) -> nn.Parameter:
            if id(weight) not in made:
                made[id(weight)] = nn.Parameter(weight.detach().to(dtype=dtype, copy=True), weight.requires_grad)
            return made[id(weight)]

        weights = {name: copied(weight) for name, weight in self.model.named_parameters(remove_duplicate=False)}
        # not strict: what is no weight has been copied with the bare model
        model.load_state_dict(weights, strict=False, assign=True)
        return model

    def view_model(self, weights: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
        """A copy: what lies over several devices is not shared."""
        assert not weights
        return self.copy_model()


def sharded(target: Target, ranks: Ranks, device_type: str) -> ShardedTarget:
    """Lay a model over the devices of several ranks.

    Args:
        target: whole, best in the host's memory; its model is taken apart and is of no use afterwards.
        ranks: the group; every one of them calls this with the same weights.
        device_type: ``cpu`` or ``cuda``; each rank has one device, its current one.
    """
    model = target.model
    bare = _without_weights(model)
    _shard(model, ranks, device_type)
    kept: dict[str, Any] = {field.name: getattr(target, field.name) for field in fields(Target)}
    return ShardedTarget(**kept, bare=bare, ranks=ranks)


def _without_weights(model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A copy whose weights have shapes and types and no memory; tied ones stay tied."""
    memo = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta", dtype=dtype), weight.requires_grad)
        for weight in model.parameters()
    }
    bare = copy.deepcopy(model, cast(dict[int, Any], memo))
    if dtype is not None:
        for module in bare.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():  # as the model's own ``to`` does
                    module._buffers[name] = buffer.to(dtype)
    return bare


def _shard(model: PreTrainedModel, ranks: Ranks, device_type: str) -> None:
    """Divide every layer, and then what is left, among the ranks.

    All of it is given back after each forward pass, the embeddings too: FSDP would keep those between passes, and then they would be
    those of before the step where an optimiser moves the weights without a backward pass.
    """
    mesh = init_device_mesh(device_type, (ranks.size,))
    for block in decoder_blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
