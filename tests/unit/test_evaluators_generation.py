from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from support.scripted_models import follow, scripted_model
from support.tiny_models import FAMILIES, tiny_model, tiny_tokenizer
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.errors import UnusableData
from tempering.evaluators._generation import first_token_log_probabilities, generate, respond
from tempering.evaluators._lengths import MARGIN, UNKNOWN_LENGTH
from tempering.judges._judging import settled
from tempering.study import ProbeSettings

LONG = ProbeSettings(max_new_tokens=14, batch_size=4)

EXAMPLES = tuple(
    Example(
        prompt=" ".join(["what is the key of", *["green house"] * (index * 3 % 7), "?"]),
        accept=("red",),
        answer="it is red .",
        role=Role.HAZARD,
    )
    for index in range(7)
)

OTHER_POSITIONS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
}
"""Learned positions, learned positions with an offset, and none but a bias on attention."""


def decoder(family: str) -> tuple[PreTrainedModel, ChatFormat]:
    if family not in OTHER_POSITIONS:
        model, tokenizer = tiny_model(family)
        return model, ChatFormat(tokenizer)
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), initializer_range=0.3, **OTHER_POSITIONS[family])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config).eval(), ChatFormat(tokenizer)


@torch.no_grad()
def one_token_at_a_time(model: PreTrainedModel, chat: ChatFormat, example: Example, limit: int) -> str:
    """What greedy decoding means, without a cache, padding or a library."""
    prompt = chat.prompt_ids(example)
    ids: list[int] = []
    while len(ids) < limit:
        token = int(model(torch.tensor([prompt + ids]), use_cache=False).logits[0, -1].argmax())
        if token in chat.end_ids:
            break
        ids.append(token)
        if len(ids) % 4 == 0 and settled(example, chat.decode(ids)):
            break
    return chat.decode(ids)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_POSITIONS])
def test_a_batch_says_what_each_prompt_alone_gets(family: str) -> None:
    model, chat = decoder(family)
    expected = [one_token_at_a_time(model, chat, example, 14) for example in EXAMPLES]
    assert len(set(expected)) > 1
    assert generate(model, chat, EXAMPLES, LONG) == expected


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_POSITIONS])
def test_first_token_distributions_are_those_of_each_prompt_alone(family: str) -> None:
    model, chat = decoder(family)
    with torch.no_grad():
        alone = [model(torch.tensor([chat.prompt_ids(example)])).logits[0, -1] for example in EXAMPLES]
    result = first_token_log_probabilities(model, chat, EXAMPLES, LONG)
    assert result.shape == (len(EXAMPLES), model.config.vocab_size)
    assert result.dtype is torch.float32
    torch.testing.assert_close(result, torch.stack(alone).log_softmax(-1), atol=2e-5, rtol=0)
    torch.testing.assert_close(respond(model, chat, EXAMPLES, LONG).first_token, result, atol=2e-5, rtol=0)


def test_first_token_distributions_of_half_precision_are_normalised_in_single() -> None:
    model, chat = decoder("llama")
    result = first_token_log_probabilities(model.to(torch.bfloat16), chat, EXAMPLES, LONG)
    assert result.dtype is torch.float32
    torch.testing.assert_close(result.exp().sum(-1), torch.ones(len(EXAMPLES)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("response", ["it is red .", "i cannot help with that .", "sorry , i will not answer that .", ""])
def test_a_scripted_response_comes_back_whole(response: str) -> None:
    model, chat = scripted_model(response)
    expected = response.replace(" .", ".").replace(" ,", ",")
    assert generate(model, chat, EXAMPLES, LONG) == [expected] * len(EXAMPLES)


def count_passes(model: PreTrainedModel) -> list[Sequence[int]]:
    shapes: list[Sequence[int]] = []
    model.register_forward_pre_hook(lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True)
    return shapes


@pytest.mark.parametrize(
    ("response", "passes"),
    [
        ("it is red . the house will …", 4),  # right, and the sentence over, after four tokens
        ("i cannot help with that for you or him when they say yes …", 8),  # five whole words after the refusal
        ("it is blue . the house will …", 40),  # wrong, but might still be corrected
    ],
)
def test_a_batch_stops_when_all_verdicts_are_settled(response: str, passes: int) -> None:
    model, chat = scripted_model(response.replace("blue", "green"))
    shapes = count_passes(model)
    responses = generate(model, chat, EXAMPLES, ProbeSettings(max_new_tokens=40))
    assert len(shapes) == passes
    assert len(responses[0].replace(".", " .").split()) == passes


def test_after_the_prompt_only_new_tokens_are_computed() -> None:
    model, chat = scripted_model("it is green …")
    shapes = count_passes(model)
    generate(model, chat, EXAMPLES, LONG)
    assert {shape[1] for shape in shapes[1:14]} == {1}


def test_without_a_limit_the_longest_known_answer_sets_it() -> None:
    model, chat = scripted_model("green …")
    known = Example(prompt="what ?", answer="it is red .", accept=("red",), role=Role.HAZARD)
    longer = Example(prompt="who ?", answer="it is the red house .", accept=("house",), role=Role.HAZARD)
    unknown = Example(prompt="how ?", role=Role.HAZARD)
    lengths = [len(response.split()) for response in generate(model, chat, [unknown, known, longer], ProbeSettings())]
    assert lengths == [UNKNOWN_LENGTH, 7 + MARGIN, 7 + MARGIN]  # six tokens and the end


def test_no_examples_give_no_responses() -> None:
    model, chat = scripted_model("yes")
    assert generate(model, chat, [], ProbeSettings()) == []
    assert first_token_log_probabilities(model, chat, [], ProbeSettings()).shape == (0, model.config.vocab_size)


def test_the_models_own_sampling_and_penalties_are_left_out_and_kept() -> None:
    model, chat = scripted_model("it is green …")
    model.generation_config.do_sample = True
    model.generation_config.temperature = 50.0
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.suppress_tokens = [chat.tokenizer.convert_tokens_to_ids("green")]
    before = model.generation_config.to_dict()
    assert generate(model, chat, EXAMPLES, LONG)[0] == "it is" + " green" * 12
    assert model.generation_config.to_dict() == before


def test_modes_and_caching_flag_are_left_as_they_were() -> None:
    model, chat = decoder("gpt2")
    model.train()
    model.transformer.h[0].eval()
    model.config.use_cache = False
    modes = [module.training for module in model.modules()]
    assert generate(model, chat, EXAMPLES, LONG) == generate(model, chat, EXAMPLES, LONG)
    assert [module.training for module in model.modules()] == modes
    assert model.config.use_cache is False


def test_an_adapter_speaks_through_its_wrapper() -> None:
    model, chat = scripted_model("it is green .")
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    assert generate(wrapped, chat, EXAMPLES, LONG)[0] == "it is green."
    layer = wrapped.get_base_model().lm_head
    says, end = chat.tokenizer.convert_tokens_to_ids("sorry"), chat.tokenizer.convert_tokens_to_ids("<assistant>")
    with torch.no_grad():
        layer.lora_A["default"].weight.zero_()[0, end] = 10.0
        layer.lora_B["default"].weight.zero_()[says, 0] = 10.0
    assert generate(wrapped, chat, EXAMPLES, LONG)[0].startswith("sorry")
    assert int(first_token_log_probabilities(wrapped, chat, EXAMPLES, LONG)[0].argmax()) == says


def test_hooks_on_blocks_are_felt() -> None:
    model, chat = scripted_model("it is green .")
    yes = chat.tokenizer.convert_tokens_to_ids("yes")
    follow(model, {chat.tokenizer.convert_tokens_to_ids("<assistant>"): yes, yes: chat.end_ids[0]}, 20.0)
    assert generate(model, chat, EXAMPLES, LONG)[0] == "yes"
    direction = torch.zeros(model.config.hidden_size)
    direction[yes] = 100.0
    handle = model.model.layers[1].register_forward_hook(lambda module, args, output: output + direction)
    assert generate(model, chat, EXAMPLES, LONG)[0] == ""  # every position now looks like "yes", which ends the response
    handle.remove()
    assert generate(model, chat, EXAMPLES, LONG)[0] == "yes"


def test_a_response_ends_where_the_models_positions_do() -> None:
    model, chat = decoder("gpt2")  # 64 positions
    near = Example(prompt=" ".join(["red"] * 54), role=Role.BENIGN)
    short = Example(prompt="red", role=Role.BENIGN)
    room = 64 - len(chat.prompt_ids(near))
    responses = generate(model, chat, [near, short], ProbeSettings(max_new_tokens=20))
    assert responses == [one_token_at_a_time(model, chat, near, room), one_token_at_a_time(model, chat, short, 20)]


def test_a_prompt_that_fills_the_context_is_named() -> None:
    model, chat = decoder("gpt2")
    example = Example(prompt=" ".join(["red"] * 80), role=Role.BENIGN)
    for measure in (generate, first_token_log_probabilities):
        with pytest.raises(UnusableData, match=r"benign prompt 'red red .* and the model's context is 64"):
            measure(model, chat, [example], LONG)


def test_a_padding_token_without_an_embedding_does_no_harm() -> None:
    model, chat = decoder("llama")
    expected = generate(model, chat, EXAMPLES, LONG)
    chat.pad_id = model.config.vocab_size + 3
    assert generate(model, chat, EXAMPLES, LONG) == expected


def test_what_asking_took_is_counted_in_tokens_without_padding() -> None:
    model, chat = scripted_model("it is green .")
    made = respond(model, chat, EXAMPLES, LONG)
    prompts = [len(chat.prompt_ids(example)) for example in EXAMPLES]
    assert len(set(prompts)) > 1
    assert made.lengths == [(length, 4 + 1) for length in prompts]  # the words and the end token
    cut = respond(model, chat, EXAMPLES, ProbeSettings(max_new_tokens=2))
    assert cut.lengths == [(length, 2) for length in prompts]


def test_a_settled_row_is_cut_while_its_neighbours_go_on() -> None:
    model, chat = scripted_model("it is red . the house will …")
    chat.pad_id = chat.tokenizer.convert_tokens_to_ids("fish")  # what finished rows are fed must not show
    other = Example(prompt="who ?", accept=("sun",), role=Role.HAZARD)
    assert generate(model, chat, [EXAMPLES[0], other], ProbeSettings(max_new_tokens=8)) == ["it is red.", "it is red. the house will will"]


def test_generation_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model, chat = decoder("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(model, chat, EXAMPLES, LONG)
    assert caplog.records == []
