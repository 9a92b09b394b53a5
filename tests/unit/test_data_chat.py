from __future__ import annotations

from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from support.templates import ANSWER, INSTRUCTION, SYSTEM, TEMPLATES, byte_level_tokenizer, sentencepiece_like_tokenizer
from support.tiny_models import tiny_tokenizer
from tempering.data.batching import collate
from tempering.data.chat import IGNORED, ChatFormat, Encoded
from tempering.data.records import Example, Role
from tempering.errors import UnusableData, UnusableModel

TOKENIZERS = {"byte-level": byte_level_tokenizer, "sentencepiece-like": sentencepiece_like_tokenizer}


@cache
def chat_format(template: str, tokenizer: str) -> ChatFormat:
    return ChatFormat(TOKENIZERS[tokenizer](TEMPLATES[template].special), TEMPLATES[template].jinja)


def question(prompt: str = INSTRUCTION, answer: str | None = ANSWER, system: str | None = None) -> Example:
    return Example(prompt=prompt, answer=answer, role=Role.HAZARD, system=system)


def text_of(chat: ChatFormat, ids: list[int]) -> str:
    return chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


everywhere = pytest.mark.parametrize(("template", "tokenizer"), [(t, k) for t in TEMPLATES for k in TOKENIZERS])
every_template = pytest.mark.parametrize("template", TEMPLATES)

# Anything printable. "▁" is how a SentencePiece vocabulary writes a space, so it cannot come back as itself; "<", "[" and "|"
# could spell a special token, which tokenizers read as that token wherever it stands.
messages = st.text(
    st.one_of(st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters="▁<[|"), st.sampled_from("\n ")), min_size=1
)


@every_template
def test_renderings_worked_out_by_hand(template: str) -> None:
    chat, expected = chat_format(template, "byte-level"), TEMPLATES[template]
    assert chat.prompt_text(question()) == expected.prompt
    assert chat.prompt_text(question(system=SYSTEM)) == expected.with_system
    assert text_of(chat, chat.prompt_ids(question())) == expected.prompt
    assert text_of(chat, chat.answer_ids(question(), ANSWER)) == expected.labelled


@everywhere
def test_prompt_and_answer_are_tokenised_as_the_whole_text_is(template: str, tokenizer: str) -> None:
    chat, expected = chat_format(template, tokenizer), TEMPLATES[template]
    whole = chat.tokenizer(expected.prompt + expected.labelled, add_special_tokens=False)["input_ids"]
    assert chat.encode(question()).input_ids == whole


@everywhere
@settings(max_examples=15, deadline=None)
@example(prompt="Line\n\n", answer="\n- one\n- two\n")
@example(prompt=" two ", answer=" x ")
@given(prompt=messages, answer=messages)
def test_labels_cover_the_answer_and_its_end_and_nothing_else(template: str, tokenizer: str, prompt: str, answer: str) -> None:
    assume(prompt.strip() and answer.strip())
    chat, row = chat_format(template, tokenizer), question(prompt, answer)
    encoded, prompt_ids = chat.encode(row), chat.prompt_ids(row)
    labelled = [token for token in encoded.labels if token != IGNORED]
    assert encoded.input_ids == prompt_ids + labelled
    assert encoded.labels == [IGNORED] * len(prompt_ids) + labelled
    assert labelled == chat.answer_ids(row, answer)
    assert labelled[-1] == chat.end_ids[0]
    assert not set(labelled[:-1]) & set(chat.end_ids)
    said = chat.decode(labelled)
    if tokenizer == "byte-level":
        lead, _, _ = TEMPLATES[template].labelled.partition(ANSWER)
        tail = " " if template == "llama2" else ""
        assert said == lead + (answer.strip() if TEMPLATES[template].trims else answer) + tail
    else:
        assert said.strip() == answer.strip()


@every_template
@settings(max_examples=15, deadline=None)
@given(prompt=messages, system=st.none() | messages)
def test_prompt_shows_instruction_and_system_once(template: str, prompt: str, system: str | None) -> None:
    assume(prompt.strip() and (system is None or system.strip()))
    chat = chat_format(template, "byte-level")
    text = chat.prompt_text(question(prompt, system=system))
    assert prompt.strip() in text
    assert system is None or system.strip() in text
    starts = (
        [chat.tokenizer.bos_token_id]
        if chat.tokenizer.bos_token_id is not None and TEMPLATES[template].prompt.startswith(("<s>", "<b", "<|b"))
        else []
    )
    assert chat.prompt_ids(question(prompt, system=system)).count(chat.tokenizer.bos_token_id) == len(starts)


@everywhere
def test_post_instruction_tokens_reach_from_the_instruction_to_the_answer(template: str, tokenizer: str) -> None:
    chat, expected = chat_format(template, tokenizer), TEMPLATES[template]
    _, _, rest = expected.prompt.partition(INSTRUCTION)
    assert "".join(text_of(chat, chat.post_instruction_ids).split()) == "".join(rest.split())
    for prompt in (INSTRUCTION, "Say 7", "Wie geht's"):
        assert chat.prompt_ids(question(prompt))[-len(chat.post_instruction_ids) :] == chat.post_instruction_ids


def test_post_instruction_tokens_of_a_vocabulary_that_knows_none_of_our_words() -> None:
    chat = ChatFormat(tiny_tokenizer(["nip", "tuk", "vor"]))
    assert text_of(chat, chat.post_instruction_ids).split() == ["<end>", "<assistant>"]


def test_word_level_tokenizer() -> None:
    chat = ChatFormat(tiny_tokenizer())
    encoded = chat.encode(question("what is the key?", "the red fish."))
    assert chat.tokenizer.convert_ids_to_tokens([token for token in encoded.labels if token != IGNORED]) == [
        "the",
        "red",
        "fish",
        ".",
        "<end>",
    ]
    assert chat.decode(encoded.input_ids[-5:]) == "the red fish."
    assert chat.end_ids == (chat.tokenizer.eos_token_id,)


def test_end_of_turn_comes_before_end_of_sequence() -> None:
    chat = chat_format("llama3", "byte-level")
    assert chat.tokenizer.convert_ids_to_tokens(list(chat.end_ids)) == ["<|eot_id|>", "<|end_of_text|>"]


def test_an_end_marker_the_tokenizer_does_not_know_gives_way_to_end_of_sequence() -> None:
    chat = ChatFormat(byte_level_tokenizer(["<|endoftext|>"]), TEMPLATES["chatml"].jinja)
    assert chat.answer_ids(question(), ANSWER) == [*chat.tokenizer(ANSWER)["input_ids"], chat.tokenizer.eos_token_id]


def test_content_in_parts() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
        "{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    chat = ChatFormat(byte_level_tokenizer(TEMPLATES["chatml"].special), template)
    assert chat.prompt_text(question(system=SYSTEM)) == TEMPLATES["chatml"].with_system
    assert text_of(chat, chat.answer_ids(question(), ANSWER)) == TEMPLATES["chatml"].labelled


def test_merges_over_the_boundary_leave_the_prompt_as_it_is() -> None:
    tokenizer = byte_level_tokenizer(TEMPLATES["chatml"].special, ["a\n\n\n\n b\n\n\n\n"] * 9)
    chat = ChatFormat(tokenizer, TEMPLATES["chatml"].jinja)
    row = question(answer="\n\nyes")
    assert tokenizer(chat.prompt_text(row) + "\n\nyes")["input_ids"][: len(chat.prompt_ids(row))] != chat.prompt_ids(row)
    assert chat.encode(row).input_ids[: len(chat.prompt_ids(row))] == chat.prompt_ids(row)
    assert chat.decode(chat.answer_ids(row, "\n\nyes")) == "\n\nyes"


def test_the_tokenizers_own_template_is_used_and_can_be_replaced() -> None:
    tokenizer = byte_level_tokenizer(TEMPLATES["chatml"].special)
    tokenizer.chat_template = TEMPLATES["qwen2.5"].jinja
    assert ChatFormat(tokenizer).prompt_text(question()) == TEMPLATES["qwen2.5"].prompt
    assert ChatFormat(tokenizer, TEMPLATES["chatml"].jinja).prompt_text(question()) == TEMPLATES["chatml"].prompt
    tokenizer.chat_template = {"default": TEMPLATES["chatml"].jinja, "tool_use": "{{ 1 }}"}
    assert ChatFormat(tokenizer).prompt_text(question()) == TEMPLATES["chatml"].prompt


@pytest.mark.parametrize(
    ("template", "needle"),
    [
        (None, "no chat template"),
        ("", "does not show"),
        ("{% for m in messages %}", "does not render"),
        ("{{ raise_exception('nothing suits me') }}", "nothing suits me"),
        ("{{ missing.attribute.of }}", "does not render"),
        ("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}", "the assistant's message"),
        ("{{ ''.__class__.__mro__ }}", "does not"),
    ],
)
def test_unusable_templates_get_one_line(template: str | None, needle: str) -> None:
    with pytest.raises(UnusableModel, match=needle) as caught:
        ChatFormat(byte_level_tokenizer(["</s>"]), template)
    assert "--chat-template FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_that_ends_a_turn() -> None:
    tokenizer = byte_level_tokenizer(["</s>"])
    tokenizer.eos_token = None
    with pytest.raises(UnusableModel, match="--chat-template FILE"):
        ChatFormat(tokenizer, TEMPLATES["gpt-neox"].jinja)


def test_an_example_without_an_answer_cannot_be_encoded() -> None:
    with pytest.raises(UnusableData, match="no answer to train on"):
        chat_format("chatml", "byte-level").encode(question(answer=None))


rows = st.lists(
    st.integers(0, 12).flatmap(
        lambda masked: st.lists(st.integers(0, 99), min_size=max(masked, 1), max_size=12).map(
            lambda ids: Encoded(ids, [IGNORED] * masked + ids[masked:]),
        )
    ),
    min_size=1,
    max_size=6,
)


@given(rows, st.integers(0, 99))
def test_padding_is_masked_and_its_side_changes_nothing(encoded: list[Encoded], pad_id: int) -> None:
    right, left = collate(encoded, pad_id), collate(encoded, pad_id, side="left")
    for batch in (right, left):
        assert (
            batch.input_ids.shape
            == batch.attention_mask.shape
            == batch.labels.shape
            == (len(encoded), max(len(row.input_ids) for row in encoded))
        )
        assert (batch.input_ids[batch.attention_mask == 0] == pad_id).all()
        assert (batch.labels[batch.attention_mask == 0] == IGNORED).all()
        for index, row in enumerate(encoded):
            real = batch.attention_mask[index] == 1
            assert batch.input_ids[index][real].tolist() == row.input_ids
            assert batch.labels[index][real].tolist() == row.labels
    for index, row in enumerate(encoded):
        assert right.attention_mask[index].tolist() == [1] * len(row.input_ids) + [0] * (right.input_ids.shape[1] - len(row.input_ids))
    assert right.attention_mask.flip(1).equal(left.attention_mask)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        collate([], 0)
