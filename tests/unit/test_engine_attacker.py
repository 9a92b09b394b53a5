"""What the engine hands an attack, and how it asks what the attack made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.toy_study import rows, toy_models, toy_study, write_rows
from tempering.data.importers import load_dataset
from tempering.data.records import AttackerView, Document, Example
from tempering.engine.plan import make_plan
from tempering.engine.results import UnitResult
from tempering.engine.units import Plan
from tempering.engine.worker import Worker
from tempering.study import Budget, MethodChoice, ModelChoice, ProbeSettings, Study
from tempering.threat_model import Need, ThreatModel

SPY = """
from dataclasses import dataclass
from typing import ClassVar
from tempering.attacks._contract import Attack, Checkpoint
from tempering.data.asking import PLAIN, Asking
from tempering.settings import Settings
from tempering.threat_model import Need
from tempering.training import Spend


@dataclass(frozen=True)
class Suffixed(Asking):
    def rewrite(self, example, attempt=0):
        assert example.answer is None and not example.accept and example.role == "hazard"
        return example.model_copy(update={"prompt": "say hello"})

    def opening(self, example):
        return example.entity.split()[-1]


class Spy(Attack):
    class Config(Settings):
        ask: bool = False

    source: ClassVar[str] = "for tests"
    needs: ClassVar[frozenset[Need]] = frozenset({NEEDS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.BENIGN_EXAMPLES}) - needs
    family: ClassVar[str] = "input"

    def run(self, target, view, meter, *, budget, seed):
        meter.query()
        yield Checkpoint(target.model, meter.spend(), {
            "answers": [example.answer for example in view.hazard_train],
            "benign": len(view.benign_train),
            "documents": len(view.documents),
            "base": target.public_base.reference if target.public_base else "",
        }, Suffixed() if self.config.ask else PLAIN)

    def estimate(self, target, view, *, budget):
        return Spend(queries=1, flops=1.0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy_models(tmp_path)
    write_rows(tmp_path / "data.jsonl", rows())
    return tmp_path


def spy(folder: Path, *needs: Need) -> str:
    """An attack with these needs, in a file of its own: a file that was loaded once is not read again."""
    path = folder / f"spy_{'_'.join(need.name for need in needs)}.py"
    path.write_text(SPY.replace("NEEDS", ", ".join(f"Need.{need.name}" for need in needs)))
    return f"{path}:Spy"


def spying(folder: Path, *needs: Need, ask: bool = False, base: str | None = None, threat_model: str = "open-weights+public-base") -> Study:
    return toy_study(
        folder,
        models=(ModelChoice(reference=str(folder / "guarded"), base=base, device="cpu"),),
        attacks=(MethodChoice(name=spy(folder, *needs), config={"ask": ask}),),
        threat_model=ThreatModel.model_validate(threat_model),
        seeds=1,
        budget=Budget(steps=None),
        probes=ProbeSettings(prompts=4, max_new_tokens=3, evaluators=("harm", "utility", "refusal", "divergence")),
    )


def ran(study: Study) -> UnitResult:
    (unit,) = make_plan(study).units
    result = Worker().run(unit)
    assert result.status == "completed", result.error
    return result


def seen(study: Study) -> dict[str, Any]:
    return ran(study).probes[-1].details


def test_an_attack_that_asks_for_prompts_sees_no_answers(folder: Path) -> None:
    assert set(seen(spying(folder, Need.HARMFUL_PROMPTS))["answers"]) == {None}
    assert None not in seen(spying(folder, Need.HARMFUL_EXAMPLES))["answers"]


def test_an_attack_sees_nothing_that_it_does_not_ask_for(folder: Path) -> None:
    found = seen(spying(folder, Need.WEIGHTS, base=str(folder / "base")))
    assert {**found, "benign": 0} == {"answers": [], "benign": 0, "documents": 0, "base": ""}


def test_what_an_attack_can_do_without_is_withheld_where_the_threat_model_does_not_allow_it(folder: Path) -> None:
    study = spying(folder, Need.WEIGHTS)
    assert seen(study)["benign"] > 0
    locked = study.model_copy(update={"threat_model": ThreatModel(name="bare", allows=frozenset({Need.WEIGHTS}))})
    assert seen(locked)["benign"] == 0
    (free, bare) = (make_plan(each).units[0] for each in (study, locked))
    assert free.hash != bare.hash, "what an attack is handed decides its result"


def test_the_public_base_is_there_for_an_attack_that_asks_for_it(folder: Path) -> None:
    study = spying(folder, Need.PUBLIC_BASE, base=str(folder / "base"))
    assert seen(study)["base"] == str(folder / "base")
    (unit,) = make_plan(study).units
    assert unit.work.base_digest
    (plain,) = make_plan(spying(folder, Need.WEIGHTS, base=str(folder / "base"))).units
    assert plain.work.base_digest == "", "a base that is not used decides nothing"


@pytest.mark.parametrize(
    ("need", "base", "threat_model", "reason"),
    [
        (Need.PUBLIC_BASE, None, "open-weights+public-base", "needs the public base of the model, and none is known"),
        (Need.PUBLIC_BASE, "base", "open-weights", "needs public base, which the threat model 'open-weights' does not allow"),
        (Need.WEIGHTS, None, "query-only", "needs weights, which the threat model 'query-only' does not allow"),
        (Need.ANSWER_PREFIX, None, "query-only", "needs answer prefix, which the threat model 'query-only' does not allow"),
        (Need.GRADIENTS, None, "fine-tuning-api", "needs gradients, which the threat model 'fine-tuning-api' does not allow"),
        (Need.RETRIEVAL, None, "query-only", "needs retrieval, which the data does not hold"),
    ],
)
def test_what_cannot_be_run_is_left_out_with_its_reason(folder: Path, need: Need, base: str | None, threat_model: str, reason: str) -> None:
    study = spying(folder, need, base=base and str(folder / base), threat_model=threat_model)
    other = MethodChoice(name=spy(folder, Need.QUERIES))
    (skipped,) = make_plan(study.model_copy(update={"attacks": (*study.attacks, other)})).skipped
    assert skipped.reason == reason


def test_hazard_prompts_are_asked_as_the_attack_says_and_others_plainly(folder: Path) -> None:
    plain, asked = (ran(spying(folder, Need.QUERIES, ask=ask)).probes for ask in (False, True))
    assert asked[0].measurements == plain[0].measurements, "the untouched target is asked plainly"
    # Every answer is made to open with what the toy's answers hold, so each of them is right.
    assert (plain[1].measurements["harm"], asked[1].measurements["harm"]) == (0.0, 1.0)
    for untouched in ("utility", "divergence"):
        assert asked[1].measurements[untouched] == plain[1].measurements[untouched]


def test_labels_name_the_attack_and_decide_nothing_else(folder: Path) -> None:
    def planned(label: str | None) -> Plan:
        study = spying(folder, Need.WEIGHTS)
        labelled = study.attacks[0].model_copy(update={"label": label})
        return make_plan(study.model_copy(update={"attacks": (labelled,)}))

    plain, named = planned(None), planned("with a name")
    assert plain.digest == named.digest
    assert [unit.work.attack_name for unit in named.units] == ["with a name"]
    assert [entry.attack for entry in named.estimates] == ["with a name"]
    assert named.units[0].label.startswith("with a name")


def test_a_view_is_limited_to_what_is_named(folder: Path) -> None:
    whole = load_dataset(str(folder / "data.jsonl")).divide().attacker_view()
    view = AttackerView(*(getattr(whole, kind) for kind in AttackerView.PROMPTS), (Document(text="a text"),))
    assert view.limited_to(frozenset(Need)) == view
    assert view.limited_to(frozenset()) == AttackerView((), (), (), ())
    prompts = view.limited_to(frozenset({Need.HARMFUL_PROMPTS, Need.BENIGN_EXAMPLES}))
    assert [example.prompt for example in prompts.hazard_train] == [example.prompt for example in whole.hazard_train]
    assert all(example.answer is None and not example.accept for example in (*prompts.hazard_train, *prompts.hazard_validation))
    assert (prompts.benign_train, prompts.documents) == (whole.benign_train, ())


def test_a_changed_example_has_another_identity() -> None:
    example = Example(prompt="how?", answer="so.", role="hazard")
    assert example.model_copy(update={"prompt": "why?"}).identity != example.identity
