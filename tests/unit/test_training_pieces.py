"""When a batch is computed in two pieces, which rows are in which, and of which models it never is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_models import FAMILIES, tiny_model
from tempering.training import LoraSettings
from tempering.training.adapters import add_lora
from tempering.training.pieces import divisible, short_and_long

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


def padded(lengths: list[int], pieces: list[list[int]]) -> int:
    return sum(len(piece) * max(lengths[place] for place in piece) for piece in pieces)


@given(lengths=LENGTHS, share=st.floats(0, 1), tokens=st.integers(0, 3000))
def test_every_row_is_in_one_piece_and_a_division_spares_what_was_asked_for(lengths: list[int], share: float, tokens: int) -> None:
    pieces = short_and_long(lengths, share, tokens)
    assert sorted(place for piece in pieces for place in piece) == list(range(len(lengths)))
    assert all(pieces)
    whole = padded(lengths, [list(range(len(lengths)))])
    if len(pieces) == 1:
        assert pieces == [list(range(len(lengths)))]
    else:
        short, long = ([lengths[place] for place in piece] for piece in pieces)
        assert max(short) <= min(long)
        spared = whole - padded(lengths, pieces)
        assert spared > 0
        assert spared >= max(tokens, share * whole * (1 - 1e-9))


@given(lengths=LENGTHS)
def test_no_other_cut_by_length_spares_more(lengths: list[int]) -> None:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best = min(padded(lengths, [piece for piece in (order[:cut], order[cut:]) if piece]) for cut in range(len(order)))
    assert padded(lengths, short_and_long(lengths, 0.0, 0)) == best


@given(length=st.integers(1, 500), rows=st.integers(1, 64))
def test_rows_of_the_same_length_are_never_divided(length: int, rows: int) -> None:
    assert short_and_long([length] * rows, 0.0, 0) == [list(range(rows))]


@pytest.mark.parametrize(("tokens", "pieces"), [(72, [[0, 2], [1]]), (73, [[0, 1, 2]])])
def test_too_few_tokens_are_not_worth_a_second_pass(tokens: int, pieces: list[list[int]]) -> None:
    assert short_and_long([4, 40, 4], 0.15, tokens) == pieces  # 3 x 40 tokens, or 2 x 4 and 40: 72 are spared


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_whose_rows_do_not_meet_are_divided(family: str) -> None:
    assert divisible(tiny_model(family)[0])


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"attention_dropout": 0.1}),
        ("gpt_neox", {"hidden_dropout": 0.1}),
        ("mixtral", {"router_jitter_noise": 0.01}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 64,
                },
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_is_drawn_or_looks_at_the_whole_batch_is_not(family: str, changes: dict[str, object]) -> None:
    assert not divisible(tiny_model(family, **changes)[0])


def test_an_adapter_is_divided_unless_it_drops_out() -> None:
    assert divisible(add_lora(tiny_model("llama")[0], LoraSettings(rank=2)))
    assert not divisible(add_lora(tiny_model("llama")[0], LoraSettings(rank=2, dropout=0.1)))


def test_batch_statistics_and_layers_in_eight_bits_are_of_the_whole_batch() -> None:
    class Linear8bitLt(torch.nn.Linear):
        """What bitsandbytes calls it."""

    for module in (torch.nn.BatchNorm1d(4), Linear8bitLt(4, 4)):
        model, _ = tiny_model("llama")
        model.model.layers[0].mlp.add_module("extra", module)
        assert not divisible(model)


def test_other_devices_take_one_batch() -> None:
    assert not divisible(tiny_model("llama")[0].to("meta"))
