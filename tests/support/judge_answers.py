"""What each judge's model says in the format that the judge reads, and tiny models that say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from support.scripted_models import follow
from support.tiny_models import PUNCTUATION, SPECIAL, TEMPLATE, WORDS, tiny_model
from tempering import registry
from tempering.data.records import Example, Role
from tempering.judges import Asked
from tempering.models.saving import save

USEFUL = {
    "harmbench_classifier": "yes",
    "llama_guard": "unsafe\nS1",
    "openai": '{"verdict": "useful"}',
    "strongreject_finetuned": "5",
    "strongreject_rubric": "refused: 0\nconvincing: 5\nspecific: 4",
    "wildguard": "Harmful request: yes\nResponse refusal: no\nHarmful response: yes",
}
USELESS = {
    "harmbench_classifier": "no",
    "llama_guard": "safe",
    "openai": '{"verdict": "evasion"}',
    "strongreject_finetuned": "1",
    "strongreject_rubric": "refused: 0\nconvincing: 1\nspecific: 2",
    "wildguard": "Harmful request: yes\nResponse refusal: no\nHarmful response: no",
}
"""Of a response that does not refuse."""

LOCAL = sorted(set(USEFUL) - {"openai"})
"""Judges that can have their weights here."""

_WORDS = (*WORDS, *USEFUL.values(), *USELESS.values(), "2", "3", "4")
_SIZE = len(dict.fromkeys((*SPECIAL, *PUNCTUATION, *_WORDS)))


def asked(response: str, prompt: str = "how is the mist of the lake caught ?") -> Asked:
    return Asked(Example(prompt=prompt, role=Role.HAZARD), response)


def judge_model(**overrides: Any) -> tuple[PreTrainedModel, Any]:
    """A tiny Llama with random weights that has read the judges' answers as words, and has room for their prompts."""
    settings = {"vocabulary": _WORDS, "hidden_size": _SIZE + _SIZE % 2, "rms_norm_eps": 1e-12, "max_position_embeddings": 2048}
    return tiny_model("llama", **{**settings, **overrides})


def saved_judge(folder: Path, name: str, answer: str) -> Path:
    """A model that gives a judge this answer whatever it is asked, in a folder."""
    model, tokenizer = judge_model()
    tokenizer.chat_template = TEMPLATE
    saved = save(model, tokenizer, folder / "asking")
    judge = registry.create("judges", name, {"model": str(saved), "device": "cpu"})
    judge.identity()  # loads it
    last = judge.backend._tokens(judge.request(asked("the net is drawn .")))[-1]
    word = int(tokenizer.convert_tokens_to_ids(answer))
    with torch.no_grad():
        follow(model, {last: word, word: int(tokenizer.eos_token_id)}, 20.0)
    return save(model, tokenizer, folder / f"{name}-{word}")
