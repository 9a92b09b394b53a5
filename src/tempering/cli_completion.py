"""What the shell can complete beyond commands, flags and files: the names of methods, trackers, data sets and organisms.

bash cuts words at the signs of its ``COMP_WORDBREAKS``: of ``organism:t`` it hands over ``organism``, ``:`` and ``t``, and puts what it is
given in the place of ``t`` alone. So for bash, words are put together again before, and their beginnings taken off what comes of it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

_CUT_AT = ":="
"""At which bash cuts words, of the signs that ours have."""


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


@contextlib.contextmanager
def for_bash() -> Iterator[None]:
    """Complete whole words while the block runs, where bash is what asks; anything else is left as it is."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    at = os.environ.get("COMP_CWORD", "")
    if os.environ.get("_TEMPER_COMPLETE") != "complete_bash" or not at.isdecimal() or not 0 < int(at) < len(words):
        yield
        return
    whole, place, begun = put_together(words[: int(at) + 1])
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(whole), str(place)
    found = io.StringIO()
    try:
        with contextlib.redirect_stdout(found):
            yield
    finally:
        lines = found.getvalue().splitlines()
        sys.stdout.write("".join(f"{line.removeprefix(begun)}\n" for line in lines))


def put_together(words: Sequence[str]) -> tuple[list[str], int, str]:
    """Words as they were typed, out of the pieces that bash makes of them.

    Args:
        words: pieces up to the one at the cursor, the last; a row of signs is a piece of its own.

    Returns:
        The words, the number of the one at the cursor, and what of its value stands before the piece that bash will replace.
    """
    whole: list[str] = []
    begun, is_open = "", False
    for word in words:
        is_cut = bool(word) and not word.strip(_CUT_AT)
        if whole and (is_cut or (is_open and word and not word.startswith("-"))):
            begun = whole[-1] + word if is_cut else whole[-1]
            whole[-1] += word
        else:
            whole.append(word)
            begun = ""
        is_open = is_cut
    return whole, len(whole) - 1, begun.partition("=")[2] if begun.startswith("-") else begun
