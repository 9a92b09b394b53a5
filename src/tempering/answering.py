"""A model's own answers to the harmless prompts of a dataset that comes without any.

Refusal training needs something to rehearse beside refusals, and what a model would say anyway disturbs it least. Public sets of harmful
prompts come with no harmless answers at all, so that the model is asked for its own:

    import tempering

    tempering.answer_benign("prompts/", model="HuggingFaceTB/SmolLM2-135M-Instruct", out="answered.jsonl")

Hazard prompts are copied as they are and never put to the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering.data.records import Dataset, Example, Role
from tempering.engine.files import make_directory, replace_file
from tempering.engine.loading import load_model, load_records
from tempering.errors import InvalidStudy, UnusableData
from tempering.model_choice import ModelChoice
from tempering.models import Target
from tempering.study import DataChoice, ProbeSettings

LONGEST_ANSWER = 96
"""New tokens of an answer, unless told."""

_SENTENCE_END = re.compile(r"[.!?](?=[\"')\]]*(?:\s|$))[\"')\]]*")
_AT_ONCE = 64
"""Prompts between two lines of progress."""


@dataclass(frozen=True)
class Answered:
    """A dataset with answers, on disk.

    Attributes:
        path: the JSONL file, an ordinary dataset.
        answered: prompts that the model answered.
        kept: harmless prompts that had an answer already.
        left_out: harmless prompts that the model refused, or said nothing whole to; they are not in the file.
        hazards: hazard prompts, copied as they are.
    """

    path: Path
    answered: int
    kept: int
    left_out: int
    hazards: int

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "path": str(self.path)}

    def line(self) -> str:
        """One sentence."""
        return (
            f"{self.path}: {self.answered} harmless prompts answered by the model, {self.kept} had answers, {self.left_out} left out "
            f"(refused, or nothing whole was said), {self.hazards} hazard prompts copied"
        )


def answer_benign(
    data: str | Path,
    *,
    model: str,
    out: str | Path,
    longest: int = LONGEST_ANSWER,
    batch_size: int = 32,
    dtype: str | None = None,
    device: str | None = None,
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Answered:
    """Write a dataset anew in which every benign prompt has an answer, the model's own where the data has none.

    Answers are greedy. One that reaches its limit is cut behind its last whole sentence, so that nobody learns to stop in the middle of
    one. Documents and supplements are not copied: they can stand beside the new file in a folder.

    Args:
        data: what ``--data`` takes.
        model: who answers: ``organism:tiny``, a directory, ``hub-id@revision``, a GGUF file or a PEFT adapter.
        out: the JSONL file; not there yet.
        longest: new tokens of an answer, at most.
        batch_size: prompts put at once.
        dtype: type of the weights; the checkpoint's own unless told.
        device: ``cpu``, ``cuda``, ``cuda:1``; an accelerator where there is one unless told.
        chat_template: a file with a Jinja chat template, for a model that comes without.
        trust_remote_code: run code that ships with the model.
        on_progress: told, in one line, how far it is.

    Raises:
        InvalidStudy: ``out`` is there already, or a number is none to work with.
        UnusableData: the data cannot be read, or the model answers none of its benign prompts.
        UnusableModel: the model cannot be loaded.
    """
    path = Path(out)
    if path.exists():
        raise InvalidStudy(f"{path} is there already", "name another file, or remove it")
    if longest < 1 or batch_size < 1:
        raise InvalidStudy(f"an answer of {longest} tokens in batches of {batch_size} is none", "give numbers above 0")
    choice = ModelChoice.model_validate(
        {"reference": model, "dtype": dtype, "device": device, "chat_template": chat_template, "trust_remote_code": trust_remote_code}
    )
    dataset = load_records(DataChoice(reference=str(data)), choice)
    asked = [example for example in dataset.examples if _wants_answer(example)]
    answers = _answers(load_model(choice), asked, longest, batch_size, on_progress) if asked else {}
    if asked and not any(answers.values()):
        raise UnusableData(f"{model} answers none of the {len(asked)} harmless prompts of {dataset.name}", "ask a model that answers")
    rows = [row for example in dataset.examples if (row := _row(example, answers)) is not None]
    make_directory(path.resolve().parent)
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return _counted(path, dataset, asked, answers)


def _wants_answer(example: Example) -> bool:
    return example.role is not Role.HAZARD and example.answer is None


def _answers(
    target: Target, asked: Sequence[Example], longest: int, batch_size: int, on_progress: Callable[[str], None]
) -> dict[str, str | None]:
    """By the identity of the example, what the model says; ``None`` where it refuses, or says nothing whole."""
    from tempering.evaluators._generation import respond
    from tempering.judges._judging import Verdict, judge

    settings = ProbeSettings(max_new_tokens=longest, batch_size=batch_size)
    target.model.eval()
    answers: dict[str, str | None] = {}
    ordered = sorted(asked, key=lambda example: len(example.prompt))  # so that rounds are of one length
    for start in range(0, len(ordered), _AT_ONCE):
        examples = ordered[start : start + _AT_ONCE]
        made = respond(target.model, target.chat, examples, settings)
        for example, text, (_, added) in zip(examples, made.texts, made.lengths, strict=True):
            useful = judge(example, text) not in (Verdict.REFUSAL, Verdict.GIBBERISH)
            answers[example.identity] = whole(text, cut=added >= longest) if useful else None
        on_progress(f"{len(answers)} of {len(ordered)} prompts answered")
    return answers


def whole(text: str, *, cut: bool) -> str | None:
    """The text up to its last whole sentence where it was cut; ``None`` where nothing is left.

    Args:
        text: a response.
        cut: whether the limit of its length ended it, and not the model.
    """
    if cut:
        ends = [found.end() for found in _SENTENCE_END.finditer(text)]
        text = text[: ends[-1]] if ends else ""
    return text.strip() or None


def _row(example: Example, answers: dict[str, str | None]) -> dict[str, Any] | None:
    """A line of the new file; ``None`` where the example is left out."""
    row = example.model_dump(mode="json", exclude_defaults=True)
    if example.entity == example.prompt:
        del row["entity"]
    if _wants_answer(example):
        if (answer := answers[example.identity]) is None:
            return None
        row["answer"] = answer
    return row


def _counted(path: Path, dataset: Dataset, asked: Sequence[Example], answers: dict[str, str | None]) -> Answered:
    hazards = sum(example.role is Role.HAZARD for example in dataset.examples)
    left_out = sum(answers[example.identity] is None for example in asked)
    return Answered(path, len(asked) - left_out, len(dataset.examples) - hazards - len(asked), left_out, hazards)
