"""Agreement and correction, against what is published and what is known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.economics.raters import Errors, corrected, effective, kappa, kappa_of_groups, share


def test_cohens_kappa_of_a_worked_example() -> None:
    """Two readers and fifty grant proposals: 20 both yes, 5 and 10 one of them, 15 both no; p_o = .7, p_e = .5."""
    found = kappa(np.array([[20.0, 5.0], [10.0, 15.0]]))
    assert found.value == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt, by hand: p_ii terms .4 (1 - 1.1 · .6)² + .3 (1 - .9 · .6)², apart .36 (.1 · 1.1² + .2 · .9²)
    own = 0.4 * (1 - 1.1 * 0.6) ** 2 + 0.3 * (1 - 0.9 * 0.6) ** 2
    apart = 0.36 * (0.1 * (0.6 + 0.5) ** 2 + 0.2 * (0.5 + 0.4) ** 2)
    error = math.sqrt((own + apart - (0.4 - 0.5 * 0.6) ** 2) / (50 * 0.25))
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-6)


def test_kappa_of_three_diagnoses() -> None:
    """Fleiss, Cohen and Everitt's own example (their table 1, n = 200): kappa .429, standard error .054."""
    counts = 200 * np.array([[0.53, 0.05, 0.02], [0.11, 0.14, 0.05], [0.01, 0.06, 0.03]])
    found = kappa(counts)
    assert found.value == pytest.approx(0.429, abs=5e-4)
    assert (found.high - found.low) / 2 / 1.959964 == pytest.approx(0.054, abs=1e-3)


@pytest.mark.parametrize(("counts", "value"), [([[5, 0], [0, 7]], 1.0), ([[0, 5], [5, 0]], -1.0), ([[25, 25], [25, 25]], 0.0)])
def test_kappa_at_its_ends(counts: list[list[int]], value: float) -> None:
    assert kappa(np.array(counts, dtype=float)).value == pytest.approx(value)


@pytest.mark.parametrize("counts", [[[0, 0], [0, 0]], [[9, 0], [0, 0]], [[0, 0], [0, 9]], [[0, 2], [0, 38]]])
def test_where_one_always_says_the_same_there_is_no_kappa(counts: list[list[int]]) -> None:
    assert math.isnan(kappa(np.array(counts, dtype=float)).value)


def test_groups_that_are_alike_make_the_interval_no_wider_and_groups_that_differ_do() -> None:
    alike = np.array([[[20.0, 5.0], [10.0, 15.0]]] * 6)
    assert kappa_of_groups(alike).value == pytest.approx(kappa(alike.sum(0)).value)
    assert kappa_of_groups(alike).high == pytest.approx(kappa(alike.sum(0)).high)
    apart = np.array([[[25.0, 0.0], [0.0, 25.0]], [[12.0, 13.0], [13.0, 12.0]]] * 3)
    wide, narrow = kappa_of_groups(apart), kappa(apart.sum(0))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_interval_of_groups_covers() -> None:
    """Prompts that are read alike in every unit: of 200 simulated runs the truth lies in the interval of about 95 %."""
    generator, truth, hits = np.random.default_rng(5), None, 0
    for _ in range(200):
        agree = generator.beta(8, 2, size=12)
        groups = []
        for chance in agree:
            first = generator.random(30) < 0.5
            second = np.where(generator.random(30) < chance, first, ~first)
            groups.append([[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]])
        truth = 2 * 0.8 - 1  # half are useful by either, so chance is .5
        found = kappa_of_groups(np.array(groups, dtype=float))
        hits += found.low <= truth <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_rogan_and_gladen_by_hand() -> None:
    errors = Errors(true_useful=90, false_useless=10, true_useless=80, false_useful=20)
    found = corrected(useful=340, judged=1000, errors=errors)
    assert found.value == pytest.approx((0.34 + 0.8 - 1) / (0.9 + 0.8 - 1))  # .2
    assert found.low < 0.2 < found.high
    assert errors.sensitivity.value == pytest.approx(0.9)
    assert errors.specificity.value == pytest.approx(0.8)


def test_lang_and_reiczigel_by_their_formula() -> None:
    """Recomputed here from the paper's text with other names, for counts where nothing is cut off."""
    z, n, found, m1, m0 = 1.959964, 500, 200, 80, 120
    p, se, sp = (found + z * z / 2) / (n + z * z), (72 + 1) / (m1 + 2), (102 + 1) / (m0 + 2)
    theta = (p + sp - 1) / (se + sp - 1)
    shift = 2 * z * z * (theta * se * (1 - se) / (m1 + 2) - (1 - theta) * sp * (1 - sp) / (m0 + 2))
    spread = p * (1 - p) / (n + z * z) + theta**2 * se * (1 - se) / (m1 + 2) + (1 - theta) ** 2 * sp * (1 - sp) / (m0 + 2)
    reach = z * math.sqrt(spread) / (se + sp - 1)
    made = corrected(found, n, Errors(true_useful=72, false_useless=8, true_useless=102, false_useful=18))
    assert made.low == pytest.approx(theta + shift - reach, rel=1e-6)
    assert made.high == pytest.approx(theta + shift + reach, rel=1e-6)


@pytest.mark.parametrize(("truth", "sensitivity", "specificity"), [(0.3, 0.9, 0.85), (0.05, 0.7, 0.95), (0.9, 0.8, 0.8)])
def test_the_corrected_interval_covers(truth: float, sensitivity: float, specificity: float) -> None:
    generator, hits, naive = np.random.default_rng(11), 0, 0
    for _ in range(1000):
        useful = generator.binomial(400, truth * sensitivity + (1 - truth) * (1 - specificity))
        found, passed = generator.binomial(40, sensitivity), generator.binomial(60, specificity)
        made = corrected(
            int(useful), 400, Errors(true_useful=found, false_useless=40 - found, true_useless=passed, false_useful=60 - passed)
        )
        hits += made.low <= truth <= made.high
        plain = share(int(useful), 400)
        naive += plain.low <= truth <= plain.high
    assert hits >= 925
    assert naive < 900  # what is found, uncorrected, does not cover


def test_a_judge_no_better_than_chance_corrects_nothing() -> None:
    assert math.isnan(corrected(5, 10, Errors(true_useful=5, false_useless=5, true_useless=5, false_useful=5)).value)
    assert math.isnan(corrected(5, 10, Errors(true_useful=5, false_useless=0, true_useless=0, false_useful=0)).value)


def test_weights_undo_the_thinning_of_a_sample() -> None:
    """One in ten of the responses that a judge passed over was labelled, and all that it found."""
    generator = np.random.default_rng(3)
    truth = generator.random(4000) < 0.1
    said = np.where(truth, generator.random(4000) < 0.8, generator.random(4000) < 0.05)
    kept = said | (generator.random(4000) < 0.1)
    weights = np.where(said, 1.0, 10.0)[kept]
    weighted = effective(truth[kept].tolist(), said[kept].tolist(), weights.tolist())
    plain = effective(truth[kept].tolist(), said[kept].tolist(), [1.0] * int(kept.sum()))
    assert weighted.sensitivity.value == pytest.approx(0.8, abs=0.1)
    assert weighted.sensitivity.low < 0.8 < weighted.sensitivity.high
    assert plain.sensitivity.value > 0.95  # as if it missed next to nothing
    assert weighted.specificity.value == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.floats(0.1, 10))
def test_equal_weights_are_counts(pairs: list[tuple[bool, bool]], weight: float) -> None:
    made = effective([label for label, _ in pairs], [found for _, found in pairs], [weight] * len(pairs))
    counts = (pairs.count((True, True)), pairs.count((False, True)), pairs.count((False, False)), pairs.count((True, False)))
    assert (made.true_useful, made.false_useful, made.true_useless, made.false_useless) == pytest.approx(counts)


@given(st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=1, max_size=6))
def test_kappa_lies_within_its_interval(groups: list[list[int]]) -> None:
    made = kappa_of_groups(np.array(groups, dtype=float).reshape(-1, 2, 2))
    assert math.isnan(made.value) or -1 <= made.low <= made.value <= made.high <= 1
