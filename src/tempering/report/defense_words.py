"""What a comparison of defences says in a terminal and in the headline of its page: one sentence, and one compact table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tempering.report.defended import KEPT, DefenseRow, Times, control_rows, defense_rows
from tempering.report.formatting import NOTHING, count, flops, share

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment


WHY = {
    "control_held": "the undefended model did not break within the budget",
    "free": "the undefended model withholds nothing",
    "unknown": "no attack on a hardened model got far enough",
    "untrained": "no hardened model could be trained",
    "": "no attack was run on both sides",
}
"""Why no multiplier is known, as the end of a sentence."""


def comparison_sentence(assessment: Assessment) -> str:
    """Which defence raises the price, by how much, at what tax; one or two sentences a model."""
    rows = defense_rows(assessment)
    models = list(dict.fromkeys(row.model for row in rows))
    return " ".join(_about(model, [row for row in rows if row.model == model]) for model in models)


def _about(model: str, rows: list[DefenseRow]) -> str:
    known = [row for row in rows if row.best.told]
    if not known:
        return f"What {_listed(rows)} {'does' if len(rows) == 1 else 'do'} to the price of {model} is not known: {_why(rows)}."
    best, several = known[0], len(rows) > 1
    said = f"{_raise(best)}. {_tax(best)}".strip()
    if not best.best.dearer:
        chance = f"the price of {model} beyond what chance explains"
        return (
            f"No defence raises {chance}; {best.defense} comes first: {said}"
            if several
            else f"{best.defense} does not raise {chance}: {said}"
        )
    first = f"{best.defense} raises the price of {model}{' most' if several else ''}: {said}"
    if best.affordable:
        return first
    other = next((row for row in known if row.affordable), None)
    if other is None:
        return f"{first} No defence both leaves {share(KEPT)} of utility and answers {share(KEPT)} of borderline prompts."
    return f"{first} Of those that leave {share(KEPT)} of utility and answer {share(KEPT)} of borderline prompts, {_next(other)}."


def _next(row: DefenseRow) -> str:
    return f"{row.defense} does most: {_raise(row)}"


def _raise(row: DefenseRow) -> str:
    compared = "as much compute as on the undefended model"
    if row.best.bound:
        often = f"{row.broken} of {row.runs} runs" if row.broken else f"any of {row.runs} runs" if row.runs > 1 else "a single run"
        how = f"it broke in only {often}" if row.broken else f"nothing broke it in {often}"
        return f"{how} within the budget, so the best attacker pays at least {row.best.middle.removeprefix('≥ ')} {compared}"
    interval = f" (95 % interval {row.best.interval})" if row.runs > 1 else ""
    return f"the best attacker, by {row.attack}, pays {row.best.middle} {compared}{interval}"


def _tax(row: DefenseRow) -> str:
    """What it takes, as a sentence of its own; nothing where nothing was measured."""
    parts = []
    if math.isfinite(row.utility_kept.value):
        parts.append(f"leaves {row.utility_kept} of utility")
    if math.isfinite(row.borderline.value):
        parts.append(f"answers {row.borderline} of borderline prompts well")
    elif math.isfinite(row.over_refusal.value):
        parts.append(f"refuses {row.over_refusal} of borderline prompts")
    if row.lesson.told and not row.lesson.bound and row.lesson.middle == "1.0×":
        parts.append("leaves an honest user's fine-tuning as quick as it was")
    elif row.lesson.told:
        least = "at least " if row.lesson.bound else ""
        parts.append(f"makes an honest user's fine-tuning take {least}{row.lesson.middle.removeprefix('≥ ')} the steps")
    if math.isfinite(row.training):
        parts.append(f"took {flops(row.training)} to train")
    return f"It {', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}." if parts else ""


def _why(rows: list[DefenseRow]) -> str:
    return _and(list(dict.fromkeys(WHY[row.best.status] for row in rows)))


def _listed(rows: list[DefenseRow]) -> str:
    return rows[0].defense if len(rows) == 1 else f"the {len(rows)} defences"


def _and(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


_COLUMNS = ("Defence", "Best attacker", "By", "Utility", "Over-refusal", "Borderline", "Lesson", "Training", "Knowledge")
_KEPT_LONGEST = ("Defence", "Best attacker", "Utility", "Borderline", "Lesson", "By", "Training", "Knowledge", "Over-refusal")
"""Columns in the order in which a narrow terminal keeps them."""


def comparison_lines(assessment: Assessment) -> tuple[tuple[str, ...], list[tuple[str, dict[str, str]]]]:
    """The comparison as text, model by model, the defence that raises the price most first, the undefended model last.

    Args:
        assessment: what economics computed.

    Returns:
        The titles of the columns, and for each line a style for a terminal and its cells by title.
    """
    rows = defense_rows(assessment)
    controls = control_rows(assessment)
    lines: list[tuple[str, dict[str, str]]] = []
    for model, control in controls.items():
        if len(controls) > 1:
            lines.append(("bold", {"Defence": model}))
        lines += [("", _cells(row)) for row in rows if row.model == model]
        undefended = {
            "Defence": "undefended",
            "Best attacker": flops(control.price),
            "By": control.attack or NOTHING,
            "Utility": share(control.utility),
            "Over-refusal": share(control.over_refusal),
            "Borderline": share(control.borderline),
            "Lesson": f"{count(control.lesson)} steps" if math.isfinite(control.lesson) else NOTHING,
        }
        lines.append(("dim", undefended))
    return _COLUMNS, lines


def comparison_table(assessment: Assessment, width: int = 100) -> Table:
    """The comparison, the defence that raises the price most first, the undefended model last.

    A terminal too narrow for everything loses columns, the least telling first; defence and multiplier always stay.

    Args:
        assessment: what economics computed.
        width: columns of the terminal.

    Returns:
        A table for ``rich``.
    """
    _, lines = comparison_lines(assessment)
    widths = {title: max(len(title), *(len(cells.get(title, "")) for _, cells in lines)) for title in _COLUMNS}
    shown = _fitting(widths, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False, collapse_padding=True)
    for title in shown:
        left = title in ("Defence", "By", "Knowledge")
        table.add_column(title, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for style, cells in lines:
        table.add_row(*(Text(cells.get(title, ""), style=style) for title in shown))
    return table


def _fitting(widths: dict[str, int], width: int) -> list[str]:
    kept = ["Defence", "Best attacker"]
    for title in _KEPT_LONGEST[2:]:
        if sum(widths[name] + 2 for name in (*kept, title)) - 2 > width:
            break
        kept.append(title)
    return [title for title in _COLUMNS if title in kept]


def _cells(row: DefenseRow) -> dict[str, str]:
    return {
        "Defence": row.defense,
        "Best attacker": str(row.best),
        "By": row.attack or NOTHING,
        "Utility": str(row.utility),
        "Over-refusal": str(row.over_refusal),
        "Borderline": str(row.borderline),
        "Lesson": _short(row.lesson),
        "Training": row.training_words,
        "Knowledge": row.verdict or NOTHING,
    }


def _short(lesson: Times) -> str:
    return lesson.middle if lesson.told else NOTHING
