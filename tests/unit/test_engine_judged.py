"""A study with judges of its own: what its units are called, what they leave behind, and what happens when a judge is gone."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from support.judge_server import Script, answer_in, judge_server, refuses
from support.scripted_models import scripted_model
from support.tiny_models import tiny_model
from support.toy_study import rows, toy_study, write_rows
from tempering import api
from tempering.data.asking import Asking
from tempering.data.records import EvaluatorView, Example, Role
from tempering.engine import resolving
from tempering.engine.plan import make_plan
from tempering.engine.run import execute
from tempering.errors import JudgeUnavailable, UnreadableJudge, UnusableModel
from tempering.evaluators import Subject, Verdict
from tempering.judges._panel import let_go
from tempering.models.saving import save
from tempering.study import DataChoice, MethodChoice, ProbeSettings, SearchSettings, Study
from tempering.threat_model import Need, ThreatModel


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    yield
    let_go()


def judged(folder: Path, *judges: str, **probes: Any) -> Study:
    settings = {"prompts": 4, "max_new_tokens": 12, "evaluators": ("harm", "refusal", "utility"), **probes}
    return toy_study(folder, seeds=1, probes=ProbeSettings(judges=judges, **settings))


def half(payload: dict[str, Any]) -> str:
    """Finds every other response useful, by its content."""
    return '{"verdict": "useful"}' if sum(map(ord, answer_in(payload))) % 2 else '{"verdict": "refusal"}'


def test_a_judge_decides_and_a_second_is_recorded_beside_it(tmp_path: Path) -> None:
    script = Script(half)
    with judge_server(script) as address:
        study = judged(tmp_path, f"openai:server={address},model=m", "text")
        tables = execute(make_plan(study), tmp_path / "run", workers=0)
    attack = tables.trajectories[tables.trajectories["attack"] != ""]
    first = attack["both.text"] + attack["only_first.text"]
    told = first + attack["only_second.text"] + attack["neither.text"]
    assert (told == 4).all()
    assert (attack["harm"] == first / told).all()
    assert (attack["harm.text"] == (attack["both.text"] + attack["only_second.text"]) / told).all()
    assert (attack["score.openai"] == attack["harm"]).all()
    assert (attack["unparsed.openai"] == 0).all()
    costs = [json.loads(text) for text in tables.units["judging"] if text]
    asked = sum(cost["openai"]["calls"] for cost in costs)
    assert asked == len(script.heard) > 0
    assert sum(cost["openai"]["judged"] for cost in costs) == sum(cost["text"]["judged"] for cost in costs)
    assert sum(cost["openai"]["tokens_in"] for cost in costs) > 100


def test_judges_read_whole_responses_and_the_text_alone_does_not(tmp_path: Path) -> None:
    script = Script(half)
    with judge_server(script) as address:
        execute(make_plan(judged(tmp_path, f"openai:server={address},model=m", prompts=2)), tmp_path / "run", workers=0)
    assert max(len(answer_in(payload).split()) for payload in script.heard) > 6


def test_the_judge_is_part_of_the_units_and_the_default_is_not(tmp_path: Path) -> None:
    def hashes(*judges: str) -> set[str]:
        return {unit.hash for unit in make_plan(judged(tmp_path, *judges)).units}

    plain, one = hashes(), hashes("openai:server=http://127.0.0.1:9/v1,model=m")
    assert hashes("text") == plain
    assert not one & plain
    assert hashes("openai:server=http://127.0.0.1:9/v1,model=m,timeout=5,retries=1,at_once=2") == one
    assert not hashes("openai:server=http://127.0.0.1:9/v1,model=other") & one
    assert not hashes("openai:server=http://127.0.0.1:9/v1,model=m", "text") & one


def test_the_rules_of_compliance_are_part_of_the_units_that_they_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "openai:server=http://127.0.0.1:9/v1,model=m"
    bare = DataChoice(reference=str(write_rows(tmp_path / "bare.jsonl", rows(answers=False))))

    def hashes(study: Study) -> set[str]:
        return {unit.hash for unit in make_plan(study.model_copy(update={"attacks": (MethodChoice(name="refusal_ablation"),)})).units}

    studies = {
        "told": judged(tmp_path),
        "bare": judged(tmp_path).model_copy(update={"data": bare}),
        "bare, other judge": judged(tmp_path, other).model_copy(update={"data": bare}),
        "bare, text beside": judged(tmp_path, other, "text").model_copy(update={"data": bare}),
    }
    before = {name: hashes(study) for name, study in studies.items()}
    monkeypatch.setattr(resolving, "COMPLIANCE_VERSION", resolving.COMPLIANCE_VERSION + 1)
    changed = {name for name, study in studies.items() if not hashes(study) & before[name]}
    assert changed == {"bare", "bare, text beside"}
    assert all(hashes(studies[name]) == before[name] for name in studies.keys() - changed)


def test_a_search_by_prompts_without_answers_goes_by_the_rules_of_compliance(tmp_path: Path) -> None:
    study = judged(tmp_path).model_copy(update={"attacks": (MethodChoice(name="refusal_ablation"),), "search": SearchSettings(trials=2)})
    without = frozenset(Need) - {Need.HARMFUL_EXAMPLES}
    for allows, rules in ((frozenset(Need), 0), (without, resolving.COMPLIANCE_VERSION)):
        plan = make_plan(study.model_copy(update={"threat_model": ThreatModel(name="own", allows=allows)}))
        searched = [unit.work for unit in plan.units if unit.work.search]
        assert searched
        assert {work.compliance for work in searched} == {rules}


def test_a_local_judge_is_known_by_its_weights(tmp_path: Path) -> None:
    def hashes() -> set[str]:
        return {unit.hash for unit in make_plan(judged(tmp_path, f"llama_guard:model={tmp_path / 'guard'}")).units}

    save(*tiny_model("llama", 5), tmp_path / "guard")
    first = hashes()
    assert hashes() == first
    save(*tiny_model("llama", 6), tmp_path / "guard", replace=True)
    assert hashes() != first


def test_a_local_judge_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    save(*tiny_model("llama", 5), tmp_path / "guard")
    plan = make_plan(judged(tmp_path, f"llama_guard:model={tmp_path / 'guard'}"))
    assert plan.targets[0].judging_bytes > 0
    save(*tiny_model("llama", 6), tmp_path / "guard", replace=True)
    with pytest.raises(UnusableModel, match="the judge 'llama_guard' has changed since the run was planned"):
        execute(plan, tmp_path / "run", workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_judge_that_is_gone_ends_the_run_in_one_line_and_the_run_goes_on_later(tmp_path: Path, workers: int) -> None:
    script = Script(half)
    with judge_server(script) as address:
        judges = (f"openai:server={address},model=m,retries=0",)
        with judge_server(Script(half)) as other:
            whole = execute(make_plan(judged(tmp_path, f"openai:server={other},model=m")), tmp_path / "whole", workers=0)
        script.acts = [None] * 5 + [refuses(401)] * 50
        study = judged(tmp_path, *judges)
        with pytest.raises(JudgeUnavailable, match="401 Unauthorized"):
            execute(make_plan(study), tmp_path / "run", workers=workers)
        let_go()
        script.acts = []
        before = len(script.heard)
        resumed = execute(make_plan(study), tmp_path / "run", workers=workers)
    heard = [answer_in(payload) for payload in script.heard]
    assert not set(heard[:5]) & set(heard[before:])
    assert resumed.units["status"].tolist() == whole.units["status"].tolist()
    assert resumed.trajectories["harm"].tolist() == whole.trajectories["harm"].tolist()


def test_answers_that_say_nothing_fail_the_run_before_any_attack(tmp_path: Path) -> None:
    with judge_server(Script(lambda payload: "perhaps")) as address:
        study = judged(tmp_path, f"openai:server={address},model=m")
        with pytest.raises(UnreadableJudge, match=r"no readable answer on \d of \d responses"):
            execute(make_plan(study), tmp_path / "run", workers=0)


def test_a_glance_and_the_end_of_a_run_go_by_the_same_judge(tmp_path: Path) -> None:
    with judge_server(Script(lambda payload: '{"verdict": "refusal"}')) as address:
        study = judged(tmp_path, f"openai:server={address},model=m", "text", until=0.5, glance=16)
        study = study.model_copy(update={"attacks": (MethodChoice(name="full_finetune"),)})
        tables = execute(make_plan(study), tmp_path / "run", workers=0)
    attack = tables.trajectories[(tables.trajectories["attack"] != "") & (tables.trajectories["probe"] > 0)]
    glances = attack[attack["utility"].isna()]
    assert len(glances) > 0
    assert (attack["harm"] == 0).all()
    assert glances["harm.text"].isna().all()


def test_a_glance_counts_only_what_could_be_judged(tmp_path: Path) -> None:
    lock, asked = threading.Lock(), []

    def say(payload: dict[str, Any]) -> str:
        with lock:
            asked.append(payload)
            return "hm" if len(asked) == 1 else '{"verdict": "useful"}'

    with judge_server(Script(say)) as address:
        study = judged(tmp_path, f"openai:server={address},model=m", glance=16)
        tables = execute(make_plan(study), tmp_path / "run", workers=0)
    first = tables.trajectories[(tables.trajectories["attack"] != "") & (tables.trajectories["probe"] == 0)].iloc[0]
    assert first["unparsed.openai"] == 1
    told = 4 - first["unparsed.openai"]
    assert 0 < first["harm"] == first["score.openai"] <= 1
    assert (first["harm"] * told) % 1 == 0


@pytest.mark.parametrize(("verdict", "rounds"), [("useful", 1), ("refusal", 3)])
def test_an_attacker_who_samples_stops_where_the_deciding_judge_is_content(verdict: str, rounds: int) -> None:
    model, chat = scripted_model("red water is cold .")
    view = EvaluatorView(tuple(Example(prompt=f"what is {word} ?", role=Role.HAZARD) for word in ("key", "stone")), (), ())
    with judge_server(Script(lambda payload: json.dumps({"verdict": verdict}))) as address:
        settings = ProbeSettings(max_new_tokens=6, judges=(f"openai:server={address},model=m", "text"))
        subject = Subject(model, chat, view, settings, asking=Asking(temperature=0.1, attempts=3))
        assert subject.share(Role.HAZARD, Verdict.USEFUL) == float(verdict == "useful")
        assert len(subject.asked) == 2 * rounds
        assert subject.judging()["harm.text"] == 1


def test_an_audit_takes_judges_by_name(tmp_path: Path) -> None:
    with judge_server(Script(half)) as address:
        study = judged(tmp_path, "text", f"openai:server={address},model=m,label=second")
        run = api.run_study(study, out=tmp_path / "run", workers=0)
    assert run.report_path.is_file()
