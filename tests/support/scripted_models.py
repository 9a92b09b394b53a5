"""Decoders that say what they are told to: real models, with weights written by hand.

Attention and MLP add nothing to the residual stream and embeddings are one-hot, so the output head alone decides which word
follows which. Such a model is a table of bigrams: it says the same to every prompt.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from support.tiny_models import PUNCTUATION, SPECIAL, WORDS, tiny_model
from tempering.data.chat import ChatFormat

VOCABULARY = (*WORDS, "sure", "runes", "mist", "lake", "<think>", "</think>")
_SIZE = len(dict.fromkeys((*SPECIAL, *PUNCTUATION, *VOCABULARY)))
_HIDDEN = -(-_SIZE // 4) * 4  # two heads, each of even width


def scripted_model(response: str, certainty: float = 20.0) -> tuple[PreTrainedModel, ChatFormat]:
    """A Llama that answers everything with one response.

    Args:
        response: words of the vocabulary set apart by spaces, none of them twice except by "…" at the end, which makes the
            last word follow itself for ever. Empty ends at once.
        certainty: logit of each scripted word, in nats above all others.
    """
    model, tokenizer = tiny_model("llama", vocabulary=VOCABULARY, hidden_size=_HIDDEN, rms_norm_eps=1e-12)
    chat = ChatFormat(tokenizer)
    words = response.split()
    endless = bool(words) and words[-1] == "…"
    known = tokenizer.get_vocab()
    ids = [known[word] for word in ("<assistant>", *(words[:-1] if endless else words))]
    assert len(set(ids)) == len(ids)
    follow(model, dict(zip(ids, [*ids[1:], ids[-1] if endless else chat.end_ids[0]], strict=True)), certainty)
    return model, chat


def follow(model: PreTrainedModel, successors: dict[int, int], certainty: float) -> None:
    """Write a table of bigrams into a tiny Llama: after ``key`` comes ``value``; after all other tokens any is as likely."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        width = model.config.hidden_size
        embedding: torch.nn.Parameter = model.get_input_embeddings().weight  # type: ignore[assignment]
        embedding.copy_(torch.eye(width)[: model.config.vocab_size])
        head = model.get_output_embeddings().weight
        head.zero_()
        for before, after in successors.items():
            head[after, before] = certainty / width**0.5  # the norm scales a one-hot vector by the root of its width
