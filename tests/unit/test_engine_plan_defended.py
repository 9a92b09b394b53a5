"""Planning studies with defences: what waits for what, what it is expected to cost, and what cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.toy_study import DEFENSE, toy_comparison, toy_models, toy_study, write_folder
from tempering.engine.plan import make_plan
from tempering.engine.units import Plan
from tempering.errors import InvalidStudy, UnknownName
from tempering.planning import priced_plan
from tempering.report.plan import others_table, plan_lines, plan_table
from tempering.study import DataChoice, MethodChoice, ModelChoice, TrainabilitySettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_models(folder)
    write_folder(folder / "data")
    return folder


def novel(folder: Path) -> dict[str, Any]:
    return {"data": DataChoice(reference=str(folder / "data")), "trainability": TrainabilitySettings(steps=4)}


def order(plan: Plan) -> list[tuple[str, str, int, int]]:
    """Kind, defence, steps of the attack, seed."""
    steps = [unit.work.attack.config["steps"] if unit.work.attack else 0 for unit in plan.units]
    return [(unit.work.kind, unit.work.defense_name, number, unit.seed) for unit, number in zip(plan.units, steps, strict=True)]


def test_a_seed_is_hardened_and_attacked_before_the_next_and_something_is_known_of_each_defence_early(folder: Path) -> None:
    plan = make_plan(toy_comparison(folder, {}, {"steps": 5}, attacks=toy_study(folder, {"steps": 4}, {"steps": 2}).attacks, seeds=(5, 3)))
    assert order(plan) == [
        *[("harden", name, 0, 5) for name in ("firm", "firm 1")],
        ("attack", "none", 2, 5),
        ("attack", "firm", 2, 5),
        ("attack", "firm 1", 2, 5),
        ("attack", "none", 4, 5),
        ("reference", "none", 0, 0),
        ("attack", "firm", 4, 5),
        ("attack", "firm 1", 4, 5),
        *[("harden", name, 0, 3) for name in ("firm", "firm 1")],
        *[("attack", name, steps, 3) for name in ("none", "firm", "firm 1") for steps in (2, 4)],
    ]
    assert len({unit.hash for unit in plan.units}) == len(plan.units)


def test_seed_k_attacks_what_seed_k_hardened(folder: Path) -> None:
    plan = make_plan(toy_comparison(folder, {}, {"steps": 5}, seeds=2))
    made = {unit.defended: unit.seed for unit in plan.units if unit.work.kind == "harden"}
    needed = [(unit.defended, unit.seed) for unit in plan.units if unit.work.kind == "attack" and unit.work.defense]
    assert sorted(needed) == sorted(made.items())
    assert len(made) == 4


def test_the_control_has_the_units_of_the_same_study_without_defences(folder: Path) -> None:
    alone = {unit.hash for unit in make_plan(toy_study(folder, seeds=2)).units}
    compared = make_plan(toy_comparison(folder, seeds=2)).units
    assert {unit.hash for unit in compared if unit.work.defense is None} == alone


def test_the_honest_user_comes_to_every_target_where_there_is_something_new_to_teach(folder: Path) -> None:
    plan = make_plan(toy_comparison(folder, seeds=2, **novel(folder)))
    assert [entry[:2] + entry[3:] for entry in order(plan) if entry[0] == "novel"] == [
        ("novel", name, seed) for seed in (0, 1) for name in ("none", "firm")
    ]
    nothing_new = make_plan(toy_comparison(folder, seeds=2, trainability=TrainabilitySettings()))
    assert {kind for kind, *_ in order(nothing_new)} == {"harden", "attack", "reference"}
    undefended = make_plan(toy_study(folder, seeds=1, **novel(folder)))
    assert [entry[0] for entry in order(undefended)] == ["attack", "novel", "reference"]


def test_estimates_for_a_defended_model_are_those_of_the_model_that_it_is_made_from(folder: Path) -> None:
    plan = make_plan(toy_comparison(folder, {"steps": 7}, seeds=3, **novel(folder)))
    by_kind = {(entry.kind, entry.defense): entry for entry in plan.estimates}
    assert set(by_kind) == {("harden", "firm"), *((kind, name) for kind in ("attack", "novel") for name in ("none", "firm"))}
    for kind in ("attack", "novel"):
        assert by_kind[kind, "firm"].spend == by_kind[kind, "none"].spend
        assert by_kind[kind, "firm"].spend["flops"] > 0
    assert by_kind["harden", "firm"].spend == {"steps": 7}
    assert {entry.units for entry in plan.estimates} == {3}
    (target,) = plan.targets
    assert target.hardening_bytes >= 4 * 4 * target.parameters  # weights, gradient and two moments, in float32
    assert make_plan(toy_study(folder)).targets[0].hardening_bytes == 0


def test_a_priced_plan_lists_what_no_attacker_pays_beside_what_he_does(folder: Path) -> None:
    plan = make_plan(toy_comparison(folder, {"steps": 7}, seeds=3, **novel(folder)))
    document = priced_plan(plan)
    model = str(folder / "guarded")
    assert document["hardening"] == [{"model": model, "defense": "firm", "units": 3, "steps": 7, "flops": None}]
    assert [(entry["defense"], entry["steps"]) for entry in document["trainability"]] == [("none", 4), ("firm", 4)]
    assert [entry["defense"] for entry in document["attacks"]] == ["none", "firm"]
    assert document["usd"] == sum(entry["usd"] for entry in document["attacks"]) > 0
    table = others_table(document)
    assert table is not None
    assert "not estimated" in list(table.columns[-1].cells)
    assert others_table(priced_plan(make_plan(toy_study(folder)))) is None


def test_a_plan_says_once_what_is_the_same_behind_every_defence(folder: Path) -> None:
    document = priced_plan(make_plan(toy_comparison(folder, {"steps": 7}, {"steps": 8}, seeds=3, **novel(folder))))
    model, (row,) = str(folder / "guarded"), {entry["attack"] for entry in document["attacks"]}
    table = plan_table(document)
    titles, attacks, units = (list(column.cells) for column in table.columns[:3])
    assert [str(title) for title in titles] == [f"{model}, and behind each of 2 defences"]
    assert ([str(attack) for attack in attacks], units) == ([row], ["9"])
    others = others_table(document)
    assert others is not None
    assert [str(title).removeprefix(model) for title in others.columns[0].cells] == [
        " behind firm",
        " behind firm 1",
        ", and behind each of 2 defences",
    ]
    document["attacks"] = document["attacks"][:2]
    assert [str(title) for title in plan_table(document).columns[0].cells] == [f"{model}, and behind firm"]
    document["attacks"][1]["each"] = {**document["attacks"][1]["each"], "steps": 1}
    assert [str(title) for title in plan_table(document).columns[0].cells] == [model, f"{model} behind firm"]


def test_a_defence_that_the_data_cannot_feed_is_left_out_with_a_reason(folder: Path) -> None:
    plan = make_plan(toy_comparison(folder, {}, {"general": True}))
    (skipped,) = plan.skipped
    assert (skipped.attack, skipped.defense) == ("", "firm 1")
    assert skipped.reason == "needs general data, which the defender's part of the data does not hold"
    assert {unit.work.defense_name for unit in plan.units} == {"none", "firm"}
    (line,) = (line for line in plan_lines(priced_plan(plan)) if line.startswith("not tried"))
    assert "the defence firm 1 needs general data" in line


def test_no_defence_left_is_an_error_that_says_why(folder: Path) -> None:
    with pytest.raises(InvalidStudy, match=r"no defence is left to compare: firm needs general data"):
        make_plan(toy_comparison(folder, {"general": True}))


def test_a_defence_is_named_when_it_cannot_be_trained_on_a_model(folder: Path) -> None:
    with pytest.raises(InvalidStudy, match=r"'refusal_sft' cannot be trained on .*guarded: the tokenizer does not know every word"):
        make_plan(toy_comparison(folder, defenses=(MethodChoice(name="refusal_sft"),)))


def test_wrong_names_and_settings_are_told(folder: Path) -> None:
    for name, problem in (("refatt", r"no defense named 'refatt'; did you mean 'refat'"), ("refusal_sft+refatt", "did you mean 'refat'")):
        with pytest.raises(UnknownName, match=problem):
            make_plan(toy_comparison(folder, defenses=(name,)))
    with pytest.raises(InvalidStudy, match="stepz"):
        make_plan(toy_comparison(folder, {"stepz": 1}))


def test_one_defence_under_two_names_is_trained_once(folder: Path) -> None:
    twice = (MethodChoice(name=DEFENSE, label="one"), MethodChoice(name=DEFENSE, label="two", config={"steps": 3}))
    plan = make_plan(toy_comparison(folder, defenses=twice))
    assert {unit.work.defense_name for unit in plan.units} == {"none", "one"}


def test_the_content_of_a_users_file_decides_the_hash_of_a_chain_too(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(Path(DEFENSE.rpartition(":")[0]).read_text())
    chain = (MethodChoice(name="chain", config={"steps": [f"{path}:Firm", {"name": f"{path}:Firm", "config": {"steps": 2}}]}, label="two"),)
    before = make_plan(toy_comparison(folder, defenses=chain))
    assert before.estimates[0].spend["steps"] == 5
    path.write_text(path.read_text() + "\n# edited\n")
    assert make_plan(toy_comparison(folder, defenses=chain)).digest != before.digest


def test_a_plan_with_defences_survives_being_written_down(folder: Path) -> None:
    plan = make_plan(toy_comparison(folder, **novel(folder)))
    read = Plan.from_json(plan.study, plan.as_json())
    assert [unit.hash for unit in read.units] == [unit.hash for unit in plan.units]
    assert read.estimates == plan.estimates


def test_several_models_are_taken_one_after_the_other(folder: Path) -> None:
    models = tuple(ModelChoice(reference=str(folder / name), device="cpu") for name in ("guarded", "base"))
    kinds = [kind for kind, *_ in order(make_plan(toy_comparison(folder, models=models)))]
    assert kinds == ["harden", "attack", "attack"] * 4  # two models of two seeds
