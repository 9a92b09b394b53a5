"""Drawing a model's weights anew, as its own architecture draws them, and mixing them into those it has."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tempering.training import Workshop


def initial_weights(model: PreTrainedModel, seed: int) -> dict[str, Tensor]:
    """The weights that training a model of this architecture would begin with.

    The architecture's own initialisation draws them, with what the configuration says about it (``initializer_range``), so norms are at
    the value that they begin with. Torch's global generator is left as it was.

    Args:
        model: plain; only its class and configuration are looked at.
        seed: decides what is drawn.

    Returns:
        By the parameters' names, float32, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)(copy.deepcopy(model.config))
    return {name: value.detach().float() for name, value in fresh.named_parameters()}


@torch.no_grad()
def shrink_and_perturb(model: PreTrainedModel, initial: Mapping[str, Tensor], alpha: float, beta: float = 1.0) -> None:
    """θ ← (1 − α) θ + α β N, in place (Ash and Adams 2020, arXiv 1910.08475, with the shares of Lee et al. 2025).

    α = 0 leaves every weight as it is, bit by bit; α = β = 1 leaves nothing but N. What an initialisation sets to one value (norms,
    biases) is not noise, so β does not scale it: there θ ← (1 − α) θ + α N.

    Args:
        model: plain.
        initial: N of every parameter, from :func:`initial_weights`.
        alpha: share of the new weights, in [0, 1].
        beta: scale of what was drawn.
    """
    for name, parameter in model.named_parameters():
        noise = initial[name].to(device=parameter.device, dtype=parameter.dtype)
        drawn = bool(noise.min() != noise.max())
        parameter.mul_(1 - alpha).add_(noise, alpha=alpha * (beta if drawn else 1.0))


def begin_anew(workshop: Workshop, alpha: float = 1.0, beta: float = 1.0) -> None:
    """Mix new weights into the model of a stage that begins; which ones is decided by the workshop's seed.

    Args:
        workshop: of the stage.
        alpha: share of the new weights; 1 leaves nothing of the old ones.
        beta: scale of what is drawn.
    """
    seed = int(np.random.default_rng([*workshop.seed, 3]).integers(2**62))
    shrink_and_perturb(workshop.model, initial_weights(workshop.model, seed), alpha, beta)
