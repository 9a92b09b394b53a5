"""No two prompts that say the same are kept, whatever their roles and parts; which one stays does not depend on chance."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.data.deduplication import NEAR, Candidate, _deduplicated, deduplicate, grams_of, jaccard
from tempering.data.examples import Example, Part, Role
from tempering.data.normal_form import normal_form, text_digest

LONG = "Please explain in a few plain words how the old clock on the tower of the town hall is wound up every week"


def candidate(prompt: str, data: str = "a", role: Role = Role.HAZARD, own: bool = False, **more: object) -> Candidate:
    return Candidate(Example.model_validate({"prompt": prompt, "role": role, **more}), data, own)


WORDS = st.lists(st.sampled_from(["clock", "tower", "town", "hall", "wind", "week", "old", "new", "red"]), min_size=1, max_size=14)
TEXTS = st.builds(lambda words, end: " ".join(words) + end, WORDS, st.sampled_from(["", "?", ".", "  "]))
ROWS = st.lists(
    st.builds(
        candidate,
        TEXTS,
        st.sampled_from(["a", "b"]),
        st.sampled_from(list(Role)),
        part=st.sampled_from([None, *Part]),
        answer=st.sampled_from([None, "so"]),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(ROWS)
def test_no_two_of_what_is_kept_are_alike(rows: list[Candidate]) -> None:
    kept, dropped = deduplicate(rows)
    for one, other in combinations(kept, 2):
        forms = normal_form(one.example.prompt), normal_form(other.example.prompt)
        assert jaccard(*map(grams_of, forms)) < NEAR
    assert len(kept) + sum(entry.count for entry in dropped) == len(rows)
    assert bool(rows) == bool(kept)
    _deduplicated.cache_clear()
    assert deduplicate(rows) == (kept, dropped)
    assert deduplicate(kept) == (kept, ())
    positions = [next(number for number, row in enumerate(rows) if row is one) for one in kept]
    assert positions == sorted(positions)


@settings(max_examples=60)
@given(ROWS)
def test_every_row_that_is_left_out_is_like_one_that_goes_before_it(rows: list[Candidate]) -> None:
    kept, _ = deduplicate(rows)
    order = [Role.HAZARD, Role.BORDERLINE, Role.BENIGN]
    for row in rows:
        if not any(row is one for one in kept):
            grams = grams_of(normal_form(row.example.prompt))
            alike = [one for one in kept if jaccard(grams, grams_of(normal_form(one.example.prompt))) >= NEAR]
            assert any(order.index(one.example.role) <= order.index(row.example.role) for one in alike)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_planted_near_duplicates_are_found_in_a_crowd(seed: int, changes: int) -> None:
    draw = random.Random(seed)
    crowd = ["".join(draw.choice("abcdefghij klmno") for _ in range(60)) for _ in range(40)]
    changed = list(LONG)
    for _ in range(changes):
        changed[draw.randrange(len(changed))] = draw.choice("abcdefgh")
    rows = [candidate(text) for text in crowd] + [candidate(LONG, "b"), candidate("".join(changed), "c", Role.BENIGN)]
    near = jaccard(grams_of(normal_form(LONG)), grams_of(normal_form("".join(changed)))) >= NEAR
    kept, _ = deduplicate(rows)
    assert any(row.data == "c" for row in kept) == (not near)
    assert sum(row.data == "a" for row in kept) == 40


def test_a_hazard_stays_and_its_benign_double_goes() -> None:
    first, second = candidate(LONG, "benign-set", Role.BENIGN), candidate(LONG.upper() + ".", "hazard-set")
    kept, (dropped,) = deduplicate([first, second])
    assert kept == (second,)
    assert (dropped.data, dropped.role, dropped.likeness, dropped.kept_in, dropped.kept_as) == (
        "benign-set", Role.BENIGN, "exact", "hazard-set", Role.HAZARD,
    )  # fmt: skip
    assert dropped.first == (text_digest(LONG)[:12],)


@pytest.mark.parametrize(
    ("stays", "goes"),
    [
        ({"own": True, "role": Role.BENIGN}, {"role": Role.HAZARD}),
        ({"role": Role.BORDERLINE}, {"role": Role.BENIGN, "part": Part.EVALUATOR}),
        ({"part": Part.EVALUATOR}, {"part": Part.ATTACKER, "answer": "so"}),
        ({"part": Part.ATTACKER}, {"part": Part.DEFENDER}),
        ({"part": Part.DEFENDER}, {}),
        ({"answer": "so"}, {}),
    ],
)
def test_the_precedence_that_is_documented(stays: dict[str, object], goes: dict[str, object]) -> None:
    loser, winner = candidate(LONG, "first", **goes), candidate(f"{LONG} please", "second", **stays)  # type: ignore[arg-type]
    assert deduplicate([loser, winner])[0] == (winner,)
    assert deduplicate([winner, loser])[0] == (winner,)


def test_where_all_else_is_alike_the_first_stays() -> None:
    rows = [candidate(LONG, "b"), candidate(LONG, "a"), candidate(LONG, "b")]
    assert deduplicate(rows)[0] == (rows[0],)


def test_own_data_made_from_a_template_are_left_as_they_are() -> None:
    rows = [candidate(f"{LONG}, number {number}", own=True) for number in range(5)]
    assert deduplicate(rows) == (tuple(rows), ())
    other = candidate(f"{LONG}, number 2", "other world", own=True)
    kept, (dropped,) = deduplicate([*rows, other])
    assert kept == tuple(rows)
    assert dropped.likeness == "exact"
    named = candidate(f"{LONG}, number 7", "named")
    kept, (dropped,) = deduplicate([named, *rows])
    assert kept == tuple(rows)
    assert dropped.likeness == "near"


def test_signs_within_a_prompt_tell_prompts_apart() -> None:
    rows = [candidate("What is C?"), candidate("What is C++?"), candidate("2 + 2"), candidate("2 - 2")]
    assert len(deduplicate(rows)[0]) == 4


def test_the_report_tells_no_text() -> None:
    rows = [candidate(f"{LONG} {ending}", "a") for ending in ("", "!", "now", "then")]
    _, dropped = deduplicate(rows)
    assert sum(entry.count for entry in dropped) == 3
    assert "tower" not in "".join(entry.model_dump_json() for entry in dropped)
