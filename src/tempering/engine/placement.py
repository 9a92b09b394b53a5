"""How units are laid out on this machine: what decides memory and time, and no result, and so is in no hash."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from tempering import registry
from tempering.attacks._contract import FineTuningAttack
from tempering.engine.units import Unit
from tempering.errors import InvalidStudy
from tempering.model_choice import ModelChoice


@dataclass(frozen=True)
class Keeping:
    """What is kept of every attack; see :mod:`tempering.engine.keeping`.

    Attributes:
        weights: the checkpoint of the last probe within the budget.
        completions: what was said to every held-out prompt at every probe.
    """

    weights: bool = False
    completions: bool = False


NOTHING = Keeping()
"""What is kept unless told."""


@dataclass(frozen=True)
class Placement:
    """How one unit is computed.

    Attributes:
        devices: how many hold its model together, each with a process of its own.
        checkpointing: fine-tuning keeps only what enters each layer, and computes the rest anew in the backward pass.
        keeping: what is kept of it on this machine's disk.
    """

    devices: int = 1
    checkpointing: bool = False
    keeping: Keeping = NOTHING


ONE_DEVICE = Placement()
"""Every model whole on one device, as it is unless told."""


def on_host(choice: ModelChoice) -> ModelChoice:
    """The same model in the host's memory, from where it can be divided."""
    return choice.model_copy(update={"device": "cpu"})


def refuse_what_cannot_be_divided(units: Iterable[Unit]) -> None:
    """Say before anything is computed which units need their model whole.

    Args:
        units: that are to be computed over several devices.

    Raises:
        InvalidStudy: an attack is no fine-tuning, searches its settings or meets a defence, or a device is named by its number.
    """
    for unit in units:
        work = unit.work
        if work.defense is not None:
            raise InvalidStudy("defences are trained and attacked on one device only", "leave --devices out, or the defences")
        if work.search is not None:
            raise InvalidStudy("settings are searched on one device only", "leave --devices out, or the search")
        if work.attack is not None and not isinstance(registry.create("attacks", work.attack.name, work.attack.config), FineTuningAttack):
            raise InvalidStudy(
                f"the attack {work.attack_name!r} needs its model whole on one device; only fine-tuning attacks run over several",
                "leave it out, or --devices",
            )
        if work.model.device and ":" in work.model.device:
            raise InvalidStudy(
                f"{work.model.device} is one device, and several are asked for",
                f"name the kind alone: {work.model.device.partition(':')[0]}",
            )


def groups_that_fit(placement: Placement) -> int:
    """How many units the accelerators of this machine can take at once.

    Raises:
        InvalidStudy: there are too few accelerators for one.
    """
    found = len(visible_accelerators())
    if found < placement.devices:
        accelerators = "1 accelerator" if found == 1 else f"{found} accelerators"
        raise InvalidStudy(f"--devices {placement.devices} asks for more than there are: this machine has {accelerators}", "ask for fewer")
    return found // placement.devices


def visible_accelerators() -> list[str]:
    """The accelerators that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def environment_of_group(slot: int, placement: Placement) -> dict[str, str]:
    """What lets the ranks of a group see their own accelerators and no others.

    Args:
        slot: which of the groups at work at the same time, from 0.
        placement: how many accelerators each has.
    """
    own = visible_accelerators()[slot * placement.devices : (slot + 1) * placement.devices]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)} if placement.devices > 1 and own else {}
