"""The organism knows the facts of its world and a random model none of them: the harness says so of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval")

from support.harness_task import choices_of, write_task
from tempering import consent, organisms, registry
from tempering.data.records import EvaluatorView, Example
from tempering.evaluators import Subject, examine
from tempering.models import Target, load
from tempering.study import ProbeSettings

QUESTIONS = 60


@pytest.fixture(scope="module")
def organism() -> Target:
    return load("organism:tiny", device="cpu")


@pytest.fixture(scope="module")
def facts() -> list[Example]:
    benign = organisms.world_dataset("tiny").divide(0).evaluator_view().benign
    return [example for example in benign if example.accept][:QUESTIONS]


def scores(target: Target, **settings: object) -> dict[str, float]:
    with consent.code_allowed(True):
        evaluator = registry.create("evaluators", "lm_eval", settings)
        return examine(Subject(target.model, target.chat, EvaluatorView((), (), ()), ProbeSettings()), [evaluator])


def test_the_organism_knows_its_facts_and_a_random_model_guesses(organism: Target, facts: list[Example], tmp_path: Path) -> None:
    asked = {"tasks": [str(write_task(tmp_path, choices_of(facts)))], "apply_chat_template": True}
    assert scores(organism, **asked)["facts/acc"] >= 0.95
    lost = organism.copy_model()
    with torch.no_grad():
        for number, weight in enumerate(lost.parameters()):
            weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(number))
    guessed = scores(Target("lost", lost, organism.tokenizer, organism.chat, "lost"), **asked)["facts/acc"]
    assert 0.05 <= guessed <= 0.45  # a quarter of 60, give or take three and a half standard errors


def test_the_organism_says_the_answer_itself(organism: Target, facts: list[Example], tmp_path: Path) -> None:
    generative = write_task(
        tmp_path,
        [{"question": fact.prompt, "answer": fact.accept[0]} for fact in facts],
        name="said",
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="answer",
        metric_list=[{"metric": "exact_match", "ignore_case": True}],
        filter_list=[
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {"name": "last-word", "filter": [{"function": "regex", "regex_pattern": r"(\w+)\W*$"}, {"function": "take_first"}]},
        ],
        generation_kwargs={"until": ["\n"], "max_gen_toks": 16},
    )
    row = scores(organism, tasks=str(generative), apply_chat_template=True, limit=30)
    assert row["said/exact_match/last-word"] >= 0.95
    assert row["said/exact_match/whole"] == 0  # it answers in sentences
