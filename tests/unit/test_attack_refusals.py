"""Reading a model's streams and answers, and telling refusals from answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from support.planted_refusal import Planted, as_target, planted_refusal
from support.tiny_models import tiny_model
from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusals import REFUSAL_PHRASES, divergence, is_refusal, openings, refusal_scores
from tempering.attacks._residuals import ResidualRecorder
from tempering.data.records import Example, Role
from tempering.models.structure import Structure
from tempering.training import FlopCount, Meter, Spend


@pytest.fixture(scope="module")
def planted() -> Planted:
    return planted_refusal(noise=True)


def uneven_prompts() -> list[Example]:
    texts = ["tell me red poison", "fish", "how do i brew the red poison in the river", "who are you", "see the sun"]
    return [Example(prompt=text, role=Role.HAZARD) for text in texts]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox", "phi"])
def test_padding_changes_no_result(family: str) -> None:
    model, tokenizer = tiny_model(family)
    target = as_target(model, tokenizer)
    structure, examples = Structure.of(model), uneven_prompts()

    def read(batch_size: int) -> tuple[Tensor, Tensor, list[list[int]]]:
        reader = MeteredModel(model, target.chat, Meter(), batch_size)
        recorder = ResidualRecorder(len(examples), 2, 2, structure)
        with recorder.recording():
            first = reader.first_token(examples, recorder)
        return first, recorder.values, reader.answers(examples, 4)

    for alone, together in zip(read(1), read(3), strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_recorded_streams_are_those_entering_the_blocks() -> None:
    model, tokenizer = tiny_model("llama")
    target = as_target(model, tokenizer)
    example = uneven_prompts()[2]
    recorder = ResidualRecorder(1, 2, 3, Structure.of(model))
    with recorder.recording():
        MeteredModel(model, target.chat, Meter(), 4).first_token([example], recorder)
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([target.chat.prompt_ids(example)]), output_hidden_states=True).hidden_states
    for layer in range(2):
        torch.testing.assert_close(recorder.values[0, layer], hidden[layer][0, -3:])


def test_passes_are_charged_without_padding() -> None:
    model, tokenizer = tiny_model("llama")
    target, meter, examples = as_target(model, tokenizer), Meter(), uneven_prompts()
    reader = MeteredModel(model, target.chat, meter, batch_size=2)
    reader.first_token(examples)
    lengths = [len(target.chat.prompt_ids(example)) for example in examples]
    assert meter.spend() == Spend(examples=5, tokens=sum(lengths), flops=FlopCount.of(model).forward(lengths, 5))
    before = meter.spend()
    answers = reader.answers(examples, 4)
    generated = [min(len(answer) + 1, 4) for answer in answers]
    whole = [length + count - 1 for length, count in zip(lengths, generated, strict=True)]
    after = meter.spend()
    assert (after.examples, after.queries, after.steps) == (5, 5, 0)
    assert after.tokens - before.tokens == sum(whole)
    assert after.flops - before.flops == pytest.approx(FlopCount.of(model).forward(whole, sum(generated)))


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        "I can't",
        "I can ' t do it",
        "I’m sorry, but",
        "Sorry, I cannot share this.",
        "As an AI",
        "I will not answer",
    ],
)
def test_refusals_are_read(text: str) -> None:
    assert is_refusal(text, REFUSAL_PHRASES)


@pytest.mark.parametrize("text", ["It is red.", "", "Icannot", "The antisorry word", "I canter", "Yes, I can."])
def test_answers_are_no_refusals(text: str) -> None:
    assert not is_refusal(text, REFUSAL_PHRASES)


def test_openings_are_likely_on_harmful_prompts_and_likelier_than_on_harmless_ones() -> None:
    harmful = torch.tensor([[0.3, 0.5, 0.16, 0.04], [0.5, 0.3, 0.16, 0.04]]).log()
    harmless = torch.tensor([[0.1, 0.1, 0.79, 0.01]]).log()
    # Token 2 is likelier on harmless prompts; token 3 is rare. Tokens 0 and 1 are equally likely: the lower id goes first.
    assert openings(harmful, harmless) == [0, 1]
    assert openings(harmful[1:], harmless) == [0, 1]
    assert openings(harmful[:1], harmless) == [1, 0]


def test_openings_begin_the_answers(planted: Planted) -> None:
    reader = MeteredModel(planted.target.copy_model(), planted.target.chat, Meter(), 4)
    ids = [planted.target.tokenizer.convert_tokens_to_ids(word) for word in ("no", "you")]
    examples = uneven_prompts()
    answers = reader.answers(examples, 3, opening=tuple(ids))
    assert all(answer[:2] == ids and len(answer) <= 5 for answer in answers)
    for example, answer in zip(examples, answers, strict=True):
        whole = torch.tensor([[*planted.target.chat.prompt_ids(example), *ids]])
        with torch.no_grad():
            expected = int(planted.target.model(input_ids=whole).logits[0, -1].argmax())
        assert [*answer, planted.target.chat.end_ids[0]][2] == expected


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=9), st.data())
def test_refusal_score_is_the_log_odds_of_the_tokens(raw: list[float], data: st.DataObject) -> None:
    tokens = data.draw(st.sets(st.integers(0, len(raw) - 1), min_size=1, max_size=len(raw) - 1))
    log_probabilities = torch.tensor([raw], dtype=torch.float64).log_softmax(-1)
    mass = sum(math.exp(log_probabilities[0, token]) for token in tokens)
    score = float(refusal_scores(log_probabilities, tokens)[0])
    assert score == pytest.approx(math.log(mass) - math.log(1 - mass), abs=1e-6)
    others = set(range(len(raw))) - tokens
    assert float(refusal_scores(log_probabilities, others)[0]) == pytest.approx(-score)


def test_refusal_score_stays_finite_where_a_probability_rounds_to_one() -> None:
    sure = torch.tensor([[200.0, 0.0, 0.0]]).log_softmax(-1)
    assert float(refusal_scores(sure, [0])[0]) == pytest.approx(200 - math.log(2), rel=1e-5)


@given(st.integers(0, 10_000))
def test_divergence_is_that_of_torch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base, changed = (torch.randn(3, 5, generator=generator).log_softmax(-1) for _ in range(2))
    expected = torch.nn.functional.kl_div(changed.double(), base.double(), log_target=True, reduction="batchmean")
    assert divergence(base, changed) == pytest.approx(float(expected), abs=1e-12)
    assert divergence(base, base) == 0
