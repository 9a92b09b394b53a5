"""What the page says of a comparison of defences; :mod:`tempering.report.page` says the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tempering.economics.absence import NO_SIGN, SUPPRESSED, UNDECIDED, UNTRIED
from tempering.report.defended import KEPT, ControlRow, DefenseRow, Measured, Times, control_rows, defense_rows, is_comparison
from tempering.report.formatting import NOTHING, count, flops, share
from tempering.report.rows import PriceRow, group_title

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment

UNDEFENDED = "undefended"
_STRONGEST_TINT = 46
"""Per cent of colour in the cell of a multiplier of a thousand or more."""

_VERDICTS = {
    SUPPRESSED: "examples of other facts bring held-out answers back, so the model still knows them",
    NO_SIGN: "only documents bring them back: the attacks found nothing to bring back",
    UNDECIDED: "nothing that was tried brings them back; whether the model knows them stays open",
    UNTRIED: "no attack without documents was run",
}


def comparison_context(assessment: Assessment) -> dict[str, Any] | None:
    """Everything that the page's section on defences shows; ``None`` where there is no defence."""
    if not is_comparison(assessment):
        return None
    rows, controls = defense_rows(assessment), control_rows(assessment)
    families = sorted({name for row in rows for name in row.families})
    return {
        "families": families,
        "lessons": any(row.lesson.status for row in rows),
        "models": [
            {
                "name": model if len(controls) > 1 else "",
                "rows": [_line(row, families) for row in rows if row.model == model],
                "control": _control(control, families),
            }
            for model, control in controls.items()
        ],
        "bars": _other_bar(rows),
        "knowledge": _knowledge(rows),
        "verdicts": [{"name": name, "meaning": meaning} for name, meaning in _VERDICTS.items() if any(row.verdict == name for row in rows)],
        "notes": _notes(rows),
        "kept": share(KEPT),
    }


def comparison_tiles(assessment: Assessment) -> list[dict[str, str]]:
    """The numbers under the headline: the defence that raises the price most, by how much, and what it leaves."""
    rows = [row for row in defense_rows(assessment) if row.best.told]
    if not rows:
        return []
    best = max(rows, key=lambda row: row.best.value)
    where = f" on {best.model}" if len({row.model for row in rows}) > 1 else ""
    raised = sum(row.best.dearer for row in rows)
    return [
        {
            "label": "Dearest to break",
            "value": best.defense,
            "note": f"of {len(rows)} {'defence' if len(rows) == 1 else 'defences'}{where}",
        },
        {
            "label": "Its best attacker pays",
            "value": best.best.middle,
            "note": "95 % interval" if best.best.interval else "the undefended price",
            "interval": best.best.interval,
        },
        {"label": "Utility it leaves", "value": str(best.utility_kept), "note": f"{best.over_refusal} of borderline prompts refused"},
        {"label": "Raise the price", "value": f"{raised} of {len(rows)}", "note": "for the best attacker, beyond chance"},
    ]


def in_order(assessment: Assessment, groups: Mapping[tuple[str, str], list[PriceRow]]) -> list[tuple[tuple[str, str], list[PriceRow]]]:
    """Groups of price rows as the comparison has them: each model as it came, then its defences, the dearest first."""
    places = {(row.model, row.defense): place for place, row in enumerate(defense_rows(assessment), start=1)}
    return sorted(groups.items(), key=lambda item: (item[0][0], places.get(item[0], 0)))


def title_in_comparison(model: str, defense: str) -> str:
    """What a model behind a defence is called where the one without is called undefended."""
    title = group_title(model, defense)
    return f"{title}, {UNDEFENDED}" if title == model else title


def _line(row: DefenseRow, families: Sequence[str]) -> dict[str, Any]:
    cells = [{"title": name[:1].upper() + name[1:], **_ratio(row.families.get(name, Times()), interval=False)} for name in families]
    return {
        "defense": row.defense,
        "verdict": row.verdict,
        "suppressed": row.suppressed,
        "best": {"title": "Best attacker", **_ratio(row.best)},
        "by": f"by {row.attack}" if row.attack else f"{row.broken} of {row.runs} broken",
        "families": cells,
        "utility": _share(row.utility),
        "over_refusal": _share(row.over_refusal),
        "borderline": _share(row.borderline),
        "coherence": _share(row.coherence),
        "lesson": _ratio(row.lesson, tint=False),
        "training": flops(row.training),
        "trained": row.training,
        "few": row.few_seeds,
    }


def _ratio(ratio: Times, *, interval: bool = True, tint: bool = True) -> dict[str, Any]:
    shade = min(1.0, abs(math.log10(ratio.value)) / 3) if ratio.told and ratio.value > 0 else 0.0
    sure = ratio.dearer or ratio.cheaper
    return {
        "middle": ratio.middle if ratio.told else "",
        "interval": ratio.interval if interval else "",
        "whole": str(ratio),
        "rank": ratio.rank,
        "reason": ratio.reason,
        "tint": round(_STRONGEST_TINT * max(0.18, shade)) if tint and sure else 0,
        "cheaper": ratio.cheaper,
    }


def _share(measured: Measured) -> dict[str, Any]:
    return {"middle": str(measured), "interval": measured.interval, "rank": measured.value}


def _control(control: ControlRow, families: Sequence[str]) -> dict[str, Any]:
    return {
        "price": _spent(control.price),
        "by": f"by {control.attack}" if control.attack else "",
        "families": [{"title": name[:1].upper() + name[1:], "price": _spent(control.families.get(name, math.nan))} for name in families],
        "utility": share(control.utility),
        "over_refusal": share(control.over_refusal),
        "borderline": share(control.borderline),
        "coherence": share(control.coherence),
        "lesson": f"{count(control.lesson)} steps" if math.isfinite(control.lesson) else NOTHING,
    }


def _spent(price: float) -> str:
    return flops(price) if math.isfinite(price) else "not broken"


def _other_bar(rows: Sequence[DefenseRow]) -> list[dict[str, str]]:
    """Defences whose multiplier is another one where breaks must keep the utility of the undefended model."""
    differ = [row for row in rows if row.at_control_utility != row.best and str(row.at_control_utility) != str(row.best)]
    return [{"defense": row.defense, "own": str(row.best), "control": str(row.at_control_utility)} for row in differ]


def _knowledge(rows: Sequence[DefenseRow]) -> dict[str, Any]:
    lines = [
        {
            "defense": f"{row.defense} on {row.model}" if len({other.model for other in rows}) > 1 else row.defense,
            "examples": share(row.examples_recovered),
            "documents": share(row.documents_recovered),
            "ranks": {"examples": row.examples_recovered, "documents": row.documents_recovered},
            "verdict": row.verdict,
            "suppressed": row.suppressed,
        }
        for row in rows
        if row.verdict
    ]
    gone = [row.defense for row in rows if row.verdict == NO_SIGN]
    known = sum(row.suppressed for row in rows)
    if not lines:
        return {"lines": [], "sentence": ""}
    left = f"{_and(gone)} {'shows' if len(gone) == 1 else 'show'} no sign of it" if gone else "No defence was shown to remove it"
    back = "examples of other facts bring held-out answers back"
    where = f"{known} of {len(lines)} defences" if len(lines) > 1 else str(lines[0]["defense"]) if known else "no defence"
    sentence = f"Behind {where} the knowledge is suppressed, not removed: {back}. {left}."
    return {"lines": lines, "sentence": sentence}


def _notes(rows: Sequence[DefenseRow]) -> list[dict[str, str]]:
    """What weakens a comparison."""
    bounds = [row.defense for row in rows if row.best.bound]
    few = [row.defense for row in rows if row.few_seeds]
    silent = [row for row in rows if not row.best.told]
    found = []
    if bounds:
        text = (
            f"Fewer than half of the runs broke {_and(bounds)} within the budget. The multiplier is then a lower bound, the spend up to "
            "which every attack that had more to give was watched, and says nothing of larger budgets or other settings."
        )
        found.append({"head": "Lower bounds", "text": text})
    if few:
        text = f"{_and(few)} had fewer than five seeds, and no interval drawn from so few comes near 95 %."
        found.append({"head": "Few seeds", "text": text})
    lost = [f"{row.hardenings - row.hardened} of {row.hardenings} by {row.defense}" for row in rows if 0 < row.hardened < row.hardenings]
    if lost:
        text = f"Trainings that left no model: {_and(lost)}. What was to be done to those models was left out, and counts neither way."
        found.append({"head": "Failed trainings", "text": text})
    found += [{"head": row.defense, "text": f"No multiplier is known: {row.best.reason}."} for row in silent]
    return found


def _and(names: Sequence[str], most: int = 6) -> str:
    """Names as a sentence lists them, the rest counted."""
    unique = list(dict.fromkeys(names))
    shown = unique if len(unique) <= most + 1 else [*unique[:most], f"{len(unique) - most} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
