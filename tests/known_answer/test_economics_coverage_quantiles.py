"""Medians, quartiles, survival bands and ratios over simulated studies: bias, and how often a 95 % interval holds the truth.

With costs as good as seen exactly the luck of the seeds is all there is, and an interval should cover 92 to 98 % of the time, give or
take three standard errors of the simulation; how coarse few seeds make it is known on paper. Between real probes intervals hold the gap
as well, and cover more. Beyond the budget there is a bound on one side, and it must hold.
"""

import math

import numpy as np
import pytest
from scipy.stats import binom

from support.simulated_studies import CENSORED, FINE, PROBES, SEEDS, SPREAD, budget, draws, looked_at, of_seeds
from tempering.economics.binomial import enclosing, runs_needed, share_interval
from tempering.economics.medians import cost_to_break, interval_of, median_of, quantile_of
from tempering.economics.ratios import ratio_interval, ratio_of_medians

STUDIES = 1000
RATIOS = 500
NOISE = 3 * math.sqrt(0.95 * 0.05 / RATIOS)
"""Of a simulated share near 95 %."""


def holding(lower, upper, quantile, truth):
    """In which share of the studies the interval holds the truth; where the quantile is censored the bound must."""
    none = np.zeros(lower.shape[1], dtype=bool)
    ends = [interval_of(one, other, none, quantile=quantile) for one, other in zip(lower, upper, strict=True)]
    return np.mean([low <= truth <= high for low, high in ends])


@pytest.mark.parametrize("seeds", [*range(5, 41), 100])
def test_places_of_a_median_cover_what_they_should_on_paper(seeds):
    least, most = enclosing(seeds, 0.5)
    covered = binom.cdf(most - 1, seeds, 0.5) - binom.cdf(least - 1, seeds, 0.5)
    assert 0.92 <= covered <= 0.985
    assert least == seeds + 1 - most


def test_runs_needed():
    assert [runs_needed(quantile) for quantile in (0.25, 0.5, 0.75)] == [12, 5, 12]
    assert 0.75**12 <= 0.04 < 0.75**11


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("censored", CENSORED)
def test_the_interval_of_a_median_covers(seeds, censored):
    random = np.random.default_rng(seeds)
    costs = draws(random, 40, (STUDIES, seeds))
    limit = budget(40, censored)
    exact = holding(*looked_at(costs, limit, FINE), 0.5, 40)
    probed = holding(*looked_at(costs, limit, PROBES), 0.5, 40)
    if censored < 0.5:
        least, most = enclosing(seeds, 0.5)
        on_paper = binom.cdf(most - 1, seeds, 0.5) - binom.cdf(least - 1, seeds, 0.5)
        assert exact == pytest.approx(on_paper, abs=0.02)
        assert 0.92 <= exact <= 0.98 + NOISE / 2
        assert probed >= 0.95
    else:
        # The median is the budget, or beyond it: one end is all there is to get wrong.
        assert min(exact, probed) >= 0.95


@pytest.mark.parametrize("seeds", SEEDS)
def test_the_bound_of_a_censored_median_holds_for_other_seeds(seeds):
    # The true median lies just within the budget. Where fewer than half of the runs broke, these runs' own median exceeds it, which says
    # nothing of others; the bound holds for them too.
    random = np.random.default_rng(seeds)
    limit = budget(40, 0.45)
    lower, upper = looked_at(draws(random, 40, (RATIOS, seeds)), limit, PROBES)
    none = np.zeros(seeds, dtype=bool)
    found = [median_of(one, other, none) for one, other in zip(lower[:150], upper[:150], strict=True)]
    censored = [median for median in found if median.censored]
    assert 0.2 < len(censored) / len(found) < 0.5
    assert all(median.exceeds > 40 for median in censored)
    assert np.mean([median.low <= 40 for median in found]) >= 0.93


@pytest.mark.parametrize("quantile", [0.25, 0.75])
def test_the_interval_of_a_quartile_covers_from_so_many_runs_on(quantile):
    random = np.random.default_rng(3)
    truth = 40 * math.exp(SPREAD * (0.674490 if quantile > 0.5 else -0.674490))
    for seeds in (12, 20):
        lower, upper = looked_at(draws(random, 40, (STUDIES, seeds)), 1e9, FINE)
        assert 0.92 <= holding(lower, upper, quantile, truth) <= 0.985
    few = holding(*looked_at(draws(random, 40, (STUDIES, 5)), 1e9, FINE), quantile, truth)
    assert few == pytest.approx(1 - 0.75**5 - 0.0156, abs=0.045)  # hence the warning


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.75])
def test_a_quantile_is_that_of_the_distribution_rounded_up_to_a_probe(quantile):
    random = np.random.default_rng(4)
    lower, upper = looked_at(draws(random, 40, (60, 41)), 1e9, FINE)
    none = np.zeros(41, dtype=bool)
    found = [quantile_of(one, other, none, quantile=quantile).value for one, other in zip(lower, upper, strict=True)]
    truth = {0.25: -0.674490, 0.5: 0.0, 0.75: 0.674490}[quantile]
    # The probes are 5 % apart, and a cost is seen at the later of two; standard error of the mean about .2 / √60.
    assert np.mean(np.log(found)) == pytest.approx(math.log(40) + SPREAD * truth + 0.025, abs=0.08)


def test_the_band_of_a_curve_covers():
    # Pointwise, at spends which 10, 50 and 90 % of the runs survive.
    random = np.random.default_rng(5)
    for seeds in (5, 10):
        held = np.zeros(3)
        places = [budget(40, share) for share in (0.1, 0.5, 0.9)]
        for costs in draws(random, 40, (40, seeds)):
            _, curve = cost_to_break(*looked_at(costs, 1e9, PROBES), np.zeros(seeds, dtype=bool))
            for number, (spend, truth) in enumerate(zip(places, (0.1, 0.5, 0.9), strict=True)):
                at = np.searchsorted(curve.spend, spend, side="right")
                low, high = curve.low[min(at, len(curve.low) - 1)], curve.high[at - 1]
                held[number] += low <= truth <= high
        assert (held / 40 >= 0.9).all()


@pytest.mark.parametrize("runs", [1, 5, 10, 20])
def test_the_interval_of_a_share_is_that_of_clopper_and_pearson(runs):
    low, high = share_interval(np.arange(runs + 1), runs)
    for count in range(runs + 1):
        assert low[count] == 0 if count == 0 else binom.sf(count - 1, runs, low[count]) == pytest.approx(0.025)
        assert high[count] == 1 if count == runs else binom.cdf(count, runs, high[count]) == pytest.approx(0.025)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("censored", CENSORED)
@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_a_ratio_covers(seeds, censored, paired):
    # The defence makes the attack four times as dear. Paired seeds share half of the variance.
    random = np.random.default_rng(seeds)
    common = random.normal(size=(RATIOS, seeds)) if paired else None
    defended, control = (draws(random, median, (RATIOS, seeds), shared=0.5, common=common) for median in (160, 40))
    limit = budget(160, censored)
    held = {}
    for name, probes in (("exact", FINE), ("probed", PROBES)):
        sides = [looked_at(costs, limit, probes) for costs in (defended, control)]
        studies = zip(*sides[0], *sides[1], strict=True)
        first = 0 if paired else seeds
        ends = [ratio_interval(of_seeds(*run[:2]), of_seeds(*run[2:], first=first)) for run in studies]
        held[name] = np.mean([low <= 4 <= high for low, high in ends])
    # Where the two medians' resamples are few and far between the percentile bootstrap is a little too wide, never too narrow.
    assert held["exact"] >= 0.92
    assert held["probed"] >= 0.95
    if censored < 0.5:
        assert held["exact"] <= (0.98 if seeds == 5 else 0.995) + NOISE / 3


def test_a_ratio_is_right_on_average():
    random = np.random.default_rng(6)
    values = []
    for defended, control in zip(*(draws(random, median, (60, 11)) for median in (160, 40)), strict=True):
        sides = (of_seeds(*looked_at(costs, 1e9, PROBES)) for costs in (defended, control))
        values.append(ratio_of_medians(*sides).value)
    # Standard error: √2 · 1.25 / √11 / √60.
    assert np.mean(np.log(values)) == pytest.approx(math.log(4), abs=0.21)
