from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from support.scripted_models import scripted_model
from support.tiny_models import FAMILIES, tiny_model
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.evaluators._generation import first_token_log_probabilities, respond
from tempering.models.decoding import SHORTEST_SHARED, GreedyDecoder, decodable
from tempering.study import ProbeSettings

BEGINNING = [2, 5, 12, 30, 41, 7, 6, 9, 33, 18]
PROMPTS = [[*BEGINNING, *tail] for tail in ([11], [14, 15, 16], [11, 17], [20] * 7, [21, 22])]
LEARNED_POSITIONS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16},
}
NO_POSITIONS = {"bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2}}
LOOKS_BACK_OVER_A_WINDOW = ("gemma2", "gemma3_text", "mistral", "gpt_oss")


def model_of(family: str) -> PreTrainedModel:
    if family in FAMILIES:
        return tiny_model(family)[0]
    config = AutoConfig.for_model(family, vocab_size=128, initializer_range=0.3, **{**LEARNED_POSITIONS, **NO_POSITIONS}[family])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config).eval()


CAN = [family for family in (*FAMILIES, *LEARNED_POSITIONS) if family not in LOOKS_BACK_OVER_A_WINDOW]


@torch.no_grad()
def one_token_at_a_time(model: PreTrainedModel, prompt: list[int], limit: int, ends: Sequence[int] = ()) -> list[int]:
    ids: list[int] = []
    while len(ids) < limit:
        token = int(model(torch.tensor([prompt + ids]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids


def shapes_of_passes(model: PreTrainedModel) -> list[tuple[int, int]]:
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    return shapes


@pytest.mark.parametrize("family", CAN)
def test_answers_are_those_of_each_prompt_alone(family: str) -> None:
    model = model_of(family)
    assert decodable(model)
    free = [one_token_at_a_time(model, prompt, 9) for prompt in PROMPTS]
    ends = (free[0][4], free[3][2])
    expected = [one_token_at_a_time(model, prompt, 9, ends) for prompt in PROMPTS]
    decoder = GreedyDecoder(model, PROMPTS, pad_id=0)
    assert decoder.shared == BEGINNING
    for rows in ([0, 1, 2, 3, 4], [3, 1]):  # the second batch makes use of what the first has kept
        answers, first = decoder.answers(rows, 9, ends)
        assert [answer.tokens for answer in answers] == [expected[row] for row in rows]
        assert [answer.ended for answer in answers] == [len(expected[row]) < 9 for row in rows]
        with torch.no_grad():
            alone = torch.stack([model(torch.tensor([PROMPTS[row]])).logits[0, -1] for row in rows])
        torch.testing.assert_close(first, alone, atol=2e-5, rtol=1e-4)
    assert len({len(answer) for answer in expected}) > 1


@pytest.mark.parametrize("family", [*LOOKS_BACK_OVER_A_WINDOW, *NO_POSITIONS])
def test_models_that_forget_or_are_told_no_positions_are_left_to_the_library(family: str) -> None:
    overrides = {"sliding_window": 64} if family == "mistral" else {}
    assert not decodable(tiny_model(family, **overrides)[0] if family in FAMILIES else model_of(family))


def test_the_beginning_is_read_once_and_rows_that_are_done_leave() -> None:
    model = model_of("llama")
    shapes = shapes_of_passes(model)
    decoder = GreedyDecoder(model, PROMPTS, pad_id=0)
    lengths = [1, 3, 3, 2, 5]
    answers, _ = decoder.answers(range(5), 9, (), lambda row, tokens: len(tokens) == lengths[row])
    assert [answer.generated for answer in answers] == lengths
    assert shapes == [(1, len(BEGINNING)), (5, 7), (4, 1), (3, 1), (1, 1), (1, 1)]
    decoder.first([0, 2])
    assert shapes[6:] == [(2, 2)]


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([BEGINNING], 0),
        ([BEGINNING, BEGINNING], len(BEGINNING) - 1),  # every row keeps a token of its own
        ([[*BEGINNING[: SHORTEST_SHARED - 1], last] for last in (1, 2)], 0),
        ([[*BEGINNING[:SHORTEST_SHARED], last] for last in (1, 2)], SHORTEST_SHARED),
    ],
)
def test_what_is_shared(prompts: list[list[int]], shared: int) -> None:
    model = model_of("llama")
    decoder = GreedyDecoder(model, prompts, pad_id=0)
    assert decoder.shared == prompts[0][:shared]
    assert [answer.tokens for answer in decoder.answers(range(len(prompts)), 3, ())[0]] == [
        one_token_at_a_time(model, prompt, 3) for prompt in prompts
    ]


class TestResponses:
    def examples(self, system: str = "you are asked to help and to say what is true of the red house") -> list[Example]:
        prompts = ["what is the key ?", "who ?", "say it is red", "what is the light of the river ?"]
        return [Example(prompt=prompt, role=Role.BENIGN, system=system, accept=("red",), answer="red .") for prompt in prompts]

    @pytest.mark.parametrize("family", [*CAN, *LOOKS_BACK_OVER_A_WINDOW])
    def test_fixed_rows_say_the_same(self, family: str) -> None:
        model = model_of(family)
        chat = ChatFormat(tiny_model("llama")[1])
        settings = ProbeSettings(max_new_tokens=9, batch_size=3)
        free, fixed = (respond(model, chat, self.examples(), settings, fixed_rows=fixed) for fixed in (False, True))
        assert (free.texts, free.lengths) == (fixed.texts, fixed.lengths)
        torch.testing.assert_close(free.first_token, fixed.first_token, atol=2e-5, rtol=0)
        only, plain = (first_token_log_probabilities(model, chat, self.examples(), settings, fixed_rows=fixed) for fixed in (False, True))
        torch.testing.assert_close(only, plain, atol=2e-5, rtol=0)

    @pytest.mark.parametrize("fixed", [True, False])
    def test_rows_stay_in_their_places_only_where_they_must(self, fixed: bool) -> None:
        model, chat = scripted_model("it is red . the house will …")
        examples = self.examples()
        examples[2] = Example(prompt="who ?", accept=("sun",), role=Role.BENIGN, system=examples[0].system)
        shapes = shapes_of_passes(model)
        respond(model, chat, examples, ProbeSettings(max_new_tokens=8), fixed_rows=fixed)
        behind_the_prompts = [rows for rows, width in shapes if width == 1]
        assert behind_the_prompts == ([4] * 7 if fixed else [4, 4, 4, 1, 1, 1, 1])
        assert (1 in [rows for rows, width in shapes if width > 1]) is not fixed
