"""Survival estimates that are printed in the literature."""

import numpy as np
import pytest

from tempering.economics.survival import kaplan_meier, turnbull

# Months to cosmetic deterioration of the breast, 46 women with radiotherapy only, 100 = not seen. Beadle et al. 1984; Finkelstein
# and Wolfe 1985 (Biometrics 41, 933-945); here as in the data set "cosmesis" of the R package MLEcens.
COSMESIS = """45 100, 6 10, 0 7, 46 100, 46 100, 7 16, 17 100, 7 14, 37 44, 0 8, 4 11, 15 100, 11 15, 22 100, 46 100, 46 100, 25 37,
46 100, 26 40, 46 100, 27 34, 36 44, 46 100, 36 48, 37 100, 40 100, 17 25, 46 100, 11 18, 38 100, 5 12, 37 100, 0 5, 18 100, 24 100,
36 100, 5 11, 19 35, 17 25, 24 100, 32 100, 33 100, 19 26, 37 100, 34 100, 36 100"""

# Turnbull's estimate as printed in Klein and Moeschberger 2003, Survival Analysis, example 5.4 [memory of the page]:
# S falls to .954 in (4, 5], .920 in (6, 7], .832 in (7, 8], .761 in (11, 12], .668 in (24, 25], .586 in (33, 34], .467 (.466) in
# (38, 40] and 0 in (46, 48].
PRINTED = {5: 0.954, 7: 0.920, 8: 0.832, 12: 0.761, 25: 0.668, 34: 0.586, 40: 0.466, 48: 0.0}

# Weeks of remission under 6-mercaptopurine, + = still in remission. Freireich et al. 1963 (Blood 21, 699-716); Gehan 1965.
# Kaplan-Meier as in Kleinbaum and Klein 2012, Survival Analysis, table 2.1, and Cox and Oakes 1984, p. 49.
REMISSION = "6, 6, 6, 6+, 7, 9+, 10, 10+, 11+, 13, 16, 17+, 19+, 20+, 22, 23, 25+, 32+, 32+, 34+, 35+"
REMAINING = {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}


def cosmesis():
    pairs = np.array([[float(end) for end in pair.split()] for pair in COSMESIS.split(",")])
    return pairs[:, 0], np.where(pairs[:, 1] == 100, np.inf, pairs[:, 1])


def self_consistent(lower, upper, steps=20_000):
    """Turnbull's EM in a few lines, on all unit cells between the ends instead of the innermost intervals."""
    ends = np.unique(np.concatenate([lower, upper]))
    opens, closes = ends[:-1], ends[1:]
    inside = (lower[:, None] <= opens) & (closes <= upper[:, None])
    mass = np.full(len(opens), 1 / len(opens))
    for _ in range(steps):
        mass = mass * (inside / (inside @ mass)[:, None]).mean(axis=0)
    return ends[1:], 1 - mass.cumsum()


def test_turnbull_on_breast_cosmesis():
    lower, upper = cosmesis()
    assert len(lower) == 46
    ends, survival = turnbull(lower, upper)
    found = dict(zip(ends.tolist(), survival, strict=True))
    for month, share in PRINTED.items():
        assert found[month] == pytest.approx(share, abs=6e-4), month
    assert found[24] == pytest.approx(PRINTED[12], abs=6e-4)  # no mass in between


def test_turnbull_agrees_with_em_on_unit_cells():
    # Where the estimate is determined (outside the intervals that carry mass) it does not depend on the cells.
    lower, upper = cosmesis()
    ends, survival = turnbull(lower, upper)
    theirs = dict(zip(*self_consistent(lower, upper), strict=True))
    for end, share in zip(ends, survival, strict=True):
        if end in PRINTED:
            assert share == pytest.approx(theirs[end], abs=1e-3)


def test_kaplan_meier_on_remission_times():
    weeks = np.array([float(week.rstrip("+")) for week in REMISSION.split(", ")])
    observed = np.array([not week.endswith("+") for week in REMISSION.split(", ")])
    at = np.array(list(REMAINING), dtype=float)
    assert kaplan_meier(weeks, observed, at) == pytest.approx(list(REMAINING.values()), abs=5e-5)


def test_turnbull_of_exact_and_right_censored_times_is_kaplan_meier():
    weeks = np.array([float(week.rstrip("+")) for week in REMISSION.split(", ")])
    observed = np.array([not week.endswith("+") for week in REMISSION.split(", ")])
    ends, survival = turnbull(weeks, np.where(observed, weeks, np.inf))
    assert survival == pytest.approx(kaplan_meier(weeks, observed, ends), abs=1e-4)
    assert dict(zip(ends.tolist(), survival, strict=True))[23] == pytest.approx(REMAINING[23], abs=1e-4)
