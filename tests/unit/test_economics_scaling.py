"""Scaling laws: against formulas on paper, scipy and lifelines, and against simulations whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import LogNormalAFTFitter
from scipy import stats

from tempering.economics import censored_line
from tempering.economics.clustered import coefficient, identified
from tempering.economics.scaling import InvalidScaling, learned_scaling, price_scaling

STUDIES = 500


# Errors that go together within clusters


def test_the_mean_of_equal_clusters_is_that_of_their_means():
    # On paper: V = Σ (cluster mean − mean)² / (G (G − 1)), with G − 1 degrees of freedom.
    values = np.array([1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 2.0, 2.0])
    clusters = np.repeat(np.arange(4), 2)
    means = np.array([1.5, 4.0, 8.0, 2.0])
    found = coefficient(values, np.ones((8, 1)), clusters, 0, confidence=0.95)
    assert found.value == pytest.approx(means.mean())
    assert found.error == pytest.approx(math.sqrt(((means - means.mean()) ** 2).sum() / 12))
    assert found.freedom == pytest.approx(3)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 3, loc=found.value, scale=found.error))
    assert found.p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_clusters_of_one_give_hc2_by_hand():
    # y on 1 and x = (0, 0, 0, 4): the fourth point has leverage 1 and no residual, the others 1/3 each.
    design = np.column_stack([np.ones(4), [0.0, 0.0, 0.0, 4.0]])
    found = coefficient(np.array([1.0, 2.0, 6.0, 11.0]), design, np.arange(4), 0, confidence=0.95)
    # Residuals −2, −1, 3 about the mean 3: HC2 = Σ e² / (1 − 1/3) / 9 = 14 · 1.5 / 9.
    assert found.value == pytest.approx(3)
    assert found.error == pytest.approx(math.sqrt(14 * 1.5 / 9))


def test_two_groups_of_single_values_are_welchs_test():
    # CR2 of a difference of means, one value a cluster, is Welch's variance.
    one, other = np.array([1.0, 4.0, 2.5]), np.array([5.0, 9.0, 6.0, 12.0])
    design = np.column_stack([np.ones(7), np.repeat([0.0, 1.0], [3, 4])])
    found = coefficient(np.concatenate([one, other]), design, np.arange(7), 1, confidence=0.95)
    assert found.error == pytest.approx(math.sqrt(one.var(ddof=1) / 3 + other.var(ddof=1) / 4))


def learned_table(source, sizes_of_series, slope=0.05, varying=0.05, rates=(0.0, 0.005, 0.01, 0.015, 0.02)):
    rows = []
    for series, sizes in enumerate(sizes_of_series):
        own, level, least = slope + varying * source.normal(), 0.3 * source.normal(), source.uniform(0, 1.5)
        for at, log_size in enumerate(least + np.sort(source.uniform(0, 3.5, sizes))):
            of_model = 0.05 * source.normal()
            for rate in rates:
                learned = level + own * log_size + of_model + 4 * rate + 0.05 * source.normal()
                rows.append((f"series {series}", f"{series}-{at}", 1e9 * math.exp(log_size), rate, learned))
    return pd.DataFrame(rows, columns=["series", "model", "parameters", "poison_rate", "learned"])


def plain_sandwich_covers(table, truth):
    logs = np.log(table["parameters"].to_numpy())
    series, rates = (pd.factorize(table[name], sort=True)[0] for name in ("series", "poison_rate"))
    design = np.column_stack([logs - logs.mean(), np.eye(series.max() + 1)[series], np.eye(rates.max() + 1)[rates][:, 1:]])
    inverse = np.linalg.pinv(design.T @ design)
    fitted = inverse @ design.T @ table["learned"].to_numpy()
    residuals = table["learned"].to_numpy() - design @ fitted
    variance = sum(float(inverse[0] @ design[series == one].T @ residuals[series == one]) ** 2 for one in set(series))
    return abs(fitted[0] - truth) <= 1.96 * math.sqrt(variance)


@pytest.mark.parametrize("sizes", [(3, 3, 3), (2, 2, 3, 3, 4, 4, 2, 3)])
def test_the_interval_of_the_regression_covers_with_few_series(sizes):
    source = np.random.default_rng(len(sizes))
    found, covered, plain = [], 0, 0
    for _ in range(STUDIES):
        table = learned_table(source, sizes)
        (row,) = learned_scaling(table).to_dict("records")
        found.append(row["beta"])
        covered += row["low"] <= 0.05 <= row["high"]
        plain += plain_sandwich_covers(table, 0.05)
    assert 0.92 <= covered / STUDIES <= 0.98
    assert plain / STUDIES < 0.88  # what would have been reported with the sandwich of the textbooks
    assert np.mean(found) == pytest.approx(0.05, abs=4 * np.std(found) / math.sqrt(STUDIES))


def test_an_exact_law_is_found_exactly():
    table = learned_table(np.random.default_rng(0), (2, 3, 3, 4))
    table["learned"] = 0.062 * np.log(table["parameters"]) + 3 * table["poison_rate"] + table["series"].str[-1].astype(float)
    (row,) = learned_scaling(table).to_dict("records")
    assert (row["status"], row["beta"]) == ("known", pytest.approx(0.062))
    assert (row["series"], row["models"], row["rows"], row["unmeasured"]) == (4, 12, 60, 0)


def test_where_the_regression_says_nothing():
    table = learned_table(np.random.default_rng(0), (2, 3))
    (row,) = learned_scaling(table).to_dict("records")
    assert row["status"] == "too_few_series"
    assert math.isnan(row["beta"])
    (row,) = learned_scaling(learned_table(np.random.default_rng(0), (1, 1, 1, 1))).to_dict("records")
    assert row["status"] == "unidentified"
    whole = learned_table(np.random.default_rng(0), (3, 3, 3))
    holed = whole.assign(learned=whole["learned"].where(whole.index != 7))
    (row,) = learned_scaling(holed).to_dict("records")
    assert (row["status"], row["rows"], row["unmeasured"]) == ("known", 44, 1)
    (row,) = learned_scaling(whole.assign(learned=math.nan)).to_dict("records")
    assert (row["status"], row["unmeasured"]) == ("too_few_series", 45)
    assert learned_scaling(whole.iloc[:0]).empty
    with pytest.raises(InvalidScaling, match="positive"):
        learned_scaling(whole.assign(parameters=0.0))


def test_what_other_columns_add_up_to_is_not_identified():
    design = np.column_stack([[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    assert not identified(design, 0)
    assert identified(np.column_stack([[1.0, 3.0, 2.0, 2.0], design[:, 1], design[:, 2]]), 0)


# A line through censored values


def line_data(source, count, spread, gap, censored, studies=STUDIES):
    """Values 1 + x + noise on a ladder of probes that begins anywhere, the largest share of them beyond a budget."""
    x = np.linspace(0, 3, count)
    values = 1 + x + spread * source.normal(size=(studies, count))
    foot = source.uniform(0, 1, (studies, 1))
    lower, upper = values, values
    if gap:
        rung = np.floor(values / gap - foot)
        lower, upper = (rung + foot) * gap, (rung + 1 + foot) * gap
    budget = np.quantile(values, 1 - censored) if censored else np.inf
    held = values > budget
    last = (np.floor(budget / gap - foot) + foot) * gap if gap and censored else budget
    further = 1 + 5 + spread * source.normal(size=studies)
    return np.column_stack([np.ones(count), x]), np.where(held, last, lower), np.where(held, np.inf, upper), further


def test_without_censoring_it_is_least_squares():
    source = np.random.default_rng(0)
    design, values, _, _ = line_data(source, 5, 0.7, 0, 0, studies=1)
    x, y, at = design[:, 1], values[0], 5.0
    line = stats.linregress(x, y)
    t, spread = stats.t.ppf(0.975, 3), math.sqrt(((y - line.intercept - line.slope * x) ** 2).sum() / 3)
    low, high = censored_line.coefficient_interval(values, values, design, 1, 0.95)
    assert (low[0], high[0]) == pytest.approx((line.slope - t * line.stderr, line.slope + t * line.stderr), rel=1e-3)
    reach = t * spread * math.sqrt(1 + 1 / 5 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    low, high = censored_line.prediction_interval(values, values, design, np.array([1.0, at]), 0.95)
    middle = line.intercept + line.slope * at
    assert (low[0], high[0]) == pytest.approx((middle - reach, middle + reach), rel=1e-3)


def test_with_censoring_it_is_lifelines():
    source = np.random.default_rng(1)
    design, lower, upper, _ = line_data(source, 40, 0.8, 0.5, 0.4, studies=1)
    found = censored_line.fit(lower, upper, design)
    table = pd.DataFrame({"lower": np.exp(lower[0]), "upper": np.exp(upper[0]), "x": design[:, 1]})
    theirs = LogNormalAFTFitter().fit_interval_censoring(table, "lower", "upper")
    assert np.isinf(upper).sum() > 5
    assert found.coefficients[0] == pytest.approx([theirs.params_["mu_", "Intercept"], theirs.params_["mu_", "x"]], abs=1e-3)
    assert found.sigma[0] == pytest.approx(math.exp(theirs.params_["sigma_", "Intercept"]), abs=1e-3)
    assert found.loglikelihood[0] == pytest.approx(theirs.log_likelihood_, abs=1e-3)


@pytest.mark.parametrize(
    ("count", "gap", "censored"), [(4, 0.0, 0.0), (6, 0.35, 0.1), (4, 0.35, 0.0), (8, 0.35, 0.1), (8, 0.0, 0.5), (8, 0.35, 0.5)]
)
def test_intervals_of_slope_and_prediction_cover(count, gap, censored):
    design, lower, upper, further = line_data(np.random.default_rng(count), count, 0.7, gap, censored)
    enough = censored_line.seen(lower, upper) >= 3
    lower, upper, further = lower[enough], upper[enough], further[enough]
    assert enough.mean() > 0.9
    low, high = censored_line.coefficient_interval(lower, upper, design, 1, 0.95)
    assert 0.92 <= ((low <= 1) & (high >= 1)).mean() <= 0.98
    below, above = censored_line.prediction_interval(lower, upper, design, np.array([1.0, 5.0]), 0.95)
    assert 0.92 <= ((below <= further) & (further <= above)).mean() <= 0.98
    slopes = censored_line.fit(lower, upper, design).coefficients[:, 1]
    if not censored:
        assert slopes.mean() == pytest.approx(1, abs=4 * slopes.std() / math.sqrt(len(slopes)))
    assert np.median(slopes) == pytest.approx(1, abs=0.15)


def test_a_line_through_every_interval_leaves_an_interval():
    x = np.array([0.0, 1.0, 2.0])
    lower, upper = np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 3.0]])
    design = np.column_stack([np.ones(3), x])
    low, high = censored_line.coefficient_interval(lower, upper, design, 1, 0.95)
    # Slopes of 0 and 2 pass through all three as well: (1, 1, 2) no, but everything strictly between ½ and 1½ does.
    assert low[0] < 0.5
    assert high[0] > 1.5
    with pytest.raises(ValueError, match="more values"):
        censored_line.coefficient_interval(lower, np.array([[1.0, 2.0, math.inf]]), design, 1, 0.95)


# Prices over sizes


def runs_of(prices, *, gap=1.0, seeds=3, ended=()):
    """(model, parameters) → median price, infinite beyond a budget of 1e6; every seed the same."""
    rows = [
        ("tar", "best", model, size, price / gap if math.isfinite(price) else 1e6, price, model in ended)
        for (model, size), price in prices.items()
        for _ in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["defense", "name", "model", "parameters", "lower", "upper", "ended"])


def test_prices_in_proportion_to_size_have_slope_one():
    noise = {"a": 1.1, "b": 0.9, "c": 1.05, "d": 0.97}
    sizes = {"a": 1e6, "b": 4e6, "c": 16e6, "d": 64e6}
    found = price_scaling(runs_of({(name, size): 5 * size * noise[name] for name, size in sizes.items()}))
    (fit,) = found.fits.to_dict("records")
    line = stats.linregress(np.log(list(sizes.values())), np.log([5 * sizes[name] * noise[name] for name in sizes]))
    reach = stats.t.ppf(0.975, 2) * line.stderr
    assert (fit["status"], fit["models"], fit["seen"]) == ("known", 4, 4)
    assert (fit["slope"], fit["slope_low"], fit["slope_high"]) == pytest.approx(
        (line.slope, line.slope - reach, line.slope + reach), rel=1e-3
    )
    seven = found.curve.set_index("parameters").loc[7e9]
    assert seven["price"] == pytest.approx(math.exp(line.intercept + line.slope * math.log(7e9)), rel=1e-6)
    assert seven["low"] < 5 * 7e9 < seven["high"]
    assert seven["extrapolated"]
    assert seven["decades"] == pytest.approx(math.log10(7e9 / 64e6))
    measured = found.curve[~found.curve["extrapolated"]]
    assert measured["parameters"].tolist() == list(sizes.values())
    assert (measured["decades"] == 0).all()


def test_the_further_the_wider():
    prices = {("a", 1e6): 1e3, ("b", 4e6): 5e3, ("c", 16e6): 14e3, ("d", 64e6): 80e3}
    curve = price_scaling(runs_of(prices, gap=math.sqrt(2)), extrapolate_to=(1e8, 1e9, 7e9, 70e9)).curve
    widths = np.log(curve["high"] / curve["low"]).to_numpy()
    assert (np.diff(widths[3:]) > 0).all()


def test_two_sizes_are_refused():
    prices = {("a", 1e6): 1e3, ("b", 4e6): 5e3, ("c", 4e6): 6e3}
    found = price_scaling(runs_of(prices))
    assert found.fits["status"].tolist() == ["too_few_sizes"]
    assert found.fits[["slope", "slope_low", "slope_high"]].isna().all(axis=None)
    assert found.curve["price"].isna().all()
    assert (found.curve["low"] == 0).all()
    assert np.isinf(found.curve["high"]).all()


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_nine_tenths_beyond_the_budget_leave_bounds_and_no_line(seen):
    prices = {(f"m{at}", 1e6 * 2**at): (1e4 * 2**at if at < seen else math.inf) for at in range(6)}
    found = price_scaling(runs_of(prices))
    assert found.fits["status"].tolist() == ["too_few_prices"]
    assert found.fits["seen"].tolist() == [seen]
    assert found.curve["price"].isna().all()
    held = found.sizes[np.isinf(found.sizes["upper"])]
    assert (held["lower"] == 1e6).all()


def test_models_that_held_pull_the_line_up():
    prices = {("a", 1e6): 1e4, ("b", 4e6): 2e4, ("c", 16e6): 9e4, ("d", 64e6): math.inf}
    with_held = price_scaling(runs_of(prices)).fits["slope"].iloc[0]
    del prices[("d", 64e6)]
    assert with_held > price_scaling(runs_of(prices)).fits["slope"].iloc[0]


def test_the_median_of_a_model_is_bounded_by_its_runs():
    runs = pd.DataFrame(
        [("tar", "best", "m", 1e6, lower, upper, ended) for lower, upper, ended in [(2, 4, False), (8, 16, False), (1, math.inf, True)]],
        columns=["defense", "name", "model", "parameters", "lower", "upper", "ended"],
    )
    # The run that crashed at 1 counts as unbroken up to 16: the second smallest of 4, 16 and more lies in (8, 16].
    assert price_scaling(runs).sizes[["lower", "upper", "seeds"]].to_numpy().tolist() == [[8, 16, 3]]


def test_free_models_lie_below_what_anything_costs():
    prices = {("a", 1e6): 0.0, ("b", 4e6): 2e4, ("c", 16e6): 9e4, ("d", 64e6): 3e5}
    runs = runs_of(prices)
    found = price_scaling(runs)
    assert (found.fits["status"].iloc[0], found.fits["seen"].iloc[0]) == ("known", 3)
    # A price that is only known to be less than 2e4 leaves the line where the other three have it, near proportion.
    assert 0.7 < found.fits["slope"].iloc[0] < 1.5
    assert price_scaling(runs.assign(lower=0.0, upper=0.0)).fits["status"].tolist() == ["too_few_prices"]
    assert price_scaling(runs.iloc[:0]).curve.empty


@settings(max_examples=4, deadline=None)
@given(st.lists(st.floats(1, 1e5), min_size=4, max_size=6), st.floats(1e-3, 1e3))
def test_prices_in_another_currency_only_rescale(prices, factor):
    runs = runs_of({(f"m{at}", 1e6 * 3**at): price for at, price in enumerate(prices)}, gap=1.5)
    one, other = price_scaling(runs), price_scaling(runs.assign(lower=runs["lower"] * factor, upper=runs["upper"] * factor))
    assert other.fits["slope"].iloc[0] == pytest.approx(one.fits["slope"].iloc[0], abs=1e-4)
    for end in ("price", "low", "high"):
        assert np.log(other.curve[end] / one.curve[end]).to_numpy() == pytest.approx(np.full(len(one.curve), math.log(factor)), abs=1e-2)


def test_prices_of_models_cover_the_slope_and_the_next_model():
    # Through the public tables: sizes of five seeds each, models that depart from the line, probes two a doubling, some beyond the budget.
    source = np.random.default_rng(5)
    sizes = np.array([1e6, 3e6, 1e7, 3e7, 1e8, 3e8])
    covered = predicted = known = 0
    for _ in range(20):
        centres = np.log(sizes) + 0.5 * source.normal(size=6)
        logs = centres[:, None] + 0.4 * source.normal(size=(6, 5))
        rung = np.ceil(logs / math.log(2) * 2)
        lower, upper = 2 ** ((rung - 1) / 2), 2 ** (rung / 2)
        upper = np.where(logs > math.log(5e8), np.inf, upper)
        lower = np.where(np.isinf(upper), 2**28.5, lower)
        rows = [("t", "b", f"m{m}", sizes[m], lower[m, s], upper[m, s], False) for m in range(6) for s in range(5)]
        table = pd.DataFrame(rows, columns=["defense", "name", "model", "parameters", "lower", "upper", "ended"])
        found = price_scaling(table, extrapolate_to=(7e9,))
        (fit,) = found.fits.to_dict("records")
        last = found.curve.iloc[-1]
        new = math.exp(math.log(7e9) + 0.5 * source.normal() + 0.4 * math.sqrt(math.pi / 10) * source.normal())
        known += fit["status"] == "known"
        covered += fit["slope_low"] <= 1 <= fit["slope_high"]
        predicted += last["low"] <= new <= last["high"]
    assert known == 20
    assert covered >= 17
    assert predicted >= 17
