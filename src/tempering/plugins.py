"""Methods that other packages bring, by the entry points of their distributions.

Looking for them reads the names in the distributions' metadata and imports nothing. One that cannot be used is a line of text for whoever
lists methods, and an error for whoever asks for it by name; every other method goes on working. What can be wrong with one:

- its name is taken by a method of Tempering's own, which stays what it is, or by a second distribution: then neither is taken;
- its name is not one that a command line, a table and a file name can hold;
- its module raises or exits when it is imported, or is not there, or holds no such class;
- its class does not derive from the contract of its kind, or leaves a part of it open.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel

from tempering.errors import InvalidStudy
from tempering.redaction import one_line

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
_REMEDY = "mend it, or take it away"


@dataclass(frozen=True)
class Installed:
    """The methods of one kind that other packages bring.

    Attributes:
        points: where each usable name leads; nothing is imported yet.
        problems: of each name that is not usable, why, in a line.
    """

    points: dict[str, EntryPoint] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def installed(kind: str, noun: str, own: frozenset[str]) -> Installed:
    """Look for them.

    Args:
        kind: ``attacks``, ``defenses`` or ``evaluators``.
        noun: the kind in the singular.
        own: Tempering's own names, which nobody else's method takes the place of.
    """
    by_name: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"tempering.{kind}"):
        by_name.setdefault(point.name, []).append(point)
    found = Installed()
    for name, points in sorted(by_name.items()):
        holders = " and ".join(sorted({_holder(point) for point in points}))
        if not _NAME.fullmatch(name):
            found.problems[name] = f"the {noun} {name!r} of {holders} has no usable name; letters, digits, '_', '-' and '.' make one"
        elif name in own:
            found.problems[name] = f"the {noun} {name!r} of {holders} has the name of one of Tempering's own, and is left out; {_REMEDY}"
        elif len(points) > 1:
            found.problems[name] = f"the {noun} {name!r} is brought by {holders}, and neither is taken; uninstall one of them"
        else:
            found.points[name] = points[0]
    return found


def loaded(kind: str, noun: str, point: EntryPoint) -> Any:
    """Import the class that an entry point names.

    Raises:
        InvalidStudy: it cannot be used; one line says why.
    """
    what = f"the installed {noun} {point.name!r} of {_holder(point)}"
    found = ended_in_one_line(point.load, f"{what} cannot be loaded")
    if problem := breach(found, kind, noun):
        raise InvalidStudy(f"{what} {problem}", _REMEDY)
    return found


def ended_in_one_line(call: Callable[[], Any], problem: str, spare: tuple[type[Exception], ...] = ()) -> Any:
    """Call others' code, and let it end in one line however it ends. What it prints goes to standard error, where results are not.

    Args:
        call: calls it.
        problem: how the line begins.
        spare: what it may raise as it is.

    Returns:
        What it returns.

    Raises:
        InvalidStudy: it raised something else, or asked the process to exit.
    """
    try:
        with redirect_stdout(sys.stderr):
            return call()
    except spare:
        raise
    except (Exception, SystemExit) as error:
        said = one_line(str(error)) or "nothing more was said"
        raise InvalidStudy(f"{problem}: {type(error).__name__}: {said}", _REMEDY) from error


def breach(found: Any, kind: str, noun: str) -> str:
    """How a class breaks the contract of its kind, as the end of a sentence; ``""`` where it keeps it."""
    contract = getattr(importlib.import_module(f"tempering.{kind}._contract"), noun.capitalize())
    if not (isinstance(found, type) and issubclass(found, contract)):
        return f"does not derive from tempering.{kind}.{noun.capitalize()}"
    settings = getattr(found, "Config", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        return "has no Config with its settings"
    lacking = sorted(getattr(found, "__abstractmethods__", ())) if inspect.isabstract(found) else []
    lacking += [name for name in sorted(contract.__annotations__) if not hasattr(found, name)]
    return f"does not say its {lacking[0]!r}" if lacking else ""


def _holder(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed package"
