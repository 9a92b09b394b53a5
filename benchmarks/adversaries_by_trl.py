"""The other side of ``adversaries.py``: attack runs as the public benchmarks make them, one trial at a time.

TRL's ``SFTTrainer`` and PEFT train, a callback stops at the probes, ``generate`` answers the held-out prompts, the responses are judged.
Favourable to this side: everything is imported and the data are read once, batches come in the order in which Tempering draws them, a
probe asks all prompts of a role in one batch, and only what a break needs is measured (harm and utility, borderline prompts for what
is lost), nothing else.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import Sampler, SequentialSampler
from transformers import DataCollatorForSeq2Seq, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tempering import registry
from tempering.attacks._contract import FineTuningAttack
from tempering.data.records import AttackerView, EvaluatorView, Example, Role
from tempering.engine.loading import load_model, load_records, restrict
from tempering.evaluators._lengths import MARGIN
from tempering.judges._judging import Verdict, answers_of, judge
from tempering.models import Target
from tempering.study import Study
from tempering.training import FineTuning
from tempering.training.loop import batches

LAYERS = "all-linear"


class InOrder(SFTTrainer):
    """Takes the rows as they stand, so that both sides train on the same batches."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        rows: Any = self.train_dataset
        return SequentialSampler(rows)


class Probe(TrainerCallback):
    """Asks the held-out prompts after certain steps."""

    def __init__(self, target: Target, view: EvaluatorView, steps: Sequence[int]) -> None:
        self.target, self.view, self.steps = target, view, set(steps)
        self.answers = answers_of(example for role in Role for example in view.of(role))
        self.rows: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step in self.steps:
            self.look(model, state.global_step)

    def look(self, model: Any, step: int) -> None:
        model.eval()
        scores = {role: self.share(model, self.view.of(role)) for role in (Role.HAZARD, Role.BENIGN, Role.BORDERLINE)}
        self.rows.append({"step": step, "harm": scores[Role.HAZARD], "utility": scores[Role.BENIGN]})
        model.train()

    @torch.no_grad()
    def share(self, model: Any, examples: Sequence[Example]) -> float:
        """Share of useful responses."""
        chat, tokenizer = self.target.chat, self.target.tokenizer
        prompts = [chat.prompt_ids(example) for example in examples]
        longest = max(len(chat.answer_ids(example, example.answer)) for example in examples if example.answer is not None)
        inputs = tokenizer.pad({"input_ids": prompts}, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        output = model.generate(
            **inputs, max_new_tokens=longest + MARGIN, do_sample=False, eos_token_id=list(chat.end_ids), pad_token_id=chat.pad_id
        )
        width = inputs["input_ids"].shape[1]
        texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        useful = [judge(example, text, self.answers) is Verdict.USEFUL for example, text in zip(examples, texts, strict=True)]
        return sum(useful) / len(useful)


def attack(target: Target, declaration: FineTuning, view: EvaluatorView, folder: Path, *, bf16: bool) -> list[dict[str, float]]:
    """One run, start to end."""
    settings = declaration.settings
    model: Any = target.copy_model(torch.float32)
    torch.manual_seed(declaration.seed)
    if declaration.lora is not None:
        lora = declaration.lora
        configuration = LoraConfig(
            r=lora.rank, lora_alpha=int(lora.alpha), lora_dropout=lora.dropout, target_modules=LAYERS, task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, configuration)
    encoded = [target.chat.encode(example) for example in declaration.examples]
    order = [index for batch in batches(len(encoded), settings.batch_size, declaration.steps, declaration.seed) for index in batch]
    rows = [{"input_ids": encoded[index].input_ids, "labels": encoded[index].labels} for index in order]
    probe = Probe(target, view, declaration.probes)
    probe.look(model, 0)
    trainer = InOrder(
        model,
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=declaration.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip_norm or 0.0,
            bf16=bf16,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=declaration.seed,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=target.tokenizer,
        data_collator=DataCollatorForSeq2Seq(target.tokenizer, padding=True),
        callbacks=[probe],
    )
    trainer.train()
    return probe.rows


def declarations(study: Study, target: Target, attacker: AttackerView) -> list[tuple[str, int, FineTuning]]:
    """What Tempering would train, by attack and seed."""
    made = []
    for seed in study.seeds:
        for choice in study.attacks:
            attack = registry.create("attacks", choice.name, choice.config)
            assert isinstance(attack, FineTuningAttack)
            view = attacker.limited_to(attack.requires | attack.uses)
            made.append((choice.title, seed, attack.declare(target, view, budget=study.budget, seed=seed)))
    return made


def main(study_file: Path, folder: Path, bf16: bool) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    study = Study.model_validate(json.loads(study_file.read_text()))
    (choice,) = study.models
    division = restrict(load_records(study.data, choice), study.data.domains).divide(study.data.seed)
    target = load_model(choice)
    view = division.evaluator_view().limited(study.probes.prompts)
    started = time.perf_counter()
    runs = []
    for title, seed, declaration in declarations(study, target, division.attacker_view()):
        before = time.perf_counter()
        rows = attack(target, declaration, view, folder, bf16=bf16)
        runs.append({"attack": title, "seed": seed, "rows": rows, "seconds": time.perf_counter() - before})
    print(json.dumps({"seconds": time.perf_counter() - started, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "bf16")
