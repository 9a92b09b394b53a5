"""A Llama whose refusal is mediated by one known direction, written by hand.

The hazard word's embedding points along v; uniform attention in the first block carries v to every later position; the head reads v
as "sorry" and what the generation prompt writes (c) as "it". So the model refuses exactly where the hazard word was read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from support.tiny_models import tiny_model
from tempering.data.chat import ChatFormat
from tempering.data.records import AttackerView, Example, Role
from tempering.models.target import Target

HAZARD_WORD, HARMLESS_WORD, REFUSAL, ANSWER = "poison", "fish", "sorry", "it"
FIRST = ("tell", "help", "show", "ask", "let", "make", "brew", "say", "see", "eat", "do", "are", "for", "from", "in", "is")
SECOND = ("red", "green", "cold", "long", "stone", "river", "sun", "water", "house", "key", "tree", "light")


@dataclass(frozen=True)
class Planted:
    """The model as a target, with what was planted in it."""

    target: Target
    direction: Tensor
    view: AttackerView


def as_target(model: PreTrainedModel, tokenizer: object) -> Target:
    return Target("planted", model, tokenizer, ChatFormat(tokenizer), "0" * 64)  # type: ignore[arg-type]


def prompts(role: Role, count: int, start: int = 0) -> tuple[Example, ...]:
    """Distinct prompts of one length; harmful and harmless ones of a number differ in one word only."""
    word = HAZARD_WORD if role is Role.HAZARD else HARMLESS_WORD
    texts = [f"{first} me {second} {word}" for second in SECOND for first in FIRST]
    return tuple(Example(prompt=text, role=role) for text in texts[start : start + count])


def prompt_view(train: int = 32, validation: int = 8) -> AttackerView:
    return AttackerView(
        hazard_train=prompts(Role.HAZARD, train),
        hazard_validation=prompts(Role.HAZARD, validation, start=train),
        benign_train=prompts(Role.BENIGN, train),
        benign_validation=prompts(Role.BENIGN, validation, start=train),
    )


@torch.no_grad()
def planted_refusal(*, noise: bool = False, refuses: bool = True, symmetric: bool = False, seed: int = 0) -> Planted:
    """Build it.

    Args:
        noise: keep the random attention and MLPs beside the planted circuit, as in a model that does other things too.
        refuses: whether the head reads v as a refusal.
        symmetric: harmless words write -v and the head needs it to answer, so that nobody can take v away unnoticed.
        seed: decides the random weights.
    """
    model, tokenizer = tiny_model("llama", seed, hidden_size=32, num_hidden_layers=4, initializer_range=0.03)
    generator = torch.Generator().manual_seed(seed)
    v, c = torch.linalg.qr(torch.randn(32, 2, generator=generator))[0].T
    decoder = model.model
    words = {word: tokenizer.convert_tokens_to_ids(word) for word in (HAZARD_WORD, HARMLESS_WORD, REFUSAL, ANSWER, "<assistant>")}
    matrices = [
        decoder.embed_tokens.weight.T,
        *(part for layer in decoder.layers for part in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight)),
    ]
    for matrix in matrices:
        matrix -= torch.outer(v, v @ matrix)
    if not noise:
        for matrix in matrices[1:]:
            matrix.zero_()
    embedding = decoder.embed_tokens.weight
    embedding[words[HAZARD_WORD]] = embedding[words[HARMLESS_WORD]] + 3 * v
    if symmetric:
        embedding[words[HARMLESS_WORD]] -= 3 * v
    embedding[words["<assistant>"]] += 3 * c
    attention = decoder.layers[0].self_attn
    attention.q_proj.weight.zero_()
    attention.v_proj.weight[0] = v
    attention.o_proj.weight[:, 0] = 10 * v
    if refuses:
        model.lm_head.weight[words[REFUSAL]] += 3 * v
    model.lm_head.weight[words[ANSWER]] += -3 * v if symmetric else 2 * c
    return Planted(as_target(model, tokenizer), v, prompt_view())
