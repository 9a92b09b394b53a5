"""What hardening a model says in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from tempering.report.formatting import count, duration, flops, tokens


def effect_table(rows: Iterable[tuple[str, str, str]]) -> Table:
    """What a defence did to a model on held-out prompts.

    Args:
        rows: measure, before, after.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for title in ("Held-out prompts", "Before", "After"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def spend_sentence(spend: Mapping[str, float], own: int, adversaries: int = 0) -> str:
    """What a training used: "Training took 200 steps, 2,554 examples, 57k tokens, 290 GFLOP, 21 s.".

    Args:
        spend: all of it.
        own: optimizer steps of the defender's.
        adversaries: those of adversaries that were trained against in between.
    """
    inner = f", {count(adversaries)} of adversaries between them" if adversaries else ""
    return (
        f"Training took {count(own)} steps{inner}, {count(spend['examples'])} examples, {tokens(spend['tokens'])} tokens, "
        f"{flops(spend['flops'])}, {duration(spend['device_seconds'])}."
    )
