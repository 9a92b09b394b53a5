"""The search space: read off a configuration's fields, and put back into it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from tempering import registry
from tempering.engine.search_space import Dimension, configured, space_of
from tempering.settings import Choices, OnlyIf, Range, Settings
from tempering.study import MethodChoice


class Inner(Settings):
    rate: Annotated[float, Field(gt=0), Range(1e-4, 1e-1, log=True)] = 1e-2
    kind: Annotated[Literal["a", "b"], Choices(("a", "b"))] = "a"


class Outer(Settings):
    inner: Inner = Inner()
    optional: Annotated[int, Range(1, 8)] | None = 3
    size: Annotated[int, Field(gt=0), Choices((8, 16))] = 10
    flag: Annotated[bool, Choices((False, True))] = True
    nothing: Annotated[Annotated[float, Field(gt=0)] | None, Choices((1.0, None))] = None
    single: Annotated[str, Choices(("x",))] = "x"
    plain: int = 5


def names(config: Settings, **given: Any) -> list[str]:
    return [dimension.name for dimension in space_of(config, given)]


def test_fields_that_say_how_are_searched_nested_ones_too_and_no_others() -> None:
    assert names(Outer()) == ["inner.rate", "inner.kind", "optional", "size", "flag", "nothing"]


def test_the_default_belongs_to_the_space() -> None:
    space = {dimension.name: dimension for dimension in space_of(Outer(inner=Inner(rate=0.5)), {})}
    assert space["size"].options == (8, 16, 10)
    assert (space["inner.rate"].low, space["inner.rate"].high, space["inner.rate"].log) == (1e-4, 0.5, True)
    assert space["flag"].options == (False, True)  # and 1 is not True
    assert space["nothing"].options == (1.0, None)
    assert all(dimension.holds_default for dimension in space.values())
    assert not Dimension(path=("x",), default=None, low=0, high=1).holds_default


def test_whole_numbers_are_told_from_others_inside_optional_types_too() -> None:
    space = {dimension.name: dimension for dimension in space_of(Outer(), {})}
    assert space["optional"].whole
    assert not space["inner.rate"].whole


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"size": 16}, ["inner.rate", "inner.kind", "optional", "flag", "nothing"]),
        ({"inner": {"rate": 0.5}}, ["inner.kind", "optional", "size", "flag", "nothing"]),
        ({"inner": Inner()}, ["optional", "size", "flag", "nothing"]),
        ({"nothing": None, "optional": None}, ["inner.rate", "inner.kind", "size", "flag"]),
    ],
)
def test_what_is_set_by_hand_stays(given: dict[str, Any], left: list[str]) -> None:
    assert names(Outer(**given), **given) == left


class Switch(Settings):
    mode: Annotated[str, Choices(("plain", "fancy"))] = "plain"
    inner: Annotated[Inner, OnlyIf("mode", "fancy")] = Inner()


class Stuck(Switch):
    mode: Literal["plain"] = "plain"


def test_what_would_have_no_effect_is_not_searched() -> None:
    assert names(Switch()) == ["mode", "inner.rate", "inner.kind"]
    assert names(Switch(mode="plain"), mode="plain") == []
    assert names(Switch(mode="fancy"), mode="fancy") == ["inner.rate", "inner.kind"]
    assert names(Stuck()) == []
    assert not [name for name in names(registry.create("attacks", "full_finetune").config) if name.startswith("lora.")]
    assert [name for name in names(registry.create("attacks", "lora_finetune").config) if name.startswith("lora.")]


def test_values_are_put_where_they_belong_and_nothing_else_moves() -> None:
    config = Outer().model_dump(mode="json")
    changed = configured(config, space_of(Outer(), {}), {"inner.rate": 0.05, "nothing": 1.0})
    assert Outer(**changed) == Outer(inner=Inner(rate=0.05), nothing=1.0)
    assert config == Outer().model_dump(mode="json")


def test_a_chain_is_searched_in_its_links_but_not_in_what_the_study_sets_of_them() -> None:
    choice = MethodChoice.model_validate([{"name": "full_finetune", "config": {"training": {"learning_rate": 1e-3}}}, "refusal_ablation"])
    chain = registry.create("attacks", choice.name, choice.config)
    space = space_of(chain.config, choice.config)
    found = {dimension.name for dimension in space}
    assert {"steps.0.config.shots", "steps.0.config.training.batch_size", "steps.1.config.intervention"} <= found
    assert "steps.0.config.training.learning_rate" not in found
    values = {"steps.0.config.training.batch_size": 64, "steps.1.config.intervention": "ablate"}
    changed = registry.create("attacks", "chain", configured(chain.config.model_dump(mode="json"), space, values))
    assert changed.links[0].config.training.batch_size == 64
    assert changed.links[0].config.training.learning_rate == 1e-3
    assert changed.links[1].config.intervention == "ablate"


@pytest.mark.parametrize("name", registry.names("attacks"))
def test_every_registered_attacks_space_holds_its_own_settings_and_can_be_set(name: str) -> None:
    """Also at both ends, one field at a time: a search must not suggest what the attack refuses."""
    attack = registry.create("attacks", name)
    own = attack.config.model_dump(mode="json")
    space = space_of(attack.config, {})
    assert configured(own, space, {dimension.name: dimension.default for dimension in space if len(dimension.path) < 3}) == own
    for dimension in space:
        ends = dimension.options or tuple(int(end) if dimension.whole else end for end in (dimension.low, dimension.high))
        for value in ends:
            registry.create("attacks", name, configured(own, space, {dimension.name: value}))
