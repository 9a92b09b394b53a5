"""Models of several sizes: which belong together, what they learnt, and what breaking each costs."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from support.comparison_specimen import DEFENSES, comparison
from tempering.economics.attackers import BEST, attackers
from tempering.economics.ladder import learned_from_poison, prices_by_size, series_of
from tempering.economics.tables import checked_units


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-72B-Instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
        ("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
        ("organism:nano/guarded", "organism:tiny"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70b"),
    ],
)
def test_sizes_of_one_make_are_a_series(one: str, other: str) -> None:
    assert series_of(one) == series_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen3-7B"),
        ("lab/model", "lab/other"),
        ("lab/model-7B-base", "lab/model-7B-chat"),
        ("lab/v2b", "lab/v3b"),  # "2b" is no size inside a word
    ],
)
def test_others_are_not(one: str, other: str) -> None:
    assert series_of(one) != series_of(other)


@given(some.floats(0.01, 900), some.floats(0.01, 900))
def test_no_size_matters(first: float, second: float) -> None:
    assert series_of(f"lab/m-{first:.2f}B-it") == series_of(f"lab/m-{second:.2f}B-it")


def poisoned(harms: dict[str, list[float]], config: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One run a model."""
    units = pd.DataFrame({"unit": list(harms), "model": [f"lab/{name}" for name in harms], "kind": "attack", "defense": "none"})
    units["config"] = json.dumps(config)
    probes = [{"unit": name, "probe": number, "harm": harm} for name, seen in harms.items() for number, harm in enumerate(seen)]
    return units, pd.DataFrame(probes).sample(frac=1, random_state=0)


def test_what_was_learnt_is_the_last_probe_less_the_first() -> None:
    units, probes = poisoned(
        {"1B": [0.1, 0.9, 0.6], "2B": [0.0, math.nan]}, {"name": "data_poisoning", "config": {"poison_fraction": 0.02}}
    )
    found = learned_from_poison(units, probes, {"lab/1B": 1e9, "lab/2B": 2e9})
    assert found["learned"].tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert found["parameters"].tolist() == [1e9, 2e9]
    assert found["poison_rate"].tolist() == [0.02, 0.02]
    assert found["series"].nunique() == 1


def test_runs_without_poison_and_models_without_a_size_are_left_out() -> None:
    units, probes = poisoned({"1B": [0.1, 0.9]}, {"name": "full_finetune", "config": {}})
    assert learned_from_poison(units, probes, {"lab/1B": 1e9}).empty
    units, probes = poisoned({"1B": [0.1, 0.9]}, {"config": {"poison_fraction": 0.0}})
    assert learned_from_poison(units, probes, {}).empty
    assert learned_from_poison(units, probes, {"lab/1B": 1e9})["poison_rate"].tolist() == [0.0]
    assert learned_from_poison(units.drop(columns="config"), probes, {"lab/1B": 1e9}).empty


def test_only_attacks_that_every_size_was_given_are_compared() -> None:
    models = ("lab/1B", "lab/2B", "lab/4B")
    made = comparison({"tar": DEFENSES["tar"]}, seeds=2, models=models)
    breaks = made.assessment.breaks
    missing = sorted(set(breaks["attack"]))[0]
    breaks = breaks[(breaks["model"] != models[0]) | (breaks["attack"] != missing)]
    runs = attackers(checked_units(made.tables.units), breaks, made.told["budget"])
    found = prices_by_size(runs, dict(zip(models, (1e9, 2e9, 4e9), strict=True)))
    assert missing not in set(found["name"])
    assert BEST in set(found["name"])
    assert found.groupby(["defense", "name"])["model"].nunique().eq(3).all()
    assert len(found) == 2 * len(set(found["name"])) * 3 * 2  # defences, names, models, seeds
    assert np.all(found["lower"] <= found["upper"])
    assert set(prices_by_size(runs, {"lab/1B": 1e9})["model"]) == {"lab/1B"}
    assert prices_by_size(runs, {}).empty
