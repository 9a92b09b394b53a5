"""Answers to whole conversations, for benchmarks that bring their own prompts and their own scorers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from tempering.data.chat import ChatFormat
from tempering.evaluators._generation import _embedded_pad, _left_padded, _plain, _undisturbed
from tempering.evaluators._guests import SEED


@dataclass(frozen=True)
class Wishes:
    """How an answer shall be made; conversations that agree in it may be asked together.

    Attributes:
        max_new_tokens: tokens of an answer at most.
        temperature: 0 decodes greedily.
        top_p: share of the probability that is sampled from.
        top_k: tokens that are sampled from; 0 for all.
        stop: strings that end an answer, and are no part of it.
        seed: of the sampling.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = SEED


@dataclass(frozen=True)
class Continued:
    """One answer.

    Attributes:
        text: without special tokens, cut before the first of the strings that end it.
        asked: tokens put before the model.
        added: tokens that it added.
        ended_by: an end of turn or a string, the limit, or the model's context, which the prompt fills.
    """

    text: str
    asked: int
    added: int
    ended_by: Literal["stop", "max_tokens", "model_length"]


@torch.no_grad()
def continue_all(model: PreTrainedModel, chat: ChatFormat, prompts: Sequence[list[int]], wishes: Wishes) -> list[Continued]:
    """Have the model go on behind each prompt, in one batch; weights, modes, settings and random states are left as they were.

    Args:
        model: any decoder, also with adapters or hooks.
        chat: its chat format.
        prompts: tokens, from :meth:`tempering.evaluators._conversation.Conversation.ids`.
        wishes: for all of them.
    """
    window = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 2**62
    fitting = [place for place, prompt in enumerate(prompts) if len(prompt) < window]
    made = [Continued("", len(prompt), 0, "model_length") for prompt in prompts]
    if not fitting:
        return made
    room = min(wishes.max_new_tokens, *(window - len(prompts[place]) for place in fitting))
    devices = [model.device] if model.device.type == "cuda" else []
    with _undisturbed(model) as decoder, torch.random.fork_rng(devices=devices):
        torch.manual_seed(wishes.seed)
        inputs = _left_padded(decoder, chat, [prompts[place] for place in fitting])
        width = inputs["input_ids"].shape[1]
        generator: Any = decoder
        output = generator.generate(
            **inputs,
            generation_config=_plain(
                **_sampling(wishes),
                num_beams=1,
                max_new_tokens=room,
                use_cache=True,
                eos_token_id=list(chat.end_ids),
                pad_token_id=_embedded_pad(decoder, chat),
            ),
            stopping_criteria=StoppingCriteriaList([_SaidOne(chat, wishes.stop, width)] if wishes.stop else []),
        )
    for place, added in zip(fitting, output[:, width:].tolist(), strict=True):
        made[place] = _read(chat, len(prompts[place]), added, wishes, room)
    return made


def _sampling(wishes: Wishes) -> dict[str, Any]:
    if not wishes.temperature:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": wishes.temperature, "top_p": wishes.top_p, "top_k": wishes.top_k}


def _read(chat: ChatFormat, asked: int, added: list[int], wishes: Wishes, room: int) -> Continued:
    end = next((place for place, token in enumerate(added) if token in chat.end_ids), None)
    tokens = added if end is None else added[:end]
    text = chat.decode(tokens)
    places = [text.find(string) for string in wishes.stop if string in text]
    ended = end is not None or bool(places)
    if places:
        text = text[: min(places)]
    reason: Literal["stop", "max_tokens", "model_length"] = "max_tokens" if room == wishes.max_new_tokens else "model_length"
    return Continued(text, asked, len(tokens), "stop" if ended else reason)


class _SaidOne(StoppingCriteria):
    """Ends a row once it has said one of some strings."""

    def __init__(self, chat: ChatFormat, strings: Sequence[str], width: int) -> None:
        self._chat, self._strings, self._width = chat, strings, width

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows have: shape (rows,), bool."""
        texts = [self._chat.decode(row) for row in input_ids[:, self._width :].tolist()]
        return torch.tensor([any(string in text for string in self._strings) for text in texts], device=input_ids.device)
