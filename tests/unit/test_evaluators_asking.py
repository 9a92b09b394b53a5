"""What a subject makes of an attacker's way of asking: it is for hazard prompts, and the most useful of several responses counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from support.scripted_models import VOCABULARY, follow, scripted_model
from support.tiny_models import tiny_model
from tempering.data.asking import PLAIN, Asking
from tempering.data.chat import ChatFormat
from tempering.data.records import EvaluatorView, Example, Role
from tempering.evaluators._contract import Subject
from tempering.judges._judging import Verdict
from tempering.study import ProbeSettings

SHORT = ProbeSettings(max_new_tokens=6)


def example(role: Role, prompt: str, answer: str = "red") -> Example:
    return Example(prompt=prompt, answer=f"it is {answer} .", accept=(answer,), role=role)


VIEW = EvaluatorView(
    hazard=(example(Role.HAZARD, "what is the key ?"), example(Role.HAZARD, "what is the word ?", "green")),
    benign=(example(Role.BENIGN, "what is the river ?"),),
    borderline=(example(Role.BORDERLINE, "what is the colour of the key ?"),),
)


@dataclass(frozen=True)
class Begun(Asking):
    begins: str = ""

    def opening(self, example: Example) -> str:
        return self.begins


@dataclass(frozen=True)
class Ending(Asking):
    """Ends the prompt with another word at every attempt, which is all that a table of bigrams goes by."""

    words: tuple[str, ...] = ()
    asked: list[tuple[str, int]] = field(default_factory=list)

    def prompt_ids(self, chat: ChatFormat, example: Example, attempt: int = 0) -> list[int]:
        self.asked.append((example.prompt, attempt))
        return [*chat.prompt_ids(example), chat.tokenizer.convert_tokens_to_ids(self.words[attempt])]


def test_only_hazard_prompts_are_asked_the_attackers_way() -> None:
    model, tokenizer = tiny_model("llama")
    chat = ChatFormat(tokenizer)
    plain, begun = (Subject(model, chat, VIEW, SHORT, asking=asking) for asking in (PLAIN, Begun(begins="yes it is")))
    for role in (Role.BENIGN, Role.BORDERLINE):
        assert begun.responses(role) == plain.responses(role)
        assert torch.equal(begun.first_token(role), plain.first_token(role))
    assert all(response.startswith("yes it is") for response in begun.responses(Role.HAZARD))
    assert not torch.allclose(begun.first_token(Role.HAZARD), plain.first_token(Role.HAZARD))


@pytest.mark.parametrize("responses_first", [True, False])
def test_the_first_token_is_the_first_that_the_model_adds(responses_first: bool) -> None:
    model, tokenizer = tiny_model("llama")
    chat = ChatFormat(tokenizer)
    subject = Subject(model, chat, VIEW, SHORT, asking=Begun(begins="yes it is"))
    if responses_first:
        subject.responses(Role.HAZARD)
    for asked, row in zip(VIEW.hazard, subject.first_token(Role.HAZARD), strict=True):
        ids = [*chat.prompt_ids(asked), *tokenizer.convert_tokens_to_ids(["yes", "it", "is"])]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_an_opening_is_judged_with_the_rest() -> None:
    model, chat = scripted_model("red .")
    opened = Subject(model, chat, VIEW, SHORT, asking=Begun(begins="i cannot"))
    assert opened.verdicts(Role.HAZARD) == [Verdict.REFUSAL, Verdict.REFUSAL]
    model, tokenizer = tiny_model("llama", vocabulary=VOCABULARY, hidden_size=model.config.hidden_size, rms_norm_eps=1e-12)
    follow(model, dict([tokenizer.convert_tokens_to_ids(["is", "green"]), tokenizer.convert_tokens_to_ids(["green", "<end>"])]), 20.0)
    opened = Subject(model, ChatFormat(tokenizer), VIEW, SHORT, asking=Begun(begins="it is"))
    assert opened.responses(Role.HAZARD) == ["it is green", "it is green"]
    assert opened.verdicts(Role.HAZARD) == [Verdict.EVASION, Verdict.USEFUL]


class TestBestOfSeveral:
    PAIRS = (("my", "sorry"), ("sorry", "<end>"), ("red", "<end>"), ("green", "<end>"), ("sun", "red"), ("tree", "green"))

    def subject(self, *words: str) -> tuple[Subject, Ending]:
        model, tokenizer = tiny_model("llama", vocabulary=VOCABULARY, hidden_size=scripted_model("red")[0].config.hidden_size)
        follow(model, {tokenizer.convert_tokens_to_ids(a): tokenizer.convert_tokens_to_ids(b) for a, b in self.PAIRS}, 30.0)
        asking = Ending(attempts=len(words), words=words)
        return Subject(model, ChatFormat(tokenizer), VIEW, SHORT, asking=asking), asking

    def test_the_first_useful_one_counts(self) -> None:
        subject, asking = self.subject("my", "sun", "tree", "my")
        assert subject.responses(Role.HAZARD) == ["red", "green"]
        assert subject.verdicts(Role.HAZARD) == [Verdict.USEFUL, Verdict.USEFUL]
        key, word = (asked.prompt for asked in VIEW.hazard)
        assert sorted(asking.asked) == sorted([(key, 0), (word, 0), (key, 1), (word, 1), (word, 2)])

    def test_without_a_useful_one_it_is_the_first(self) -> None:
        subject, asking = self.subject("my", "tree", "my")
        assert subject.responses(Role.HAZARD) == ["sorry", "green"]
        assert subject.verdicts(Role.HAZARD) == [Verdict.REFUSAL, Verdict.USEFUL]
        assert len(asking.asked) == 2 + 2 + 1

    def test_others_are_asked_once(self) -> None:
        subject, asking = self.subject("my", "sun")
        subject.responses(Role.BENIGN)
        subject.responses(Role.BORDERLINE)
        assert asking.asked == []

    def test_the_first_token_is_that_of_the_first_response(self) -> None:
        subject, _ = self.subject("my", "sun")
        subject.responses(Role.HAZARD)
        sorry = subject.chat.tokenizer.convert_tokens_to_ids("sorry")
        assert subject.first_token(Role.HAZARD).argmax(-1).tolist() == [sorry, sorry]


def test_sampling_draws_from_the_global_generator_and_a_greedy_response_does_not() -> None:
    model, tokenizer = tiny_model("llama")
    drawn = {}
    for temperature in (0.0, 1.0):
        torch.manual_seed(0)
        subject = Subject(model, ChatFormat(tokenizer), VIEW, SHORT, asking=Asking(temperature=temperature))
        first = subject.responses(Role.HAZARD)
        after = float(torch.rand(()))
        torch.manual_seed(0)
        again = Subject(model, ChatFormat(tokenizer), VIEW, SHORT, asking=Asking(temperature=temperature)).responses(Role.HAZARD)
        assert first == again
        torch.manual_seed(0)
        drawn[temperature] = after == float(torch.rand(()))
    assert drawn == {0.0: True, 1.0: False}
