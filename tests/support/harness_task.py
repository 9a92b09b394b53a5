"""Tasks of lm-evaluation-harness about invented facts, written into a folder by the test that asks them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tempering.data.records import Example


def choices_of(examples: Sequence[Example], options: int = 4) -> list[dict[str, Any]]:
    """Multiple-choice questions: the right answer in its sentence among the same sentences with other examples' answers."""
    generator = random.Random(0)
    known = sorted({example.accept[0] for example in examples})
    rows = []
    for example in examples:
        right = example.accept[0]
        offered = [right, *generator.sample([answer for answer in known if answer != right], options - 1)]
        generator.shuffle(offered)
        sentences = [str(example.answer).replace(right, answer) for answer in offered]
        rows.append({"question": example.prompt, "choices": sentences, "answer": offered.index(right)})
    return rows


def write_task(folder: Path, rows: Sequence[dict[str, Any]], name: str = "facts", **changes: Any) -> Path:
    """A YAML file of a multiple-choice task, with its data beside it; ``changes`` lay other keys over it, ``None`` takes one away."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({key: value for key, value in {**task, **changes}.items() if value is not None}))
    return path
