"""How an attacker asks: what reaches it, what it decides, and what becomes of it in tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from support.templates import ANSWER, INSTRUCTION, SYSTEM, TEMPLATES, byte_level_tokenizer, sentencepiece_like_tokenizer
from support.tiny_models import tiny_tokenizer
from tempering.data.asking import PLAIN, Asking, as_asked, composed
from tempering.data.chat import IGNORED, ChatFormat
from tempering.data.records import Example, Role
from tempering.errors import UnusableData

TOKENIZERS = {"byte-level": byte_level_tokenizer, "sentencepiece-like": sentencepiece_like_tokenizer}
everywhere = pytest.mark.parametrize(("template", "tokenizer"), [(name, kind) for name in TEMPLATES for kind in TOKENIZERS])

# As in test_data_chat: "▁" stands for a space in a SentencePiece vocabulary, and "<", "[" and "|" could spell a special token.
texts = st.text(
    st.one_of(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs"), exclude_characters="▁<[|"), st.sampled_from(" ")), min_size=1
)


@cache
def chat_format(template: str, tokenizer: str) -> ChatFormat:
    return ChatFormat(TOKENIZERS[tokenizer](TEMPLATES[template].special), TEMPLATES[template].jinja)


def question(prompt: str = INSTRUCTION, answer: str | None = ANSWER, system: str | None = None) -> Example:
    return Example(prompt=prompt, answer=answer, accept=("eel",), role=Role.HAZARD, system=system, domain="fish", entity="eel")


def text_of(chat: ChatFormat, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def read_back(chat: ChatFormat, text: str) -> str:
    """A text as the tokenizer gives it back: some put a space behind every special token."""
    return text_of(chat, chat.tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Wrapped(Asking):
    """Writes its mark around the prompt, and begins the answer with a given text."""

    mark: str = "x"
    begins: str = ""

    def rewrite(self, example: Example, attempt: int = 0) -> Example:
        return example.model_copy(update={"prompt": f"{self.mark}{attempt}({example.prompt})"})

    def opening(self, example: Example) -> str:
        return self.begins.replace("PROMPT", example.prompt)


@dataclass(frozen=True)
class InTokens(Wrapped):
    """Decides the prompt's tokens itself: those of its mark come first."""

    def prompt_ids(self, chat: ChatFormat, example: Example, attempt: int = 0) -> list[int]:
        return [*chat.tokenizer(self.mark)["input_ids"], *chat.prompt_ids(self.rewrite(example, attempt))]


@dataclass(frozen=True)
class Spy(Asking):
    """Keeps every example that is shown to it."""

    seen: list[Example] = field(default_factory=list)

    def rewrite(self, example: Example, attempt: int = 0) -> Example:
        self.seen.append(example)
        return example

    def prompt_ids(self, chat: ChatFormat, example: Example, attempt: int = 0) -> list[int]:
        self.seen.append(example)
        return super().prompt_ids(chat, example, attempt)

    def opening(self, example: Example) -> str:
        self.seen.append(example)
        return "An"


@everywhere
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_asking_plainly_is_asking_as_the_data_does(template: str, tokenizer: str, system: str | None) -> None:
    chat, asked = chat_format(template, tokenizer), question(system=system)
    assert PLAIN.begin(chat, asked) == (chat.prompt_ids(asked), [])
    assert PLAIN.encode(chat, asked) == chat.encode(asked)


def test_neither_answer_nor_accepted_strings_reach_the_attackers_code() -> None:
    chat, asked = chat_format("chatml", "byte-level"), question(system=SYSTEM)
    for spy in (Spy(), Spy(attempts=3)):
        for way in (spy, composed(spy, Wrapped()), composed(Wrapped(), spy)):
            way.begin(chat, asked, 1)
            way.encode(chat, asked)
        assert len(spy.seen) >= 6
        for seen in spy.seen:
            assert (seen.answer, seen.accept) == (None, ())
            assert (seen.entity, seen.domain, seen.system) == ("eel", "fish", SYSTEM)
            assert ANSWER not in seen.model_dump_json()


def test_what_is_known_of_an_example_before_it_is_asked() -> None:
    known = as_asked(question(system=SYSTEM))
    assert known == Example(prompt=INSTRUCTION, role=Role.HAZARD, domain="fish", entity="eel", system=SYSTEM)


def test_a_wrapper_is_asked_with_the_number_of_the_sample_and_the_example_it_was_given() -> None:
    chat = chat_format("chatml", "byte-level")
    prompt, opening = Wrapped(mark="m", begins="On PROMPT:").begin(chat, question(), 7)
    assert text_of(chat, prompt) == TEMPLATES["chatml"].prompt.replace(INSTRUCTION, f"m7({INSTRUCTION})")
    assert text_of(chat, opening) == f"On {INSTRUCTION}:"


@everywhere
def test_a_training_row_has_its_loss_on_the_answer_alone(template: str, tokenizer: str) -> None:
    chat, expected = chat_format(template, tokenizer), TEMPLATES[template]
    encoded = Wrapped(mark="m").encode(chat, question())
    labelled = [token for token in encoded.labels if token != IGNORED]
    start = len(encoded.labels) - len(labelled)
    assert encoded.labels == [IGNORED] * start + encoded.input_ids[start:]
    text = expected.prompt.replace(INSTRUCTION, f"m0({INSTRUCTION})") + expected.labelled
    assert text_of(chat, encoded.input_ids) == read_back(chat, text)
    assert encoded.input_ids[:start] == Wrapped(mark="m").begin(chat, question())[0]


def test_a_row_without_an_answer_cannot_be_trained_on() -> None:
    with pytest.raises(UnusableData, match="has no answer to train on"):
        Wrapped().encode(chat_format("chatml", "byte-level"), question(answer=None))


@everywhere
@settings(max_examples=12)
@example(opening="Sure, here is", answer=ANSWER)
@example(opening="eel:", answer="An")
@example(opening="1.", answer="2")
@example(opening="-", answer="2")
@given(opening=texts, answer=texts)
def test_prompt_opening_and_what_follows_read_as_one_text(template: str, tokenizer: str, opening: str, answer: str) -> None:
    assume(opening.strip() and answer.strip())
    chat, expected = chat_format(template, tokenizer), TEMPLATES[template]
    lead = expected.labelled.partition(ANSWER)[0]
    prompt, begun = Wrapped(mark="m", begins=opening).begin(chat, question())
    so_far = read_back(chat, expected.prompt.replace(INSTRUCTION, f"m0({INSTRUCTION})") + lead + opening)
    assert so_far.endswith(opening)
    assert text_of(chat, prompt + begun) == so_far
    before, whole = (chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (":", f":{answer}"))
    assume(whole[: len(before)] == before)
    assert text_of(chat, prompt + begun + whole[len(before) :]) == so_far + answer


@everywhere
def test_an_opening_is_tokenised_as_the_beginning_of_an_answer_is(template: str, tokenizer: str) -> None:
    chat = chat_format(template, tokenizer)
    opening = Wrapped(begins="An").begin(chat, question())[1]
    assert opening == chat.answer_ids(question(), ANSWER)[: len(opening)]


def test_an_opening_of_a_word_level_vocabulary() -> None:
    chat = ChatFormat(tiny_tokenizer())
    prompt, opening = Wrapped(begins="it is").begin(chat, question("what is the key ?"))
    assert chat.tokenizer.convert_ids_to_tokens(opening) == ["it", "is"]
    assert chat.tokenizer.convert_ids_to_tokens(prompt)[-1] == "<assistant>"


@everywhere
def test_earlier_turns_come_before_the_question_and_after_the_system_prompt(template: str, tokenizer: str) -> None:
    chat = chat_format(template, tokenizer)
    asked = question(system=SYSTEM)
    earlier = [("Name a bird.", "A wren."), ("Name a tree.", "An elm.")]
    text = chat.prompt_text(asked, earlier)
    places = [text.index(part) for part in (SYSTEM, "Name a bird.", "A wren.", "Name a tree.", "An elm.", INSTRUCTION)]
    assert places == sorted(places)
    assert text_of(chat, chat.prompt_ids(asked, earlier)) == read_back(chat, text)
    assert chat.prompt_text(asked, ()) == chat.prompt_text(asked)
    assert text.endswith(TEMPLATES[template].prompt.partition(INSTRUCTION)[2])


class TestComposed:
    CHAT = chat_format("chatml", "byte-level")

    def prompt_text(self, asking: Asking, attempt: int = 0) -> str:
        return text_of(self.CHAT, asking.begin(self.CHAT, question(), attempt)[0])

    def test_the_later_attack_goes_around_the_earlier(self) -> None:
        both = composed(Wrapped(mark="a"), Wrapped(mark="b"))
        assert both.rewrite(question(), 2).prompt == f"b2(a2({INSTRUCTION}))"
        assert f"b2(a2({INSTRUCTION}))" in self.prompt_text(both, 2)
        three = composed(both, Wrapped(mark="c"))
        assert three.rewrite(question()).prompt == f"c0(b0(a0({INSTRUCTION})))"

    def test_the_later_opening_counts_and_else_the_earlier(self) -> None:
        first, second, none = Wrapped(begins="One"), Wrapped(begins="Two"), Wrapped()
        assert composed(first, second).opening(question()) == "Two"
        assert composed(first, none).opening(question()) == composed(none, first).opening(question()) == "One"
        assert composed(none, none).opening(question()) == ""

    def test_an_opening_is_about_the_question_that_was_meant(self) -> None:
        assert composed(Wrapped(begins="On PROMPT:"), Wrapped(mark="b")).opening(question()) == f"On {INSTRUCTION}:"

    def test_whoever_decides_tokens_has_the_other_inside(self) -> None:
        inside = TEMPLATES["chatml"].prompt
        for way, wrapped in (
            (composed(InTokens(mark="a"), Wrapped(mark="b")), f"a0(b0({INSTRUCTION}))"),
            (composed(Wrapped(mark="b"), InTokens(mark="a")), f"a0(b0({INSTRUCTION}))"),
            (composed(InTokens(mark="b"), InTokens(mark="a")), f"a0(b0({INSTRUCTION}))"),
        ):
            assert self.prompt_text(way) == "a" + inside.replace(INSTRUCTION, wrapped)

    def test_plain_adds_nothing(self) -> None:
        wrapped = Wrapped()
        assert composed(PLAIN, wrapped) is wrapped
        assert composed(wrapped, PLAIN) is wrapped
        assert composed(PLAIN, PLAIN) is PLAIN

    @pytest.mark.parametrize(
        ("inner", "outer", "attempts", "temperature"),
        [
            (Wrapped(attempts=4, temperature=0.7), Wrapped(), 4, 0.7),
            (Wrapped(), Wrapped(attempts=4, temperature=0.7), 4, 0.7),
            (Wrapped(attempts=2, temperature=0.5), Wrapped(attempts=4, temperature=0.7), 4, 0.7),
            (Wrapped(), Wrapped(temperature=0.7), 1, 0.7),
            (Wrapped(), Wrapped(), 1, 0.0),
        ],
    )
    def test_the_later_one_that_samples_decides_how(self, inner: Asking, outer: Asking, attempts: int, temperature: float) -> None:
        both = composed(inner, outer)
        assert (both.attempts, both.temperature) == (attempts, temperature)
