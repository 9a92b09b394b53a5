"""Whether resistances agree: against scipy's tau, by enumeration, and against simulations whose truth is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tempering.economics.agreement import agreement, resistances
from tempering.economics.tables import CURRENCIES

PAIR = [("tampering", "prompts")]
MEASURES = ("steps", "flops", "usd", "examples")


def points(first, second):
    """Each (defence, seed) → (lower, upper), or a number seen exactly."""
    rows = []
    for group, prices in zip(PAIR[0], (first, second), strict=True):
        for (defense, seed), ends in prices.items():
            lower, upper = ends if isinstance(ends, tuple) else (ends, ends)
            rows.append(("m", defense, seed, group, float(lower), float(upper), 1))
    return pd.DataFrame(rows, columns=["model", "defense", "seed", "group", "lower", "upper", "attacks"])


def arrays(first, second, budget=math.inf):
    """Prices of shape [defences, seeds]; those beyond the budget are not seen."""

    def side(values):
        return {(f"d{d}", s): ((budget, math.inf) if x > budget else x) for d, row in enumerate(values) for s, x in enumerate(row)}

    return points(side(first), side(second))


def only(table):
    (row,) = agreement(table, PAIR).to_dict("records")
    return row


def test_with_one_seed_and_nothing_censored_it_is_kendalls():
    source = np.random.default_rng(0)
    first, second = source.integers(1, 6, (2, 9)).astype(float)
    row = only(arrays(first[:, None], second[:, None]))
    assert row["tau"] == pytest.approx(stats.kendalltau(first, second).statistic)
    assert (row["status"], row["defenses"], row["points"]) == ("known", 9, 9)


def test_the_test_permutes_whole_defences():
    source = np.random.default_rng(1)
    first, second = source.integers(1, 12, (2, 5, 3)).astype(float)

    def tau(second):
        pairs = [(d, s, e, t) for d in range(5) for e in range(5) if d != e for s in range(3) for t in range(3)]
        a = np.array([np.sign(first[d, s] - first[e, t]) for d, s, e, t in pairs])
        b = np.array([np.sign(second[d, s] - second[e, t]) for d, s, e, t in pairs])
        return (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())

    row = only(arrays(first, second))
    assert row["tau"] == pytest.approx(tau(second))
    dealt = [tau(second[list(order)]) for order in itertools.permutations(range(5))]
    assert row["p_value"] == pytest.approx(np.mean(np.abs(dealt) >= abs(row["tau"]) - 1e-9))


def test_with_one_seed_the_test_is_scipys_exact_one():
    first, second = [1.0, 2, 3, 4, 5, 6], [2.0, 1, 4, 3, 6, 5]
    row = only(arrays(np.array(first)[:, None], np.array(second)[:, None]))
    assert row["p_value"] == pytest.approx(stats.kendalltau(first, second, method="exact").pvalue)


def test_five_defences_in_the_same_order():
    row = only(arrays(np.arange(1.0, 6)[:, None], np.arange(1.0, 6)[:, None] ** 2))
    assert (row["tau"], row["p_value"]) == (1, pytest.approx(2 / 120))
    assert row["low"] < 0.7  # five are not enough to be sure of perfect agreement
    assert row["high"] < 1
    assert row["ordered"] == 1
    turned = only(arrays(np.arange(1.0, 6)[:, None], -np.arange(1.0, 6)[:, None] + 9))
    assert (turned["tau"], turned["low"], turned["high"]) == (-1, -row["high"], -row["low"])


def test_four_are_too_few():
    row = only(arrays(np.arange(1.0, 5)[:, None], np.arange(1.0, 5)[:, None]))
    assert (row["status"], row["tau"], row["low"], row["high"]) == ("too_few_defenses", 1, -1, 1)
    assert math.isnan(row["p_value"])


def test_only_known_orders_count():
    # a (1, 2] < b (2, 4]; c (3, 6] overlaps with b; d held at 5, beyond a and b but not known to be dearer than c; e held at 8.
    first = {("a", 0): (1, 2), ("b", 0): (2, 4), ("c", 0): (3, 6), ("d", 0): (5, math.inf), ("e", 0): (8, math.inf)}
    second = {(name, 0): value for name, value in zip("abcde", (1, 2, 3, 4, 5), strict=True)}
    row = only(points(first, second))
    # Ordered on the first side: ab, ac, ad, ae, bd, be, ce of ten.
    assert row["ordered"] == pytest.approx(7 / 10)
    assert row["tau"] == pytest.approx(7 / math.sqrt(7 * 10))


def test_where_everything_held_nothing_is_known():
    held = np.full((6, 2), 100.0)
    row = only(arrays(held, np.arange(12.0).reshape(6, 2), budget=50))
    assert row["status"] == "too_censored"
    assert math.isnan(row["tau"])
    assert (row["low"], row["high"]) == (-1, 1)
    free = only(arrays(np.zeros((6, 1)), np.zeros((6, 1))))
    assert free["status"] == "too_censored"


def test_groups_that_nobody_tried_and_seeds_of_one_side():
    table = arrays(np.arange(1.0, 7)[:, None], np.arange(1.0, 7)[:, None])
    assert only(table[table["group"] == "prompts"])["status"] == "untried"
    assert agreement(table.iloc[:0], PAIR).empty
    both = arrays(np.arange(1.0, 13).reshape(6, 2), np.arange(1.0, 13).reshape(6, 2))
    half = both[~((both["group"] == "prompts") & (both["defense"] == "d0") & (both["seed"] == 0))]
    row = only(half)
    assert (row["points"], row["defenses"], row["tau"]) == (11, 6, 1)
    assert row["p_value"] == pytest.approx(2 / 720)


def latent(source, defenses, seeds, correlation, between=0.8, within=0.4):
    """Log prices on both sides: effects of defences that go together, and luck that does not."""
    shared, own = source.standard_normal((2, defenses, 1))
    effects = between * shared, between * (correlation * shared + math.sqrt(1 - correlation**2) * own)
    return [np.exp(effect + within * source.standard_normal((defenses, seeds))) for effect in effects]


def budget_for(share):
    return math.exp(math.hypot(0.8, 0.4) * stats.norm.ppf(1 - share)) if share else math.inf


@pytest.mark.parametrize(("defenses", "seeds", "censored"), [(5, 1, 0.5), (6, 3, 0.1), (8, 3, 0.9)])
def test_the_test_errs_no_more_than_it_says_where_nothing_goes_together(defenses, seeds, censored):
    source, alarms, said, studies = np.random.default_rng(defenses * 10 + seeds), 0, 0, 100 if defenses > 6 else 500
    for _ in range(studies):
        row = only(arrays(*latent(source, defenses, seeds, 0.0), budget=budget_for(censored)))
        said += row["status"] == "known"
        alarms += row["p_value"] <= 0.05
    assert alarms <= studies * 0.05 + 2 * math.sqrt(studies * 0.05 * 0.95)
    assert (said < studies / 2) == (censored == 0.9)  # nine tenths beyond the budget: mostly nothing can be said, and it says so


@pytest.mark.parametrize(("seeds", "censored", "correlation"), [(1, 0.1, 0.9), (3, 0.5, 0.6), (3, 0.9, 0.0)])
def test_the_interval_covers(seeds, censored, correlation):
    source, covered, found, studies = np.random.default_rng(0), 0, [], 500
    budget = budget_for(censored)
    # The truth: tau of pairs of defences, each with one seed, under the same budget.
    first, second = (np.minimum(side[:, 0], budget) for side in latent(source, 4000, 1, correlation))
    truth = stats.kendalltau(first, second).statistic
    for _ in range(studies):
        row = only(arrays(*latent(source, 6, seeds, correlation), budget=budget))
        covered += row["low"] <= truth <= row["high"]
        found.append(row["tau"])
    assert covered / studies >= 0.94  # errs towards too wide, see the module
    if censored < 0.9:
        assert np.nanmean(found) == pytest.approx(truth, abs=0.06)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=5, max_size=7), st.booleans())
def test_only_orders_matter(prices, swap):
    first, second = (np.array(side, dtype=float)[:, None] for side in zip(*prices, strict=True))
    one, other = only(arrays(first, second)), only(arrays(7 * first**3, np.exp(second)))
    if swap:
        other = only(arrays(second, first))
    for name in ("tau", "low", "high", "p_value", "ordered"):
        assert one[name] == pytest.approx(other[name], nan_ok=True)
    assert -1 <= one["low"] <= one["high"] <= 1
    if one["status"] == "known":
        assert one["low"] <= one["tau"] or one["tau"] < 0
        assert 0 < one["p_value"] <= 1


# From breaks to points


def breaks_of(runs):
    """Runs: (defense, attack, seed, lower, upper, outcome)."""
    rows = []
    for defense, attack, seed, lower, upper, outcome in runs:
        ends = {f"{currency}_{end}": value for currency in CURRENCIES for end, value in (("lower", lower), ("upper", upper))}
        searches = {f"{currency}_search": 0.0 for currency in CURRENCIES}
        unit = f"{defense} {attack} {seed}"
        rows.append({"unit": unit, "model": "m", "defense": defense, "attack": attack, "seed": seed, "outcome": outcome} | ends | searches)
    return pd.DataFrame(rows)


def units_of(breaks, lost=()):
    units = breaks[["unit", "model", "defense", "attack", "seed"]].assign(kind="attack", status="completed", steps=1000.0)
    harden = [
        {"unit": f"h{d}{s}", "model": "m", "defense": d, "attack": "", "seed": s, "kind": "harden", "status": "failed"} for d, s in lost
    ]
    return pd.concat([units, pd.DataFrame(harden)], ignore_index=True) if harden else units


def test_points_are_the_cheapest_of_a_group():
    runs = [(d, a, 0, lo, up, "broken") for d, lo, up in (("none", 1, 2), ("tar", 8, 16), ("npo", 2, 4)) for a in ("tune", "lora")]
    runs += [(d, "gcg", 0, 4.0, math.inf, outcome) for d, outcome in (("none", "held"), ("tar", "failed"), ("npo", "held"))]
    runs += [("tar", "extra", 0, 0.5, 1.0, "broken")]
    breaks = breaks_of(runs)
    breaks.loc[(breaks["attack"] == "lora") & (breaks["defense"] == "tar"), ["flops_lower", "flops_upper"]] = (4.0, 8.0)
    groups = {"tampering": ["tune", "lora", "extra"], "prompts": ["gcg"], "none": []}
    found = resistances(units_of(breaks), breaks, groups).set_index(["group", "defense"])
    assert set(found.index.get_level_values("defense")) == {"tar", "npo"}
    # "extra" was only run against one of the defences, and does not count.
    assert found.loc[("tampering", "tar"), ["lower", "upper", "attacks"]].tolist() == [4, 8, 2]
    assert found.loc[("tampering", "npo"), ["lower", "upper"]].tolist() == [2, 4]
    assert found.loc[("prompts", "tar"), ["lower", "upper"]].tolist() == [4, math.inf]
    assert "none" not in found.index.get_level_values("group")
    with_control = resistances(units_of(breaks), breaks, groups, with_control=True)
    assert "none" in set(with_control["defense"])
    assert only(found.reset_index())["status"] == "too_few_defenses"


def test_a_run_that_crashed_is_no_cheap_break_and_a_failed_hardening_no_point():
    runs = [("tar", "tune", 0, 1.0, math.inf, "failed"), ("npo", "tune", 0, 16.0, 32.0, "broken"), ("npo", "tune", 1, 2.0, 4.0, "broken")]
    breaks = breaks_of(runs)
    found = resistances(units_of(breaks, lost=[("npo", 1)]), breaks, {"tampering": ["tune"]})
    assert found[["defense", "seed", "lower"]].to_numpy().tolist() == [["npo", 0, 16.0], ["tar", 0, 32.0]]
    assert resistances(units_of(breaks), breaks.iloc[:0], {"tampering": ["tune"]}).empty
    nothing = resistances(units_of(breaks), breaks, {"tampering": []})
    assert agreement(nothing, PAIR).empty
