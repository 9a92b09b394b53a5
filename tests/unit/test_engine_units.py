"""Hashes: they change with whatever decides a result, and with nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import engine_samples
from tempering.engine.search_space import Dimension, PlannedSearch
from tempering.engine.units import Plan, ResolvedMethod, Unit
from tempering.study import Budget, DataChoice, ModelChoice, ProbeSettings, SearchSettings, Threshold, TrainabilitySettings

REFERENCE: dict[str, Any] = {
    "kind": "reference",
    "attack": None,
    "reference": ModelChoice(reference="some/base"),
    "reference_digest": "b" * 64,
}

SEARCH = PlannedSearch(settings=SearchSettings(trials=8), threshold=Threshold(), space=(Dimension(path=("x",), default=1, low=0, high=2),))

DECIDING: dict[str, dict[str, Any]] = {
    "weights": {"model_digest": "e" * 64},
    "dtype": {"dtype": "bfloat16"},
    "device": {"device": "cuda"},
    "data": {"data_digest": "e" * 64},
    "division": {"data": DataChoice(reference="data.jsonl", domains=("b", "a"), seed=1)},
    "domains": {"data": DataChoice(reference="data.jsonl", domains=("a",))},
    "attack": {"attack": ResolvedMethod(name="lora_finetune", config={"learning_rate": 1e-4, "steps": 7})},
    "attack's configuration": {"attack": ResolvedMethod(name="full_finetune", config={"learning_rate": 2e-4, "steps": 7})},
    "attack's code": {"attack": ResolvedMethod(name="full_finetune", config={"learning_rate": 1e-4, "steps": 7}, code="other 2.0")},
    "defence": {"defense": ResolvedMethod(name="tar", config={})},
    "defence's configuration": {"defense": ResolvedMethod(name="tar", config={"steps": 3})},
    "what a defence is given": {"defense": ResolvedMethod(name="tar", config={}), "supplements_digest": "s" * 64},
    "utility that a defence may cost": {"defense": ResolvedMethod(name="tar", config={}), "utility_floor": 0.5},
    "code that hardens": {"defense": ResolvedMethod(name="tar", config={}), "hardening_version": 2},
    "hardening": {"kind": "harden", "attack": None, "defense": ResolvedMethod(name="tar", config={})},
    "honest fine-tuning": {"kind": "novel", "attack": None, "trainability": TrainabilitySettings()},
    "more honest fine-tuning": {"kind": "novel", "attack": None, "trainability": TrainabilitySettings(steps=7)},
    "budget": {"budget": Budget(steps=101)},
    "another currency": {"budget": Budget(steps=100, flops=1e15)},
    "prompts a probe": {"probes": ProbeSettings(prompts=17)},
    "response length": {"probes": ProbeSettings(prompts=16, max_new_tokens=9)},
    "a search": {"search": SEARCH},
    "more trials": {"search": SEARCH.model_copy(update={"settings": SearchSettings(trials=9)})},
    "what a trial has to reach": {"search": SEARCH.model_copy(update={"threshold": Threshold(tau=0.25)})},
    "what utility a trial has to keep": {"search": SEARCH.model_copy(update={"threshold": Threshold(epsilon=0.25)})},
    "what a search may set": {"search": SEARCH.model_copy(update={"space": (Dimension(path=("x",), default=1, low=0, high=3),)})},
    "evaluators": {"evaluators": (ResolvedMethod(name="harm", config={}),)},
    "evaluator's configuration": {
        "evaluators": (ResolvedMethod(name="harm", config={"strict": True}), ResolvedMethod(name="utility", config={}))
    },
    "schema": {"schema_version": 999},
    "code": {"code_version": 999},
    "kind": REFERENCE,
}

DISPLAY: dict[str, dict[str, Any]] = {
    "model's name": {"model": ModelChoice(reference="elsewhere/the-same")},
    "unguarded model's name": {"model": ModelChoice(reference="some/model", unguarded="some/base")},
    "template's path": {"model": ModelChoice(reference="some/model", chat_template=Path("template.jinja"))},
    "trust": {"model": ModelChoice(reference="some/model", trust_remote_code=True)},
    "data's path": {"data": DataChoice(reference="moved.jsonl", domains=("b", "a"))},
    "attack's label": {"label": "another name"},
    "defence's label": {"defense_label": "another name"},
    "order of domains": {"data": DataChoice(reference="data.jsonl", domains=("a", "b"))},
}


@pytest.mark.parametrize("change", DECIDING.values(), ids=DECIDING.keys())
def test_hash_changes_with_what_decides_a_result(change: dict[str, Any]) -> None:
    assert Unit(engine_samples.work(**change), 0).hash != Unit(engine_samples.work(), 0).hash


def test_all_deciding_changes_differ_from_each_other() -> None:
    assert len({engine_samples.work(**change).hash for change in DECIDING.values()}) == len(DECIDING)


@pytest.mark.parametrize("change", DISPLAY.values(), ids=DISPLAY.keys())
def test_hash_does_not_change_with_names_and_places(change: dict[str, Any]) -> None:
    assert Unit(engine_samples.work(**change), 0).hash == Unit(engine_samples.work(), 0).hash


def test_seed_changes_the_unit_but_not_the_trial() -> None:
    shared = engine_samples.work()
    assert Unit(shared, 0).hash != Unit(shared, 1).hash
    assert Unit(shared, 0).work.trial == Unit(shared, 1).work.trial
    assert len(shared.trial) == 12


def test_a_file_of_the_users_own_is_named_by_its_content() -> None:
    here = ResolvedMethod(name="one/mine.py:Mine", config={}, code="c" * 64)
    there = ResolvedMethod(name="two/mine.py:Mine", config={}, code="c" * 64)
    edited = ResolvedMethod(name="one/mine.py:Mine", config={}, code="e" * 64)
    assert engine_samples.work(attack=here).hash == engine_samples.work(attack=there).hash
    assert engine_samples.work(attack=here).hash != engine_samples.work(attack=edited).hash


def test_units_without_a_search_are_named_as_they_were_before_there_were_searches() -> None:
    assert "search" not in engine_samples.work().deciding()


def test_units_without_a_defence_are_named_as_they_were_before_there_were_defences() -> None:
    assert Unit(engine_samples.work(code_version=2), 3).hash == "08db4d269f760bc42a51d9039bf0e459d15b0c67d938d91319dbc5719fff149b"


def test_a_defended_model_is_named_by_its_seed_too() -> None:
    shared = engine_samples.work(defense=ResolvedMethod(name="tar", config={}))
    assert Unit(shared, 0).defended == Unit(shared, 0).defended != Unit(shared, 1).defended
    assert Unit(engine_samples.work(), 0).defended == ""


def test_labels_say_what_is_done_to_what() -> None:
    tar = ResolvedMethod(name="tar", config={})
    made = {
        "full_finetune seed 3": engine_samples.work(),
        "full_finetune seed 3 behind tar": engine_samples.work(defense=tar),
        "full_finetune seed 3 behind short": engine_samples.work(defense=tar, defense_label="short"),
        "hardening by tar seed 3": engine_samples.work(kind="harden", attack=None, defense=tar),
        "honest fine-tuning seed 3": engine_samples.work(kind="novel", attack=None),
        "reference without the safeguard": engine_samples.work(**REFERENCE),
    }
    assert [Unit(work, 3).label for work in made.values()] == list(made)


def test_a_search_survives_being_written_down() -> None:
    unit = Unit(engine_samples.work(search=SEARCH), 3)
    assert Unit.from_json(json.loads(json.dumps(unit.as_json()))).hash == unit.hash


def test_budget_does_not_decide_a_reference() -> None:
    assert engine_samples.work(**REFERENCE).hash == engine_samples.work(**REFERENCE, budget=Budget(steps=7)).hash


def test_the_untouched_probe_is_shared_by_attacks_and_budgets_but_not_by_models() -> None:
    shared = engine_samples.work().untouched
    assert shared == engine_samples.work(**DECIDING["attack"]).untouched == engine_samples.work(**DECIDING["budget"]).untouched
    assert (
        len({shared, *(engine_samples.work(**DECIDING[name]).untouched for name in ("weights", "data", "evaluators", "response length"))})
        == 5
    )


def test_hash_is_the_same_in_another_process() -> None:
    unit = Unit(engine_samples.work(), 3)
    script = "import json, sys; from tempering.engine.units import Unit; print(Unit.from_json(json.load(sys.stdin)).hash)"
    for salt in ("1", "2"):
        other = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(unit.as_json()),
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        assert other.stdout.strip() == unit.hash


def test_a_plan_survives_being_written_down() -> None:
    written = engine_samples.plan(5)
    read = Plan.from_json(written.study, json.loads(json.dumps(written.as_json())))
    assert [unit.hash for unit in read.units] == [unit.hash for unit in written.units]
    assert read.digest == written.digest


def test_a_plan_writes_each_work_once() -> None:
    assert len(engine_samples.plan(50).as_json()["works"]) == 1
