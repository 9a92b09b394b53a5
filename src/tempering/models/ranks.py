"""Ranks: processes that hold one model together, each a part of it on its own device, and take every step at the same time.

What they say to each other here is small and is sent as bytes of JSON or as tensors, never as pickles.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

PATIENCE = timedelta(hours=1)
"""How long a rank waits for the others before it gives up: longer than the slowest disk takes to load a model."""


@dataclass(frozen=True)
class Ranks:
    """The group as one of its members sees it. A process that holds its models alone is a group of one.

    Attributes:
        rank: which of them this process is, from 0. Rank 0 speaks for all.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> range:
        """Which of ``count`` things this rank does: every ``size``-th, so that what is sorted by length is shared out evenly."""
        return range(self.rank, count, self.size)

    def gathered(self, value: Any) -> list[Any]:
        """What each rank has to say, in their order.

        Args:
            value: JSON values; any number of them, not the same number on each rank.
        """
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(own)]))
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(own)] = own
        said = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(said, padded)
        return [json.loads(text[: int(length)].numpy().tobytes()) for text, length in zip(said, lengths, strict=True)]

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor, of the same shape on every rank, by the sum of all; it is handed back."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor


ALONE = Ranks()
"""A process that holds its models whole."""


def join(rank: int, size: int, meeting_point: Path) -> Ranks:
    """Become a rank of a group on this machine, and wait until all are there.

    The ranks find each other by a file and talk over the loopback interface, so that no port is open to the network.

    Args:
        rank: of this process.
        size: how many there will be.
        meeting_point: a file that does not exist yet, the same for all.
    """
    loopback = "lo" if sys.platform == "linux" else "lo0"
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", loopback)
    accelerated = torch.cuda.is_available() and torch.cuda.device_count() >= size
    if accelerated:
        torch.cuda.set_device(rank)
    backends = "cpu:gloo,cuda:nccl" if accelerated else "gloo"
    dist.init_process_group(backends, init_method=meeting_point.as_uri(), rank=rank, world_size=size, timeout=PATIENCE)
    return Ranks(rank, size)


def leave() -> None:
    """Stop being a rank."""
    dist.destroy_process_group()


def ranks_of(model: nn.Module) -> Ranks:
    """The ranks that hold a model together; :data:`ALONE` where this process holds it whole."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    shared = any(isinstance(module, FSDPModule) for module in model.modules())
    return Ranks(dist.get_rank(), dist.get_world_size()) if shared else ALONE
