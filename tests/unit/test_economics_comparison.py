"""What multipliers, tax and absence must not depend on, and what they hold where little is known."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.comparison_specimen import ATTACKS, DEFENSES, STEPS, Attack, Defense, comparison, tables
from tempering.economics.assess import assess
from tempering.economics.breaks import find_breaks
from tempering.economics.comparison import multipliers
from tempering.economics.prices import load_price_book
from tempering.economics.ratios import STATUSES
from tempering.economics.tables import checked_units

BOOK = load_price_book()
COMPARED = ("multipliers", "tax", "absence")
NUMBERS = ("multiplier", "low", "high")
FEW = {name: ATTACKS[name] for name in ("full_finetune", "lora_finetune", "refusal_ablation")}


def study(sides):
    """Defense → attack → for every seed the number of the probe at which it breaks, or ``None`` for a run that holds."""
    units, probes = [], []
    for defense, attacks in sides.items():
        for attack, seeds in attacks.items():
            for seed, at in enumerate(seeds):
                unit = f"{defense} {attack} {seed}"
                names = {"unit": unit, "model": "m", "defense": defense, "attack": attack, "seed": seed}
                for number, steps in enumerate(STEPS[:8]):
                    spent = {"examples": 10.0 * steps, "steps": steps, "tokens": 64.0 * steps, "flops": 1e12 * (1 + seed / 9) * steps}
                    harm = 1.0 if at is not None and number >= at else 0.0
                    probes.append({"unit": unit, "probe": number, **spent, "harm": harm, "utility": 1.0})
                units.append({**names, "kind": "attack", "status": "completed", **spent})
    return pd.DataFrame(units), pd.DataFrame(probes)


def compare(units, probes, **options):
    return assess(units, probes, tau=0.5, epsilon=0.1, price_book=BOOK, accelerator="H100-SXM", budget={"steps": STEPS[7]}, **options)


def multiplied(units, probes):
    """The multipliers alone, without everything else that an assessment draws; every model here keeps its utility."""
    breaks = find_breaks(units, probes, tau=0.5, epsilon=0.1, accelerator=BOOK.accelerator("H100-SXM"))
    return multipliers(checked_units(units), breaks, breaks, budget={"steps": STEPS[7]})


at = st.one_of(st.none(), st.integers(0, 7))
runs = st.integers(1, 4).flatmap(lambda seeds: st.fixed_dictionaries({name: st.lists(at, min_size=seeds, max_size=seeds) for name in "ab"}))


@settings(max_examples=8, deadline=None)
@given(runs)
def test_the_control_multiplied_with_itself_is_one(attacks):
    table = multiplied(*study({"none": attacks, "copy": attacks}))
    known = table[table["status"] == "known"]
    assert (known["multiplier"] == 1).all()
    assert ((known["low"] <= 1) & (known["high"] >= 1)).all()
    assert not (table["status"] == "at_least").any()


@settings(max_examples=6, deadline=None)
@given(runs, runs, st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_the_names_of_seeds_matter(control, defended, random):
    units, probes = study({"none": control, "d": defended})
    names = dict(zip(range(9), random.sample(range(100), 9), strict=True))
    renamed = units.assign(seed=units["seed"].map(names)).sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(multiplied(units, probes), multiplied(renamed, probes.sample(frac=1, random_state=2)))


def test_the_order_of_rows_does_not_matter_to_tax_and_absence():
    units, probes = tables({"tar": DEFENSES["tar"]}, FEW, seeds=3)
    one, other = compare(units, probes), compare(units.sample(frac=1, random_state=1), probes.sample(frac=1, random_state=2))
    for name in COMPARED:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=6, deadline=None)
@given(runs, runs)
def test_a_number_is_shown_only_where_there_is_one(control, defended):
    table = multiplied(*study({"none": control, "d": defended}))
    assert set(table["status"]) <= set(STATUSES)
    numbered = table["status"].isin(["known", "at_least"])
    assert np.isfinite(table.loc[numbered, ["multiplier", "low"]]).all(axis=None)
    assert table.loc[~numbered, list(NUMBERS)].isna().all(axis=None)
    assert (table.loc[numbered, "low"] <= table.loc[numbered, "multiplier"]).all()
    assert (table.loc[numbered, "multiplier"] <= table.loc[numbered, "high"]).all()
    assert (np.isinf(table.loc[table["status"] == "at_least", "high"])).all()
    assert (table["defended_censored"] == (2 * table["defended_broken"] < table["defended_runs"])).all()


@settings(max_examples=5, deadline=None)
@given(runs, runs, st.floats(0.01, 100))
def test_the_unit_of_spend_does_not_matter(control, defended, factor):
    units, probes = study({"none": control, "d": defended})
    before = multiplied(units, probes)
    after = multiplied(units.assign(flops=units["flops"] * factor), probes.assign(flops=probes["flops"] * factor))
    pd.testing.assert_frame_equal(before[["status", *NUMBERS]], after[["status", *NUMBERS]])
    flops, usd = (before[before["currency"] == currency].reset_index(drop=True) for currency in ("flops", "usd"))
    pd.testing.assert_frame_equal(flops[["status", *NUMBERS]], usd[["status", *NUMBERS]])


def test_medians_of_one_attack_are_those_of_the_price_table():
    found = comparison({"repnoise": DEFENSES["repnoise"]}, FEW)
    prices = found.assessment.prices.set_index(["defense", "attack"])
    table = found.assessment.multipliers
    for row in table[(table["scope"] == "attack")].to_dict("records"):
        for side, defense in (("defended", row["defense"]), ("control", "none")):
            ours = [row[f"{side}_{part}"] for part in ("median", "low", "high", "censored")]
            theirs = prices.loc[(defense, row["name"]), [f"{row['currency']}_{part}" for part in ("median", "low", "high", "censored")]]
            assert ours == pytest.approx(theirs.tolist(), nan_ok=True)


def test_the_truth_is_found():
    found = comparison({"tar": DEFENSES["tar"], "vaccine": DEFENSES["vaccine"]}, FEW, spread=0.0).assessment
    table = found.multipliers[found.multipliers["currency"] == "flops"].set_index(["defense", "name"])
    # The first probes at or after 9 and 108 steps are those of 11 and 128.
    assert table.loc[("tar", "full_finetune"), "multiplier"] == pytest.approx(128 / 11)
    assert table.loc[("tar", "full_finetune"), "low"] == pytest.approx(91 / 11)
    assert table.loc[("tar", "full_finetune"), "high"] == pytest.approx(128 / 8)
    assert table.loc[("tar", "refusal_ablation"), ["status", "multiplier"]].tolist() == ["at_least", 1]
    best = table.loc[("tar", "best attacker")]
    assert (best["control_attack"], best["defended_attack"]) == ("refusal_ablation", "full_finetune")
    assert best["multiplier"] == pytest.approx(128 * 3.1e9 / 1.2e9)
    assert table.loc[("vaccine", "best attacker"), "multiplier"] == 1
    tax = found.tax.set_index("defense")
    assert tax.loc["tar", "utility_kept"] == pytest.approx(0.93 / 0.99)
    assert tax.loc["tar", "novel_steps_median"] == 80  # first probe at or after 28 × 2.4 = 67
    assert tax.loc["tar", "novel_control_median"] == 30
    assert tax.loc["tar", "training_flops"] == 6.4e13
    absence = found.absence.set_index("defense")["verdict"]
    assert absence["vaccine"] == absence["none"] == "suppressed, not removed"


def test_several_models_are_compared_each_with_its_own_control():
    small = {"a": Attack("fine-tuning", 9, 1e9, 100)}
    twice = {"d": Defense({"fine-tuning": 4})}
    units, probes = (
        pd.concat(parts, ignore_index=True)
        for parts in zip(
            tables(twice, small, model="m", seeds=2, spread=0.0), tables(twice, small, model="n", seeds=2, spread=0.0), strict=True
        )
    )
    probes.loc[probes["unit"].str.contains("-n-"), "flops"] *= 7
    table = multiplied(units, probes).query("scope == 'attack' and currency == 'flops'")
    assert table["model"].tolist() == ["m", "n"]
    assert table["multiplier"].nunique() == 1


def test_more_seeds_than_are_enumerated_are_drawn_the_same_way_each_time():
    sides = {"none": {"a": [1, 2, 3, 2, 1, 2, 3, 4, 2]}, "d": {"a": [4, 5, 4, 5, 6, None, 4, 5, 5]}}
    one, other = (multiplied(*study(sides)) for _ in range(2))
    pd.testing.assert_frame_equal(one, other)
    row = one[(one["scope"] == "attack") & (one["currency"] == "steps")].iloc[0]
    assert row["low"] < row["multiplier"] == STEPS[5] / STEPS[2] < row["high"]


def test_a_search_adds_currencies_with_the_search_in_them():
    def searching(table):
        return table.assign(search_trials=4, search_flops=np.where(table["defense"] == "d", 9e12, 1e12))

    units, probes = study({"none": {"a": [1, 1]}, "d": {"a": [1, 1]}})
    plain, searched = multiplied(units, probes), multiplied(searching(units), probes)
    assert set(searched["currency"]) - set(plain["currency"]) == {"total_flops", "total_usd"}
    found = searched[(searched["scope"] == "attack")].set_index("currency")
    assert found.loc["flops", "multiplier"] == 1
    assert found.loc["total_flops", "multiplier"] == pytest.approx((1e12 + 9e12) / (1e12 + 1e12))


def test_without_a_defence_the_tables_are_empty_and_have_their_columns():
    units, probes = study({"none": {"a": [1, 2]}})
    found, full = compare(units, probes), comparison({"vaccine": DEFENSES["vaccine"]}, FEW, seeds=1).assessment
    for name in COMPARED:
        assert getattr(found, name).empty
        assert getattr(found, name).dtypes.to_dict() == getattr(full, name).dtypes.to_dict()


def test_defences_without_a_control_are_taxed_but_not_compared():
    def only_defended(table):
        return table[table["defense"] != "none"] if "kind" in table else table[table["unit"].str.contains("vaccine")]

    found = comparison({"vaccine": DEFENSES["vaccine"]}, FEW, seeds=2, units=only_defended, trajectories=only_defended).assessment
    assert found.multipliers.empty
    assert found.tax["utility_kept"].tolist() == [pytest.approx(0.985 / 0.99)]
    assert found.tax["novel_status"].tolist() == [""]


def test_a_study_that_teaches_nothing_has_no_trainability():
    found = comparison({"vaccine": DEFENSES["vaccine"]}, FEW, seeds=2, novel=False).assessment.tax.iloc[0]
    assert found["novel_status"] == ""
    assert math.isnan(found["novel_ratio"])
