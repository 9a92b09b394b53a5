"""Maximum mean discrepancy with Gaussian kernels: how far two samples are from being drawn alike."""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = 5
"""How many Gaussian kernels are added up, each twice as wide as the one before, the third as wide as the mean distance."""


def squared_distances(points: Tensor) -> Tensor:
    """(n, n) squared Euclidean distances between all rows of (n, width), by one matrix product, so that (n, n, width) is never held."""
    centred = points - points.mean(0).detach()  # distances stay, and less is lost where large numbers are subtracted
    norms = centred.square().sum(1)
    return (norms.unsqueeze(0) + norms.unsqueeze(1) - 2 * centred @ centred.T).clamp_min(0)


def mean_discrepancy(first: Tensor, second: Tensor, kernels: int = KERNELS) -> Tensor:
    r"""Squared maximum mean discrepancy between two samples (Gretton et al. 2012, JMLR 13, the biased estimate).

    MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), with k(a, b) = sum_i exp(-‖a - b‖² / (2^i w)), i = 0 … ``kernels`` - 1, and
    w = (mean squared distance over the pairs of distinct points of both samples) / 2^(kernels // 2): a quarter of it with five kernels.
    The widths carry no gradient: they only set the scale at which the samples are compared.

    Args:
        first: (n, width), at least one row.
        second: (m, width), likewise.
        kernels: how many.

    Returns:
        A scalar, at least 0, at most 2 ``kernels``; 0 where both samples are one point.
    """
    points = torch.cat([first, second])
    distances = squared_distances(points)
    count = len(points)
    mean = distances.detach().sum() / (count * count - count)
    width = (mean / 2 ** (kernels // 2)).clamp_min(torch.finfo(points.dtype).tiny)
    similar = torch.stack([torch.exp(-distances / (width * 2**power)) for power in range(kernels)]).sum(0)
    own = len(first)
    return similar[:own, :own].mean() + similar[own:, own:].mean() - 2 * similar[:own, own:].mean()
