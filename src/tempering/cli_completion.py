"""What the shell can complete beyond commands, flags and files: the names of methods, trackers and models."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def methods(kind: str, *separators: str, also: Iterable[str] = ()) -> Callable[[str], list[str]]:
    """Completes the last of several names of methods; nothing is imported but the list of files.

    Args:
        kind: ``attacks``, ``defenses`` or ``evaluators``.
        separators: between names.
        also: words that may stand in place of names.
    """

    def complete(incomplete: str) -> list[str]:
        from tempering import registry

        start = max((incomplete.rfind(separator) + 1 for separator in separators), default=0)
        before, begun = incomplete[:start], incomplete[start:]
        words = [*registry.names(kind), *(also if not before else ())]
        return [before + word for word in words if word.startswith(begun)]

    return complete


def trackers(incomplete: str) -> list[str]:
    """Names of trackers."""
    from tempering.trackers import names

    return [name for name in names() if name.startswith(incomplete)]
