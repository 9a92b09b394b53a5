"""Who is priced out: the closed form against Monte Carlo, bounds, and what every share must obey."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tempering.economics.comparison import _TYPES as MULTIPLIERS
from tempering.economics.population import (
    ANY,
    DEFAULT,
    Group,
    InvalidPopulation,
    factor_of_share,
    from_multipliers,
    price_of_share,
    priced_out,
    share_by_price,
    varied,
)

price = st.floats(1e-3, 1e7)
group = st.builds(
    Group, budget=st.floats(1, 1e6), budget_spread=st.floats(1.5, 100), skill=st.floats(0.5, 20), skill_spread=st.floats(1, 10)
)


def prices(control, defended, threat_model=ANY, defense="tar"):
    """One row; a side is (median, low, high), or a bound."""
    row = {"model": "m", "defense": defense, "threat_model": threat_model}
    for side, numbers in (("control", control), ("defended", defended)):
        censored = not isinstance(numbers, tuple)
        numbers = (math.nan, numbers, math.inf) if censored else numbers
        row |= dict(zip((f"{side}_{part}" for part in ("median", "low", "high", "censored")), (*numbers, censored), strict=True))
    return pd.DataFrame([row])


def only(table):
    (row,) = table.to_dict("records")
    return row


def test_by_hand():
    # Median budget 300, skill 3: at a price of 100 the median attacker is just able. Spreads e and e: a standard deviation of √2.
    attackers = Group(300, math.e, 3, math.e)
    assert attackers.share(100) == 0.5
    assert attackers.share(100 * math.exp(math.sqrt(2))) == pytest.approx(stats.norm.cdf(-1))
    assert attackers.share(100 * math.exp(-2 * math.sqrt(2))) == pytest.approx(stats.norm.cdf(2))
    row = only(priced_out(prices((100.0, 100.0, 100.0), (100 * math.exp(math.sqrt(2)),) * 3), [attackers]))
    assert (row["status"], row["control_share"], row["priced_out"]) == ("known", 0.5, pytest.approx(0.5 - stats.norm.cdf(-1)))


def test_the_closed_form_is_the_share_of_simulated_attackers():
    source = np.random.default_rng(0)
    for attackers, asked in ((Group(), 1.0), (Group(), 1e3), (Group(50, 4, 1, 8), 20.0), (Group(1e4, 1.0, 5, 2), 1500.0)):
        budgets = attackers.budget * attackers.budget_spread ** source.standard_normal(200_000)
        wants = attackers.skill * attackers.skill_spread ** source.standard_normal(200_000)
        assert attackers.share(asked) == pytest.approx((budgets >= wants * asked).mean(), abs=0.005)


def test_groups_pay_the_price_of_their_threat_model():
    population = [Group(weight=3, threat_model="prompts"), Group(weight=1, threat_model="weights")]
    table = pd.concat([prices((10.0,) * 3, (1e9,) * 3, "prompts"), prices((1.0,) * 3, (0.0,) * 3, "weights")])
    row = only(priced_out(table, population))
    assert row["control_share"] == pytest.approx(0.75 * Group().share(10) + 0.25 * Group().share(1))
    assert row["defended_share"] == pytest.approx(0.25, abs=1e-6)  # free for one, dear for three
    row = only(priced_out(prices((10.0,) * 3, (1e9,) * 3, "prompts"), population))
    assert row["status"] == "unknown"  # nobody tried the weights; that is no safety
    assert (row["defended_share_low"], row["defended_share_high"]) == (pytest.approx(0, abs=1e-6), pytest.approx(0.25, abs=1e-6))


def test_free_attacks_are_for_everybody():
    row = only(priced_out(prices((0.0, 0.0, 0.0), (0.0, 0.0, 5.0))))
    assert (row["control_share"], row["defended_share"], row["priced_out"]) == (1, 1, 0)
    assert (row["defended_share_low"], row["defended_share_high"]) == (Group().share(5), 1)
    assert row["priced_out_high"] == 1 - Group().share(5)


def test_a_bounded_price_is_a_bounded_share():
    row = only(priced_out(prices((10.0, 5.0, 20.0), 500.0)))
    assert row["status"] == "bounded"
    assert math.isnan(row["defended_share"])
    assert (row["defended_share_low"], row["defended_share_high"]) == (0, Group().share(500))
    assert math.isnan(row["priced_out"])
    assert row["priced_out_low"] == Group().share(20) - Group().share(500)
    assert row["priced_out_high"] == Group().share(5)
    row = only(priced_out(prices((10.0, 5.0, 20.0), 0.0)))  # nothing was spent: nothing is known
    assert (row["defended_share_low"], row["defended_share_high"]) == (0, 1)


def test_an_endless_interval_and_a_missing_price():
    row = only(priced_out(prices((10.0, 5.0, math.inf), (math.nan, math.nan, math.nan))))
    assert row["control_share_low"] == 0
    assert row["status"] == "unknown"
    assert (row["defended_share_low"], row["defended_share_high"], row["priced_out_high"]) == (0, 1, Group().share(5))


@settings(max_examples=60, deadline=None)
@given(group, price, price)
def test_a_dearer_attack_is_never_for_more(attackers, one, other):
    cheap, dear = sorted((one, other))
    assert 0 <= attackers.share(dear) <= attackers.share(cheap) <= 1


@settings(max_examples=60, deadline=None)
@given(group, price, st.floats(1e-3, 1e3))
def test_only_money_by_price_matters(attackers, asked, factor):
    richer = Group(attackers.budget * factor, attackers.budget_spread, attackers.skill, attackers.skill_spread)
    assert richer.share(asked * factor) == pytest.approx(attackers.share(asked), abs=1e-9)


def test_the_intervals_cover():
    # Prices estimated with a log-normal error of known size, so that their 95 % intervals are exact.
    source, studies = np.random.default_rng(3), 500
    truth = {"control": 30.0, "defended": 400.0}
    shares = {side: Group().share(value) for side, value in truth.items()}
    estimates = {side: np.log(value) + 0.4 * source.standard_normal(studies) for side, value in truth.items()}
    covered = dict.fromkeys(("control_share", "defended_share", "priced_out"), 0)
    for one, other in zip(*estimates.values(), strict=True):
        sides = [tuple(np.exp([middle, middle - 0.4 * 1.96, middle + 0.4 * 1.96])) for middle in (one, other)]
        row = only(priced_out(prices(*sides)))
        covered["priced_out"] += row["priced_out_low"] <= shares["control"] - shares["defended"] <= row["priced_out_high"]
        for side, share in shares.items():
            covered[f"{side}_share"] += row[f"{side}_share_low"] <= share <= row[f"{side}_share_high"]
    assert all(0.92 <= covered[f"{side}_share"] / studies <= 0.98 for side in shares)
    assert covered["priced_out"] / studies >= 0.95  # end by end: wider than need be


def test_bounds_hold_when_the_price_lies_beyond_the_budget():
    # Nine tenths of the studies end below the true price; the bound they give is never wrong.
    for bound in np.random.default_rng(0).uniform(1, 400, 50):
        row = only(priced_out(prices((30.0,) * 3, float(bound))))
        assert row["defended_share_low"] <= Group().share(400) <= row["defended_share_high"]
        assert row["priced_out_low"] <= Group().share(30) - Group().share(400) <= row["priced_out_high"]


def test_prices_come_out_of_the_multipliers():
    row = dict.fromkeys(MULTIPLIERS, 0) | {
        "model": "m",
        "defense": "tar",
        "scope": "best attacker",
        "name": "best attacker",
        "currency": "usd",
    }
    row |= {"control_median": 1.0, "control_low": 0.5, "control_high": 2.0, "control_censored": False}
    row |= {"defended_median": math.nan, "defended_low": 9.0, "defended_high": math.inf, "defended_censored": True}
    others = [{**row, "scope": "attack"}, {**row, "currency": "total_usd", "control_median": 7.0}]
    behind = {**row, "scope": "threat model", "name": "query-only", "defended_low": 90.0}
    table = pd.DataFrame([row, behind, *others])
    found = from_multipliers(table)
    assert found["threat_model"].tolist() == [ANY, "query-only"]
    assert found["defended_low"].tolist() == [9.0, 90.0]
    assert found[:1].drop(columns="threat_model").equals(prices((1.0, 0.5, 2.0), 9.0).drop(columns="threat_model"))
    assert from_multipliers(table, currency="total_usd")["control_median"].tolist() == [7.0]
    assert priced_out(from_multipliers(table))["status"].tolist() == ["bounded"]


def test_other_populations_stand_beside_the_assumed_one():
    populations = varied(factor=10)
    assert list(populations) == ["as assumed", "10 times poorer", "half as skilled", "twice as skilled", "10 times richer"]
    shares = {name: people[0].share(100) for name, people in populations.items()}
    assert shares["10 times poorer"] < shares["half as skilled"] < shares["as assumed"] < shares["twice as skilled"]
    assert shares["10 times richer"] == pytest.approx(Group().share(10))
    curve = share_by_price([0, 1, 100, math.inf], DEFAULT)
    assert curve["share"].tolist() == [1, Group().share(1), 0.5, 0]


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"skill": math.inf}, {"budget_spread": 0.5}, {"skill_spread": math.nan}, {"weight": -1}])
def test_groups_that_nobody_belongs_to(wrong):
    with pytest.raises(InvalidPopulation, match=next(iter(wrong))):
        Group(**wrong)


def test_nobody_and_nothing():
    with pytest.raises(InvalidPopulation, match="without any attacker"):
        priced_out(prices(1.0, 1.0), [])
    assert priced_out(prices(1.0, 1.0).iloc[:0]).empty
    alike = Group(300, 1, 3, 1)
    assert [alike.share(value) for value in (99, 100, 101)] == [1, 1, 0]


def test_the_price_that_half_can_pay():
    assert price_of_share() == pytest.approx(100)  # a budget of 300 for three times the price
    assert price_of_share(float(stats.norm.cdf(-1)), [Group(300, math.e, 3, math.e)]) == pytest.approx(100 * math.exp(math.sqrt(2)))
    poor, rich = Group(30, 2.0, 1, 1.5), Group(3e5, 4.0, 1, 1.5)
    assert price_of_share(0.5, [poor, rich]) == pytest.approx(math.exp(math.log(30) + _gap(poor, rich)), rel=1e-6)
    assert price_of_share(0.5, [poor, poor]) == pytest.approx(30)
    assert price_of_share(0.4, [Group(10, 1, 1, 1, weight=2), Group(1000, 1, 1, 1)]) == pytest.approx(10)  # a third can pay above 10
    with pytest.raises(InvalidPopulation, match="without any attacker"):
        price_of_share(0.5, [])


def _gap(poor, rich):
    """ln(price / 30) at which the shares of two groups of one weight add up to one: z-scores cancel."""
    one, other = (math.hypot(math.log(group.budget_spread), math.log(group.skill_spread)) for group in (poor, rich))
    return math.log(rich.budget / poor.budget) * one / (one + other)


@settings(max_examples=60, deadline=None)
@given(st.lists(group, min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_the_price_of_a_share_is_paid_by_that_share(population, wanted):
    found = price_of_share(wanted, population)
    assert share_by_price([found], population)["share"][0] == pytest.approx(wanted, abs=1e-6)


def test_the_factor_multiplies_what_each_group_pays():
    population = [Group(weight=3, threat_model="prompts"), Group(weight=1, threat_model="weights")]
    factor = factor_of_share({"prompts": 0.02, "weights": 5.0}, 0.5, population)
    assert 0.75 * Group().share(0.02 * factor) + 0.25 * Group().share(5 * factor) == pytest.approx(0.5)
    assert factor_of_share({ANY: 2.0}) == pytest.approx(50)
    assert factor_of_share({ANY: 2000.0}) == pytest.approx(0.05)  # more than half cannot pay as it is
    free = factor_of_share({"prompts": 5.0, "weights": 0.0}, 0.5, population)  # a quarter pays nothing: a third of the others may
    assert Group().share(5 * free) == pytest.approx(1 / 3)
    assert factor_of_share({"prompts": 0.0, "weights": 5.0}, 0.5, population) == math.inf
    assert factor_of_share({"prompts": math.inf, "weights": 5.0}, 0.5, population) == 0
    with pytest.raises(KeyError):
        factor_of_share({"prompts": 5.0}, 0.5, population)
