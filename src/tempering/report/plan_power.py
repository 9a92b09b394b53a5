"""What a plan says in a terminal of what its study would be able to see: a few sentences, and a table of seeds against power."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from tempering.report import formatting
from tempering.report.terminal import counted

_ALARMING = 0.05
"""A share of false alarms that lies above this for sure is spoken of; nominally it is half of that."""


def power_lines(power: Mapping[str, Any]) -> list[str]:
    """How many seeds a study needs, what that costs, what stands in the way and what it rests on, one line each.

    Args:
        power: from :func:`tempering.planning_power.planned_power`.
    """
    alone = "This study names no defence: reckoned is with one, attacked like the model as it came; that doubles the cost."
    doubled = [] if power["defenses"] else [alone]
    return [_answer(power), *_gaps(power), *_least_seen(power), *_alarms(power), *doubled, _basis(power), _search(power)]


def power_table(power: Mapping[str, Any]) -> Table:
    """Seeds against power, false alarms and cost, this study's own among them.

    Args:
        power: from :func:`tempering.planning_power.planned_power`.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("Seeds", "Power", "False alarms", "FLOPs", "Dollars"):
        table.add_column(title, justify="right")
    table.add_column("")
    own = power["this_study"]
    rows = {row["seeds"]: row for row in (*power["rows"], *([own] if own else []))}
    for seeds, row in sorted(rows.items()):
        remarks = ("this study" if own and seeds == own["seeds"] else "", "enough" if seeds == power["seeds"] else "")
        table.add_row(
            str(seeds),
            _share(row, "power"),
            _share(row, "false_alarms"),
            formatting.flops(row["flops"]),
            formatting.dollars(row["usd"]),
            Text(", ".join(filter(None, remarks))),
        )
    return table


def table_note(power: Mapping[str, Any]) -> str:
    """How to read the table."""
    studies, multiplier = power["simulated"]["studies"], _times(power["multiplier"])
    trained = " and training the defences" if power["hardening"] else ""
    return (
        f"Power: of {studies} simulated studies of a defence worth {multiplier}, those whose interval lies above 1×; in brackets what so "
        f"few simulations leave open (95 %). False alarms: the same of a defence worth nothing. Cost: attacks{trained}, without probes."
    )


def _answer(power: Mapping[str, Any]) -> str:
    asked = f"To see a multiplier of {_times(power['multiplier'])} at {formatting.share(power['power'])} power"
    own = power["this_study"]
    has = f"this study has {own['seeds']}: power {_share(own, 'power')}" if own else "this study has more than are simulated"
    if power["ceiling"] < power["power"]:
        best = "none at all" if power["ceiling"] == 0 else f"at most {formatting.share(power['ceiling'])} of studies"
        return f"{asked}: no number of seeds is enough, for with its probes {best} can see it ({has})."
    rows = {row["seeds"]: row for row in power["rows"]}
    row = rows[power["seeds"] or power["most_tried"]]
    cost = f"{formatting.flops(row['flops'])}, {formatting.dollars(row['usd'])} of attacks"
    if power["seeds"] is None:
        return f"{asked}: more than {power['most_tried']} seeds ({has}); {power['most_tried']} would be {cost}."
    return f"{asked}: {power['seeds']} seeds ({has}), {cost}."


def _gaps(power: Mapping[str, Any]) -> list[str]:
    """What the gaps between probes hide, where they do."""
    spacing, exactly = power["basis"]["spacing"], power["formula"]["seen_exactly"]
    needed = power["seeds"] or math.inf
    if spacing == 1 or exactly is None or (power["ceiling"] >= power["power"] and needed <= 2 * exactly):
        return []
    limit = "Closer probes would save more than seeds do."
    if power["ceiling"] < power["power"]:
        limit = f"It takes probes no more than {_spacing(power['spacing_needed'])} apart, and closer ones are better."
    return [
        f"The gaps between probes are in the way: each probe is {_spacing(spacing)} the one before, and an interval counts the gap in full "
        f"on both of its sides. Were costs seen exactly, about {_counted(exactly, 'seed')} would do (by formula). {limit}"
    ]


def _least_seen(power: Mapping[str, Any]) -> list[str]:
    own, least = power["this_study"], power["least_seen"]
    if own is None or (least is not None and least <= power["multiplier"]):
        return []
    seeds = _counted(own["seeds"], "seed")
    told = f"multipliers from about {_times(least)} on" if least else "no multiplier, however large"
    return [f"With its {seeds} this study would see {told} at that power."]


def _alarms(power: Mapping[str, Any]) -> list[str]:
    own = power["this_study"]
    rows = {row["seeds"]: row for row in (*power["rows"], *([own] if own else []))}
    shown = [rows[seeds] for seeds in dict.fromkeys((power["seeds"], own["seeds"] if own else None)) if seeds in rows]
    return [
        f"Beware: of studies of {_counted(row['seeds'], 'seed')}, {_share(row, 'false_alarms')} see a multiplier where there is none."
        for row in shown
        if row["false_alarms_low"] > _ALARMING
    ]


def _basis(power: Mapping[str, Any]) -> str:
    basis = power["basis"]
    ends = f"; runs end at {basis['budget']:.2g} times what breaks the model as it came" if basis["budget"] is not None else ""
    if basis["source"] == "assumptions":
        odd = "" if power["fine_tuning"] else " (no attack of this study fine-tunes, and theirs may be otherwise)"
        return (
            f"Assumed, not measured: from seed to seed the logarithm of a cost has {_spreads(basis)}, both sides independently; probes are "
            f"{_spacing(basis['spacing'])} apart, as those of fine-tuning are{odd}{ends}. A pilot tells better: --pilot RUN."
        )
    pilot, gap = basis["pilot"], f"between probes {_spacing(basis['spacing'])} apart" if basis["spacing"] > 1 else "at the first probe"
    of = f"{_counted(pilot['seeds'], 'seed')}, {_counted(pilot['models'], 'model')}, {_counted(pilot['defenses'], 'defence')}"
    return (
        f"From the pilot {pilot['directory']} ({of}; {pilot['broken']} of {pilot['runs']} times the best attacker broke it): from seed to "
        f"seed the logarithm of a cost has {_spreads(basis)}, the most that so few seeds leave likely (80 %); correlation of the sides "
        f"{basis['correlation']:.2g}; most breaks were seen {gap}{ends}."
    )


def _spreads(basis: Mapping[str, Any]) -> str:
    without, behind = (f"{basis[side]:.2g} (a factor of {math.exp(basis[side]):.2g})" for side in ("control", "defended"))
    told = f"{without} with and without a defence" if without == behind else f"{without} without a defence and {behind} with one"
    return f"a standard deviation of {told}"


def _search(power: Mapping[str, Any]) -> str:
    search = power["search"]
    most = f"{formatting.dollars(search['usd'])} ({formatting.flops(search['flops'])}) at most with {_counted(search['seeds'], 'seed')}"
    cost = f"takes {most}, in the above" if search["planned"] else f"(search: {search['trials']}) would add {most}"
    return f"Searching {_counted(search['trials'], 'trial')} before each run {cost}. It is taken to change prices, not how much they vary."


def _share(row: Mapping[str, Any], name: str) -> str:
    """A share with its interval: 42 % (35 – 49 %)."""
    low, high = (formatting.share(row[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{formatting.share(row[name])} ({low.removesuffix(' %')} – {high})"


def _counted(number: int, noun: str) -> str:
    return counted(str(number), noun)


def _times(multiplier: float) -> str:
    """As it was asked for: 2×, 1.5×."""
    return f"{multiplier:g}×"


def _spacing(value: float) -> str:
    """Gaps of 1.41 and of 1.47 are not the same, so three digits."""
    return f"{value:.3g}×"
