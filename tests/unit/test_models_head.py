"""The output head is given one piece of memory wherever it is asked for a few positions of many."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from support.tiny_models import tiny_model, tiny_target
from tempering.attacks._inference import MeteredModel
from tempering.data.asking import PLAIN, Asking
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.evaluators._generation import first_token_log_probabilities, respond
from tempering.evaluators._together import respond_together
from tempering.models.decoding import GreedyDecoder
from tempering.models.head import few_positions
from tempering.study import ProbeSettings
from tempering.training import LoraSettings, Meter
from tempering.training.adapters import add_lora
from tempering.training.stacked_lora import stack_lora

PROMPTS = [[2, 5, 12, 30, 41], [7, 6, 9, 33, 18], [11, 14, 15, 16, 21]]
EXAMPLES = tuple(Example(prompt=prompt, role=Role.BENIGN, answer="red .") for prompt in ("what is the key ?", "who ?", "say it is red"))
SETTINGS = ProbeSettings(max_new_tokens=3, batch_size=3)


def frozen(family: str = "llama", **settings: int) -> PreTrainedModel:
    model: PreTrainedModel = tiny_model(family, **settings)[0].requires_grad_(False)
    return model


def handed_to_the_head(model: PreTrainedModel) -> list[Tensor]:
    """What the head's own computation is given from now on, behind every hook."""
    head, given = model.get_output_embeddings(), []
    forward = head.forward

    def watched(hidden: Tensor) -> Tensor:
        given.append(hidden)
        return forward(hidden)

    head.forward = watched
    return given


def chat() -> ChatFormat:
    return ChatFormat(tiny_model("llama")[1])


def a_decoder(model: PreTrainedModel) -> None:
    GreedyDecoder(model, PROMPTS, 0).answers([0, 1, 2], 3, [])


def first_tokens(model: PreTrainedModel) -> None:
    first_token_log_probabilities(model, chat(), EXAMPLES, SETTINGS, PLAIN, fixed_rows=True)


def the_library(model: PreTrainedModel) -> None:
    respond(model, chat(), EXAMPLES, SETTINGS, Asking(temperature=1.0))


def an_attack_reads(model: PreTrainedModel) -> None:
    MeteredModel(model, chat(), Meter(), 3).first_token(EXAMPLES)


def an_attack_samples(model: PreTrainedModel) -> None:
    MeteredModel(model, chat(), Meter(), 3).answers(EXAMPLES, new_tokens=3, asking=Asking(temperature=1.0))


@pytest.mark.parametrize("ask", [a_decoder, first_tokens, the_library, an_attack_reads, an_attack_samples])
def test_a_frozen_head_gets_the_last_positions_in_one_piece(ask: Callable[[PreTrainedModel], None]) -> None:
    model = frozen()
    given = handed_to_the_head(model)
    ask(model)
    assert given
    assert all(hidden.is_contiguous() for hidden in given)
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_without_it_the_head_gets_a_slice() -> None:
    model = frozen()
    given = handed_to_the_head(model)
    model(input_ids=torch.tensor(PROMPTS), logits_to_keep=1)
    assert not given[0].is_contiguous()
    with few_positions(model):
        model(input_ids=torch.tensor(PROMPTS), logits_to_keep=1)
    assert given[1].is_contiguous()
    assert torch.equal(given[0], given[1])


def test_adapters_are_asked_so_alone_and_in_a_stack() -> None:
    target = tiny_target("llama")
    single = add_lora(target.copy_model(), LoraSettings(rank=2))
    stacked, _ = stack_lora(target, [(LoraSettings(rank=2), seed) for seed in (0, 1)])
    for model in (single, stacked):
        given = handed_to_the_head(model)
        if model is single:
            respond(model, chat(), EXAMPLES, SETTINGS)
        else:
            respond_together(model, chat(), EXAMPLES, SETTINGS, PLAIN)
        assert given
        assert all(hidden.is_contiguous() for hidden in given)


def test_a_model_without_a_head_is_left_alone() -> None:
    model = copy.deepcopy(frozen()).get_decoder()
    with few_positions(model):
        assert model(input_ids=torch.tensor(PROMPTS)).last_hidden_state.shape[:2] == (3, 5)
