"""A unit that searches: on the attacker's own prompts only, at the attacker's expense, by the seed, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from support.toy_study import toy_models, toy_study
from tempering.engine import holding
from tempering.engine import trials as running
from tempering.engine import worker as working
from tempering.engine.loading import load_records
from tempering.engine.plan import make_plan
from tempering.engine.results import Trial, UnitResult
from tempering.engine.units import Unit
from tempering.engine.worker import Worker, reproducible
from tempering.evaluators._contract import Subject
from tempering.study import MethodChoice, SearchSettings
from tempering.threat_model import Need, ThreatModel

SEARCH = SearchSettings(trials=4, startup=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_models(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with reproducible(1):
        yield


def unit_of(folder: Path, config: dict[str, Any] | None = None, **changes: Any) -> Unit:
    plan = make_plan(toy_study(folder, config or {}, **{"seeds": 1, "search": SEARCH, **changes}))
    return next(unit for unit in plan.units if unit.work.kind == "attack")


def without_clocks(result: UnitResult) -> str:
    """Everything that came of a unit, as text, because NaN is not equal to itself."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(item) for key, item in value.items() if key not in ("device_seconds", "wall_s")}
        return [cleaned(item) for item in value] if isinstance(value, list) else value

    return repr(cleaned(asdict(result)))


def probes(result: UnitResult) -> list[str]:
    return [repr(({**probe.spend, "device_seconds": 0}, probe.measurements, probe.details)) for probe in result.probes]


def test_a_search_asks_the_attackers_own_prompts_and_never_the_tests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {"search": [], "test": []}
    examine = running.examine

    def spy(where: str) -> Any:
        def spied(subject: Subject, evaluators: Any) -> dict[str, float]:
            view = subject.view
            asked[where] += [example.entity for example in (*view.hazard, *view.benign, *view.borderline)]
            return examine(subject, evaluators)

        return spied

    told: list[int] = []
    monkeypatch.setattr(running, "examine", spy("search"))
    monkeypatch.setattr(working, "examine", spy("test"))
    unit = unit_of(folder)
    Worker().run(unit, told=lambda trial: told.append(len(asked["test"])))
    division = load_records(unit.work.data, unit.work.model).divide(unit.work.data.seed)
    attackers, tests = ({example.entity for example in part} for part in (division.attacker, division.evaluator))
    assert asked["search"]
    assert set(asked["search"]) <= attackers
    assert not set(asked["search"]) & tests
    own = {example.entity for name in ("hazard_validation", "benign_validation") for example in getattr(division.attacker_view(), name)}
    assert set(asked["search"]) == own
    assert told == [told[0]] * 4  # while the trials run, nobody asks the test
    assert set(asked["test"]) & tests


def test_what_the_search_chose_is_run_and_probed_as_if_it_had_been_chosen_by_hand(folder: Path) -> None:
    searched = Worker().run(unit_of(folder, threshold={"tau": 0.001, "epsilon": 0.9}))
    assert searched.search is not None
    plain = Worker().run(unit_of(folder, searched.search.config, search=None))
    assert probes(searched) == probes(plain)
    assert {**searched.spend, "device_seconds": 0} == {**plain.spend, "device_seconds": 0}
    assert plain.search is None


def test_a_trial_is_charged_what_the_same_run_would_be_and_its_asking_too(folder: Path) -> None:
    unit = unit_of(folder, search=SearchSettings(trials=3, halving=False))
    result = Worker().run(unit)
    assert result.search is not None
    for trial in result.search.trials:
        plain = Worker().run(unit_of(folder, trial.config, search=None))
        assert trial.stopped == ""  # nothing breaks this model at random settings
        for name in ("examples", "tokens", "steps", "flops"):
            assert trial.spend[name] == plain.spend[name]
        looks = len(plain.probes) - 1
        view = load_records(unit.work.data, unit.work.model).divide(0).attacker_view()
        assert trial.checks["queries"] == looks * (len(view.hazard_validation) + len(view.benign_validation))
        assert trial.checks["flops"] > 0 < trial.checks["tokens"]
    assert result.search.spend["flops"] == sum(trial.spend["flops"] + trial.checks["flops"] for trial in result.search.trials)
    own = view.hazard_train + view.hazard_validation + view.benign_validation
    assert result.search.spend["examples"] == len(own)  # each once, however many trials saw it


def test_the_same_unit_searches_the_same_way_in_any_worker(folder: Path) -> None:
    unit = unit_of(folder)
    used = Worker()
    used.run(unit_of(folder, {"end": "crash", "steps": 1}))
    assert without_clocks(used.run(unit)) == without_clocks(Worker().run(unit))


def test_seeds_search_on_their_own(folder: Path) -> None:
    units = [unit for unit in make_plan(toy_study(folder, seeds=2, search=SEARCH)).units if unit.work.kind == "attack"]
    first, second = (Worker().run(unit).search for unit in units)
    assert first is not None
    assert second is not None
    assert first.trials[0].config == second.trials[0].config
    assert [trial.config for trial in first.trials[1:]] != [trial.config for trial in second.trials[1:]]


def test_a_search_in_which_every_trial_fails_is_kept_and_its_unit_fails(folder: Path) -> None:
    result = Worker().run(unit_of(folder, {"learning_rate": 1e30}))
    assert result.search is not None
    assert {trial.outcome for trial in result.search.trials} == {"failed"}
    assert all(trial.error.startswith("NonFiniteLoss") for trial in result.search.trials)
    assert len(result.search.trials) == 2  # with and without adapters: the rate is set by hand
    assert result.search.chosen == 0
    assert (result.status, result.search.spend["steps"] > 0) == ("failed", True)


def test_a_trial_that_crashes_has_the_target_loaded_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = holding.load_model

    def counting(choice: Any) -> Any:
        loads.append(Path(choice.reference).name)
        return load(choice)

    monkeypatch.setattr(holding, "load_model", counting)
    result = Worker().run(unit_of(folder, {"end": "crash"}, search=SearchSettings(trials=2, halving=False)))
    assert result.search is not None
    assert [trial.error for trial in result.search.trials] == ["ValueError: something broke in the middle"] * 2
    assert loads == ["guarded", "base", "guarded", "guarded"]
    assert len(result.probes) == 5


def test_where_nothing_breaks_the_nearest_is_run_and_the_whole_search_counts(folder: Path) -> None:
    result = Worker().run(unit_of(folder))
    assert result.search is not None
    assert result.status == "completed"
    assert {trial.outcome for trial in result.search.trials} <= {"held", "destroyed"}
    best = min(result.search.trials, key=lambda trial: (trial.objective, trial.number))
    assert result.search.chosen == best.number


def test_watchers_are_told_of_every_trial(folder: Path) -> None:
    told: list[Trial] = []
    result = Worker().run(unit_of(folder), told=told.append)
    assert result.search is not None
    assert told == result.search.trials


FREE = """
from typing import Annotated, ClassVar
from tempering.attacks._contract import Attack, AttackEnded
from tempering.settings import Choices, Settings
from tempering.threat_model import Need
from tempering.training import Spend

class Turncoat(Attack):
    \"\"\"Ask for what it was not planned with, or refuse its own settings.\"\"\"

    class Config(Settings):
        mode: Annotated[str, Choices(("plain", "greedy"))] = "plain"

    source, family, needs = "none", "input", frozenset({Need.WEIGHTS})

    @property
    def requires(self):
        return self.needs | ({Need.RETRIEVAL} if self.config.mode == "greedy" else set())

    def run(self, target, view, meter, *, budget, seed):
        meter.step()
        raise AttackEnded("no_direction", "there is none")
        yield

    def estimate(self, target, view, *, budget):
        return Spend()
"""


def test_a_search_may_not_lead_an_attack_beyond_what_it_was_planned_with(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "turncoat.py").write_text(FREE)
    result = Worker().run(unit_of(folder, attacks=(MethodChoice(name=f"{tmp_path / 'turncoat.py'}:Turncoat"),)))
    assert result.search is not None
    plain, greedy = result.search.trials
    assert (plain.outcome, plain.error) == ("no_direction", "there is none")
    assert (greedy.outcome, greedy.error) == ("failed", "with these settings it needs retrieval, and it was planned without")
    assert greedy.spend["steps"] == 0
    assert (result.status, result.error) == ("no_direction", "there is none")


# What is planned


def test_a_plan_searches_what_can_be_searched_and_says_what_cannot(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wanting.py").write_text(FREE.replace('("plain", "greedy")', '("plain",)').replace("Turncoat", "Wanting"))
    attacks = (MethodChoice(name=f"{tmp_path / 'wanting.py'}:Wanting", label="nothing to set"), *toy_study(folder).attacks)
    plan = make_plan(toy_study(folder, attacks=attacks, search=SEARCH))
    by_label = {estimate.attack: estimate for estimate in plan.estimates}
    assert by_label["nothing to set"].unsearched == "has no settings to search and is run as it stands"
    assert by_label["nothing to set"].search_trials == 0
    assert by_label[attacks[1].title].search_trials == 4
    works = {unit.work.attack_name: unit.work for unit in plan.units}
    assert works["nothing to set"].search is None
    assert works["nothing to set"].reference is None
    assert works[attacks[1].title].search is not None
    assert works[attacks[1].title].reference_digest == works[""].reference_digest
    assert [estimate.unsearched for estimate in make_plan(toy_study(folder, attacks=attacks)).estimates] == ["", ""]


def test_without_prompts_of_its_own_to_choose_by_an_attacker_does_not_search(folder: Path, tmp_path: Path) -> None:
    from support.toy_study import rows, write_rows

    few = [row for row in rows() if row["part"] != "attacker" or row["role"] == "benign" or row["entity"] == "poison fish"]
    path = write_rows(tmp_path / "few.jsonl", few)
    plan = make_plan(toy_study(folder, search=SEARCH, data={"reference": str(path)}))
    assert plan.estimates[0].unsearched.startswith("is run as it stands: the attacker has no hazard prompts to choose settings by")
    assert plan.units[0].work.search is None
    assert "search" not in plan.units[0].work.deciding()
    held = frozenset(Need) - {Need.HARMFUL_PROMPTS, Need.HARMFUL_EXAMPLES}
    modest = ThreatModel(name="no hazard of its own", allows=held)
    (tmp_path / "modest.py").write_text(FREE.replace("Turncoat", "Modest"))
    plan = make_plan(toy_study(folder, attacks=(f"{tmp_path / 'modest.py'}:Modest",), search=SEARCH, threat_model=modest))
    assert plan.estimates[0].unsearched.startswith("is run as it stands")
