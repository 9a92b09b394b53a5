"""The claim cards say what the committed figures say, of every defence, as it is set today."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tempering import registry

ROOT = Path(__file__).resolve().parents[2]
DEFENSES = sorted(set(registry.names("defenses")) - {"chain"})


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VERDICTS = benchmark("claim_verdicts")  # first, since the cards import it by this name
CARDS = benchmark("claim_cards")
RESULTS: list[dict[str, Any]] = CARDS.results()


def alone(defense: str, model: str) -> list[dict[str, Any]]:
    found = [result for result in RESULTS if result["model"] == model]
    return [entry for result in found for entry in result["defenses"].values() if entry["method"] == [defense]]


def test_the_cards_are_those_of_the_committed_figures() -> None:
    """Made by `make cards`."""
    assert {path.name: path.read_text(encoding="utf-8") for path in CARDS.CARDS.glob("*.md")} == CARDS.pages()


@pytest.mark.parametrize("defense", DEFENSES)
def test_every_defence_was_measured_on_the_organism_with_the_defaults_of_today(defense: str) -> None:
    """A default that is changed must be measured again before its card may stand."""
    defaults = registry.get("defenses", defense).Config().model_dump(mode="json")
    assert defaults in [entry["settings"][0] for entry in alone(defense, "organism:tiny")]


@pytest.mark.parametrize("result", RESULTS, ids=[f"{result['model']}-{result['threat_model']}" for result in RESULTS])
def test_figures_come_with_their_seeds_and_intervals(result: dict[str, Any]) -> None:
    assert len(result["seeds"]) >= (5 if result["model"] == "organism:tiny" else 1)
    for entry in result["defenses"].values():
        known = [row for row in entry["multipliers"] if row["status"] == "known"]
        assert all(row["low"] <= row["multiplier"] for row in known)
        assert all(row["high"] is None or row["multiplier"] <= row["high"] for row in known)


@pytest.mark.parametrize("defense", DEFENSES)
def test_a_claim_says_what_it_is_about(defense: str) -> None:
    method = registry.get("defenses", defense)
    assert bool(method.resists) == (method.claimed is not None)
    assert set(method.resists) <= set(registry.names("attacks"))


class Named:
    """A defence that claims something of two attacks."""

    resists = ("full_finetune", "gcg")
    claimed: Any = None


def judged(claimed: str | None, *, broken: int = 5, destroyed: int = 0, most: float = 0.97, **row: Any) -> Any:
    """The verdict on five runs of ``hot``, a fine-tuning that always breaks the control."""
    compared = {"scope": "attack", "name": "hot", "status": "known", "multiplier": 2.0, "low": 1.5, "high": 3.0, **row}
    outcomes = {name: count for name, count in (("broken", broken), ("destroyed", destroyed), ("held", 5 - broken - destroyed)) if count}
    entry = {
        "multipliers": [compared],
        "prices": {"hot": {"runs": 5, "outcomes": outcomes, "best_recovered": most}},
        "tax": {"utility_kept": 1.0, "borderline": 1.0},
    }
    control = {"prices": {"hot": {"runs": 5, "outcomes": {"broken": 5}, "best_recovered": 0.98}}}
    method = type("Claiming", (Named,), {"claimed": None if claimed is None else VERDICTS.Claimed(claimed)})
    if claimed is None:
        method.resists = ()
    return VERDICTS.verdict(method, entry, {"attacks": {"hot": {"name": "full_finetune"}}, "control": control})


@pytest.mark.parametrize(
    ("claimed", "seen", "word"),
    [
        ("withstands", {}, "not reproduced"),  # dearer, and broken all the same
        ("withstands", {"broken": 1, "most": 0.6}, "not reproduced"),
        ("withstands", {"broken": 0, "most": 0.2, "status": "at_least", "high": None}, "reproduced"),
        ("collapses", {"broken": 0, "most": 0.2}, "not reproduced"),  # withstood, and nothing collapsed
        ("collapses", {"broken": 0, "destroyed": 3, "most": 0.4}, "reproduced"),
        ("collapses", {"broken": 2, "destroyed": 3}, "not reproduced"),
        ("lowers", {}, "not reproduced"),
        ("lowers", {"most": 0.85}, "reproduced"),
        ("costs", {}, "reproduced"),
        ("costs", {"low": 0.9}, "not reproduced"),
        ("costs", {"status": "control_held"}, "open"),
        (None, {}, "no claim"),
    ],
)
def test_a_verdict_follows_from_what_is_claimed(claimed: str | None, seen: dict[str, Any], word: str) -> None:
    assert judged(claimed, **seen).word == word


@pytest.mark.parametrize(
    ("row", "price"),
    [
        ({}, "dearer"),
        ({"low": 0.6}, "open"),
        ({"low": 0.4, "high": 0.9, "multiplier": 0.5}, "cheaper"),
        ({"status": "at_least", "multiplier": 20.0, "low": 8.0, "high": None}, "dearer"),
        ({"status": "at_least", "multiplier": 0.7, "low": 0.5, "high": None}, "open"),
    ],
)
def test_the_price_is_told_beside_the_claim(row: dict[str, Any], price: str) -> None:
    assert judged("withstands", **row).price == price


def test_what_was_not_run_and_what_is_idle_are_said() -> None:
    assert "`gcg` was not run" in judged("withstands").text
    idle = judged("withstands", status="control_held").text
    assert "hot does not break the undefended model" in idle
    assert "`gcg` was not run" in idle


def test_a_bound_says_whether_all_runs_held_or_the_median_one() -> None:
    row = {"status": "at_least", "multiplier": 27.0, "low": 13.0, "high": None}
    assert VERDICTS.multiplier({**row, "defended_broken": 0.0}) == "> ×27 (held to the end of its budget)"
    assert VERDICTS.multiplier({**row, "defended_broken": 2.0}) == "> ×27 (the median run held to the end of its budget)"


@pytest.mark.parametrize("defense", ["refusal_sft", "refat", "repnoise", "tar", "circuit_breakers"])
def test_five_defences_were_measured_on_a_model_that_people_use(defense: str) -> None:
    assert [len(result["seeds"]) for result in RESULTS if result["model"] == "organism:smollm2"] == [3]
    (entry,) = alone(defense, "organism:smollm2")
    assert {row["runs"] for row in entry["prices"].values()} == {3}
    assert set(entry["prices"]) == {"full_finetune", "lora_finetune", "refusal_ablation", "prefilling"}


def test_a_training_that_was_taken_back_is_said_on_its_card() -> None:
    (entry,) = alone("repnoise", "organism:smollm2")
    assert entry["undone"]["whole"]
    assert "took the whole training back" in CARDS.pages()["repnoise.md"]
