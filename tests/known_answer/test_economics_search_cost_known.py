"""The expected cost of a search with restarts, where the answer is known: on paper, and by simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.economics.prices import load_price_book
from tempering.economics.search_cost import Trials, random_trials, restarts, search_cost, search_costs

SEEDS, EACH = 5, 20


def trials(costs, budget=math.inf, *, lower=None, ended=None, seeds=1, first=0.0):
    """Trials with these costs, as many in every seed, cut off at a budget."""
    costs = np.asarray(costs, dtype=float)
    reached = costs <= budget
    ended = np.zeros(len(costs), dtype=bool) if ended is None else np.asarray(ended)
    below = costs if lower is None else np.asarray(lower, dtype=float)
    seed = np.repeat(np.arange(seeds), len(costs) // seeds)
    return Trials(seed, np.where(reached, below, budget), np.where(reached & ~ended, costs, np.inf), ended & reached, first)


def at(found, cutoff):
    return found.expected[0, found.cutoff.tolist().index(cutoff)]


def every_cutoff(costs, broken=None, ended=None):
    costs = np.asarray(costs, dtype=float)
    broken = np.ones(len(costs), dtype=bool) if broken is None else np.asarray(broken)
    return restarts(costs, broken, np.zeros(len(costs), dtype=bool) if ended is None else np.asarray(ended))


# On paper


def test_a_certain_cost_is_what_it_costs():
    found = search_cost(trials(np.full(20, 7.0), seeds=5))
    assert (found.status, found.expected, found.low, found.high) == ("known", 7, 7, 7)
    assert (found.cutoff, found.success, found.restarts, found.naive) == (7, 1, 0, 7)


def test_four_trials_by_hand():
    found = every_cutoff([1, 2, 4, 9])
    # Stopped at 1: four times 1 for one break. At 2: 1 + 2 + 2 + 2 for two. At 4: 1 + 2 + 4 + 4 for three. At 9: 16 for four.
    assert found.expected[0].tolist() == [4, 7 / 2, 11 / 3, 16 / 4]
    assert found.naive[0] == 4
    assert found.success[0].tolist() == [0.25, 0.5, 0.75, 1]


def test_of_two_points_the_early_one_is_best_where_it_is_cheap_enough():
    # A share p costs a, the others b: E(a) = a / p, E(b) = p a + (1 − p) b. With p = .2, a = 1: 5 against .2 + .8 b.
    lucky = search_cost(trials([1.0] * 20 + [50.0] * 80, seeds=1))
    assert (lucky.plug_in, lucky.cutoff, lucky.restarts) == (pytest.approx(5), 1, pytest.approx(4))
    assert lucky.naive == pytest.approx(0.2 + 0.8 * 50)
    plain = search_cost(trials([1.0] * 20 + [5.0] * 80, seeds=1))
    assert (plain.plug_in, plain.cutoff, plain.restarts) == (pytest.approx(0.2 + 0.8 * 5), 5, 0)


def test_with_an_exponential_cost_every_cutoff_is_as_good():
    quantiles = -np.log(1 - (np.arange(100_000) + 0.5) / 100_000) * 3
    found = every_cutoff(quantiles)
    assert found.expected[0, 1000:] == pytest.approx(3, rel=0.01)


def test_with_a_heavy_tail_restarts_pay_and_running_on_does_not():
    # Pareto with F(c) = 1 − 1 / c from 1 on: ∫₀ᶜ S = 1 + log c, so E(c) = (1 + log c) c / (c − 1), least where c − 1 = 1 + log c.
    quantiles = 1 / (1 - (np.arange(100_000) + 0.5) / 100_000)
    found = every_cutoff(quantiles)
    best, place = found.best()
    assert found.cutoff[place[0]] == pytest.approx(3.1462, rel=0.02)
    assert best[0] == pytest.approx(3.1462, rel=0.001)
    assert found.naive[0] > 3 * best[0]  # the mean of this distribution is infinite


def test_censored_trials_count_as_kaplan_and_meier_have_it():
    # 1 broke, 2 was cut off, 4 broke: S falls to 2/3 at 1 and to 1/3 · 0 at 4. E(4) = (1 + 2/3 · 3) / 1.
    found = every_cutoff([1, 2, 4], broken=[True, False, True])
    assert (at(found, 1), at(found, 4)) == (pytest.approx(3), pytest.approx(3))
    from lifelines import KaplanMeierFitter

    generator = np.random.default_rng(3)
    costs, limits = generator.exponential(size=40), generator.exponential(2, size=40)
    broken = costs <= limits
    seen = np.minimum(costs, limits)
    fit = KaplanMeierFitter().fit(seen, broken)
    found = every_cutoff(seen, broken)
    assert 1 - found.success[0] == pytest.approx(fit.survival_function_at_times(found.cutoff).to_numpy())


def test_trials_that_ended_cost_what_they_spent_and_never_break():
    # Two crash at 1, two break at 4: to 4 the four cost 1 + 1 + 4 + 4, for two breaks. Dropped, they would make it 4.
    found = every_cutoff([1, 1, 4, 4], broken=[False, False, True, True], ended=[True, True, False, False])
    assert at(found, 4) == 5
    cut_off = every_cutoff([1, 1, 4, 4], broken=[False, False, True, True])
    assert at(cut_off, 4) == 4


def test_a_target_broken_before_the_attack_costs_nothing():
    found = search_cost(trials(np.zeros(20), seeds=5))
    assert (found.expected, found.low, found.high, found.naive) == (0, 0, 0, 0)


def test_intervals_bound_the_cost_from_both_sides():
    costs = np.array([3.0, 5, 6, 9] * 5)
    exact = search_cost(trials(costs, seeds=5))
    between = search_cost(trials(costs + 1, lower=costs - 1, seeds=5))
    assert between.plug_in_early < exact.plug_in < between.plug_in
    assert between.low < exact.low
    first = search_cost(trials(costs, lower=np.zeros(20), seeds=5))
    assert first.plug_in_early == first.plug_in  # nothing cheaper than the first checkpoint was on offer


def test_beyond_the_budget_a_cutoff_costs_at_least_the_trial_so_far():
    # One in ten breaks at 10, the budget: E = 100, but a run to 11 might break always and cost 11. The least it can cost is 10.
    found = search_cost(trials([10.0] * 10 + [99.0] * 90, budget=10, seeds=5))
    assert (found.plug_in, found.beyond_at_least, found.status) == (pytest.approx(100), 10, "at_most")
    sure = search_cost(trials([1.0] * 90 + [99.0] * 10, budget=10, seeds=5))
    assert sure.status == "known"
    assert sure.beyond_at_least == pytest.approx(0.9 + 0.1 * 10)


def test_where_nothing_broke_there_is_a_bound_and_no_number():
    found = search_cost(trials(np.full(100, 99.0), budget=10, seeds=5, first=2.0))
    chance = 1 - 0.05 ** (1 / 5)
    assert (found.status, found.high, found.beyond_at_least) == ("beyond", math.inf, 10)
    assert math.isnan(found.expected)
    assert found.low == pytest.approx(min(2 / chance, (1 - chance) * 10 + chance * 2))
    chance = 1 - 0.05 ** (1 / 100)
    by_trials = search_cost(trials(np.full(100, 99.0), budget=10, seeds=5, first=0.1), independent="trials")
    assert by_trials.low == pytest.approx(0.1 / chance)
    assert search_cost(trials(np.full(3, 99.0), budget=0)).status == "unknown"


def test_one_trial_says_that_it_is_one():
    found = search_cost(trials([4.0], lower=[2.0]))
    assert (found.plug_in, found.plug_in_early, found.low, found.high) == (4, 2, 2, 4)
    assert found.few_breaks
    assert found.few_seeds


costs = st.lists(st.floats(0.1, 100), min_size=5, max_size=40)


@settings(max_examples=40, deadline=None)
@given(costs, st.floats(1.0, 10))
def test_dearer_trials_never_make_a_cheaper_search(values, factor):
    # The reason why costs at both ends of the intervals bound it from both sides.
    values = np.array(values)
    some = np.arange(len(values)) % 2 == 0
    dearer = np.where(some, values * factor, values)
    assert every_cutoff(dearer).best()[0][0] >= every_cutoff(values).best()[0][0] * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(costs, st.floats(1e-6, 1e6), st.floats(1, 90))
def test_the_cost_follows_the_unit_of_spend_and_never_exceeds_the_naive_one(values, factor, budget):
    one, other = (search_cost(trials(np.array(values) * unit, budget * unit), draws=40) for unit in (1.0, factor))
    assert one.status == other.status
    for name in ("expected", "low", "high", "plug_in", "cutoff", "naive", "beyond_at_least"):
        assert getattr(other, name) == pytest.approx(getattr(one, name) * factor, rel=1e-6, nan_ok=True)
    if one.status in ("known", "at_most"):
        assert one.plug_in <= one.naive * (1 + 1e-9)
        assert one.low <= one.expected <= one.high


# By simulation


def exponential(generator, size):
    return generator.exponential(size=size)


def log_normal(generator, size):
    return np.exp(generator.normal(size=size))


def lucky_or_slow(generator, size):
    return np.where(generator.random(size) < 0.15, 1 + 0.1 * generator.random(size), 100 + generator.random(size))


def heavy_tail(generator, size):
    return 1 / generator.random(size)


def truth(draw, quantile):
    """The budget below which that share of trials breaks, and the least E(c) up to it, from very many trials."""
    costs = np.sort(draw(np.random.default_rng(11), 400_000))
    found = every_cutoff(costs)
    within = slice(len(costs) // 100, int(quantile * len(costs)))
    return costs[within.stop - 1], found.expected[0, within].min()


def studies(draw, quantile, number, **options):
    budget, least = truth(draw, quantile)
    generator = np.random.default_rng(5)
    found = [search_cost(trials(draw(generator, SEEDS * EACH), budget, seeds=SEEDS), **options) for _ in range(number)]
    covered = np.mean([result.low <= least <= result.high for result in found])
    middle = np.median([result.expected for result in found if math.isfinite(result.expected)]) / least
    naive_bias = np.median([result.plug_in for result in found if math.isfinite(result.plug_in)]) / least
    return covered, middle, naive_bias


@pytest.mark.parametrize("broken", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("draw", [log_normal, exponential])
def test_the_interval_covers_the_truth_under_censoring(draw, broken):
    covered, middle, raw = studies(draw, broken, 500, draws=160)
    assert 0.92 <= covered <= 0.995
    flat = draw is exponential
    assert abs(middle - 1) < (0.2 if flat else 0.06)
    assert abs(math.log(middle)) <= abs(math.log(raw)) + 0.01  # what selection takes off is put back, in part where all cutoffs are equal


@pytest.mark.slow
@pytest.mark.parametrize("broken", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("draw", [lucky_or_slow, heavy_tail])
def test_the_interval_covers_the_truth_of_other_shapes(draw, broken):
    covered, middle, _ = studies(draw, broken, 500)
    assert 0.92 <= covered <= 0.995
    assert abs(middle - 1) < 0.06


def test_the_bound_where_nothing_broke_is_right():
    # One trial in ten breaks at its first checkpoint, 1, within a budget of 50: the best attacker pays 10. Of five seeds of four trials,
    # one study in eight sees no break, and its bound must lie below 10. Independent trials of sure failure cost more than any budget.
    generator = np.random.default_rng(2)
    wrong = held = 0
    for _ in range(600):
        found = search_cost(trials(np.where(generator.random(20) < 0.1, 1.0, 99.0), 50, seeds=5, first=1.0), independent="trials", draws=20)
        if found.status == "beyond":
            held += 1
            wrong += found.low > 10
    assert held > 30
    assert wrong / 600 <= 0.05


# Tables


def table(costs, seeds=5, attack="a"):
    costs = np.asarray(costs, dtype=float)
    frame = pd.DataFrame({"model": "m", "defense": "none", "attack": attack, "seed": np.arange(len(costs)) % seeds})
    frame["outcome"] = np.where(np.isfinite(costs), "broken", "held")
    for name, unit in (("flops", 1e12), ("usd", 0.1), ("steps", 1.0), ("examples", 4.0)):
        frame[f"{name}_lower"], frame[f"{name}_upper"] = np.where(np.isfinite(costs), costs, 50) * unit, costs * unit
    return frame


def test_one_row_an_attack_and_currency_beside_the_measured_search():
    runs = table([8.0, 9, 10, 11, 12]).assign(search_trials=3.0, flops_search=5e12, usd_search=0.5, steps_search=5.0, examples_search=0.0)
    found = search_costs(pd.concat([table([1, 2, 4, 9] * 5), table([math.inf] * 5, attack="b")]), runs, first={"steps": 3}).set_index(
        ["attack", "currency"]
    )
    assert found.index.tolist() == [(attack, currency) for attack in "ab" for currency in ("flops", "usd", "steps", "examples")]
    row = found.loc[("a", "flops")]
    assert (row["plug_in"], row["naive"], row["trials"], row["broken"], row["seeds"]) == (pytest.approx(3.5e12), 4e12, 20, 20, 5)
    assert (row["adaptive_median"], bool(row["adaptive_censored"])) == (15e12, False)
    assert math.isnan(found.loc[("a", "examples"), "adaptive_median"])  # distinct examples do not add up
    assert math.isnan(found.loc[("b", "steps"), "adaptive_median"])  # no search was measured
    held = found.loc[("b", "steps")]
    assert (held["status"], held["beyond_at_least"], held["low"]) == ("beyond", 50, pytest.approx(3 / (1 - 0.05**0.2)))
    assert (found["high"] >= found["low"]).all()


def test_no_trials_no_rows():
    found = search_costs(table([]))
    assert found.empty
    assert "restarts" in found


def test_the_random_trials_of_a_search_are_priced_with_the_asking():
    spends = ("examples", "tokens", "steps", "flops", "queries")
    rows = [
        {"number": 0, "outcome": "broken", "stopped": "broke", "spent": 4.0, "broke": 4.0},
        {"number": 1, "outcome": "broken", "stopped": "broke", "spent": 6.0, "broke": 5.0},
        {"number": 2, "outcome": "held", "stopped": "halved", "spent": 2.0, "broke": math.nan},
        {"number": 3, "outcome": "held", "stopped": "beaten", "spent": 3.0, "broke": math.nan},
        {"number": 4, "outcome": "broken", "stopped": "broke", "spent": 1.0, "broke": 1.0},
    ]
    engine = pd.DataFrame(
        {
            **{key: row[key] for key in ("number", "outcome", "stopped")},
            **dict.fromkeys(spends, row["spent"]),
            **{f"break_{name}": row["broke"] for name in spends},
            **{f"check_{name}": 0.5 for name in spends},
            "model": "m",
            "defense": "none",
            "attack": "a",
            "seed": 0,
        }
        for row in rows
    )
    found = random_trials(engine, load_price_book().accelerator("H100-SXM"), count=3)
    assert found["steps_lower"].tolist() == [5.5, 2.5, 3.5]
    assert found["steps_upper"].tolist() == [5.5, math.inf, math.inf]
    assert found["outcome"].tolist() == ["broken", "failed", "held"]
    assert found.loc[0, "usd_upper"] > 0
    assert len(search_costs(found)) == 4
