"""Batches that can be had in any order, and still come as an epoch's shuffle would bring them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.errors import UnusableData
from tempering.training import Pool

CHAT = tiny_target().chat


def examples(count: int) -> list[Example]:
    return [Example(prompt=f"question {'stone ' * number}", answer="yes", role=Role.BENIGN) for number in range(count)]


@settings(deadline=None)
@given(count=st.integers(1, 12), size=st.integers(1, 15), seed=st.integers(0, 3))
def test_every_epoch_brings_each_example_once(count: int, size: int, seed: int) -> None:
    pool = Pool(examples(count), CHAT, (seed,))
    batch = min(size, count)
    drawn = [identity for step in range(2 * count) for identity in pool.rows(step, size).identities]
    assert len(drawn) == 2 * count * batch
    for epoch in range(len(drawn) // count):
        assert len(set(drawn[epoch * count : (epoch + 1) * count])) == count


def test_a_step_does_not_depend_on_those_before() -> None:
    forwards, backwards = Pool(examples(7), CHAT, (1, 2)), Pool(examples(7), CHAT, (1, 2))
    ahead = [forwards.rows(step, 3) for step in range(9)]
    assert [backwards.rows(step, 3) for step in reversed(range(9))] == ahead[::-1]
    assert [Pool(examples(7), CHAT, (1, 3)).rows(step, 3) for step in range(9)] != ahead


def test_rows_know_their_lengths_and_labels() -> None:
    rows = Pool(examples(3), CHAT, (0,)).all()
    batch = rows.batch()
    assert rows.lengths == batch.attention_mask.sum(1).tolist()
    assert rows.labelled == int((batch.labels[:, 1:] != -100).sum())
    both = rows + rows
    assert len(both) == 6
    assert both.labelled == 2 * rows.labelled


def test_nothing_and_questions_without_answers_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Pool([], CHAT, (0,))
    with pytest.raises(UnusableData, match="has no answer"):
        Pool([Example(prompt="why", role=Role.HAZARD)], CHAT, (0,))
