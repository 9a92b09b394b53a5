"""Trackers: one file each tells a service of experiments how a run goes. Which there are is read off the folder.

A tracker is adding one file: its name is the tracker's, on the command line and as an extra of the package, and inside stands one public
class that derives from :class:`tempering.trackers._contract.Tracker`. Nothing of a tracker is imported until it is named.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable

from tempering.errors import InvalidStudy, UnknownName
from tempering.trackers._contract import Tracker

__all__ = ["Tracker", "chosen", "names"]


def names() -> list[str]:
    """Every tracker, sorted; nothing is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def chosen(named: str | Iterable[str]) -> list[Tracker]:
    """The trackers that a user names, each once; their libraries are imported, and nothing is asked of a network.

    Args:
        named: names, or one text with commas between them; each of several texts may have commas too.

    Raises:
        UnknownName: there is no tracker of that name.
        InvalidStudy: the library of one is not installed.
    """
    texts = [named] if isinstance(named, str) else list(named)
    wanted = dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip())
    return [_made(name) for name in wanted]


def _made(name: str) -> Tracker:
    if name not in names():
        raise UnknownName("tracker", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Tracker) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    if len(found) != 1:
        raise InvalidStudy(f"the tracker {name!r} must define exactly one public class, and defines {len(found)}")
    tracker: Tracker = found[0]()
    try:
        tracker.load()
    except ImportError:
        raise InvalidStudy(f"--track {name}: its library is not installed", f'install it with: pip install "tempering[{name}]"') from None
    return tracker
