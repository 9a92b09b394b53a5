"""Planning: what is run, in which order, what is left out and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.toy_study import ATTACK, rows, toy_models, toy_study, write_rows
from tempering.api import validate_study
from tempering.engine import plan as planning
from tempering.engine.plan import Plan, make_plan
from tempering.errors import InvalidStudy, UnknownName, UnusableData
from tempering.study import MOST_SEEDS, DataChoice, MethodChoice, ModelChoice, ProbeSettings
from tempering.threat_model import Need, ThreatModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_models(folder)
    return folder


def needing(tmp_path: Path, *needs: Need) -> str:
    """An attack of its own file that needs this and does nothing."""
    path = tmp_path / "wanting.py"
    path.write_text(
        "from tempering.attacks._contract import Attack\n"
        "from tempering.settings import Settings\n"
        "from tempering.threat_model import Need\n"
        "from tempering.training import Spend\n"
        "class Wanting(Attack):\n"
        '    """Want."""\n'
        "    Config = Settings\n"
        "    source, family = 'none', 'weight surgery'\n"
        f"    needs = frozenset({[need.value for need in needs]!r})\n"
        "    def run(self, target, view, meter, *, budget, seed):\n"
        "        yield from ()\n"
        "    def estimate(self, target, view, *, budget):\n"
        "        return Spend()\n"
    )
    return f"{path}:Wanting"


def test_units_come_seed_by_seed_cheapest_first_with_the_reference_after_the_first_round(folder: Path) -> None:
    plan = make_plan(toy_study(folder, {"steps": 4}, {"steps": 2}, seeds=(5, 3)))
    order = [(unit.work.kind, unit.work.attack.config["steps"] if unit.work.attack else 0, unit.seed) for unit in plan.units]
    assert order == [("attack", 2, 5), ("attack", 4, 5), ("reference", 0, 0), ("attack", 2, 3), ("attack", 4, 3)]


def test_a_plan_knows_its_target_and_what_it_will_cost(folder: Path) -> None:
    plan = make_plan(toy_study(folder, seeds=3))
    (target,) = plan.targets
    assert (target.reference, target.dtype, target.device) == (str(folder / "guarded"), "float32", "cpu")
    assert target.unguarded == str(folder / "base")
    assert target.weight_bytes == 4 * target.parameters > 0
    assert target.data == "data"
    assert target.benign_told == 1.0
    (estimate,) = plan.estimates
    assert (estimate.units, estimate.spend["steps"]) == (3, 4)
    assert estimate.spend["flops"] > 0
    assert estimate.trial == plan.units[0].work.trial


def test_a_plan_counts_the_benign_test_prompts_with_right_answers_and_reads_plans_that_did_not(folder: Path, tmp_path: Path) -> None:
    half = [{**row, "accept": []} if row["entity"] in ("colour green", "colour house") else row for row in rows()]
    with_half = DataChoice(reference=str(write_rows(tmp_path / "half.jsonl", half)))
    study = toy_study(folder, data=with_half)
    plan = make_plan(study)
    assert plan.targets[0].benign_told == 0.75  # of the evaluator's four; the other row without is not the test's
    stored = plan.as_json()
    del stored["targets"][0]["benign_told"]
    assert Plan.from_json(study, stored).targets[0].benign_told is None


def test_configurations_are_resolved_so_that_a_default_and_its_value_are_one(folder: Path) -> None:
    plain, spelt = make_plan(toy_study(folder, {})), make_plan(toy_study(folder, {"steps": 4, "learning_rate": 0.01}))
    assert [unit.hash for unit in plain.units] == [unit.hash for unit in spelt.units]
    twice = make_plan(toy_study(folder, {}, {"steps": 4}))
    assert [unit.hash for unit in twice.units] == [unit.hash for unit in plain.units]


def test_no_evaluators_named_means_all_of_them_with_their_settings(folder: Path) -> None:
    plan = make_plan(toy_study(folder, probes=ProbeSettings(prompts=4)))
    assert {"harm", "utility", "refusal"} <= {evaluator.name for evaluator in plan.units[0].work.evaluators}


def test_the_content_of_a_users_file_decides_the_hash(folder: Path, tmp_path: Path) -> None:
    name = needing(tmp_path, Need.WEIGHTS)
    before = make_plan(toy_study(folder, attacks=(MethodChoice(name=name),))).digest
    path = Path(name.rpartition(":")[0])
    path.write_text(path.read_text() + "\n# edited\n")
    assert make_plan(toy_study(folder, attacks=(MethodChoice(name=name),))).digest != before


def test_a_model_without_a_known_unguarded_one_has_no_reference(folder: Path) -> None:
    models = (ModelChoice(reference=str(folder / "guarded"), device="cpu"),)
    assert {unit.work.kind for unit in make_plan(toy_study(folder, models=models)).units} == {"attack"}


def test_an_unguarded_model_that_is_the_target_itself_is_no_reference(folder: Path) -> None:
    same = str(folder / ".." / folder.name / "guarded")
    models = (ModelChoice(reference=str(folder / "guarded"), unguarded=same, device="cpu"),)
    assert {unit.work.kind for unit in make_plan(toy_study(folder, models=models)).units} == {"attack"}


def test_an_attack_beyond_the_threat_model_is_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    wanting = needing(tmp_path, Need.GRADIENTS, Need.PUBLIC_BASE, Need.QUERIES)
    plan = make_plan(toy_study(folder, attacks=(MethodChoice(name=ATTACK), MethodChoice(name=wanting))))
    (skipped,) = plan.skipped
    assert skipped.attack == wanting
    assert skipped.reason == "needs public base, which the threat model 'open-weights' does not allow"
    assert {unit.work.attack_name for unit in plan.units if unit.work.kind == "attack"} == {ATTACK}


def only_tested() -> list[dict[str, Any]]:
    """Benign prompts for the test, and none for anybody else."""
    return [row for row in rows() if row["role"] == "hazard" or row["part"] == "evaluator"]


@pytest.mark.parametrize(
    ("content", "need"),
    [
        (rows(answers=False), Need.HARMFUL_EXAMPLES),
        (only_tested(), Need.BENIGN_PROMPTS),
        (only_tested(), Need.BENIGN_EXAMPLES),
        ([{**row, "answer": None} if row["role"] == "benign" else row for row in rows()], Need.BENIGN_EXAMPLES),
    ],
)
def test_an_attack_that_the_data_cannot_feed_is_skipped(folder: Path, tmp_path: Path, content: list[dict[str, Any]], need: Need) -> None:
    data = DataChoice(reference=str(write_rows(tmp_path / "poor.jsonl", content)))
    modest = needing(tmp_path, Need.HARMFUL_PROMPTS)
    (tmp_path / "greedy").mkdir()
    greedy = needing(tmp_path / "greedy", need)
    plan = make_plan(toy_study(folder, attacks=(MethodChoice(name=modest), MethodChoice(name=greedy)), data=data))
    assert [(entry.attack, entry.reason) for entry in plan.skipped] == [(greedy, f"needs {need.value}, which the data does not hold")]


def test_data_without_benign_prompts_to_test_with_are_refused(folder: Path, tmp_path: Path) -> None:
    data = DataChoice(reference=str(write_rows(tmp_path / "harmful.jsonl", rows(benign=False))))
    for evaluators in ((), ("harm", "utility")):
        study = toy_study(folder, data=data, probes=ProbeSettings(prompts=4, evaluators=evaluators))
        for refuse in (make_plan, validate_study):
            with pytest.raises(UnusableData, match=r"harmful has no benign prompts to test with.*; add rows with"):
                refuse(study)


@pytest.mark.parametrize(
    ("evaluators", "lacking"), [(("harm", "refusal"), "utility"), (("utility",), "harm"), (("divergence",), "harm and no utility")]
)
def test_evaluators_that_would_not_see_a_break_are_refused(folder: Path, evaluators: tuple[str, ...], lacking: str) -> None:
    study = toy_study(folder, probes=ProbeSettings(prompts=4, evaluators=evaluators))
    for refuse in (make_plan, validate_study):
        with pytest.raises(InvalidStudy, match=rf"measure no {lacking}, and a break is told by harm and utility; add"):
            refuse(study)


def test_an_evaluator_of_another_kind_may_measure_utility_without_benign_prompts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from typing import ClassVar\n"
        "from tempering.evaluators import Evaluator\n"
        "from tempering.settings import Settings\n"
        "class Own(Evaluator):\n"
        '    """Measure utility by itself."""\n'
        "    class Config(Settings):\n"
        '        """Nothing to set."""\n'
        '    source: ClassVar[str] = "for tests"\n'
        '    measures: ClassVar[tuple[str, ...]] = ("utility",)\n'
        "    def evaluate(self, subject):\n"
        '        return {"utility": 1.0}\n'
    )
    data = DataChoice(reference=str(write_rows(tmp_path / "harmful.jsonl", rows(benign=False))))
    probes = ProbeSettings(prompts=4, evaluators=("harm", f"{tmp_path / 'own.py'}:Own"))
    assert make_plan(toy_study(folder, data=data, probes=probes)).units


def test_no_attack_left_is_an_error_that_says_why(folder: Path) -> None:
    study = toy_study(folder, threat_model=ThreatModel(name="prompts only", allows=frozenset({Need.HARMFUL_PROMPTS})))
    with pytest.raises(InvalidStudy, match=r"no attack is left.*'prompts only' does not allow"):
        make_plan(study)


def test_no_data_for_a_model_that_is_no_organism_says_how_to_give_some(folder: Path) -> None:
    with pytest.raises(InvalidStudy, match=r"no data to audit .*guarded.*--data"):
        make_plan(toy_study(folder, data=DataChoice()))


def test_unknown_domains_are_named_with_the_known_ones(folder: Path) -> None:
    data = DataChoice(reference=str(folder / "data.jsonl"), domains=("chemistry",))
    with pytest.raises(UnusableData, match=r"'chemistry'.*default"):
        make_plan(toy_study(folder, data=data))


def test_domains_restrict_the_hazards(folder: Path, tmp_path: Path) -> None:
    content = [{**row, "domain": "odd" if index // 3 % 2 else "even"} for index, row in enumerate(rows())]
    path = str(write_rows(tmp_path / "domains.jsonl", content))
    both = make_plan(toy_study(folder, data=DataChoice(reference=path)))
    one = make_plan(toy_study(folder, data=DataChoice(reference=path, domains=("odd",))))
    assert one.estimates[0].spend["examples"] < both.estimates[0].spend["examples"]
    assert one.digest != both.digest


def test_two_names_of_one_model_are_refused(folder: Path) -> None:
    models = tuple(ModelChoice(reference=str(path), device="cpu") for path in (folder / "guarded", folder / ".." / folder.name / "guarded"))
    with pytest.raises(InvalidStudy, match="are the same"):
        make_plan(toy_study(folder, models=models))


def test_an_unknown_attack_is_refused_before_a_model_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "load_model", lambda choice: pytest.fail("loaded"))
    with pytest.raises(UnknownName, match="full_finetine"):
        make_plan(toy_study(folder, attacks=(MethodChoice(name="full_finetine"),)))
    with pytest.raises(InvalidStudy, match="stepz"):
        make_plan(toy_study(folder, {"stepz": 4}))


def test_planning_many_units_looks_at_models_and_estimates_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = planning.load_model

    def counted(choice: ModelChoice) -> Any:
        loads.append(choice.reference)
        return load(choice)

    monkeypatch.setattr(planning, "load_model", counted)
    plan = make_plan(toy_study(folder, {"steps": 1}, {"steps": 2}, seeds=MOST_SEEDS))
    assert len(plan.units) == len({unit.hash for unit in plan.units}) == 2 * MOST_SEEDS + 1
    assert loads == [str(folder / "guarded"), str(folder / "base")]
    assert len(plan.as_json()["works"]) == 3
