"""Packages that the main job does without: asked for by who needs them, in one line."""

from __future__ import annotations

import importlib.util

from tempering.errors import TemperingError


def require(package: str, extra: str, what: str) -> None:
    """Refuse what needs a package that is not installed.

    Args:
        package: to be imported.
        extra: of Tempering's, that brings it.
        what: needs it, as the beginning of a sentence.

    Raises:
        TemperingError: it is not there.
    """
    if importlib.util.find_spec(package) is None:
        problem = f"{what} needs the package {package}, which is not installed"
        raise TemperingError(problem, f'install it with: pip install "tempering[{extra}]"')
