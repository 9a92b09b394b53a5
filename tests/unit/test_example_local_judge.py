"""examples/guarded-smollm2/local_judge.py: what it learns from, and where its loss is."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tempering.data.records import DefenderView, Example, Role


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "guarded-smollm2" / "local_judge.py"
    spec = importlib.util.spec_from_file_location("example_local_judge", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def view() -> DefenderView:
    hazard = tuple(Example(prompt=f"hazard {place}", role=Role.HAZARD) for place in range(6))
    benign = tuple(Example(prompt=f"benign {place}", answer=f"answer {place}", role=Role.BENIGN) for place in range(20))
    return DefenderView(hazard=hazard, benign=benign, borderline=())


def test_every_prompt_comes_with_help_and_without(example: ModuleType) -> None:
    rows = example.graded(view(), [f"help {place}" for place in range(6)], random.Random(0))
    grades = Counter((asked.prompt, grade) for asked, grade in rows)
    prompts = {asked.prompt for asked, _ in rows}
    assert len(prompts) == 12  # as many benign ones as hazards
    assert grades == Counter({(prompt, grade): 1 for prompt in prompts for grade in (example.HELPS, example.DOES_NOT)})


def test_what_helps_is_the_answer_to_that_very_prompt_and_what_does_not_is_none(example: ModuleType) -> None:
    rows = example.graded(view(), [f"help {place}" for place in range(6)], random.Random(1))
    own = {f"hazard {place}": f"help {place}" for place in range(6)} | {f"benign {place}": f"answer {place}" for place in range(20)}
    for asked, grade in rows:
        assert (asked.response == own[asked.prompt]) == (grade == example.HELPS)


def test_the_loss_is_on_the_grade_alone(example: ModuleType) -> None:
    made = example.batch([[5, 6, 7, 9], [8, 9]], 0)
    assert made["input_ids"].tolist() == [[5, 6, 7, 9], [0, 0, 8, 9]]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert made["labels"].tolist() == [[-100, 9], [-100, 9]]
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=12, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2))
    alone = [model(torch.tensor([row[:-1]])).logits[0, -1].log_softmax(-1)[row[-1]] for row in ([5, 6, 7, 9], [8, 9])]
    assert torch.allclose(model(**made).loss, -torch.stack(alone).mean(), atol=1e-5)
