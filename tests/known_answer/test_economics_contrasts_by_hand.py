"""Tests, hazard ratios, restricted means and competing outcomes worked out on paper, or by lifelines and scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from lifelines import AalenJohansenFitter, CoxPHFitter
from lifelines.statistics import logrank_test
from scipy.stats import ttest_rel

from tempering.economics.hazards import hazard_ratio
from tempering.economics.incidence import ENDS, aalen_johansen, cumulative_incidence
from tempering.economics.ranks import PERMUTED, SWAPPED, holm, log_rank, scores
from tempering.economics.ratios import Costs
from tempering.economics.restricted import Axis, common_axis, restricted_difference, restricted_mean

INF = math.inf


def costs(*runs, ended=(), first=0):
    lower, upper = (np.array(ends, dtype=float) for ends in zip(*runs, strict=True))
    return Costs(np.arange(first, first + len(runs)), lower, upper, np.isin(np.arange(len(runs)), ended))


def exactly(*spends, first=0):
    return costs(*((abs(spend), INF if spend < 0 else spend) for spend in spends), first=first)


def drawn(seed, runs=10):
    """Costs seen exactly, the last fifth or so censored; as ours and as durations with what was observed."""
    random = np.random.default_rng(seed)
    at = random.exponential([20.0, 10.0], size=(runs, 2))
    observed, at = at < 30, np.minimum(at, 30)
    sides = [costs(*zip(at[:, side], np.where(observed[:, side], at[:, side], INF), strict=True)) for side in (0, 1)]
    return sides, at, observed


# The log-rank test


def test_scores_on_paper():
    # Four runs, breaks in (0, 1], (0, 1], (1, 2], one holds: S = 1/2 after 1, 1/4 after 2.
    found = scores(np.array([0.0, 0, 1, 2]), np.array([1.0, 1, 2, INF]))
    half, quarter = 0.5 * math.log(0.5), 0.25 * math.log(0.25)
    assert found == pytest.approx([-half / 0.5, -half / 0.5, (half - quarter) / 0.25, math.log(0.25)], abs=1e-3)
    assert found.sum() == pytest.approx(0, abs=2e-3)


def test_complete_separation_of_five_and_five():
    early, late = exactly(1, 2, 3, 4, 5), exactly(6, 7, 8, 9, 10)
    test = log_rank(late, early)
    # Five pairs cannot reach .05 by swapping: 2 / 32. Of the 252 ways to put five labels two are as extreme.
    assert (test.kind, test.p_value, test.least) == (PERMUTED, pytest.approx(2 / 252), pytest.approx(2 / 252))
    assert test.statistic < 0
    swapped = log_rank(late, early, pairing=True)
    assert (swapped.kind, swapped.p_value) == (SWAPPED, pytest.approx(2 / 32))
    assert log_rank(early, late).p_value == test.p_value


def test_six_pairs_are_swapped():
    test = log_rank(exactly(7, 8, 9, 10, 11, 12), exactly(1, 2, 3, 4, 5, 6))
    assert (test.kind, test.p_value) == (SWAPPED, pytest.approx(2 / 64))


def test_seeds_of_one_side_only_are_permuted():
    test = log_rank(exactly(6, 7, 8, 9, 10), exactly(1, 2, 3, 4, 5, first=10))
    assert (test.kind, test.p_value) == (PERMUTED, pytest.approx(2 / 252))
    # Four pairs and two more on one side: 2^4 · 1 ways, too few.
    assert log_rank(exactly(5, 6, 7, 8, 9, 10), exactly(1, 2, 3, 4)).kind == PERMUTED


def test_sides_that_are_the_same_do_not_differ():
    side = costs((1, 2), (2, 4), (2, 4), (8, INF))
    assert log_rank(side, side).p_value == 1
    assert log_rank(side, side).statistic == pytest.approx(0)


def test_one_seed_can_show_nothing():
    test = log_rank(exactly(8), exactly(1))
    assert (test.p_value, test.least) == (1, 1)


@pytest.mark.parametrize("seed", range(4))
def test_log_rank_is_near_that_of_lifelines(seed):
    (one, other), at, observed = drawn(seed)
    theirs = logrank_test(at[:, 0], at[:, 1], observed[:, 0], observed[:, 1]).p_value
    assert log_rank(one, other, pairing=False).p_value == pytest.approx(theirs, abs=0.06)


def test_holm_on_paper():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.5, 0.6]) == [1, 1]


# Hazard ratios


@pytest.mark.parametrize("seed", range(4))
def test_hazard_ratio_is_that_of_lifelines(seed):
    _, at, observed = drawn(seed)
    at = np.ceil(at)  # so that some are tied
    sides = [costs(*zip(at[:, side], np.where(observed[:, side], at[:, side], INF), strict=True)) for side in (0, 1)]
    table = pd.DataFrame({"at": at.T.ravel(), "broken": observed.T.ravel(), "defended": np.repeat([1, 0], len(at))})
    fit = CoxPHFitter().fit(table, "at", "broken")
    found = hazard_ratio(*sides)
    assert math.log(found.value) == pytest.approx(fit.params_["defended"], abs=1e-4)
    assert np.log([found.low, found.high]) == pytest.approx(fit.confidence_intervals_.to_numpy()[0], abs=0.15)
    assert fit.log_likelihood_ratio_test().p_value < 0.05 or found.low < 1 < found.high


def test_a_side_that_never_breaks_has_a_bound():
    # Control breaks at 1, 2, 3 with 3 held: the likelihood is 3! / ((3 + 3θ)(2 + 3θ)(1 + 3θ)), at most 1 where θ = 0.
    found = hazard_ratio(exactly(-5, -5, -5), exactly(1, 2, 3))
    assert (found.status, found.value, found.low) == ("at_most", 0, 0)
    product = np.prod([k / (k + 3 * found.high) for k in (1, 2, 3)])
    assert 2 * math.log(product) == pytest.approx(-3.841459, abs=1e-4)
    other = hazard_ratio(exactly(1, 2, 3), exactly(-5, -5, -5))
    assert (other.status, other.value, other.high) == ("at_least", INF, INF)
    assert other.low == pytest.approx(1 / found.high, rel=1e-6)


def test_where_nothing_broke_there_is_no_hazard_ratio():
    found = hazard_ratio(exactly(-5, -5), exactly(-5, -5))
    assert (found.status, found.low, found.high) == ("unknown", 0, INF)
    assert math.isnan(found.value)


def test_a_crash_at_once_counts_as_never_broken():
    crashed = costs((0, INF), (0, INF), (0, INF), ended=(0, 1, 2))
    assert hazard_ratio(crashed, exactly(1, 2, 3)) == hazard_ratio(exactly(-3, -3, -3), exactly(1, 2, 3))
    assert log_rank(crashed, exactly(1, 2, 3)).statistic < 0


# Restricted means


def test_a_restricted_mean_on_paper():
    # 10, 100 and beyond 1000: logs 1, 2, 3.
    mean = restricted_mean(exactly(10, 100, -1000), Axis(1, 1000))
    assert mean.value == pytest.approx(2)
    # Student's: 2 ± 4.3027 · 1 / √3, within the axis.
    assert (mean.low, mean.high) == (0, 3)
    assert restricted_mean(exactly(10, 10, 10), Axis(1, 100)).high == pytest.approx(1)


def test_the_gap_between_probes_is_part_of_the_interval():
    mean = restricted_mean(costs(*[(10, 100)] * 5), Axis(1, 1000))
    assert (mean.value, mean.low, mean.high) == (pytest.approx(2), pytest.approx(1), pytest.approx(2))


def test_five_of_five_at_the_horizon_are_no_certainty():
    # Nobody fell short; with Clopper and Pearson up to 1 − .025^(1/5) of other seeds may, by the whole axis.
    mean = restricted_mean(exactly(*[-1000] * 5), Axis(1, 1000))
    assert (mean.value, mean.high) == (3, 3)
    assert mean.low == pytest.approx(3 - (1 - 0.025**0.2) * 3)


def test_one_seed_has_the_whole_axis():
    mean = restricted_mean(exactly(10), Axis(1, 1000))
    assert (mean.value, mean.low, mean.high) == (pytest.approx(1), 0, 3)
    difference = restricted_difference(exactly(100), exactly(10), Axis(1, 1000))
    assert (difference.value, difference.low, difference.high) == (pytest.approx(1), -3, 3)


def test_a_paired_difference_is_that_of_student():
    defended, control = np.array([40.0, 90, 150, 220, 700]), np.array([11.0, 20, 45, 50, 190])
    axis = Axis(1, 1e4)
    found = restricted_difference(exactly(*defended), exactly(*control), axis)
    theirs = ttest_rel(np.log10(defended), np.log10(control)).confidence_interval()
    assert found.value == pytest.approx(np.log10(defended / control).mean())
    assert found.low <= theirs.low
    assert found.high >= theirs.high
    assert found.high - found.low < 1.1 * (theirs.high - theirs.low)
    unpaired = restricted_difference(exactly(*defended), exactly(*control, first=10), axis)
    assert unpaired.value == found.value
    assert unpaired.high - unpaired.low > 2 * (found.high - found.low)
    shuffled = Costs(np.arange(5)[::-1], *(defended[::-1] for _ in range(2)), np.zeros(5, dtype=bool))
    assert restricted_difference(shuffled, exactly(*control), axis) == found


def test_a_common_axis_is_watched_by_everybody():
    sides = [costs((1, 2), (200, INF)), costs((4, 8), (150, INF)), costs((0, INF), (64, 90), ended=(0,))]
    assert common_axis(sides) == Axis(2, 150)
    assert common_axis([exactly(5, 40), exactly(100)]) == Axis(5, 100)
    assert common_axis([exactly(0, 0)]) is None
    assert common_axis([exactly(-1), exactly(1)]) is None


# Competing outcomes


def test_incidence_on_paper():
    # Ends at 1 (broken), 2 (failed), 3 (stopped), 4 (destroyed): of 4, 3, 2, 1 runs still going.
    at, kinds = np.array([1.0, 2, 3, 4]), np.array(["broken", "failed", "held", "destroyed"])
    found = aalen_johansen(at, kinds, np.array([0.0, 1, 2, 3, 4]))
    assert found["broken"] == pytest.approx([0, 1 / 4, 1 / 4, 1 / 4, 1 / 4])
    assert found["failed"] == pytest.approx([0, 0, 1 / 4, 1 / 4, 1 / 4])
    assert found["destroyed"] == pytest.approx([0, 0, 0, 0, 1 / 2])  # the stopped run's share goes to whoever went on
    assert found["no_direction"] == pytest.approx([0] * 5)


def test_incidence_is_that_of_lifelines_where_nothing_is_tied():
    random = np.random.default_rng(1)
    at = np.sort(random.uniform(1, 50, size=30))
    kinds = random.choice([*ENDS, "held"], size=30)
    ours = aalen_johansen(at, kinds, at)
    codes = np.array([ENDS.index(kind) + 1 if kind in ENDS else 0 for kind in kinds])
    for number, name in enumerate(ENDS):
        fit = AalenJohansenFitter(calculate_variance=False).fit(at, codes, event_of_interest=number + 1)
        assert ours[name] == pytest.approx(fit.cumulative_density_.iloc[:, 0].loc[at].to_numpy())


def test_an_incidence_interval_holds_what_may_have_happened():
    # One break in (2, 8], one run stopped at 4, one destroyed at 6.
    curve = cumulative_incidence(np.array([2.0, 4, 6]), np.array([8.0, INF, INF]), np.array(["broken", "held", "destroyed"]))
    broken = curve[curve["outcome"] == "broken"].set_index("spend")
    cubes = 0.025 ** (1 / 3)
    assert broken.loc[2, ["low", "high"]].tolist() == pytest.approx([0, 1 - cubes])  # nothing can have broken
    assert broken.loc[4, "high"] ** 1 == pytest.approx(0.9057, abs=1e-4)  # one may have: 1 of 3
    assert broken.loc[6, "high"] == pytest.approx(0.9916, abs=1e-4)  # that one, and the one nobody watched
    assert broken.loc[8, "low"] == pytest.approx(0.0084, abs=1e-4)
    destroyed = curve[curve["outcome"] == "destroyed"].set_index("spend")
    assert destroyed.loc[4, "low"] == 0
    assert destroyed.loc[6, "low"] == pytest.approx(0.0084, abs=1e-4)
