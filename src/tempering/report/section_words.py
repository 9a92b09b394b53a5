"""Words that several sections share: names kept short, ranges of FLOPs, and how likely chance alone is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tempering.economics.tables import CONTROL
from tempering.report.formatting import NOTHING, flops, significant

_LONGEST = 26
CHANCE = 0.05
"""What chance alone may do how often before it is said to be more than chance."""


def shortened(name: str, longest: int = _LONGEST) -> str:
    """A name that fits a drawing; tables have it whole."""
    return name if len(name) <= longest else f"{name[: longest - 1].rstrip()}…"


def both_ends(name: str, longest: int) -> str:
    """A name that fits a drawing, its beginning and its end, which is where long names differ and where a file's class stands."""
    return name if len(name) <= longest else f"{name[: longest - 14]}…{name[-13:]}"


def titled(defense: str) -> str:
    """A defence as a reader meets it; the control is "undefended"."""
    return "undefended" if defense in ("", CONTROL) else defense


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence: "a", "a and b", "a, b, c and 4 others"."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""


def together(said: Sequence[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """What is said of several in the same words, said once: (names, words)."""
    found: dict[str, list[str]] = {}
    for name, words in said:
        found.setdefault(words, []).append(name)
    return [(names, words) for words, names in found.items()]


def capital(text: str) -> str:
    """As a sentence begins."""
    return text[:1].upper() + text[1:]


def counted(number: int, thing: str, things: str = "") -> str:
    """So many of a thing: "1 seed", "5 seeds"."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"


def flops_between(low: float, high: float) -> str:
    """From one number of FLOPs to another, the unit once where both share it: "0.96 – 1.9 GFLOP", "≤ 1.9 GFLOP", "from 3 GFLOP"."""
    if math.isnan(low) or math.isnan(high):
        return NOTHING
    if math.isinf(high):
        return f"from {flops(low)}" if low > 0 else "unbounded"
    if high == 0:
        return "0"
    if low == 0:
        return f"≤ {flops(high)}"
    first, last = flops(low), flops(high)
    number, _, unit = first.partition(" ")
    return last if first == last else f"{number} – {last}" if last.endswith(f" {unit}") else f"{first} – {last}"


def chance(p_value: float) -> str:
    """A p-value to two digits: "p = 0.45", "p < 0.0001"; "p unknown"."""
    if math.isnan(p_value):
        return "p unknown"
    return "p < 0.0001" if p_value < 1e-4 else f"p = {probability(p_value)}"


def probability(value: float) -> str:
    """Two significant digits, and none after the point that say nothing: "0.0079", "0.45", "1"."""
    return NOTHING if math.isnan(value) else significant(value, 2) if value < 0.995 else "1"
