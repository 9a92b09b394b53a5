"""What a search may set: an attack's own search space, read off the fields of its configuration.

A field says how it may be searched by ``Annotated[..., Range(...)]`` or ``Annotated[..., Choices(...)]``; the fields of nested settings
and of a chain's links count too. What a study sets by hand stays as it is set, and what would have no effect (``OnlyIf``) is left out.
An attack's own default always belongs to its space.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from tempering import registry
from tempering.settings import Choices, OnlyIf, Range, Settings
from tempering.study import MethodChoice, SearchSettings, Threshold

FieldPath = tuple[str | int, ...]
"""Where a field stands in a configuration: keys of mappings and places in lists."""


class Dimension(Settings):
    """One field that a search may set: a range of numbers, or a choice.

    Attributes:
        path: where it stands in the configuration.
        default: what it is without a search, as a JSON value.
        low: least value of a range.
        high: greatest value of a range.
        log: whether the range is searched by the logarithm.
        whole: whether its values are whole numbers.
        options: values of a choice, as JSON values; empty for a range.
    """

    path: FieldPath
    default: Any = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    options: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The path with dots: ``training.learning_rate``."""
        return ".".join(str(part) for part in self.path)

    @property
    def holds_default(self) -> bool:
        """Whether the default is one of its values; a range of numbers does not hold ``None``."""
        if self.options:
            return place_of(self.default, self.options) is not None
        return _is_number(self.default) and self.low <= self.default <= self.high


class PlannedSearch(Settings):
    """A search, with everything that decides what it finds.

    Attributes:
        settings: as the study asks for it.
        threshold: what a trial has to reach.
        space: what it may set.
    """

    settings: SearchSettings
    threshold: Threshold
    space: tuple[Dimension, ...]


def space_of(config: Settings, given: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """The search space of a configuration.

    Args:
        config: the configuration, validated.
        given: the part of it that was set by hand, which is not searched.

    Returns:
        One dimension for each field that has more than one value, in the order of the fields.
    """
    return tuple(dimension for dimension in _dimensions(config, given, ()) if len(dimension.options) > 1 or dimension.low < dimension.high)


def place_of(value: Any, options: Sequence[Any]) -> int | None:
    """Where a JSON value stands among others; ``True`` is not 1 here. ``None`` where it does not."""
    same = (place for place, option in enumerate(options) if option == value and isinstance(option, bool) is isinstance(value, bool))
    return next(same, None)


def configured(config: Mapping[str, Any], space: Sequence[Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some fields set otherwise.

    Args:
        config: the whole configuration, as JSON values.
        space: where the fields stand.
        values: by the dimensions' names; what has no value stays.
    """
    changed = copy.deepcopy(dict(config))
    for dimension in space:
        if dimension.name not in values:
            continue
        place: Any = changed
        for part in dimension.path[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
        place[dimension.path[-1]] = values[dimension.name]
    return changed


def _dimensions(config: Settings, given: Any, above: FieldPath) -> Iterator[Dimension]:
    for name, field in type(config).model_fields.items():
        value, path = getattr(config, name), (*above, name)
        if _is_idle(config, field, given):
            continue
        if name in given and not isinstance(given[name], Mapping):
            if _is_chain(value):
                yield from _links(value, path)
        elif (marker := _marker(field)) is not None and name not in given:
            yield _dimension(marker, field, path, value)
        elif isinstance(value, Settings):
            yield from _dimensions(value, given.get(name, {}), path)
        elif _is_chain(value):
            yield from _links(value, path)


def _is_idle(config: Settings, field: FieldInfo, given: Mapping[str, Any]) -> bool:
    """Whether a field is without effect, because the one that it depends on is fixed at another value."""
    condition = next((item for item in field.metadata if isinstance(item, OnlyIf)), None)
    if condition is None or getattr(config, condition.field) == condition.value:
        return False
    searched = condition.field not in given and _marker(type(config).model_fields[condition.field]) is not None
    return not searched


def _is_chain(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, MethodChoice) for item in value)


def _links(choices: tuple[MethodChoice, ...], path: FieldPath) -> Iterator[Dimension]:
    """The dimensions of a chain's links: naming them fixes which attacks they are, and of each what is set in it."""
    for place, choice in enumerate(choices):
        link = registry.create("attacks", choice.name, choice.config)
        yield from _dimensions(link.config, choice.config, (*path, place, "config"))


def _dimension(marker: Range | Choices, field: FieldInfo, path: FieldPath, value: Any) -> Dimension:
    default = to_jsonable_python(value)
    if isinstance(marker, Choices):
        options = tuple(to_jsonable_python(option) for option in marker.options)
        return Dimension(path=path, default=default, options=options if place_of(default, options) is not None else (*options, default))
    low, high = marker.low, marker.high
    if _is_number(default) and (default > 0 or not marker.log):
        low, high = min(low, default), max(high, default)
    leaves = set(_leaves(field.annotation))
    return Dimension(path=path, default=default, low=low, high=high, log=marker.log, whole=int in leaves and float not in leaves)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _marker(field: FieldInfo) -> Range | Choices | None:
    """How a field may be searched, also where that is said inside an optional type."""
    return next((item for item in (*field.metadata, *_metadata(field.annotation)) if isinstance(item, (Range, Choices))), None)


def _metadata(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for argument in get_args(annotation):
        yield from _metadata(argument)


def _leaves(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)
