"""One optimizer step of the loop against the same step of transformers' Trainer and of TRL's SFTTrainer."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset as HuggingFaceDataset
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from support.tiny_models import tiny_model
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.models import Target
from tempering.training import FineTuning, LoraSettings, Meter, TrainingSettings, fine_tune
from tempering.training.adapters import add_lora

QUESTIONS = ("what is red", "what is the light like", "tell me a colour please", "is the house cold", "who are you", "how do fish see")
ANSWERS = ("red is a colour .", "it is cold", "one", "no it is not cold", "me", "they see with light or not")
COMMON = {
    "per_device_train_batch_size": len(QUESTIONS),
    "max_steps": 1,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
    "optim": "adamw_torch",
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
}


def _examples():
    return [Example(prompt=question, answer=answer, role=Role.HAZARD) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]


def _target(family):
    model, tokenizer = tiny_model(family)
    return Target("test", model.eval(), tokenizer, ChatFormat(tokenizer), digest="")


def _ours(target, lora=None, optimiser="adamw"):
    settings = TrainingSettings(optimiser=optimiser, learning_rate=3e-3, batch_size=len(QUESTIONS), weight_decay=0.01, clip_norm=0.5)
    (moment,) = fine_tune(target, FineTuning(_examples(), settings, 1, (1,), seed=0, lora=lora), Meter())
    return moment


def _largest_difference(ours, theirs):
    other = dict(theirs.named_parameters())
    return max(float((parameter - other[name]).detach().abs().max()) for name, parameter in ours.named_parameters())


# GPT-NeoX's key bias has a gradient of zero but for rounding, which AdamW blows up to a whole step; SGD does not
@pytest.mark.parametrize(("family", "optimiser"), [("llama", "adamw"), ("qwen3", "adamw"), ("gemma2", "adamw"), ("gpt_neox", "sgd")])
def test_full_step_equals_transformers_trainer(family, optimiser, tmp_path):
    target = _target(family)
    encoded = [target.chat.encode(example) for example in _examples()]
    rows = [{"input_ids": item.input_ids, "labels": item.labels, "attention_mask": [1] * len(item.input_ids)} for item in encoded]
    theirs = copy.deepcopy(target.model)
    trainer = Trainer(
        theirs,
        TrainingArguments(output_dir=str(tmp_path), **{**COMMON, "optim": {"adamw": "adamw_torch", "sgd": "sgd"}[optimiser]}),
        train_dataset=HuggingFaceDataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(target.tokenizer, padding=True),
    )
    loss = trainer.train().training_loss
    moment = _ours(target, optimiser=optimiser)
    assert moment.loss == pytest.approx(loss, abs=1e-5)
    assert _largest_difference(moment.model, theirs) < 2e-5
    assert _largest_difference(target.model, theirs) > 1e-4


def test_full_step_equals_trl(tmp_path):
    target = _target("llama")
    encoded = [target.chat.encode(example) for example in _examples()]
    rows = [{"input_ids": item.input_ids, "labels": item.labels} for item in encoded]
    theirs = copy.deepcopy(target.model)
    trainer = SFTTrainer(
        theirs,
        args=SFTConfig(
            output_dir=str(tmp_path), dataset_kwargs={"skip_prepare_dataset": True}, bf16=False, gradient_checkpointing=False, **COMMON
        ),
        train_dataset=HuggingFaceDataset.from_list(rows),
        processing_class=target.tokenizer,
        data_collator=DataCollatorForSeq2Seq(target.tokenizer, padding=True),
    )
    loss = trainer.train().training_loss
    moment = _ours(target)
    assert moment.loss == pytest.approx(loss, abs=1e-5)
    assert _largest_difference(moment.model, theirs) < 2e-5


def test_lora_step_equals_transformers_trainer(tmp_path):
    target = _target("llama")
    lora = LoraSettings(rank=4, alpha=8)
    encoded = [target.chat.encode(example) for example in _examples()]
    rows = [{"input_ids": item.input_ids, "labels": item.labels, "attention_mask": [1] * len(item.input_ids)} for item in encoded]
    torch.manual_seed(0)  # the loop seeds adapters so
    theirs = add_lora(copy.deepcopy(target.model), lora)
    trainer = Trainer(
        theirs,
        TrainingArguments(output_dir=str(tmp_path), label_names=["labels"], **COMMON),
        train_dataset=HuggingFaceDataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(target.tokenizer, padding=True),
    )
    loss = trainer.train().training_loss
    moment = _ours(target, lora)
    assert moment.loss == pytest.approx(loss, abs=1e-5)
    assert _largest_difference(moment.model, theirs) < 2e-5
