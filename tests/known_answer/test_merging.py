"""Merging where the result is known exactly: on the base, on the target, and between two planted models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.planted_refusal import as_target
from support.tiny_models import tiny_model
from tempering.attacks._merging import Factors, Interpolation, Subtraction, Transplant, Workbench, interpolated
from tempering.models import Target
from tempering.models.counterparts import Component, counterparts
from tempering.models.delta import measure
from tempering.models.digest import weight_digest
from tempering.training import Meter

FAMILIES = ("llama", "qwen3", "gemma2", "gpt_neox")
BLOCKS = 4


def pair(family: str = "llama", *, tied: tuple[bool, bool] = (False, False), dtype: torch.dtype = torch.float32) -> tuple[Target, Target]:
    """A random model and another of its shape; both with norms that are not one."""
    made = []
    for seed, tie in enumerate(tied):
        model, tokenizer = tiny_model(family, seed, num_hidden_layers=BLOCKS, tie_word_embeddings=tie)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        made.append(as_target(model.to(dtype), tokenizer))
    return made[0], made[1]


def low_rank_target(rank: int, scale: float, dtype: torch.dtype = torch.float32) -> tuple[Target, Target]:
    """A base, and the base with an update of a known rank in every MLP matrix of its blocks."""
    _, base = pair(dtype=dtype)
    model = base.copy_model()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mlp." in name:
                left, right = (torch.randn(size, generator=generator) for size in ((parameter.shape[0], rank), (rank, parameter.shape[1])))
                parameter += (scale * left @ right).to(dtype)
    return replace(base, model=model), base


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


# --- interpolation ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [(False, False), (True, True), (False, True), (True, False)])
@pytest.mark.parametrize("family", FAMILIES)
def test_at_one_it_is_the_base_bit_for_bit_and_at_nought_the_target(family: str, tied: tuple[bool, bool], dtype: torch.dtype) -> None:
    target, base = pair(family, tied=tied, dtype=dtype)
    bench = Workbench(target, base, Meter())
    ids = torch.tensor([[2, 5, 12, 30, 41, 7, 6]])
    for t, expected in ((0.5, None), (1.0, base), (1.25, None), (0.0, target), (1.0, base)):
        bench.write(Interpolation(t))
        if expected is None:
            continue
        own, others = bench.model.state_dict(), expected.model.state_dict()
        assert own.keys() == others.keys()
        assert all(bits(own[name]) == bits(others[name]) for name in own)
        with torch.no_grad():
            assert torch.equal(bench.model(input_ids=ids).logits, expected.model(input_ids=ids).logits)
    if tied == (True, True):
        assert bench.model.get_output_embeddings().weight is bench.model.get_input_embeddings().weight
        assert weight_digest(bench.model) == weight_digest(base.model)


def test_buffers_are_merged_too() -> None:
    target, base = pair()
    frequencies = base.model.model.rotary_emb.inv_freq
    with torch.no_grad():
        frequencies.mul_(0.5)
    bench = Workbench(target, base, Meter())
    bench.write(Interpolation(1.0))
    assert torch.equal(bench.model.model.rotary_emb.inv_freq, frequencies)
    bench.write(Interpolation(0.5))
    torch.testing.assert_close(bench.model.model.rotary_emb.inv_freq, 1.5 * frequencies)


def test_a_zero_keeps_its_sign_at_both_ends() -> None:
    target, base = torch.tensor([-0.0, 1.0, 3.0]), torch.tensor([5.0, -0.0, -0.0])
    assert bits(interpolated(target, base, 1)) == bits(base)
    assert bits(interpolated(target, base, 0)) == bits(target)


def test_between_and_beyond_by_hand() -> None:
    target, base = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0])
    assert interpolated(target, base, 0.25).tolist() == [1.5, -1.0]
    assert interpolated(target, base, 0.75).tolist() == [2.5, 1.0]
    assert interpolated(target, base, 1.5).tolist() == [4.0, 4.0]


number = st.floats(-1e4, 1e4, width=32)
SMALLEST = 1.5e-45
"""A little more than the least number above zero in float32."""


@given(number, number, st.floats(0, 2, width=32))
def test_it_is_the_line_rounded_once(first: float, second: float, t: float) -> None:
    found = interpolated(torch.tensor([first]), torch.tensor([second]), t)
    exact = torch.tensor([first + t * (second - first)], dtype=torch.float64)
    scale = max(abs(first), abs(second))
    assert abs(float(found.double() - exact)) <= 2e-7 * scale * (1 + t) + SMALLEST  # where numbers end, a half cannot be told from nothing
    if 0 <= t <= 1:
        assert min(first, second) <= float(found) <= max(first, second)


# --- subtraction --------------------------------------------------------------------------------------------------------------


def written(target: Target, base: Target, candidate: Subtraction | Transplant) -> dict[str, torch.Tensor]:
    bench = Workbench(target, base, Meter())
    bench.write(candidate)
    return {name: weight.clone() for name, weight in bench.model.state_dict().items()}


def test_all_directions_of_a_low_rank_update_taken_off_are_the_base() -> None:
    target, base = low_rank_target(2, 0.2)
    at_one = written(target, base, Subtraction("rank", 1, 1.0, Factors(4, Meter(), 0)))
    at_two = written(target, base, Subtraction("rank", 2, 1.0, Factors(4, Meter(), 0)))
    for name, weight in base.model.state_dict().items():
        torch.testing.assert_close(at_two[name], weight, rtol=0, atol=2e-6)
        assert ".mlp." not in name or (at_one[name] - weight).abs().max() > 1e-2


def test_the_leading_directions_are_the_best_of_their_rank() -> None:
    target, base = pair()
    merged = written(target, base, Subtraction("rank", 3, 1.0, Factors(5, Meter(), 0)))
    name = "model.layers.1.self_attn.q_proj.weight"
    delta = target.model.state_dict()[name] - base.model.state_dict()[name]
    values = torch.linalg.svdvals(delta.double())
    taken = target.model.state_dict()[name] - merged[name]
    assert torch.linalg.matrix_rank(taken, tol=1e-4) == 3
    assert float((delta - taken).double().norm()) == pytest.approx(float(values[3:].norm()), rel=1e-5)


def test_large_matrices_are_decomposed_by_random_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.attacks._merging._FULL_SIDE", 8)
    target, base = low_rank_target(2, 0.2)
    before = torch.random.get_rng_state()
    merged = written(target, base, Subtraction("rank", 2, 1.0, Factors(4, Meter(), 0)))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in base.model.state_dict().items():
        torch.testing.assert_close(merged[name], weight, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "components"),
    [
        ("attention", {Component.ATTENTION}),
        ("mlp", {Component.MLP}),
        ("ends", {Component.EMBEDDING, Component.HEAD, Component.NORMS, Component.OTHER}),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_is_taken_off_and_the_rest_left(family: str, kind: str, components: set[Component]) -> None:
    target, base = pair(family)
    merged = written(target, base, Subtraction(kind, 1, 1.0))  # type: ignore[arg-type]
    touched = 0
    for one in counterparts(target, base).weights:
        if one.stored:
            inside = one.component in components
            touched += inside
            assert torch.equal(merged[one.name], one.base if inside else one.target), one.name
    assert touched


def test_trimming_takes_the_largest_entries() -> None:
    target, base = pair()
    merged = written(target, base, Subtraction("trim", 0.2, 1.0))
    for one in counterparts(target, base).weights:
        if one.stored:
            taken = merged[one.name] != one.target
            delta = (one.target - one.base).abs()
            assert int(taken.sum()) == math.ceil(0.2 * delta.numel())
            assert delta[taken].min() >= delta[~taken].max()
            torch.testing.assert_close(merged[one.name][taken], one.base[taken])


def test_dropping_keeps_a_share_at_random_and_scales_it_up() -> None:
    target, base = pair()
    merged = written(target, base, Subtraction("drop", 0.25, 0.5, seed=1))
    again, other = (written(target, base, Subtraction("drop", 0.25, 0.5, seed=seed)) for seed in (1, 2))
    shares = []
    for one in counterparts(target, base).weights:
        if one.stored and one.target.ndim == 2:
            taken = merged[one.name] != one.target
            shares.append(float(taken.double().mean()))
            torch.testing.assert_close((one.target - merged[one.name])[taken], 2 * (one.target - one.base)[taken])
            assert torch.equal(merged[one.name], again[one.name])
            assert not torch.equal(merged[one.name], other[one.name])
    assert sum(shares) / len(shares) == pytest.approx(0.25, abs=0.03)


# --- transplantation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_all_blocks_and_both_ends_transplanted_are_the_base(family: str) -> None:
    target, base = pair(family)
    merged = written(target, base, Transplant(range(BLOCKS), ends=True))
    assert all(torch.equal(merged[name], weight) for name, weight in base.model.state_dict().items())


def test_a_window_brings_its_blocks_and_nothing_else() -> None:
    target, base = pair()
    bench = Workbench(target, base, Meter())
    for window in (range(2, 4), range(1, 2), range(0)):  # each starts from the target, whatever was written before
        bench.write(Transplant(window))
        for name, weight in bench.model.state_dict().items():
            inside = any(f".layers.{index}." in name for index in window)
            assert torch.equal(weight, (base if inside else target).model.state_dict()[name]), name


# --- the delta ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_planted_low_rank_update_shows_its_rank_and_share(dtype: torch.dtype) -> None:
    target, base = low_rank_target(2, 0.02, dtype)
    delta = measure(target, base)
    components = {group.component: group for group in delta.components}
    mlp = components[Component.MLP]
    assert mlp.rank == 2
    assert mlp.top_share == pytest.approx(1, abs=1e-2)
    assert mlp.changed_share > (0.7 if dtype is torch.bfloat16 else 0.99)
    assert all(group.changed == 0 and group.rank in (0, None) for component, group in components.items() if component is not Component.MLP)
    ours, theirs = target.model.state_dict(), base.model.state_dict()
    names = [name for name in ours if ".mlp." in name]
    difference, before = (
        torch.cat([values[name].double().reshape(-1) for name in names])
        for values in ({name: ours[name].double() - theirs[name].double() for name in names}, theirs)
    )
    assert mlp.relative_norm == pytest.approx(float(difference.norm() / before.norm()), rel=1e-2 if dtype is torch.bfloat16 else 1e-6)
    changed = sum(ours[name].numel() for name in names) * mlp.changed_share
    assert delta.total.changed_share == pytest.approx(changed / delta.total.weights)
    assert "at most 2 of 16 directions" in delta.verdict


def test_a_full_rank_update_shows_that_too() -> None:
    target, base = pair()
    total = measure(target, base).total
    assert total.rank == 16  # the narrowest side of the toy's matrices
    assert total.cosine < 0.5
    assert total.relative_norm > 0.7
    assert "is no delta on" in measure(target, base).verdict


def test_shares_and_cosine_by_hand() -> None:
    _, base = pair()
    model = base.copy_model()
    with torch.no_grad():
        model.model.norm.weight[:4] *= 2
    norms = next(group for group in measure(replace(base, model=model), base).components if group.component is Component.NORMS)
    first, second = (
        torch.cat([weight.detach().double().reshape(-1) for name, weight in one.named_parameters() if "norm" in name])
        for one in (model, base.model)
    )
    assert norms.changed == 4
    assert norms.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(first, second, dim=0)), rel=1e-9)
    assert norms.relative_norm == pytest.approx(float((first - second).norm() / second.norm()), rel=1e-9)


def test_the_largest_matrices_show_their_leading_directions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.models.delta.FULL_SIDE", 4)
    monkeypatch.setattr("tempering.models.delta.MOST_DIRECTIONS", 8)
    planted = next(group for group in measure(*low_rank_target(2, 0.02)).components if group.component is Component.MLP)
    assert (planted.rank, planted.rank_capped) == (2, False)
    assert planted.top_share == pytest.approx(1, abs=1e-3)
    total = measure(*pair()).total
    assert (total.rank, total.rank_capped) == (8, True)
