import math

import pandas as pd
import pytest

from tempering.economics.tables import InvalidTable, checked_trajectories, checked_units

SPENT = {"examples": 1, "steps": 1, "tokens": 1, "flops": 1}
UNIT = {"unit": "u", "kind": "attack", "model": "m", "defense": "none", "attack": "a", "seed": 0, "status": "completed"}


def a_unit(**changes):
    return {
        "unit": "u",
        "kind": "attack",
        "model": "m",
        "defense": "none",
        "attack": "a",
        "seed": 0,
        "status": "completed",
        **SPENT,
    } | changes


def a_probe(**changes):
    return {"unit": "u", "probe": 0, **SPENT, "harm": 0.0, "utility": 1.0} | changes


def test_types_are_settled_whatever_comes_in():
    units = pd.DataFrame([a_unit(seed="3"), a_unit(unit="v", kind="reference", attack="")]).astype(
        {"model": "category", "kind": "category"}
    )
    found = checked_units(units)
    assert found["model"].dtype == object
    assert found["seed"].tolist() == [3, 0]
    assert (found[["examples", "steps", "tokens", "flops"]].dtypes == "float64").all()
    probes = checked_trajectories(pd.DataFrame([a_probe(harm=1, details="{}")]), found)
    assert (probes[["flops", "harm", "utility"]].dtypes == "float64").all()
    assert probes["details"].tolist() == ["{}"]
    assert units["seed"].tolist() == ["3", 0]  # the caller's table is untouched


def test_order_is_settled():
    units = checked_units(pd.DataFrame([a_unit(unit="b"), a_unit(unit="a")]))
    assert units["unit"].tolist() == ["a", "b"]
    probes = pd.DataFrame([a_probe(unit="b"), a_probe(unit="a", probe=1), a_probe(unit="a", probe=0)])
    assert checked_trajectories(probes, units)[["unit", "probe"]].to_numpy().tolist() == [["a", 0], ["a", 1], ["b", 0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([a_unit(), a_unit()], "units: 'u' occurs twice"),
        ([a_unit(kind="attcak")], "units: kind 'attcak' is unknown; known: attack, reference, harden, novel"),
        ([a_unit(status="done")], "units: status 'done' is unknown"),
        ([a_unit(flops=-1)], "units: flops of 'u' is -1"),
        ([a_unit(steps=math.inf)], "units: steps of 'u' is inf"),
        ([a_unit(seed="first")], "units: column 'seed' does not hold int64 numbers"),
        ([{"unit": "u"}], "units: no column 'kind'; it has unit"),
    ],
)
def test_bad_units(rows, message):
    with pytest.raises(InvalidTable, match=message):
        checked_units(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([a_probe(unit="w")], "'w' is no unit of the units table"),
        ([a_probe(), a_probe()], "probe 0 of 'u' occurs twice"),
        ([a_probe(flops=5), a_probe(probe=1, flops=4)], "flops at probe 1 of 'u' is 4.0; spends are cumulative"),
        ([a_probe(tokens=math.nan)], "tokens at probe 0 of 'u' is nan"),
        ([a_probe(steps=-1)], "steps at probe 0 of 'u' is -1.0"),
        ([a_probe(harm=math.inf)], "harm at probe 0 of 'u' is infinite"),
        ([a_probe(utility="high")], "column 'utility' does not hold float64 numbers"),
        ([{"unit": "u", "probe": 0}], "trajectories: no column 'examples'"),
    ],
)
def test_bad_trajectories(rows, message):
    with pytest.raises(InvalidTable, match=message) as caught:
        checked_trajectories(pd.DataFrame(rows), checked_units(pd.DataFrame([a_unit()])))
    assert "\n" not in str(caught.value)


def test_a_failed_unit_need_not_know_its_spend():
    assert math.isnan(checked_units(pd.DataFrame([a_unit(status="failed", flops=math.nan)]))["flops"].iloc[0])
