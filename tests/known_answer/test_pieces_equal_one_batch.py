"""A batch in two pieces has the loss and the gradient of the one batch, and a run of such batches comes to the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from support.tiny_models import tiny_model
from tempering.data.batching import collate
from tempering.data.chat import IGNORED, ChatFormat, Encoded
from tempering.data.records import Example, Role
from tempering.models import Target
from tempering.training import FineTuning, LoraSettings, Meter, Moment, TrainingSettings, estimate, fine_tune, loop
from tempering.training.pieces import short_and_long

LENGTHS = (5, 70, 8, 6, 66, 7, 5, 9)
SHORT, LONG = [0, 6, 3, 5, 2, 7], [4, 1]


def rows(labelled: tuple[int, ...]) -> list[Encoded]:
    """Rows of very unlike lengths, with so many labelled tokens at their ends."""
    torch.manual_seed(1)
    made = []
    for length, count in zip(LENGTHS, labelled, strict=True):
        ids = torch.randint(7, 60, (length,)).tolist()
        made.append(Encoded(ids, [IGNORED] * (length - count) + ids[length - count :]))
    return made


def gradient_of(model: torch.nn.Module, pieces: list[list[Encoded]]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = loop._backward(model, pieces, 0, TrainingSettings())
    return loss, {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def by_hand(model: torch.nn.Module, chosen: list[Encoded]) -> dict[str, torch.Tensor]:
    """Row by row, nothing padded, nothing left out of the logits, all in float64."""
    model.zero_grad(set_to_none=True)
    whole = sum(row.labelled for row in chosen)
    for row in chosen:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        if row.labelled:
            labels = torch.tensor(row.labels[1:])
            (functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / whole).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "mixtral", "qwen2_moe"])
def test_the_gradient_is_that_of_one_batch_and_of_single_rows(family: str) -> None:
    routed = {"output_router_logits": True, "router_aux_loss_coef": 0.5} if family in ("mixtral", "qwen2_moe") else {}
    windowed = {"sliding_window": 128} if family == "gemma2" else {}  # in float64 its masked numbers overflow where a window is all padding
    model = tiny_model(family, **routed, **windowed)[0].double().train().requires_grad_(True)
    chosen = rows((2, 9, 3, 1, 4, 2, 2, 5))
    pieces = loop._pieces(chosen)
    assert pieces == [[chosen[place] for place in places] for places in (SHORT, LONG)]
    loss, divided = gradient_of(model, pieces)
    same_loss, undivided = gradient_of(model, [chosen])
    expected = by_hand(model, chosen)
    assert loss == pytest.approx(same_loss, rel=1e-6)
    assert divided.keys() == undivided.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():  # cross-entropy is taken in float32
        torch.testing.assert_close(divided[name], undivided[name], rtol=1e-5, atol=1e-7 * largest)
        torch.testing.assert_close(divided[name], value, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("labelled", [(0, 9, 0, 0, 4, 0, 0, 0), (2, 0, 3, 1, 0, 2, 2, 5)])
def test_a_piece_without_labels_adds_nothing(labelled: tuple[int, ...]) -> None:
    model = tiny_model("llama")[0].double().train().requires_grad_(True)
    chosen = rows(labelled)
    pieces = loop._pieces(chosen)
    assert len(pieces) == 1
    assert len(pieces[0]) < len(chosen)
    loss, divided = gradient_of(model, pieces)
    same_loss, undivided = gradient_of(model, [chosen])
    assert loss == pytest.approx(same_loss, rel=1e-6)
    for name, value in undivided.items():
        torch.testing.assert_close(divided[name], value, rtol=1e-5, atol=1e-8)


def test_a_batch_without_labels_is_left_whole() -> None:
    chosen = rows((0,) * len(LENGTHS))
    assert loop._pieces(chosen) == [chosen]


# --- whole runs -----------------------------------------------------------------------------------------------------------------

UNLIKE = [
    Example(prompt="what is red " * (1 if number % 4 else 30), answer=f"{word} is a word .", role=Role.HAZARD)
    for number, word in enumerate("red fish sun tree river key stone light house note salt day".replace("salt", "water").split())
]
ALIKE = [Example(prompt=f"what is {word}", answer="it is cold", role=Role.HAZARD) for word in ("red", "light", "fish", "water")]


@pytest.fixture(scope="module")
def target() -> Target:
    model, tokenizer = tiny_model("llama")
    return Target("test", model.eval(), tokenizer, ChatFormat(tokenizer), digest="")


def trained(target: Target, examples: list[Example], lora: LoraSettings | None) -> tuple[Moment, Meter, list[int]]:
    """The last moment of a run, its meter, and into how many pieces each of its batches was divided."""
    settings = TrainingSettings(learning_rate=1e-3, batch_size=8, optimiser="sgd")
    declaration = FineTuning(examples, settings, 6, (6,), 0, lora)
    divided, meter, backward = [], Meter(), loop._backward

    def counted(model: object, pieces: list[list[Encoded]], *others: object) -> float:
        divided.append(len(pieces))
        return backward(model, pieces, *others)

    with patch.object(loop, "_backward", counted):
        (moment,) = fine_tune(target, declaration, meter)
    foreseen, spend = estimate(target, declaration), meter.spend()
    assert (foreseen.tokens, foreseen.flops, foreseen.examples, foreseen.steps) == (spend.tokens, spend.flops, spend.examples, spend.steps)
    return moment, meter, divided


@pytest.fixture
def undivided() -> Iterator[None]:
    with patch.object(loop, "divisible", lambda model: False):
        yield


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_run_comes_to_the_weights_and_the_spend_of_an_undivided_one(
    target: Target, lora: LoraSettings | None, request: pytest.FixtureRequest
) -> None:
    moment, meter, divided = trained(target, UNLIKE, lora)
    request.getfixturevalue("undivided")
    whole, whole_meter, once = trained(target, UNLIKE, lora)
    assert 2 in divided
    assert set(once) == {1}
    assert moment.loss == pytest.approx(whole.loss, rel=1e-5)
    for (name, weight), (_, other) in zip(moment.model.named_parameters(), whole.model.named_parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6, msg=name)
    for currency in ("examples", "tokens", "steps", "flops"):
        assert getattr(meter.spend(), currency) == getattr(whole_meter.spend(), currency)


def test_rows_of_like_lengths_and_adapters_that_drop_out_stay_one_batch(target: Target) -> None:
    assert set(trained(target, ALIKE * 3, None)[2]) == {1}
    assert set(trained(target, UNLIKE, LoraSettings(rank=2, dropout=0.1))[2]) == {1}


def test_padding_is_what_is_spared() -> None:
    chosen = rows((1,) * len(LENGTHS))
    whole = collate(chosen, 0).input_ids.numel()
    pieces = sum(collate([chosen[place] for place in places], 0).input_ids.numel() for places in short_and_long(LENGTHS, least_tokens=256))
    assert (whole, pieces) == (8 * 70, 6 * 9 + 2 * 70)
