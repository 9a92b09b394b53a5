"""What incidence, restricted means and contrasts must not depend on, and their tables."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.comparison_specimen import DEFENSES, Attack, tables
from tempering.economics.attackers import scopes
from tempering.economics.breaks import find_breaks
from tempering.economics.comparison import multipliers, quantile_multipliers
from tempering.economics.contrasts import contrast, contrasts
from tempering.economics.incidence import ENDS, cumulative_incidence, incidence
from tempering.economics.prices import load_price_book
from tempering.economics.ranks import holm, scores
from tempering.economics.ratios import Costs, ratio_of_quantiles
from tempering.economics.restricted import Axis, common_axis, restricted_difference, restricted_mean, restricted_means
from tempering.economics.tables import checked_units

H100 = load_price_book().accelerator("H100-SXM")
ATTACKS = {"a": Attack("fine-tuning", 9, 1e9, 100), "b": Attack("latent", 30, 1e9, 100)}
THREATS = {"weights": ["a", "b"], "activations": ["b"], "nobody": ["c"]}

step = st.integers(0, 8)
run = st.tuples(step, st.one_of(st.integers(0, 4), st.just(math.inf))).map(lambda pair: (float(pair[0]), float(pair[0] + pair[1])))
runs = st.lists(run, min_size=1, max_size=6)
sides = st.tuples(runs, runs)


def costs(intervals):
    lower, upper = (np.array(ends) for ends in zip(*intervals, strict=True))
    return Costs(np.arange(len(lower)), lower, upper, np.zeros(len(lower), dtype=bool))


@pytest.fixture(scope="module")
def study():
    units, probes = tables({"tar": DEFENSES["tar"], "vaccine": DEFENSES["vaccine"]}, ATTACKS, seeds=5, novel=False)
    return checked_units(units), find_breaks(units, probes, tau=0.5, epsilon=0.1, accelerator=H100)


@settings(max_examples=20, deadline=None)
@given(sides)
def test_a_contrast_turned_round_says_the_opposite(both):
    one, other = map(costs, both)
    there, back = contrast(one, other), contrast(other, one)
    assert there["p_value"] == pytest.approx(back["p_value"])
    assert there["statistic"] == pytest.approx(-back["statistic"], abs=1e-6)
    assert 0 < there["least_p_value"] <= there["p_value"] <= 1
    turned = {"known": "known", "unknown": "unknown", "at_most": "at_least", "at_least": "at_most"}
    assert back["hazard_status"] == turned[there["hazard_status"]]
    if there["hazard_status"] == "known":
        assert there["hazard_low"] <= there["hazard_ratio"] <= there["hazard_high"]
        assert there["hazard_ratio"] * back["hazard_ratio"] == pytest.approx(1, rel=1e-3)
    if not math.isnan(there["geometric_ratio"]):
        assert there["geometric_low"] <= there["geometric_ratio"] <= there["geometric_high"]
        assert there["geometric_ratio"] * back["geometric_ratio"] == pytest.approx(1)
        assert there["geometric_low"] * back["geometric_high"] == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(sides, st.floats(1e-3, 1e3))
def test_the_unit_of_spend_does_not_matter(both, factor):
    one, other = map(costs, both)
    scaled = [Costs(side.seeds, side.lower * factor, side.upper * factor, side.ended) for side in (one, other)]
    before, after = contrast(one, other), contrast(*scaled)
    for name in set(before) - {"floor", "horizon", "permutation", "hazard_status"}:
        assert after[name] == pytest.approx(before[name], rel=1e-4, nan_ok=True), name


@settings(max_examples=20, deadline=None)
@given(runs, st.floats(1, 3))
def test_dearer_runs_never_have_a_smaller_mean(intervals, factor):
    side = costs(intervals)
    axis = Axis(0.5, 30)
    dearer = Costs(side.seeds, side.lower * factor, side.upper * factor, side.ended)
    assert restricted_mean(dearer, axis).value >= restricted_mean(side, axis).value - 5e-3
    difference = restricted_difference(dearer, side, axis)
    assert 0 - 1e-2 <= difference.value <= math.log10(factor) + 1e-2


@settings(max_examples=20, deadline=None)
@given(runs)
def test_a_mean_lies_within_its_interval_and_its_axis(intervals):
    side = costs(intervals)
    axis = common_axis([side])
    if axis is None:
        return
    mean = restricted_mean(side, axis)
    assert math.log10(axis.floor) - 1e-9 <= mean.low <= mean.value <= mean.high <= math.log10(axis.horizon) + 1e-9


@settings(max_examples=20, deadline=None)
@given(runs)
def test_scores_are_finite_and_earlier_breaks_have_larger_ones(intervals):
    side = costs(intervals)
    found = scores(side.lower, side.upper)
    assert np.isfinite(found).all()
    for first in range(len(found)):
        for second in range(len(found)):
            if side.upper[first] < side.lower[second]:
                assert found[first] >= found[second] - 1e-6


@settings(max_examples=20, deadline=None)
@given(runs, st.data())
def test_incidence_is_a_distribution_over_outcomes(intervals, data):
    lower, upper = (np.array(ends) for ends in zip(*intervals, strict=True))
    other = st.sampled_from([*ENDS[1:], "held"])
    kinds = np.array([data.draw(other) if math.isinf(end) else "broken" for end in upper])
    curve = cumulative_incidence(lower, upper, kinds)
    assert (curve["low"] <= curve["incidence"] + 1e-9).all()
    assert (curve["incidence"] <= curve["high"] + 1e-9).all()
    assert (curve.groupby("spend")["incidence"].sum() <= 1 + 1e-9).all()
    for _, rows in curve.groupby("outcome"):
        assert rows[["incidence", "low", "high"]].diff().dropna().ge(-1e-9).all(axis=None)
    if "held" not in kinds:
        last = curve.groupby("outcome")["incidence"].last()
        assert all(last[name] == pytest.approx((kinds == name).mean()) for name in ENDS)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_are_no_smaller_and_in_the_same_order(p_values):
    adjusted = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
    assert max(adjusted) <= 1
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@settings(max_examples=15, deadline=None)
@given(sides)
def test_dearer_quantiles_have_dearer_medians_behind_them(both):
    defended, control = map(costs, both)
    found = [ratio_of_quantiles(defended, control, quantile=quantile) for quantile in (0.25, 0.5, 0.75)]
    for side in ("defended", "control"):
        values = [getattr(ratio, side).value for ratio in found if getattr(ratio, side).value is not None]
        assert values == sorted(values)
    for ratio in found:
        if ratio.status in ("known", "at_least"):
            assert ratio.low <= ratio.value <= ratio.high


def test_scopes_of_a_threat_model():
    found = [(scope.kind, scope.name, scope.attacks) for scope in scopes(["b", "a"], {"a": "x"}, THREATS)]
    assert found == [
        ("best attacker", "best attacker", ("a", "b")),
        ("threat model", "activations", ("b",)),
        ("threat model", "weights", ("a", "b")),
        ("family", "other", ("b",)),
        ("family", "x", ("a",)),
        ("attack", "a", ("a",)),
        ("attack", "b", ("b",)),
    ]


def test_a_threat_model_is_the_best_attacker_among_its_attacks(study):
    units, breaks = study
    table = multipliers(units, breaks, breaks, threat_models=THREATS).set_index(["defense", "name", "currency"])
    numbers = ["multiplier", "low", "high", "defended_median", "control_median"]
    pd.testing.assert_series_equal(
        table.loc[("tar", "weights", "flops"), numbers], table.loc[("tar", "best attacker", "flops"), numbers], check_names=False
    )
    pd.testing.assert_series_equal(
        table.loc[("tar", "activations", "flops"), numbers], table.loc[("tar", "b", "flops"), numbers], check_names=False
    )


def test_the_median_is_one_of_the_quantiles(study):
    units, breaks = study
    at = quantile_multipliers(units, breaks, threat_models=THREATS)
    medians = multipliers(units, breaks, breaks, threat_models=THREATS)
    keys, numbers = ["model", "defense", "scope", "name", "currency"], ["status", "multiplier", "low", "high", "few_seeds"]
    pd.testing.assert_frame_equal(at[at["quantile"] == 0.5][keys + numbers].reset_index(drop=True), medians[keys + numbers])
    assert at.loc[at["quantile"] != 0.5, "few_seeds"].all()
    assert sorted(set(at["quantile"])) == [0.25, 0.5, 0.75]


def test_contrasts_of_a_study(study):
    units, breaks = study
    table = contrasts(units, breaks, threat_models=THREATS)
    assert set(table["against"]) == {"none"}
    row = table.set_index(["defense", "name", "currency"]).loc[("tar", "a", "flops")]
    assert (row["p_value"], row["permutation"]) == (pytest.approx(2 / 252), "permuted over runs")
    assert row["p_adjusted"] == pytest.approx(4 / 252)  # the smaller of two attacks' p-values, or both the same
    assert row["hazard_status"] == "at_most"
    assert row["geometric_low"] > 1
    vaccine = table[(table["defense"] == "vaccine") & (table["scope"] == "attack")]
    assert (vaccine["p_value"] > 0.05).all()
    assert len(contrasts(units, breaks, between="all")) == 3 * len(contrasts(units, breaks)) / 2


def test_restricted_means_share_an_axis(study):
    units, breaks = study
    table = restricted_means(units, breaks)
    assert (table.groupby(["model", "scope", "name", "currency"])[["floor", "horizon"]].nunique() <= 1).all(axis=None)
    flops = table[(table["name"] == "a") & (table["currency"] == "flops")].set_index("defense")
    assert flops.loc["tar", "geometric_low"] > flops.loc["none", "geometric_high"]
    assert (flops["low"] <= flops["log10_mean"]).all()


def test_nothing_attacked_makes_empty_tables(study):
    units, breaks = study
    none = breaks.iloc[:0]
    for table, full in (
        (incidence(none), incidence(breaks)),
        (restricted_means(units, none), restricted_means(units, breaks)),
        (contrasts(units, none), contrasts(units, breaks)),
        (quantile_multipliers(units, none), quantile_multipliers(units, breaks)),
    ):
        assert table.empty
        assert table.dtypes.to_dict() == full.dtypes.to_dict()


def test_no_outcome_is_dropped(study):
    _, breaks = study
    kinds = breaks.assign(outcome=np.resize(["failed", "no_direction", "destroyed", "held", "held"], len(breaks)))
    kinds[[name for name in kinds if name.endswith("_upper")]] = math.inf
    table = incidence(kinds[kinds["attack"] == "a"])
    last = table[table["currency"] == "steps"].groupby(["defense", "outcome"])["incidence"].last()
    assert (last.groupby("defense").sum() > 0.5).all()
    assert table["runs"].eq(5).all()
