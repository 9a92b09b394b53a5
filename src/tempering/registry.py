"""Finds methods: a file in the folder, an installed entry point, or ``path.py:Class``.

Adding a method is adding one file to ``attacks/``, ``defenses/``, ``evaluators/`` or ``judges/``. The file's name is the method's name;
inside stands one public class with a ``Config``. Files whose name starts with an underscore are not methods. Listing
names imports nothing; a method is imported when it is first asked for. An installed method that is broken, or whose name is taken,
stops nobody but who asks for it by name: :mod:`tempering.plugins`. A file of the user's own is run where that is allowed:
:mod:`tempering.consent`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from tempering import consent, plugins
from tempering.errors import InvalidStudy, TemperingError, UnknownName
from tempering.redaction import one_line
from tempering.relocation import located

KINDS = {"attacks": "attack", "defenses": "defense", "evaluators": "evaluator", "judges": "judge"}
"""Folder of each kind of method, with its singular for messages."""


@dataclass(frozen=True)
class MethodCard:
    """What ``temper ls`` tells of a method.

    Attributes:
        name: the registry's name.
        summary: first line of the class's docstring.
        source: paper or other origin.
        needs: what it must be given.
    """

    name: str
    summary: str
    source: str
    needs: list[str]

    def as_row(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return asdict(self)


def names(kind: str) -> list[str]:
    """Every method of a kind that can be asked for by name, sorted, without importing any."""
    return sorted({*_files(kind), *_installed(kind).points})


def own_names(kind: str) -> list[str]:
    """Those among :func:`names` that are Tempering's own. What runs unasked is taken from these: installing a package changes no audit."""
    return sorted(_files(kind))


def unasked(kind: str) -> list[str]:
    """Those among :func:`own_names` that run where a study names none: all but those whose class says ``unasked = False``."""
    return [name for name in own_names(kind) if getattr(get(kind, name), "unasked", True)]


def is_own(kind: str, name: str) -> bool:
    """Whether a method is Tempering's own: what goes wrong in it then is our defect, and keeps its traceback."""
    return name in _files(kind)


def get(kind: str, name: str) -> Any:
    """The class of a method.

    Args:
        kind: ``attacks``, ``defenses`` or ``evaluators``.
        name: a registry name, or ``path.py:Class`` for a file of the user's own.

    Raises:
        UnknownName: there is none of that name; the message carries the nearest one.
        InvalidStudy: the module that should hold it cannot be imported or holds no method, or is a file that nobody allowed to be run.
    """
    if ".py:" in name:
        consent.require(f"the {KINDS[kind]} {name!r}")
    return _class_of(kind, name)


@cache
def _class_of(kind: str, name: str) -> Any:
    if ".py:" in name:
        return _from_file(kind, name)
    if name in _files(kind):
        return _method_class(_imported(kind, name), kind, name)
    found = _installed(kind)
    if name in found.points:
        return plugins.loaded(kind, KINDS[kind], found.points[name])
    if name in found.problems:
        raise InvalidStudy(found.problems[name])
    raise UnknownName(KINDS[kind], name, names(kind))


def usable(kind: str, among: list[str] | None = None) -> tuple[list[str], list[str]]:
    """Import methods, and tell those that work from those that do not.

    Args:
        kind: ``attacks``, ``defenses`` or ``evaluators``.
        among: names to try; ``None`` takes all of them, and tells of names that cannot be used too.

    Returns:
        The names that work, in order, and a line for every other one.
    """
    problems = list(_installed(kind).problems.values()) if among is None else []
    working = []
    for name in names(kind) if among is None else among:
        try:
            get(kind, name)
        except TemperingError as problem:
            problems.append(str(problem))
        else:
            working.append(name)
    return working, problems


def configured(kind: str, name: str, config: dict[str, Any] | None = None) -> Any | None:
    """A method as :func:`create` makes it, for a report that can do without; ``None`` where it cannot be had any more or not be run."""
    if ".py:" in name:
        return None
    try:
        return create(kind, name, config)
    except TemperingError:
        return None


def entry_point(kind: str, name: str) -> EntryPoint | None:
    """Where an installed method comes from; ``None`` for the package's own and for files."""
    return _installed(kind).points.get(name)


def create(kind: str, name: str, config: dict[str, Any] | None = None) -> Any:
    """A method with its configuration validated.

    Raises:
        UnknownName: there is none of that name.
        InvalidStudy: a configuration key or value is wrong.
    """
    method = get(kind, name)
    for file in _files_in(config):
        consent.require(f"the {KINDS[kind]} {name!r}, whose settings name {file!r},")

    def made() -> Any:
        return method(method.Config(**(config or {})))

    try:
        if is_own(kind, name):
            return made()
        problem = f"the {KINDS[kind]} {name!r} cannot be made"
        return plugins.ended_in_one_line(made, problem, spare=(TemperingError, ValidationError))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"] if is_own(kind, name) else one_line(first["msg"])
        raise InvalidStudy(
            f"{KINDS[kind]} {name!r}, setting {where!r}: {said}", f"known: {', '.join(method.Config.model_fields)}"
        ) from None


def card(kind: str, name: str) -> MethodCard:
    """The card of one method."""
    method = get(kind, name)
    summary = (method.__doc__ or "").strip().splitlines()
    return MethodCard(
        name=name,
        summary=summary[0].rstrip(".") if summary else "",
        source=getattr(method, "source", ""),
        needs=sorted(str(need) for need in getattr(method, "needs", ())),
    )


@cache
def _files(kind: str) -> frozenset[str]:
    package = importlib.util.find_spec(f"tempering.{kind}")
    locations = list(package.submodule_search_locations or ()) if package else []
    return frozenset(module.name for module in pkgutil.iter_modules(locations) if not module.name.startswith("_"))


@cache
def _installed(kind: str) -> plugins.Installed:
    return plugins.installed(kind, KINDS[kind], _files(kind))


def _imported(kind: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"tempering.{kind}.{name}")
    except Exception as error:
        raise InvalidStudy(f"the file of the {KINDS[kind]} {name!r} cannot be imported: {error}", "mend it or take it out") from error


def _method_class(module: ModuleType, kind: str, name: str) -> Any:
    own = _methods_in(module)
    if len(own) != 1:
        raise InvalidStudy(f"{KINDS[kind]} {name!r} must define exactly one public class with a Config, and defines {len(own)}")
    return next(iter(own.values()))


def _files_in(value: Any) -> Iterator[str]:
    """The files of Python that settings name, at any depth: a defence may train against attacks, a chain has links."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _files_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _files_in(item)
    elif isinstance(value, BaseModel):
        yield from _files_in(value.model_dump())
    elif isinstance(value, str) and ".py:" in value and Path(value.rpartition(":")[0]).is_file():
        yield value


def _methods_in(module: ModuleType) -> dict[str, Any]:
    """The public classes with a ``Config`` that a module itself defines."""
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "Config") and not key.startswith("_")
    }


def _from_file(kind: str, name: str) -> Any:
    location, _, class_name = name.rpartition(":")
    path = located(location) or Path(location)
    if not path.is_file():
        raise InvalidStudy(f"no file {location} for the {KINDS[kind]} {name!r}")
    methods = _methods_in(_executed(path, kind))
    if class_name not in methods:
        raise UnknownName(f"{KINDS[kind]} class in {location}", class_name, methods)
    if problem := plugins.breach(methods[class_name], kind, KINDS[kind]):
        raise InvalidStudy(f"the {KINDS[kind]} {name!r} {problem}", "mend the file")
    return methods[class_name]


def _executed(path: Path, kind: str) -> ModuleType:
    """Run a user's file as a module of its own, registered because dataclasses and pydantic look their module up."""
    name = f"tempering_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidStudy(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        plugins.ended_in_one_line(lambda: loader.exec_module(module), f"{path} cannot be loaded for its {KINDS[kind]}")
    except BaseException:
        del sys.modules[name]
        raise
    return module
