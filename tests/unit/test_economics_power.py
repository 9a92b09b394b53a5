"""How many seeds a study needs: the formula against simulation, simulation against an exact binomial, and pilots with a known truth."""

import math

import numpy as np
import pytest

from tempering.economics import power
from tempering.economics.power import (
    Cost,
    InvalidPlan,
    Pilot,
    Prior,
    _on_ladder,
    _seen,
    _simulated,
    ceiling,
    from_pilot,
    from_pilots,
    least_seen,
    plan,
    seeds_by_formula,
    seen_in,
)
from tempering.economics.prices import load_price_book
from tempering.economics.ratios import Costs, ratio_of_medians

HARDWARE = load_price_book().accelerator("H100-SXM")
SURE = Prior(control=0.0, defended=0.0, spacing=1.0)


def costs(values, budget=math.inf):
    values = np.array(values, dtype=float)
    held = values > budget
    return Costs(np.arange(len(values)), np.where(held, budget, values), np.where(held, np.inf, values), np.zeros(len(values), dtype=bool))


def test_the_formula_by_hand():
    # π/2 · (.25 + .25) · (1.95996 + .84162)² / (ln 2)² = 12.83
    assert seeds_by_formula(Prior(0.5, 0.5, spacing=1)) == 13
    # Pairs that go together altogether leave no noise at all.
    assert seeds_by_formula(Prior(0.5, 0.5, 1.0, spacing=1)) == 2
    # ln 4 − 1.5 ln √2 = .8664: 12.83 · (.6931 / .8664)² = 8.2
    assert seeds_by_formula(Prior(0.5, 0.5), multiplier=4) == 9


def test_a_study_of_the_size_of_the_formula_has_the_power():
    prior = Prior(0.4, 0.4, spacing=1)
    needed = seeds_by_formula(prior)
    assert 0.7 <= seen_in(prior, 2.0, needed, studies=60) / 60 <= 0.95
    assert seen_in(prior, 2.0, 3 * needed, studies=15) >= 14


def test_what_does_not_vary_is_always_seen_and_what_is_not_there_never():
    assert seen_in(SURE, 2.0, 3, studies=10) == 10
    assert seen_in(SURE, 1.0, 3, studies=10) == 0


def test_probes_further_apart_than_the_multiplier_see_nothing():
    coarse = Prior(0.0, 0.0, spacing=2.5)
    assert ceiling(coarse, 2.0) == 0
    assert seen_in(coarse, 2.0, 5, studies=40) == 0
    assert seeds_by_formula(coarse) is None
    # Two rungs or more apart in one study of two, however many seeds.
    middling = Prior(0.0, 0.0, spacing=2 ** (2 / 3))
    assert ceiling(middling, 2.0) == pytest.approx(0.5)
    assert 25 <= seen_in(middling, 2.0, 5, studies=80) <= 55
    assert ceiling(Prior(), 2.0) == pytest.approx(1)


def test_beyond_the_budget_a_bound_is_seen():
    # The control breaks at 1, the defended model never within 8: at least 8 times dearer.
    assert seen_in(Prior(0.1, 0.1, spacing=1, budget=8), 1000.0, 3, studies=10) == 10
    # A budget that the control itself does not fit in shows nothing.
    assert seen_in(Prior(0.1, 0.1, spacing=1, budget=0.2), 1000.0, 3, studies=10) == 0


def test_searching_takes_the_noise_of_trials_out():
    noisy = Prior(0.1, 0.1, control_trials=1.0, defended_trials=1.0, spacing=1)
    # The least of 20 draws varies half as much as one draw does.
    assert seen_in(noisy, 2.0, 7, trials=20, studies=40) > seen_in(noisy, 2.0, 7, studies=40) + 8


def test_a_search_keeps_the_cheapest_and_a_budget_hides_what_is_dearer():
    source = np.random.default_rng(0)
    control, defended = _simulated(Prior(0, 0, control_trials=1.0, defended_trials=2.0), 3.0, 2000, 10, source)
    # The least of ten standard normal numbers has mean −1.5388 (Harter 1961).
    assert np.log(control).mean() == pytest.approx(-1.5388, abs=0.05)
    assert np.log(defended).mean() == pytest.approx(math.log(3) - 2 * 1.5388, abs=0.1)
    seen = _on_ladder(np.array([1.5, 5.0, 9.0]), Prior(spacing=2, budget=9), 0.0)
    assert (seen.lower.tolist(), seen.upper.tolist()) == (pytest.approx([1, 4, 8]), pytest.approx([2, 8, math.inf]))
    exact = _on_ladder(np.array([1.5, 12.0]), Prior(spacing=1, budget=9), 0.3)
    assert (exact.lower.tolist(), exact.upper.tolist()) == ([1.5, 9], [1.5, math.inf])


def test_the_plan_tells_power_alarms_and_cost():
    cost = Cost(run=1e15, trial=2e14, hardening=5e15, attacks=3)
    table = plan(Prior(0.15, 0.15, spacing=1), cost=cost, accelerator=HARDWARE, seeds=(3, 5, 40), trials=(1, 10), studies=20)
    # Everything is seen with three seeds and the interval of 20 of 20 lies above 80 %: larger studies are not tried.
    assert table[["trials", "seeds"]].to_numpy().tolist() == [[1, 3], [10, 3]]
    assert table["enough"].all()
    assert ((table["power_low"] <= table["power"]) & (table["power"] <= table["power_high"])).all()
    assert (table["false_alarms"] <= 0.3).all()
    # Three seeds × (2 sides × 3 attacks × run + hardening), and ten trials for each of those runs.
    assert table["flops"].tolist() == pytest.approx([3 * (6e15 + 5e15), 3 * (6 * (1e15 + 2e15) + 5e15)])
    rate = HARDWARE.usd_per_hour.value / (HARDWARE.peak_flops.value * HARDWARE.utilisation.value * 3600)
    assert table["usd"].to_numpy() == pytest.approx(table["flops"].to_numpy() * rate)


def test_where_no_size_is_enough_the_plan_says_so():
    table = plan(Prior(1.5, 1.5), cost=Cost(1e15), accelerator=HARDWARE, seeds=(3, 4), studies=10)
    assert table["seeds"].tolist() == [3, 4]
    assert not table["enough"].any()


def test_a_size_that_reaches_the_power_by_luck_is_not_enough(monkeypatch):
    shares = {3: 9, 5: 6, 7: 9}
    monkeypatch.setattr(power, "seen_in", lambda prior, multiplier, seeds, **options: shares[seeds] if multiplier > 1 else 0)
    table = plan(Prior(), cost=Cost(1e15), accelerator=HARDWARE, seeds=(3, 5, 7), studies=10)
    assert table["enough"].tolist() == [False, False, True]
    assert table["power"].tolist() == [0.9, 0.6, 0.9]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_pilot_finds_the_spread_under_censoring(share):
    source, truth = np.random.default_rng(1), 0.7
    found, cautious = [], []
    budget = math.exp(truth * 1.2816) if share == 0.1 else 1.0
    for _ in range(300):
        pilot = costs(np.exp(truth * source.standard_normal(8)), budget)
        if pilot.reached < 2:
            continue
        found.append(from_pilot(pilot, pilot, cautious=False).control)
        cautious.append(from_pilot(pilot, pilot).control)
    assert len(found) > 280
    assert np.median(found) == pytest.approx(truth, abs=0.1)
    # Asked to be no less than the truth four times out of five.
    assert 0.74 <= np.mean(np.array(cautious) >= truth) <= 0.97


def test_nine_tenths_censored_is_no_pilot():
    source, refused = np.random.default_rng(2), 0
    for _ in range(50):
        pilot = costs(np.exp(0.7 * source.standard_normal(5)), math.exp(-0.7 * 1.2816))
        try:
            assert from_pilot(pilot, pilot).control > 0
        except InvalidPlan:
            refused += 1
    assert refused > 40


def test_pairing_is_found_and_only_its_harm_is_kept_when_cautious():
    source = np.random.default_rng(0)
    shared, own = source.standard_normal((2, 200))
    control, defended = costs(np.exp(0.5 * shared)), costs(3 * np.exp(0.5 * (0.8 * shared + 0.6 * own)))
    assert from_pilot(defended, control, cautious=False).correlation == pytest.approx(0.8, abs=0.06)
    assert from_pilot(defended, control).correlation == 0
    apart = costs(1 / np.asarray(defended.upper))
    assert from_pilot(apart, control).correlation == pytest.approx(-0.8, abs=0.06)
    # With 200 seeds caution costs little.
    assert from_pilot(defended, control).control == pytest.approx(0.5, abs=0.07)


def test_a_side_that_held_borrows_the_spread_of_the_other():
    control, held = costs([1.0, 2.0, 4.0]), costs([50.0, 60.0, 70.0], budget=8)
    found = from_pilot(held, control)
    assert found.defended == found.control
    with pytest.raises(InvalidPlan, match="fewer than two"):
        from_pilot(held, held)
    with pytest.raises(InvalidPlan, match="fewer than two"):
        from_pilot(costs([1.0]), costs([2.0]))
    free = costs([0.0, 0.0, 0.0])
    with pytest.raises(InvalidPlan, match="fewer than two"):
        from_pilot(free, free)


@pytest.mark.parametrize(
    "wrong", [{"control": -1.0}, {"defended": math.nan}, {"correlation": 1.5}, {"spacing": 0.5}, {"budget": 0.0}, {"spacing": math.inf}]
)
def test_priors_that_are_none(wrong):
    with pytest.raises(InvalidPlan):
        Prior(**wrong)


def test_plans_of_nothing():
    with pytest.raises(InvalidPlan, match="above 1"):
        plan(Prior(), cost=Cost(1e15), accelerator=HARDWARE, multiplier=1.0)
    with pytest.raises(InvalidPlan, match="without seeds"):
        seen_in(Prior(), 2.0, 0)


@pytest.mark.parametrize("prior", [Prior(), Prior(0.3, 0.3, spacing=1), Prior(0.4, 0.6, 0.5, spacing=1.19, budget=3)])
@pytest.mark.parametrize("seeds", [1, 2, 5, 8])
def test_what_is_seen_is_what_the_interval_of_a_report_says(prior, seeds):
    source = np.random.default_rng(seeds)
    found = []
    for multiplier in (1.0, 2.0, 3.0, 8.0):
        for _ in range(6):
            control, defended = _simulated(prior, multiplier, seeds, 1, source)
            foot = source.random()
            sides = _on_ladder(defended, prior, foot), _on_ladder(control, prior, foot)
            found.append(_seen(*sides))
            assert found[-1] == (ratio_of_medians(*sides).low > 1)
    assert 0 < sum(found) < len(found)


def test_the_least_multiplier_that_is_seen():
    assert least_seen(SURE, 3, studies=10) == power.MULTIPLIERS[0]
    assert least_seen(Prior(0.1, 0.1, spacing=1, budget=0.2), 3, studies=10) is None
    coarse = least_seen(Prior(0.0, 0.0, spacing=2.0), 3, studies=40)
    # Two rungs apart in four studies of five, or more: 2^1.8 = 3.5.
    assert coarse == 4.0
    fewer, more = (least_seen(Prior(0.4, 0.4, spacing=1), seeds, studies=60) for seeds in (5, 30))
    assert fewer > more


def test_pilots_of_several_defences_have_levels_of_their_own_and_one_spread():
    source = np.random.default_rng(3)
    found = []
    for _ in range(100):
        sides = [costs(level * np.exp(0.4 * source.standard_normal(3))) for level in (1.0, 5.0, 40.0, 300.0)]
        found.append(from_pilots([Pilot(sides[0], tuple(sides[1:]))], cautious=False))
    # Three defences of three seeds are six degrees of freedom; pooled about one level the spread would be two.
    assert np.sqrt(np.mean([prior.defended**2 for prior in found])) == pytest.approx(0.4, abs=0.06)
    assert np.std([prior.defended for prior in found]) < np.std([prior.control for prior in found])


def test_pilots_of_several_models_are_paired_within_each():
    source = np.random.default_rng(4)
    pilots = []
    for level in (1.0, 100.0):
        shared, own = source.standard_normal((2, 100))
        pilots.append(Pilot(costs(level * np.exp(0.5 * shared)), (costs(level * np.exp(0.5 * (0.8 * shared + 0.6 * own))),)))
    found = from_pilots(pilots, cautious=False)
    assert (found.control, found.correlation) == (pytest.approx(0.5, abs=0.06), pytest.approx(0.8, abs=0.06))


def test_a_pilot_that_always_broke_in_one_gap_promises_no_certainty():
    same = Costs(np.arange(5), np.full(5, 4.0), np.full(5, 8.0), np.zeros(5, dtype=bool))
    assert from_pilot(same, same, cautious=False).control < 0.1
    # A spread of .318 puts five breaks into the middle of a gap of ln 2 one time in five: (2 Φ(.3466 / .318) − 1)^5 = .2.
    assert from_pilot(same, same).control == pytest.approx(0.318, abs=0.001)
    known = costs([4.0] * 5)
    assert from_pilot(known, known).control < 0.01
