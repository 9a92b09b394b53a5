"""Simulated studies with a known truth: costs drawn from a log-normal, looked at now and then, and stopped by a budget."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from tempering.economics.ratios import Costs

SEEDS = (5, 10, 20)
CENSORED = (0.1, 0.5, 0.9)
FINE = np.concatenate([[0.0], np.exp(np.arange(-4, 14, 0.005))])
"""Probes so dense that a cost is as good as seen exactly: what remains is the luck of the seeds."""
PROBES = np.concatenate([[0.0], 2.0 ** np.arange(0, 20, 0.5)])
"""Probes as fine-tuning attacks have them, each √2 times as far as the last."""
SPREAD = 1.0
"""Standard deviation of log cost over seeds."""


def draws(random: np.random.Generator, median: float, shape: tuple[int, ...], *, shared: float = 0.0, common: np.ndarray | None = None):
    """Costs; ``shared`` of their variance is that of ``common``, one number a seed."""
    own = random.normal(size=shape)
    both = own if common is None else math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    return median * np.exp(SPREAD * both)


def budget(median: float, censored: float) -> float:
    """What such a share of the costs exceeds."""
    return float(median * math.exp(SPREAD * norm.ppf(1 - censored)))


def looked_at(costs: np.ndarray, limit: float, probes: np.ndarray):
    """Last spend without and first spend with a break of every run, the latter inf where the budget came first."""
    seen = np.append(probes[probes < limit], limit)
    at = np.searchsorted(seen, costs)
    return seen[np.minimum(at, len(seen)) - 1], np.where(at < len(seen), seen[np.minimum(at, len(seen) - 1)], np.inf)


def of_seeds(lower: np.ndarray, upper: np.ndarray, *, first: int = 0) -> Costs:
    """Costs of seeds numbered from ``first``."""
    return Costs(np.arange(first, first + len(lower)), lower, upper, np.zeros(len(lower), dtype=bool))


def restricted_truth(median: float, floor: float, horizon: float) -> float:
    """E log10 min(max(T, floor), horizon) in closed form."""

    def below(spend: float) -> float:
        """∫ Φ up to a spend, in logs."""
        z = math.log(spend / median) / SPREAD
        return SPREAD * float(z * norm.cdf(z) + norm.pdf(z))

    return (math.log(horizon) - below(horizon) + below(floor)) / math.log(10)
