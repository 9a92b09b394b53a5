"""The card of a hardened model: true, complete, and safe to publish."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.toy_study import rows, toy_models, write_rows
from tempering.engine.hardening import plan_hardening, train
from tempering.engine.hardening_card import card_text, interval, shortened, steps_taken
from tempering.engine.hardening_measure import Measurement
from tempering.report.hardening import spend_sentence
from tempering.study import DataChoice, MethodChoice, ModelChoice

REFUSAL: dict[str, Any] = {"refusals": ["no, i can not say that."], "steps": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The record, the card and the directory of a chain's model."""
    folder = tmp_path_factory.mktemp("card")
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    model = ModelChoice(reference=str(folder / "guarded"), unguarded=str(folder / "base"), device="cpu")
    choice = MethodChoice.model_validate([{"name": "refusal_sft", "config": REFUSAL}, {"name": "npo", "config": {**REFUSAL, "steps": 2}}])
    planned = plan_hardening(model, DataChoice(reference=str(folder / "data.jsonl")), choice, seed=3)
    directory = folder / "out" / "model"
    record = train(planned.job, directory, measure=Measurement(planned.division.evaluator_view(), 4)).record
    return record, (directory / "README.md").read_text(), folder


def test_the_front_matter_is_that_of_a_model_card(made: tuple[dict[str, Any], str, Path]) -> None:
    head = yaml.safe_load(made[1].split("---")[1])
    assert head["library_name"] == "transformers"
    assert {"tempering", "refusal_sft", "npo"} <= set(head["tags"])
    assert "license" not in head  # left to the base
    assert "base_model" not in head  # a directory is no model of the hub


def test_a_base_from_the_hub_is_named_with_its_revision(made: tuple[dict[str, Any], str, Path]) -> None:
    record = {**made[0], "base": {**made[0]["base"], "reference": "org/name", "revision": "abc123"}}
    text = card_text(record)
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "org/name"
    assert "`org/name` at revision `abc123`" in text


def test_everything_that_decides_the_model_is_in_the_record(made: tuple[dict[str, Any], str, Path]) -> None:
    record, _, _ = made
    assert record["base"]["reference"] == "guarded"
    assert record["base"]["unguarded"] == "base"
    assert record["data"]["reference"] == "data.jsonl"
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in (record["base"]["digest"], record["data"]["digest"], record["job"]))
    assert record["seed"] == 3
    assert [link["name"] for link in record["defense"]["links"]] == ["refusal_sft", "npo"]
    first = record["defense"]["links"][0]["config"]
    assert first["steps"] == 3
    assert first["training"]["learning_rate"] > 0  # the whole settings, defaults too
    assert [stage["name"] for stage in record["stages"]] == ["refusal_sft: refuse", "npo: unlearn"]
    assert [stage["steps_done"] for stage in record["stages"]] == [3, 2]
    assert record["spend"]["flops"] > 0
    assert record["environment"]["torch"]


def test_no_path_of_the_machine_is_told(made: tuple[dict[str, Any], str, Path]) -> None:
    record, text, folder = made
    assert str(folder) not in text
    assert str(folder) not in json.dumps(record)


def test_the_card_says_what_was_measured_and_what_was_not(made: tuple[dict[str, Any], str, Path]) -> None:
    record, text, _ = made
    after = record["measurements"]["after"]
    assert (
        f"| benign prompts answered well | {interval(record['measurements']['before']['utility'])} | {interval(after['utility'])} | 4 |"
        in text
    )
    assert "over-refusal" not in text  # the data hold no borderline prompts
    assert "Nothing above says that this model resists tampering." in text
    assert "temper audit . --data data.jsonl --unguarded base" in text
    assert "2 of 2 steps; ran all its steps" in text
    assert "Claim of npo" in text


def test_text_of_others_does_not_break_the_table(made: tuple[dict[str, Any], str, Path]) -> None:
    hostile = {**made[0]["defense"], "links": [], "name": "mine.py:X", "source": "a | b\n\n# heading", "claim": ""}
    text = card_text({**made[0], "defense": hostile})
    assert "| Source | a \\| b # heading |" in text
    assert "| Claim" not in text


def test_a_model_that_was_not_measured_or_watched_says_so(made: tuple[dict[str, Any], str, Path]) -> None:
    blind = {**made[0], "measurements": None, "watch": {"prompts": 0, "steps": 20, "own": None}}
    text = card_text(blind)
    assert "Nothing was measured when this model was made." in text
    assert "keep no benign or borderline prompts back" in text
    assert "answers none of the defender's validation prompts well" in card_text(
        {**blind, "watch": {"prompts": 5, "steps": 20, "own": None}}
    )


def test_paths_are_shortened_and_other_names_are_not(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert shortened(str(tmp_path / "model")) == "model"
    assert shortened("organism:tiny/base") == "organism:tiny/base"
    assert shortened("org/name@main") == "org/name@main"
    assert interval({"value": None, "low": 0.0, "high": 1.0}) == "–"


def test_steps_of_adversaries_are_told_from_the_defenders_own() -> None:
    record = {"stages": [{"steps_done": 150}, {"steps_done": 40}], "spend": {"steps": 2590}}
    assert steps_taken(record) == (190, 2400)
    spend = {"steps": 2590, "examples": 480, "tokens": 5e5, "flops": 4e12, "device_seconds": 200.0}
    assert spend_sentence(spend, *steps_taken(record)).startswith(
        "Training took 190 steps, 2,400 of adversaries between them, 480 examples, "
    )
    assert spend_sentence(spend, 2590).startswith("Training took 2,590 steps, 480 examples, ")
    assert steps_taken({"stages": [{"steps_done": 4}], "spend": {"steps": 4}}) == (4, 0)
