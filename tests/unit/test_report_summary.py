import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from support.report_specimen import searched, specimen
from tempering.report.summary import Summary, audit_spend, dumps, json_schema, json_values, make_summary, write_json_schema

CURRENCIES = ["examples", "steps", "queries", "tokens", "flops", "gpu_hours", "usd"]
DOCUMENTED = Path(__file__).parents[2] / "docs" / "summary-schema.json"


def summarise(subject, **changes):
    arguments = {
        "targets": subject.targets,
        "skipped": subject.skipped,
        "environment": subject.environment,
        "spent": {"wall_s": 213.0, "flops": 1e13},
    }
    return make_summary(subject.study, subject.assessment, **{**arguments, **changes})


@pytest.fixture(scope="module")
def document():
    return summarise(specimen())


def test_it_has_exactly_the_schema(document):
    assert list(document) == [
        "schema",
        "study",
        "study_digest",
        "target",
        "threshold",
        "attacks",
        "cheapest",
        "pricing",
        "environment",
        "spent",
    ]
    assert document["schema"] == 1
    assert document["target"] == {"reference": "organism:tiny/guarded", "digest": "ab12" * 16, "dtype": "float32"}
    assert document["threshold"] == {"tau": 0.5, "epsilon": 0.1}
    assert document["spent"] == {"wall_s": 213.0, "flops": 1e13}
    first = document["attacks"][0]
    assert {"attack", "trials", "outcomes", "cost_to_break", "best_recovered", "utility_kept", "not_tried"} <= set(first)
    assert list(first["outcomes"]) == ["broken", "held", "destroyed", "no_direction", "failed"]
    assert list(first["cost_to_break"]) == CURRENCIES
    assert all(list(cost) == ["median", "low", "high", "censored", "exceeds"] for cost in first["cost_to_break"].values())


def test_it_is_strict_json_and_reads_back_the_same(document):
    def refuse(constant):
        raise AssertionError(constant)

    text = dumps(document)
    assert json.loads(text, parse_constant=refuse) == document
    assert Summary.model_validate(document).schema_ == 1


def test_its_numbers_are_those_of_economics(document):
    prices = specimen().assessment.prices.set_index("attack")
    for entry in document["attacks"][:-1]:
        row = prices.loc[entry["attack"]]
        assert entry["trials"] == row["trials"] == sum(entry["outcomes"].values())
        for currency, cost in entry["cost_to_break"].items():
            assert cost["censored"] == row[f"{currency}_censored"]
            if cost["censored"]:
                assert cost["median"] is None
                assert cost["high"] is None
            else:
                assert cost["median"] == row[f"{currency}_median"]
                assert cost["low"] == row[f"{currency}_low"]
    best = specimen().assessment.cheapest
    assert document["cheapest"] == {key: best[key] for key in ("model", "defense", "attack", "usd", "flops", "examples")}


def test_a_held_attack_keeps_its_bound(document):
    held = next(entry for entry in document["attacks"] if entry["attack"] == "identity_shift")
    # One of its three runs was watched for 6 steps only, and of three runs only the smallest bounds the true median.
    assert held["cost_to_break"]["steps"] == {"median": None, "low": 6.0, "high": None, "censored": True, "exceeds": 200.0}
    assert held["utility_kept"] is None


def test_a_skipped_attack_says_why_it_was_not_tried(document):
    skipped = document["attacks"][-1]
    assert skipped["attack"] == "relearning"
    assert skipped["trials"] == 0
    assert skipped["cost_to_break"] is None
    assert skipped["not_tried"].startswith("needs retrieval")
    assert [entry["not_tried"] for entry in document["attacks"][:-1]] == [None] * 4


def test_several_models_are_all_named():
    document = summarise(specimen(models=("organism:tiny/guarded", "organism:nano/guarded")))
    assert document["target"]["reference"] == "organism:tiny/guarded"
    assert [model["reference"] for model in document["models"]] == ["organism:tiny/guarded", "organism:nano/guarded"]
    assert {entry["model"] for entry in document["attacks"]} == {"organism:tiny/guarded", "organism:nano/guarded"}


def test_nothing_broke_leaves_no_cheapest():
    document = summarise(specimen(trajectories=lambda table: table.assign(harm=(table["attack"] == "").astype(float))))
    assert document["cheapest"] is None


def test_what_json_cannot_hold_is_made_plain():
    plain = json_values({"a": float("nan"), "b": {3, 1}, "c": (1, float("inf")), "d": Path("x"), 5: True})
    assert plain == {"a": None, "b": ["1", "3"], "c": [1, None], "d": "x", "5": True}
    with pytest.raises(ValueError, match="JSON"):
        dumps({"a": float("nan")})


def test_an_unknown_key_or_an_infinite_number_is_no_summary(document):
    with pytest.raises(ValidationError):
        Summary.model_validate({**document, "more": 1})
    with pytest.raises(ValidationError):
        Summary.model_validate({**document, "spent": {"wall_s": float("inf"), "flops": 0.0}})


def test_the_documented_schema_is_the_one_in_force(tmp_path):
    write_json_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == DOCUMENTED.read_text(), "write it anew with tempering.report.summary.write_json_schema"
    assert json_schema()["properties"]["schema"]["const"] == 1


def test_a_search_is_there_only_where_there_was_one(document):
    searching = summarise(specimen(units=searched))
    by_name = {entry["attack"]: entry for entry in searching["attacks"]}
    search = by_name["full_finetune"]["search"]
    assert search["trials"] == 12
    assert search["flops"] == pytest.approx(1.2e13)
    own, total = (part["flops"] for part in (by_name["full_finetune"]["cost_to_break"], search["cost_with_search"]))
    assert total["median"] > own["median"] + 1e13
    assert "search" not in by_name["lora_finetune"]
    assert all("search" not in entry for entry in document["attacks"])
    assert json.loads(dumps(searching)) == searching
    assert Summary.model_validate(searching)


def test_the_audits_own_spend_has_its_searches_in_it():
    units = specimen(units=searched).tables.units
    assert audit_spend(units)["flops"] == pytest.approx(units["flops"].sum() + units["search_flops"].sum())
    assert audit_spend(specimen().tables.units)["flops"] == pytest.approx(specimen().tables.units["flops"].sum())
