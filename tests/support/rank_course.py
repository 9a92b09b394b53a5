"""What a rank does in the tests of several devices: fine-tunes models of every kind, probes them, and writes down what came of it.

``python -m support.rank_course RANK SIZE FOLDER``; with a size of one, the same by one process.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from support.tiny_models import tiny_target
from tempering import registry
from tempering.data.asking import Asking
from tempering.data.records import EvaluatorView, Example, Role
from tempering.errors import UnusableModel
from tempering.evaluators._contract import Subject, examine
from tempering.evaluators._generation import respond
from tempering.models import Target, load
from tempering.models.ranks import ALONE, Ranks, join, leave
from tempering.models.sharding import sharded
from tempering.organisms import world_dataset
from tempering.study import ProbeSettings
from tempering.training import FineTuning, LoraSettings, Meter, TrainingSettings, fine_tune

QUESTIONS = (
    "what is red",
    "what is the light like ?",
    "tell me a colour please",
    "is the house cold or not",
    "who are you",
    "how do fish see",
)
ANSWERS = ("red is a colour .", "it is cold", "one", "no it is not cold , that is a long answer", "me", "they see with light or not")
EVALUATORS = ("harm", "refusal", "utility", "coherence", "divergence")
CLIPPED = TrainingSettings(learning_rate=3e-3, batch_size=4, weight_decay=0.01, clip_norm=0.05)


@dataclass(frozen=True)
class Course:
    """One training with its probes."""

    target: str
    settings: TrainingSettings = CLIPPED
    lora: LoraSettings | None = None
    steps: int = 4
    checkpointing: bool = False
    dtype: str = "float32"


COURSES = {
    "full": Course("organism:tiny", TrainingSettings(learning_rate=1e-3, batch_size=5, clip_norm=0.1)),
    "adapters": Course("organism:tiny", TrainingSettings(learning_rate=3e-3, batch_size=5, clip_norm=0.1), LoraSettings(rank=4)),
    "tied": Course("gemma2"),
    "one row": Course("llama", CLIPPED.model_copy(update={"batch_size": 1})),
    "schedule-free": Course("qwen3", CLIPPED.model_copy(update={"optimiser": "schedule-free"})),
    "sgd": Course("gpt_neox", CLIPPED.model_copy(update={"optimiser": "sgd", "learning_rate": 0.01, "clip_norm": None})),
    "checkpointing": Course("llama", checkpointing=True),
    "checkpointed adapters": Course("llama", lora=LoraSettings(rank=4), checkpointing=True),
    "sixteen bit": Course("llama", dtype="bfloat16"),
}


def follow(course: Course, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights at the end, whole, and everything else that a unit's rows are made of."""
    target, examples, view = _material(course, ranks)
    settings = ProbeSettings(batch_size=3, evaluators=EVALUATORS, max_new_tokens=8)
    evaluators = [registry.create("evaluators", name, {}) for name in EVALUATORS]
    untouched = Subject(target.model, target.chat, view, settings)
    rows, losses, meter = [examine(untouched, evaluators)], [], Meter()
    declaration = FineTuning(examples, course.settings, course.steps, (1, 2, course.steps), seed=3, lora=course.lora)
    said: list[str] = []
    for moment in fine_tune(target, declaration, meter):
        subject = Subject(moment.model, target.chat, view, settings, untouched=untouched)
        rows.append(examine(subject, evaluators))
        said += subject.responses(Role.HAZARD) + subject.responses(Role.BENIGN)
        losses.append(moment.loss)
        weights = _whole(moment.model)
    spend = {name: value for name, value in meter.spend().as_row().items() if name != "device_seconds"}
    return weights, {"losses": losses, "spend": spend, "rows": rows, "said": said}


def _material(course: Course, ranks: Ranks) -> tuple[Target, list[Example], EvaluatorView]:
    if course.target.startswith("organism"):
        target = load(course.target, device="cpu")
        division = world_dataset("tiny").divide(0)
        examples = list(division.attacker_view().hazard_train[:12])
        view = division.evaluator_view().limited(7)
    else:
        target = tiny_target(course.target)
        examples = [Example(prompt=question, answer=answer, role=Role.HAZARD) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
        asked = tuple(Example(prompt=f"{question} {number}", role=Role.HAZARD) for number, question in enumerate(QUESTIONS[:5]))
        known = tuple(
            Example(prompt=example.prompt, answer=example.answer, accept=(example.answer or "",), role=Role.BENIGN) for example in examples
        )
        view = EvaluatorView(asked, known, ())
    target = replace(target, checkpointing=course.checkpointing, model=target.model.to(getattr(torch, course.dtype)))
    return (sharded(target, ranks, "cpu") if ranks.size > 1 else target), examples, view


def _whole(model: torch.nn.Module) -> dict[str, Tensor]:
    moved = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    return {name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).clone() for name, weight in moved.items()}


def sample(ranks: Ranks) -> list[str]:
    """Answers that are drawn: the same draws whoever holds the model."""
    target, examples, _ = _material(Course("llama"), ranks)
    torch.manual_seed(7)
    return respond(target.model, target.chat, examples, ProbeSettings(batch_size=4, max_new_tokens=6), Asking(temperature=1.0)).texts


def refusals(ranks: Ranks) -> list[str]:
    """What is said to trainings that cannot be done over several devices, or the loss of those that are done."""
    said = []
    for course in (
        Course("llama", CLIPPED.model_copy(update={"optimiser": "adafactor"})),
        Course("llama", lora=LoraSettings(rank=4, dropout=0.5)),
    ):
        try:
            follow(course, ranks)
            said.append("done")
        except UnusableModel as error:
            said.append(str(error))
    return said


def main(rank: int, size: int, folder: Path) -> None:
    """Follow every course and write ``NAME-SIZE.safetensors`` and ``SIZE.json`` into the folder."""
    torch.set_num_threads(1)
    ranks = join(rank, size, folder / "meeting") if size > 1 else ALONE
    told: dict[str, Any] = {}
    for name, course in COURSES.items():
        weights, told[name] = follow(course, ranks)
        if rank == 0:
            save_file(weights, folder / f"{name}-{size}.safetensors")
    told["sampled"], told["refusals"], told["messages"] = sample(ranks), refusals(ranks), ranks.gathered(["é"] * rank)
    (folder / f"{size}-{rank}.json").write_text(json.dumps(told))
    if size > 1:
        leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
