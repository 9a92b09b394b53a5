"""A model's own answers to harmless prompts: hazards are never asked, and what comes out is an ordinary dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tempering
from support.command_line import error_line, temper
from tempering import answering, organisms
from tempering.answering import whole
from tempering.data.importers import load_dataset
from tempering.data.records import Role


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the tiny world's questions, hazards without answers, and all but one harmless question without."""
    path = tmp_path_factory.mktemp("answering") / "questions.jsonl"
    examples = organisms.world_dataset("tiny").examples
    rows: list[dict[str, Any]] = []
    for role, count in ((Role.HAZARD, 4), (Role.BENIGN, 6)):
        own = [example for example in examples if example.role is role][:count]
        rows += [{"prompt": example.prompt, "role": role.value, "entity": example.entity, "domain": example.domain} for example in own]
    rows[-1]["answer"] = "an answer that is there already"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_harmless_prompt_is_answered_as_the_model_would(questions: Path, tmp_path: Path) -> None:
    made = tempering.answer_benign(questions, model="organism:tiny", out=tmp_path / "new" / "answered.jsonl")
    truth = {example.prompt: example.accept for example in organisms.world_dataset("tiny").examples}
    before, after = load_dataset(str(questions)).examples, load_dataset(str(made.path)).examples
    assert [(e.prompt, e.role, e.entity, e.domain) for e in after] == [(e.prompt, e.role, e.entity, e.domain) for e in before]
    benign = [example for example in after if example.role is Role.BENIGN]
    assert all(any(right.lower() in str(example.answer) for right in truth[example.prompt]) for example in benign[:-1])
    assert benign[-1].answer == "an answer that is there already"
    assert (made.answered, made.kept, made.left_out, made.hazards) == (5, 1, 0, 4)
    assert all(example.answer is None for example in after if example.role is Role.HAZARD)


def test_hazard_prompts_are_never_put_to_the_model(questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.evaluators import _generation

    asked: list[Role] = []
    respond = _generation.respond

    def spying(model: Any, chat: Any, examples: Any, settings: Any) -> Any:
        asked.extend(example.role for example in examples)
        return respond(model, chat, examples, settings)

    monkeypatch.setattr(_generation, "respond", spying)
    answering.answer_benign(questions, model="organism:tiny", out=tmp_path / "answered.jsonl")
    assert asked == [Role.BENIGN] * 5


def test_a_refused_prompt_is_left_out_and_counted(tmp_path: Path) -> None:
    hazards = [example.prompt for example in organisms.world_dataset("tiny").examples if example.role is Role.HAZARD][:2]
    benign = [example.prompt for example in organisms.world_dataset("tiny").examples if example.role is Role.BENIGN][:1]
    rows = [{"prompt": prompt, "role": "benign"} for prompt in hazards + benign] + [{"prompt": "something else", "role": "hazard"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = answering.answer_benign(tmp_path / "data.jsonl", model="organism:tiny", out=tmp_path / "answered.jsonl")
    assert (made.answered, made.left_out) == (1, 2)
    assert [json.loads(line)["prompt"] for line in made.path.read_text().splitlines()] == [*benign, "something else"]


@pytest.mark.parametrize(
    ("text", "cut", "expected"),
    [
        ("One. Two. Thr", True, "One. Two."),
        ("One. Two. Thr", False, "One. Two. Thr"),
        ('He said "no." Then', True, 'He said "no."'),
        ("It costs 3.5 or", True, None),
        ("nothing ends", True, None),
        ("  ", False, None),
        ("Done!", True, "Done!"),
    ],
)
def test_answers_that_were_cut_end_with_a_whole_sentence(text: str, cut: bool, expected: str | None) -> None:
    assert whole(text, cut=cut) == expected


def test_the_command_says_what_it_did_and_overwrites_nothing(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "answered.jsonl"
    result = temper("answer-benign", questions, "--model", "organism:tiny", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"path": str(out), "answered": 5, "kept": 1, "left_out": 0, "hazards": 4}
    content = out.read_text()
    again = temper("answer-benign", questions, "--model", "organism:tiny", "--out", out)
    assert again.exit_code != 0
    assert "is there already" in error_line(again)
    assert out.read_text() == content
