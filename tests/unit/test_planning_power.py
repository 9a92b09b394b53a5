"""What a plan says of its study's power: numbers from assumptions and from pilots, what they cost, and the words they are told in."""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from support.command_line import error_line, temper, toy_arguments
from support.comparison_specimen import Attack, Defense, comparison
from tempering import planning_power
from tempering.economics.power import InvalidPlan, Prior
from tempering.economics.prices import load_price_book, usd
from tempering.economics.ratios import Costs
from tempering.planning_power import Basis, basis_of, checked_question, planned_power
from tempering.report import formatting
from tempering.report.plan_power import power_lines, power_table, table_note
from tempering.report.summary import json_values
from tempering.study import Study

HARDWARE = load_price_book().accelerator("H100-SXM")
EXACT = Basis(Prior(0.3, 0.3, spacing=1))
COARSE = Basis(Prior(0.3, 0.3, spacing=1.8))


def study(**changes: Any) -> Study:
    fields = {"models": ["organism:tiny"], "attacks": ["full_finetune", "refusal_ablation"], "defenses": ["refat"], "seeds": 5}
    return Study(**{**fields, **changes})


def document(planned: Study, *, each: float = 1e12, unsearched: str = "") -> dict[str, Any]:
    """The attacks of a plan: each on the model as it came, and behind every defence."""
    sides = ["none", *(choice.title for choice in planned.defenses)]
    rows = [
        {"each": {"flops": each}, "units": len(planned.seeds), "unsearched": unsearched if attack == 1 else ""}
        for _ in sides
        for attack in range(len(planned.attacks))
    ]
    return {"attacks": rows}


def power_of(planned: Study, basis: Basis = EXACT, *, studies: int = 50, **costs: Any) -> dict[str, Any]:
    rows = document(planned, **costs)
    return planned_power(rows, planned, basis, accelerator=HARDWARE, multiplier=2.0, power=0.8, studies=studies)


def shown(power: dict[str, Any]) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(power_table(power))
    return console.export_text()


def pilot(monkeypatch: pytest.MonkeyPatch, tables: Any, run: Study) -> None:
    """Let every directory hold this run."""

    class Store:
        def __init__(self, directory: Path) -> None:
            self.directory = directory

        def plan(self) -> Any:
            return type("Plan", (), {"study": run})()

        def tables(self, plan: Any) -> Any:
            return tables

    monkeypatch.setattr(planning_power, "RunStore", Store)


def test_the_answer_is_the_first_size_that_stays_enough_and_is_priced_by_the_plan() -> None:
    power = power_of(study(), studies=200)
    assert power["seeds"] == min(row["seeds"] for row in power["rows"] if row["enough"])
    # Exact costs with σ = .3: π/2 · .18 · 2.8016² / ln² 2 = 4.6, so five by the formula; the simulation is asked which of its sizes.
    assert power["formula"] == {"seeds": 5, "seen_exactly": 5}
    assert 5 <= power["seeds"] <= 7
    by_size = {row["seeds"]: row for row in power["rows"]}
    # Two attacks on two sides, 1 TFLOP each.
    assert {seeds: row["flops"] for seeds, row in by_size.items()} == pytest.approx({seeds: 4e12 * seeds for seeds in by_size})
    assert by_size[5]["usd"] == pytest.approx(usd(2e13, HARDWARE))
    assert power["this_study"]["seeds"] == 5
    first = power_lines(power)[0]
    assert first.startswith(f"To see a multiplier of 2× at 80 % power: {power['seeds']} seeds (this study has 5: power ")
    row = by_size[power["seeds"]]
    assert first.endswith(f", {formatting.flops(row['flops'])}, {formatting.dollars(row['usd'])} of attacks.")


def test_a_study_without_a_defence_is_reckoned_with_one() -> None:
    alone, beside = power_of(study(defenses=[])), power_of(study())
    assert [row["flops"] for row in alone["rows"]] == pytest.approx([row["flops"] for row in beside["rows"]])
    assert [row["power"] for row in alone["rows"]] == [row["power"] for row in beside["rows"]]
    assert any("names no defence" in line for line in power_lines(alone))
    assert not any("names no defence" in line for line in power_lines(beside))


def test_searches_and_hardenings_are_paid_for() -> None:
    # Of two attacks one has nothing to search: 4 runs and 2 × 10 trials a seed.
    searched = power_of(study(search=10), unsearched="has no settings to search")
    assert searched["rows"][0]["flops"] == pytest.approx(3 * 24e12)
    assert (searched["search"]["trials"], searched["search"]["planned"]) == (10, True)
    assert searched["search"]["flops"] == pytest.approx(searched["seeds"] * 20e12)
    (line,) = (line for line in power_lines(searched) if line.startswith("Searching"))
    assert "Searching 10 trials before each run takes $" in line
    assert "in the above" in line
    plain = power_of(study())
    assert plain["search"]["flops"] == pytest.approx(plain["seeds"] * 4 * 20e12)
    assert "(search: 20) would add $" in power_lines(plain)[-1]
    assert "training" not in table_note(plain)
    rows = {**document(study()), "hardening": [{"flops": 6e12, "units": 5}, {"flops": None, "units": 5}]}
    trained = planned_power(rows, study(), EXACT, accelerator=HARDWARE, multiplier=2.0, power=0.8, studies=5)
    assert trained["rows"][0]["flops"] == pytest.approx(3 * 10e12)
    assert "training the defences" in table_note(trained)


def test_without_a_pilot_the_assumptions_are_said_with_their_numbers() -> None:
    power = power_of(study(), basis_of(None, study()))
    assert power["basis"] == {
        "source": "assumptions",
        "pilot": None,
        **{"control": 0.5, "defended": 0.5, "correlation": 0.0, "control_trials": 0.0, "defended_trials": 0.0},
        **{"spacing": math.sqrt(2), "budget": None},
    }
    assert power["seeds"] is None
    assert power["most_tried"] == 40
    lines = power_lines(power)
    assert "more than 40 seeds (this study has 5: power " in lines[0]
    (assumed,) = (line for line in lines if line.startswith("Assumed, not measured"))
    assert "0.5 (a factor of 1.6)" in assumed
    assert "probes are 1.41× apart, as those of fine-tuning are" in assumed
    assert "--pilot RUN" in assumed
    assert "no attack of this study fine-tunes" not in assumed
    surgery = power_lines(power_of(study(attacks=["refusal_ablation"])))
    assert any("no attack of this study fine-tunes" in line for line in surgery)
    # 40 exact seeds would be far too many; it is the gaps.
    (gaps,) = (line for line in lines if line.startswith("The gaps"))
    assert "each probe is 1.41× the one before" in gaps
    assert "about 13 seeds would do (by formula)" in gaps


def test_gaps_that_no_number_of_seeds_overcomes_are_said_with_what_it_takes() -> None:
    power = power_of(study(), COARSE)
    # ln 2 / ln 1.8 − 1 = .179, and 2^(1 / 1.8) = 1.47.
    assert power["ceiling"] == pytest.approx(0.179, abs=1e-3)
    assert power["spacing_needed"] == pytest.approx(1.4697, abs=1e-4)
    assert power["formula"]["seeds"] is None
    lines = power_lines(power)
    assert "no number of seeds is enough, for with its probes at most 18 % of studies can see it" in lines[0]
    assert "probes no more than 1.47× apart" in lines[1]
    # Probes so close have the power within reach, and those that see everything are not in the way.
    near = Basis(Prior(0.05, 0.05, spacing=power["spacing_needed"]))
    assert power_of(study(), near)["ceiling"] == pytest.approx(0.8)
    assert not any(line.startswith("The gaps") for line in power_lines(power_of(study())))
    blind = power_lines(power_of(study(), Basis(Prior(0.3, 0.3, spacing=2.5))))
    assert "with its probes none at all can see it" in blind[0]


def test_what_the_study_sees_as_it_stands_is_told_where_it_is_less_than_was_asked() -> None:
    weak = power_of(study(seeds=3), Basis(Prior(0.8, 0.8, spacing=1)))
    assert weak["least_seen"] > 2
    assert f"With its 3 seeds this study would see multipliers from about {weak['least_seen']:g}× on at that power." in power_lines(weak)
    strong = power_of(study(), Basis(Prior(0.02, 0.02, spacing=1)))
    assert strong["least_seen"] == 1.2
    assert not any(line.startswith("With its") for line in power_lines(strong))
    assert strong["seeds"] == 3
    hopeless = power_of(study(seeds=3), Basis(Prior(0.3, 0.3, spacing=1, budget=0.2)))
    assert hopeless["least_seen"] is None
    assert any("would see no multiplier, however large" in line for line in power_lines(hopeless))


def test_one_seed_sees_what_is_not_there_and_is_told_so() -> None:
    power = power_of(study(seeds=1))
    assert power["this_study"]["seeds"] == 1
    assert 1 not in [row["seeds"] for row in power["rows"]]
    assert power["this_study"]["false_alarms"] > 0.3
    (line,) = (line for line in power_lines(power) if line.startswith("Beware: of studies of 1 seed,"))
    assert "see a multiplier where there is none" in line
    assert "this study" in next(row for row in shown(power).splitlines() if row.strip().startswith("1 "))
    assert not any(line.startswith("Beware") for line in power_lines(power_of(study(seeds=20))))


def test_the_table_has_every_size_and_marks_two() -> None:
    power = power_of(study(seeds=4))
    rows = shown(power).splitlines()[1:]
    assert [int(row.split()[0]) for row in rows if row.strip()] == sorted({4, *(row["seeds"] for row in power["rows"])})
    (own,) = (row for row in rows if "this study" in row)
    assert own.split()[0] == "4"
    (enough,) = (row for row in rows if "enough" in row)
    assert enough.split()[0] == str(power["seeds"])
    row = next(row for row in power["rows"] if row["seeds"] == 4)
    assert f"{row['power'] * 100:.0f} % (" in own
    assert "of 50 simulated studies of a defence worth 2×" in table_note(power)


def test_so_many_seeds_that_they_are_not_simulated() -> None:
    power = power_of(study(seeds=500), Basis(Prior(1.5, 1.5)))
    assert power["this_study"] is None
    assert power["least_seen"] is None
    assert "this study has more than are simulated" in power_lines(power)[0]
    assert "this study" not in shown(power)
    assert 60 in [row["seeds"] for row in power_of(study(seeds=60), Basis(Prior(1.5, 1.5)))["rows"]]


def test_it_is_json_and_the_same_twice_and_takes_no_time() -> None:
    begun = time.process_time()
    first = power_of(study(seeds=20), Basis(Prior()), studies=200)
    assert time.process_time() - begun < 5
    assert json.dumps(json_values(first)) == json.dumps(json_values(power_of(study(seeds=20), Basis(Prior()), studies=200)))
    assert json_values(first) == first
    assert first["simulated"] == {"studies": 200, "seed": 0}


@pytest.mark.parametrize("multiplier", [1.0, 0.5, math.nan, math.inf, -2.0])
def test_a_multiplier_that_is_none(multiplier: float) -> None:
    with pytest.raises(InvalidPlan, match=r"--multiplier .*above 1"):
        checked_question(multiplier, 0.8)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.2, math.nan, -0.1])
def test_a_power_that_is_none(power: float) -> None:
    with pytest.raises(InvalidPlan, match=r"--power .*between 0 and 1"):
        checked_question(2.0, power)


LADDER = {"full_finetune": Attack("fine-tuning", 30.0, 1e12, 16)}


def test_a_pilot_gives_spreads_gaps_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    made = comparison({"twice": Defense({"fine-tuning": 2.0}), "never": Defense({"fine-tuning": math.inf})}, LADDER, seeds=5)
    pilot(monkeypatch, made.tables, made.study)
    basis = basis_of("runs/pilot", study())
    assert basis.pilot is not None
    told = {name: basis.pilot[name] for name in ("directory", "seeds", "models", "defenses", "runs", "broken")}
    assert told == {"directory": "runs/pilot", "seeds": 5, "models": 1, "defenses": 2, "runs": 15, "broken": 10}
    # The specimen is probed twice a doubling of steps, rounded.
    assert basis.prior.spacing == pytest.approx(math.sqrt(2), abs=0.06)
    # What never broke was left at 200 steps; the control broke at 30 or so.
    assert 4 <= basis.prior.budget <= 9
    assert 0.05 < basis.prior.control < 1
    assert basis.prior.correlation <= 0
    power = power_of(study(), basis)
    assert power["basis"]["source"] == "pilot"
    (line,) = (line for line in power_lines(power) if line.startswith("From the pilot"))
    assert "From the pilot runs/pilot (5 seeds, 1 model, 2 defences; 10 of 15 times the best attacker broke it)" in line
    assert "runs end at" in line
    assert not any(line.startswith("Assumed") for line in power_lines(power))


def test_a_pilot_is_read_at_the_thresholds_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    made = comparison({"twice": Defense({"fine-tuning": 2.0})}, LADDER, seeds=3)
    pilot(monkeypatch, made.tables, made.study)
    lax, strict = (basis_of("p", study(threshold={"tau": tau})) for tau in (0.2, 0.5))
    assert lax.prior.budget >= strict.prior.budget
    with pytest.raises(InvalidPlan, match=r"--pilot p: .*held"):
        basis_of("p", study(threshold={"tau": 1.0, "epsilon": 0.0}))


def test_a_pilot_of_several_models_and_one_without_a_defence(monkeypatch: pytest.MonkeyPatch) -> None:
    made = comparison({"twice": Defense({"fine-tuning": 2.0})}, LADDER, seeds=4, models=("lab/a", "lab/b"))
    pilot(monkeypatch, made.tables, made.study)
    both = basis_of("p", study())
    assert both.pilot is not None
    assert (both.pilot["models"], both.pilot["defenses"], both.pilot["runs"]) == (2, 2, 16)
    bare = made.tables.units[made.tables.units["defense"] == "none"]
    tables = type(made.tables)(bare, made.tables.trajectories[made.tables.trajectories["unit"].isin(bare["unit"])])
    pilot(monkeypatch, tables, made.study)
    alone = basis_of("p", study())
    assert alone.prior.control == alone.prior.defended
    assert alone.pilot is not None
    assert alone.pilot["defenses"] == 0
    assert any("2 models, no defences;" in line for line in power_lines(power_of(study(), alone)))


def test_a_pilot_that_says_nothing_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    one = comparison({"twice": Defense({"fine-tuning": 2.0})}, LADDER, seeds=1)
    pilot(monkeypatch, one.tables, one.study)
    with pytest.raises(InvalidPlan, match=r"--pilot p: a pilot in which fewer than two seeds of either side broke"):
        basis_of("p", study())
    none = type(one.tables)(one.tables.units[one.tables.units["kind"] == "novel"], one.tables.trajectories)
    pilot(monkeypatch, none, one.study)
    with pytest.raises(InvalidPlan, match=r"--pilot p: no attack of the run is done"):
        basis_of("p", study())
    pilot(monkeypatch, type(one.tables)(pd.DataFrame(), pd.DataFrame()), one.study)
    with pytest.raises(InvalidPlan, match=r"no attack of the run is done"):
        basis_of("p", study())


def test_gaps_of_a_pilot_are_those_in_which_it_broke() -> None:
    seen = Costs(np.arange(4), np.array([2.0, 0.0, 3.0, 9.0]), np.array([4.0, 5.0, 4.5, math.inf]), np.zeros(4, dtype=bool))
    # 2, none, 1.5; what held has no gap.
    assert planning_power._spacing([seen]) == 1.5
    assert planning_power._spacing([Costs(np.arange(1), np.array([3.0]), np.array([math.inf]), np.zeros(1, dtype=bool))]) == math.sqrt(2)


def test_the_command_line_tells_of_power_and_of_a_pilot_that_is_none(tmp_path: Path) -> None:
    finished = temper(*toy_arguments(tmp_path), "--out", tmp_path / "out", "--workers", "0")
    assert finished.exit_code == 0, finished.stderr
    path = tmp_path / "study.yaml"
    path.write_text((tmp_path / "out" / "study.json").read_text())
    plain = temper("plan", path)
    assert plain.exit_code == 0, plain.stderr
    assert "To see a multiplier of 2× at 80 % power: more than 40 seeds (this study has 2: power" in plain.stdout
    asked = json.loads(temper("plan", path, "--multiplier", "8", "--power", "0.5", "--json").stdout)["power"]
    assert (asked["multiplier"], asked["power"]) == (8, 0.5)
    assert asked["seeds"] <= 7
    assert "--power 1: it should lie between 0 and 1" in error_line(temper("plan", path, "--power", "1"))
    assert "--multiplier 1: it should be above 1" in error_line(temper("plan", path, "--multiplier", "1"))
    assert f"--pilot {tmp_path / 'out'}: " in error_line(temper("plan", path, "--pilot", tmp_path / "out"))
    assert "holds no run" in error_line(temper("plan", path, "--pilot", tmp_path / "nothing"))
