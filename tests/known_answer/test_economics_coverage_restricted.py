"""Restricted means of log spend and their differences over simulated studies: bias, and how often a 95 % interval holds the truth."""

import math

import numpy as np
import pytest

from support.simulated_studies import CENSORED, FINE, PROBES, SEEDS, SPREAD, budget, draws, looked_at, of_seeds, restricted_truth
from tempering.economics.restricted import Axis, difference_interval, mean_interval, restricted_difference, restricted_mean

STUDIES = 1000
DIFFERENCES = 500
FLOOR = 1.0


def holding(ends, truth):
    return np.mean([low <= truth <= high for low, high in ends])


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("censored", CENSORED)
def test_the_interval_of_a_mean_covers(seeds, censored):
    random = np.random.default_rng(seeds)
    costs = draws(random, 40, (STUDIES, seeds))
    axis = Axis(FLOOR, budget(40, censored))
    truth = restricted_truth(40, axis.floor, axis.horizon)
    held = {}
    for name, probes in (("exact", FINE), ("probed", PROBES)):
        ends = [mean_interval(of_seeds(*run), axis) for run in zip(*looked_at(costs, axis.horizon, probes), strict=True)]
        held[name] = holding(ends, truth)
    assert min(held.values()) >= 0.93
    if censored <= 0.5:
        assert held["exact"] <= 0.98
    # With nine in ten at the horizon most of the interval is what nobody saw: a bound, and it holds.
    assert (held["exact"] >= 0.98) == (censored > 0.5)


@pytest.mark.parametrize("censored", CENSORED)
def test_students_interval_alone_would_not(censored):
    random = np.random.default_rng(1)
    axis = Axis(FLOOR, budget(40, censored))
    truth = restricted_truth(40, axis.floor, axis.horizon)
    logs = axis.logs(draws(random, 40, (4000, 5)))
    half = 2.776445 * logs.std(axis=1, ddof=1) / math.sqrt(5)
    held = (np.abs(logs.mean(axis=1) - truth) <= half).mean()
    assert (held >= 0.93) == (censored == 0.1)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("censored", CENSORED)
@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_a_difference_covers(seeds, censored, paired):
    # Twice as dear, looked at up to a horizon that such a share of the defended costs exceeds.
    random = np.random.default_rng(seeds + 1)
    common = random.normal(size=(DIFFERENCES, seeds)) if paired else None
    defended, control = (draws(random, median, (DIFFERENCES, seeds), shared=0.7, common=common) for median in (80, 40))
    axis = Axis(FLOOR, budget(80, censored))
    truth = restricted_truth(80, axis.floor, axis.horizon) - restricted_truth(40, axis.floor, axis.horizon)
    held = {}
    for name, probes in (("exact", FINE), ("probed", PROBES)):
        sides = [looked_at(costs, axis.horizon, probes) for costs in (defended, control)]
        runs = zip(*sides[0], *sides[1], strict=True)
        first = 0 if paired else seeds
        held[name] = holding([difference_interval(of_seeds(*run[:2]), of_seeds(*run[2:], first=first), axis) for run in runs], truth)
    assert min(held.values()) >= 0.92
    # Few seeds with different luck on both sides, half of them at the horizon: two one-sided bounds put together are cautious.
    if censored == 0.1 or (paired and censored == 0.5):
        assert held["exact"] <= 0.98 + 0.01


def test_the_truth_in_closed_form_is_that_of_many_draws():
    costs = draws(np.random.default_rng(2), 40, (400_000,))
    for horizon in (20.0, 100.0):
        mean = np.log10(np.clip(costs, 5, horizon)).mean()
        assert restricted_truth(40, 5, horizon) == pytest.approx(mean, abs=5e-3)


@pytest.mark.parametrize("censored", CENSORED)
def test_a_mean_is_right_on_average(censored):
    random = np.random.default_rng(3)
    axis = Axis(FLOOR, budget(40, censored))
    runs = zip(*looked_at(draws(random, 40, (40, 10)), axis.horizon, FINE), strict=True)
    found = [restricted_mean(of_seeds(*run), axis).value for run in runs]
    assert np.mean(found) == pytest.approx(restricted_truth(40, axis.floor, axis.horizon), abs=3 * SPREAD / math.log(10) / math.sqrt(400))


def test_between_probes_a_mean_is_of_what_was_seen():
    # √2 apart, a cost is seen on average half a step, .075 decades, late; a difference cancels that.
    random = np.random.default_rng(4)
    axis = Axis(FLOOR, 1e4)
    sides = [looked_at(draws(random, median, (60, 10)), 1e4, PROBES) for median in (80, 40)]
    runs = [tuple(of_seeds(*run[place : place + 2]) for place in (0, 2)) for run in zip(*sides[0], *sides[1], strict=True)]
    assert np.mean([restricted_mean(control, axis).value for _, control in runs]) == pytest.approx(math.log10(40) + 0.075, abs=0.05)
    found = [restricted_difference(*run, axis) for run in runs]
    assert np.mean([each.value for each in found]) == pytest.approx(math.log10(2), abs=0.07)
    assert all(each.low <= each.value <= each.high for each in found)
