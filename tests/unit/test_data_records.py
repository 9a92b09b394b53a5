from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tempering.data.records import Dataset, Division, EvaluatorView, Example, Part, Role
from tempering.errors import UnusableData

words = st.sampled_from("abcdefgh")
examples = st.builds(
    Example,
    prompt=st.one_of(words, st.text(min_size=1).filter(str.strip)),
    answer=st.none() | st.text(),
    role=st.sampled_from(Role),
    domain=st.sampled_from(["x", "y", "z"]),
    entity=st.just("") | words,
    part=st.sampled_from([None, None, None, *Part]),
)
fractions = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda shares: tuple(share / sum(shares) for share in shares))


def hazards(count: int, **more: Any) -> list[Example]:
    return [Example(prompt=f"hazard {index}", role=Role.HAZARD, **more) for index in range(count)]


def benign(count: int, **more: Any) -> list[Example]:
    return [Example(prompt=f"benign {index}", role=Role.BENIGN, **more) for index in range(count)]


def data(*lists: list[Example]) -> Dataset:
    return Dataset("mine", tuple(itertools.chain(*lists)))


def cut(division: Division) -> dict[Part, tuple[Example, ...]]:
    return {Part.ATTACKER: division.attacker, Part.DEFENDER: division.defender, Part.EVALUATOR: division.evaluator}


@settings(max_examples=300, deadline=None)
@given(st.lists(examples, max_size=14), st.integers(0, 2**32 - 1), fractions)
def test_division_of_anything(rows: list[Example], seed: int, shares: tuple[float, float, float]) -> None:
    dataset = Dataset("mine", tuple(rows))
    try:
        division = dataset.divide(seed, shares)
    except UnusableData as error:
        message = str(error)
        groups = connected(rows)
        free_hazards = {groups[row.entity] for row in rows if row.role is Role.HAZARD}
        conflict = any(len({row.part for row in rows if groups[row.entity] == group and row.part}) > 1 for group in groups.values())
        fixed = any(row.part for row in rows)
        assert len(message.splitlines()) == 1
        assert conflict or fixed or len(free_hazards) < 2  # nothing else is a reason to refuse
        return
    parts = cut(division)
    assert sorted(map(repr, itertools.chain(*parts.values()))) == sorted(map(repr, rows))
    for first, second in itertools.combinations(parts.values(), 2):
        assert not {row.entity for row in first} & {row.entity for row in second}
        assert not {row.prompt for row in first} & {row.prompt for row in second}
    for part, members in parts.items():
        assert all(row.part in (None, part) for row in members)
        positions = [index for index, row in enumerate(rows) if any(row is member for member in members)]
        assert [rows[index] for index in positions] == list(members)
    assert division == dataset.divide(seed, shares)


def connected(rows: list[Example]) -> dict[str, frozenset[str]]:
    """Entities joined by common prompts, the slow and plain way."""
    groups = {row.entity: frozenset([row.entity]) for row in rows}
    for first, second in itertools.product(rows, rows):
        if first.prompt == second.prompt:
            joined = groups[first.entity] | groups[second.entity]
            groups.update(dict.fromkeys(joined, joined))
    return groups


@given(st.integers(2, 60), st.integers(0, 60), st.integers(0, 99), st.integers(1, 5))
def test_free_data_is_dealt_in_the_fractions(hazard_count: int, benign_count: int, seed: int, domains: int) -> None:
    rows = [
        row.model_copy(update={"domain": f"d{index % domains}"}) for index, row in enumerate(hazards(hazard_count) + benign(benign_count))
    ]
    parts = cut(data(rows).divide(seed))
    for role, count in ((Role.HAZARD, hazard_count), (Role.BENIGN, benign_count)):
        sizes = [sum(row.role is role for row in parts[part]) for part in Part]
        assert sum(sizes) == count
        assert all(abs(size - share * count) <= 1.5 for size, share in zip(sizes, (0.4, 0.3, 0.3), strict=True))
        if count >= 3:
            assert min(sizes) >= 1


def test_domains_are_dealt_evenly() -> None:
    rows = [row.model_copy(update={"domain": "dx" if index < 50 else "dy"}) for index, row in enumerate(hazards(100))]
    for members in cut(data(rows).divide(3)).values():
        share = sum(row.domain == "dx" for row in members) / len(members)
        assert 0.4 < share < 0.6


@pytest.mark.parametrize("shares", [(0.4, 0.3, 0.3), (0.98, 0.01, 0.01), (0.1, 0.8, 0.1)])
@pytest.mark.parametrize("domains", [("x", "x"), ("x", "y")])
def test_two_hazard_entities_suffice(shares: tuple[float, float, float], domains: tuple[str, str]) -> None:
    rows = [row.model_copy(update={"domain": domain}) for row, domain in zip(hazards(2), domains, strict=True)]
    division = data(rows, benign(9)).divide(0, shares)
    assert [sum(row.role is Role.HAZARD for row in members) for members in cut(division).values()] == [1, 0, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_hazard_entities(count: int) -> None:
    with pytest.raises(UnusableData, match=f"no hazard examples; all the data has hazard examples about {count} entities"):
        data(hazards(count), benign(5)).divide()


def test_seeds_divide_differently() -> None:
    dataset = data(hazards(30))
    assert len({dataset.divide(seed).attacker for seed in range(5)}) == 5


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (-0.2, 0.6, 0.6), (0.0, 0.0, 0.0)])
def test_fractions_must_add_to_one(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="add to one"):
        data(hazards(9)).divide(0, shares)


def test_a_part_of_fraction_zero_stays_empty() -> None:
    division = data(hazards(9), benign(9)).divide(0, (0.5, 0.0, 0.5))
    assert division.defender == ()


def test_a_fixed_test_set_stays_as_it_is() -> None:
    fixed = [Example(prompt=f"held out {index}", role=Role.HAZARD, part=Part.EVALUATOR) for index in range(2)]
    division = data(hazards(20), fixed, benign(20)).divide()
    assert division.evaluator_view().hazard == tuple(fixed)
    assert len(division.evaluator_view().benign) == 6  # benign is free, so it is dealt to all
    assert len(division.attacker_view().hazard_train) + len(division.attacker_view().hazard_validation) == 11
    view = division.defender_view()
    assert len(view.hazard) + len(view.validation.hazard) == 9


def test_free_questions_follow_their_entity() -> None:
    fixed = Example(prompt="a", entity="bolt", role=Role.HAZARD, part=Part.EVALUATOR)
    free = Example(prompt="b", entity="bolt", role=Role.BENIGN)
    for seed in range(5):
        assert free in data([fixed, free], hazards(3)).divide(seed).evaluator


def test_an_entity_in_two_parts() -> None:
    rows = [Example(prompt=part, entity="bolt", role=Role.HAZARD, part=part) for part in (Part.ATTACKER, Part.EVALUATOR)]
    with pytest.raises(UnusableData, match="entity 'bolt' of mine stands in both the attacker and the evaluator part"):
        data(rows).divide()


def test_a_prompt_in_two_parts() -> None:
    rows = [Example(prompt="same", entity=part, role=Role.HAZARD, part=part) for part in (Part.ATTACKER, Part.EVALUATOR)]
    with pytest.raises(UnusableData, match="shares prompts with 'attacker'"):
        data(rows).divide()
    with pytest.raises(UnusableData, match="the prompt 'same' stands in both"):
        Division((rows[0],), (), (rows[1],))


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(Part, 2)))
def test_a_division_made_by_hand_is_checked_too(first: Part, second: Part) -> None:
    parts: dict[str, tuple[Example, ...]] = {part.value: tuple(hazards(1, entity=part)) for part in Part}
    parts = {part: tuple(row.model_copy(update={"prompt": part}) for row in rows) for part, rows in parts.items()}
    Division(**parts)
    parts[second] += (Example(prompt="other", entity=first, role=Role.BENIGN),)
    with pytest.raises(UnusableData, match=f"the entity '{first}' stands in both the {first} and the {second} part"):
        Division(**parts)


@settings(deadline=None)
@given(st.lists(examples, max_size=20).map(lambda rows: [row.model_copy(update={"part": None}) for row in rows]), st.integers(0, 9))
def test_views_hold_only_their_part(rows: list[Example], seed: int) -> None:
    division = data(rows, hazards(9), benign(9)).divide(seed)
    attacker, defender, evaluator = division.attacker_view(), division.defender_view(), division.evaluator_view()
    of_attacker = [*attacker.hazard_train, *attacker.hazard_validation, *attacker.benign_train, *attacker.benign_validation]
    assert sorted(map(repr, of_attacker)) == sorted(repr(row) for row in division.attacker if row.role is not Role.BORDERLINE)
    assert not {row.entity for row in attacker.hazard_train} & {row.entity for row in attacker.hazard_validation}
    assert not {row.entity for row in attacker.benign_train} & {row.entity for row in attacker.benign_validation}
    for role in Role:
        assert evaluator.of(role) == tuple(row for row in division.evaluator if row.role is role)
        held = [*getattr(defender, role.value), *defender.validation.of(role)]
        assert sorted(map(repr, held)) == sorted(repr(row) for row in division.defender if row.role is role)
        assert not {row.entity for row in getattr(defender, role.value)} & {row.entity for row in defender.validation.of(role)}
    assert all(evaluator.of(role) == getattr(evaluator, role.value) for role in Role)


@given(st.integers(1, 40))
def test_a_fifth_is_held_back_for_validation(count: int) -> None:
    rows = [*hazards(count, part=Part.ATTACKER), Example(prompt="held out", role=Role.HAZARD, part=Part.EVALUATOR)]
    view = data(rows).divide().attacker_view()
    assert len(view.hazard_validation) == (max(1, round(count / 5)) if count > 1 else 0)
    assert len(view.hazard_train) == count - len(view.hazard_validation)


def test_validation_is_not_the_last_domain_of_sorted_data() -> None:
    rows = [row.model_copy(update={"domain": f"d{index // 20}", "part": Part.ATTACKER}) for index, row in enumerate(hazards(100))]
    view = data(rows, [Example(prompt="held out", role=Role.HAZARD, part=Part.EVALUATOR)]).divide().attacker_view()
    assert len({row.domain for row in view.hazard_validation}) >= 4


@given(st.integers(0, 20), st.integers(0, 30), st.integers(0, 99))
def test_limited_draws_without_replacement_in_order(total: int, count: int, seed: int) -> None:
    view = EvaluatorView(tuple(hazards(total)), tuple(benign(3)), ())
    drawn = view.limited(count, seed)
    assert len(drawn.hazard) == min(total, count)
    assert len(drawn.benign) == min(3, count)
    assert drawn.borderline == ()
    positions = [view.hazard.index(row) for row in drawn.hazard]
    assert positions == sorted(set(positions))
    assert drawn == view.limited(count, seed)


FULL = Example(prompt="p", answer="a", accept=("x",), role=Role.HAZARD, domain="d", entity="e", part=Part.ATTACKER, system="s")
CHANGES: dict[str, Any] = {
    "prompt": "q",
    "answer": None,
    "accept": (),
    "role": Role.BENIGN,
    "domain": "dd",
    "entity": "ee",
    "part": Part.DEFENDER,
    "system": None,
}


@pytest.mark.parametrize("field", Example.model_fields)
def test_the_digest_changes_with_any_field(field: str) -> None:
    changed = Example(**{**FULL.model_dump(), field: CHANGES[field]})
    assert changed.identity != FULL.identity
    assert data([changed]).digest != data([FULL]).digest


def test_the_digest_is_of_content_and_order_alone() -> None:
    rows = hazards(3)
    assert Dataset("one", tuple(rows)).digest == Dataset("two", tuple(rows), duplicates=4).digest
    assert data(rows).digest != data(rows[::-1]).digest
    assert data(rows).digest != data(rows[:2]).digest


@given(st.lists(examples, max_size=5), st.lists(examples, max_size=5))
def test_equal_digests_mean_equal_examples(first: list[Example], second: list[Example]) -> None:
    assert (data(first).digest == data(second).digest) == (first == second)


@pytest.mark.parametrize("make", [lambda: Example(prompt="", role="hazard"), lambda: Example(prompt=" \n", role="hazard")])
def test_an_example_needs_a_prompt(make: Callable[[], Example]) -> None:
    with pytest.raises(ValidationError):
        make()


def test_an_example_is_frozen_closed_and_about_its_prompt() -> None:
    example = Example(prompt="p", role="benign", entity="")
    assert example.entity == "p"
    identity = example.identity
    with pytest.raises(ValidationError):
        example.prompt = "q"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Example(prompt="p", role="benign", promt="typing error")
    assert example.identity == identity
    assert example == Example(prompt="p", role="benign")
    assert len({example, Example(prompt="p", role="benign")}) == 1


def test_has_answers_asks_the_hazard_only() -> None:
    assert not data(hazards(1), benign(1, answer="a")).has_answers
    assert data(hazards(1, answer="a"), benign(1)).has_answers
