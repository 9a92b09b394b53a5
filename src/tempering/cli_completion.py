"""What the shell can complete beyond commands, flags and files: the names of methods, trackers, data sets and organisms."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def methods(kind: str, *separators: str, also: Iterable[str] = ()) -> Callable[[str], list[str]]:
    """Completes the last of several names of methods; nothing is imported but the list of files.

    Args:
        kind: ``attacks``, ``defenses``, ``evaluators`` or ``judges``.
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


def data(incomplete: str) -> list[str]:
    """Completes the last of several names of data sets, or an organism; files are the shell's own."""
    from tempering.data.declarations import names

    start = incomplete.rfind("+") + 1
    before, begun = incomplete[:start], incomplete[start:]
    return [before + word for word in (*names(), *_organisms()) if word.startswith(begun)]


def models(incomplete: str) -> list[str]:
    """Completes an organism; directories are the shell's own, and the hub is not asked."""
    return [word for word in _organisms() if word.startswith(incomplete)]


def _organisms() -> list[str]:
    from tempering.organisms import SIZES

    return [f"organism:{size}" for size in SIZES]
