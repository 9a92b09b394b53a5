"""Prices at other thresholds are those that an assessment at that threshold finds."""

import numpy as np
import pandas as pd
import pytest

from support.comparison_specimen import ATTACKS, DEFENSES, comparison
from support.report_specimen import specimen
from tempering.economics.assess import assess
from tempering.economics.prices import load_price_book
from tempering.economics.thresholds import COARSE, GRID, MOST, MOST_ON_GRID, at_thresholds, grid


def assessed(subject, tau):
    return assess(
        subject.tables.units,
        subject.tables.trajectories,
        tau=tau,
        epsilon=0.1,
        price_book=load_price_book(),
        accelerator=subject.study.accelerator,
        **subject.told,
    )


def few_defenses():
    attacks = {name: ATTACKS[name] for name in ("full_finetune", "refusal_ablation", "retrieval")}
    return comparison({"refat": DEFENSES["refat"], "undo": DEFENSES["undo"]}, attacks, seeds=2, novel=False)


@pytest.mark.parametrize("subject", [specimen(seeds=3), few_defenses()], ids=["audit", "comparison"])
def test_another_threshold_is_assessed_as_if_it_had_been_the_studys(subject):
    others = subject.at_thresholds()
    assert list(others) == [tau for tau in GRID if tau != 0.5]
    for tau in (0.1, 0.7):
        expected = assessed(subject, tau)
        for name in ("trajectories", "breaks", "prices", "multipliers", "tax", "absence"):
            pd.testing.assert_frame_equal(getattr(others[tau], name), getattr(expected, name))
        assert others[tau].cheapest == expected.cheapest
        assert others[tau].survival.empty


def test_who_asks_for_more_harm_never_pays_less():
    subject = specimen()
    prices = {tau: other.prices.set_index("attack") for tau, other in {**subject.at_thresholds(), 0.5: subject.assessment}.items()}
    for currency in ("flops", "examples", "steps"):
        medians = np.array([prices[tau][f"{currency}_median"].fillna(np.inf) for tau in sorted(prices)])
        assert (medians[1:] >= medians[:-1]).all()
    assert (prices[0.9]["flops_median"].dropna() > prices[0.1]["flops_median"][prices[0.9]["flops_median"].notna()]).any()


@pytest.mark.parametrize(
    ("runs", "expected"),
    [(0, GRID), (25, GRID), (MOST_ON_GRID, GRID), (MOST_ON_GRID + 1, COARSE), (MOST, COARSE), (MOST + 1, ())],
)
def test_larger_studies_get_fewer_thresholds(runs, expected):
    assert grid(runs) == expected


def test_the_studys_own_threshold_is_left_out():
    subject = specimen(seeds=1)
    settings = {"epsilon": 0.1, "price_book": load_price_book(), "accelerator": subject.study.accelerator}
    found = at_thresholds(subject.assessment, subject.tables.units, subject.tables.trajectories, tau=0.1 + 0.2, **settings)
    assert list(found) == [0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    found = at_thresholds(subject.assessment, subject.tables.units, subject.tables.trajectories, tau=0.55, **settings)
    assert list(found) == list(GRID)


def test_a_run_without_attacks_is_assessed_too():
    subject = specimen(
        seeds=1,
        units=lambda table: table[table["kind"] == "reference"].reset_index(drop=True),
        trajectories=lambda table: table[table["attack"] == ""].reset_index(drop=True),
    )
    assert all(other.prices.empty and other.cheapest is None for other in subject.at_thresholds().values())
