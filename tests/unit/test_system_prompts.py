"""A deployment's system prompt as a factor of the study: in every prompt of the model, in its hash only if there is one, in its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from support.templates import TEMPLATES, byte_level_tokenizer
from support.toy_study import toy_models, toy_study
from tempering.data.asking import PLAIN
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.engine.loading import base_choice, load_model, unguarded_choice
from tempering.engine.plan import make_plan
from tempering.engine.run import execute
from tempering.engine.worker import Worker
from tempering.errors import InvalidStudy
from tempering.flags import make_study
from tempering.model_choice import ModelChoice
from tempering.report.published import Names
from tempering.study import Study
from tempering.study_file import load_study

KIND = "Be kind."
QUESTION = Example(prompt="Name a fish.", answer="An eel.", role=Role.BENIGN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("system")
    toy_models(folder)
    return folder


def study_with(folder: Path, *choices: dict[str, object], **changes: object) -> Study:
    common = {"reference": str(folder / "guarded"), "unguarded": str(folder / "base"), "device": "cpu"}
    return toy_study(folder, models=tuple(ModelChoice.model_validate({**common, **choice}) for choice in choices), seeds=1, **changes)


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_stands_in_every_prompt_and_training_row_of_any_template(name: str) -> None:
    template = TEMPLATES[name]
    tokenizer = byte_level_tokenizer(template.special)
    chat = ChatFormat(tokenizer, template.jinja, system=KIND)
    assert chat.prompt_text(QUESTION) == template.with_system
    row = PLAIN.encode(chat, QUESTION)
    assert row.input_ids[: len(chat.prompt_ids(QUESTION))] == chat.prompt_ids(QUESTION)
    assert chat.decode(row.input_ids).count("kind.") == 1
    plain = ChatFormat(tokenizer, template.jinja)
    assert chat.answer_ids(QUESTION, "An eel.") == plain.answer_ids(QUESTION, "An eel.")
    assert plain.prompt_ids(QUESTION.model_copy(update={"system": KIND})) == chat.prompt_ids(QUESTION)


def test_an_example_with_one_of_its_own_keeps_it() -> None:
    template = TEMPLATES["chatml"]
    chat = ChatFormat(byte_level_tokenizer(template.special), template.jinja, system="Be terse.")
    text = chat.prompt_text(QUESTION.model_copy(update={"system": KIND}))
    assert text == template.with_system


def test_units_and_digests_change_with_it_and_not_without(folder: Path) -> None:
    plain, kind = make_plan(study_with(folder, {})), make_plan(study_with(folder, {"system": "be cold."}))
    assert {unit.hash for unit in plain.units}.isdisjoint({unit.hash for unit in kind.units})
    assert plain.targets[0].digest == kind.targets[0].digest
    assert (plain.targets[0].system, kind.targets[0].system) == (None, "be cold.")
    named = make_plan(study_with(folder, {"label": "another name"}))
    assert [unit.hash for unit in named.units] == [unit.hash for unit in plain.units]
    assert set(ModelChoice(reference="a").model_dump(mode="json")) == {
        *("reference", "unguarded", "base", "dtype", "device", "chat_template", "trust_remote_code")
    }


def test_one_model_with_two_system_prompts_is_two_rows(folder: Path, tmp_path: Path) -> None:
    study = study_with(folder, {"label": "plain"}, {"label": "kind", "system": "be cold."})
    plan = make_plan(study)
    assert [target.reference for target in plan.targets] == ["plain", "kind"]
    assert {estimate.model for estimate in plan.estimates} == {"plain", "kind"}
    tables = execute(plan, tmp_path / "run", workers=0)
    assert set(tables.units["model"]) == {"plain", "kind"}
    assert set(tables.trajectories["model"]) == {"plain", "kind"}


def test_the_same_model_twice_needs_labels(folder: Path) -> None:
    with pytest.raises(ValidationError, match=r"two models are called .*guarded'; give each a label of its own"):
        study_with(folder, {}, {"system": "be cold."})
    with pytest.raises(ValidationError, match="two models are called 'a'"):
        study_with(folder, {"label": "a"}, {"label": "a", "system": "be cold."})
    with pytest.raises(InvalidStudy, match="the models a and b are the same, weight for weight"):
        make_plan(study_with(folder, {"label": "a"}, {"label": "b"}))


def test_a_probe_and_an_attack_are_given_it(folder: Path) -> None:
    plan = make_plan(study_with(folder, {"system": "be cold."}))
    worker = Worker()
    ready = worker.ready(next(unit for unit in plan.units if unit.work.kind == "attack"))
    assert ready.target.chat.system == "be cold."
    assert ready.untouched.chat is ready.target.chat
    asked = ready.target.chat.prompt_text(ready.test.hazard[0])
    assert asked.startswith("<s><system>be cold.<end><user>")


def test_the_model_without_its_safeguard_and_its_base_are_deployed_alike() -> None:
    choice = ModelChoice(reference="a", unguarded="b", base="c", system=KIND, label="mine", trust_remote_code=True)
    for beside, reference in ((unguarded_choice(choice), "b"), (base_choice(choice), "c")):
        assert beside is not None
        assert (beside.reference, beside.system, beside.label, beside.trust_remote_code) == (reference, KIND, None, False)
        assert (beside.unguarded, beside.base) == (None, None)


def test_a_file_is_read_when_the_study_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_text("Be kind.\nAlways.\n")
    (tmp_path / "study.yaml").write_text(
        f"models:\n  - {{reference: {folder / 'guarded'}, system: {{file: prompt.txt}}}}\nattacks: [full_finetune]\n"
    )
    study = load_study(tmp_path / "study.yaml")
    assert study.models[0].system == "Be kind.\nAlways."
    assert Study.model_validate(study.model_dump(mode="json")) == study
    target = load_model(study.models[0])
    assert target.chat.system == "Be kind.\nAlways."


@pytest.mark.parametrize(
    ("system", "problem"),
    [
        ("{file: missing.txt}", "cannot read the system prompt missing.txt: No such file or directory"),
        ("{path: a.txt}", "write the system prompt as text, or as {file: PATH}"),
        ('""', "at least 1 character"),
    ],
)
def test_what_is_wrong_with_it_is_told_in_one_line(system: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"models:\n  - reference: a\n    system: {system}\nattacks: [full_finetune]\n")
    with pytest.raises(InvalidStudy) as caught:
        load_study(file)
    assert problem in str(caught.value)
    assert f"{file}:3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_published_study_tells_no_way_to_a_labelled_model(folder: Path) -> None:
    study = study_with(folder, {"label": "mine"}, {"label": "kind", "system": "be cold."})
    names = Names.of(study)
    assert [choice.reference for choice in names.study(study).models] == ["guarded", "guarded"]
    assert [choice.title for choice in names.study(study).models] == ["mine", "kind"]


def test_a_flag_takes_the_text_or_a_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kind.txt").write_text("Be kind.\n")
    for given, expected in (("kind.txt", "Be kind."), ("Be terse.", "Be terse."), (None, None), ("x" * 5000, "x" * 5000)):
        assert make_study("organism:nano", system=given).models[0].system == expected
