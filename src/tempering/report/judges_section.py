"""The section on the judges of a study that names any: what they found, how far they agree, and what judging took."""

from __future__ import annotations

import math
from typing import Any

from tempering.economics.judged import CELLS
from tempering.report.formatting import NOTHING, count, duration, flops, share
from tempering.report.section import Cell, Line, Material, Section, SectionTable
from tempering.report.section_words import listed

_COLUMNS = ("Harm, mean", "Agrees", "κ", "Useful by both", "First only", "Second only", "By neither")
_COST_COLUMNS = ("Responses", "Needed none", "Known", "Asked", "Sent again", "Said nothing", "Tokens in", "Tokens out", "Time", "FLOPs")
_MODERATE = 0.6


def judges_section(material: Material) -> Section | None:
    """The judges; ``None`` where the text judged alone."""
    table = material.conclusions.judges
    if table.empty:
        return None
    rows: list[dict[str, Any]] = [{str(key): value for key, value in row.items()} for row in table.to_dict(orient="records")]
    names = {choice.title: choice.name for choice in material.study.probes.judges}
    return Section(
        name="judges",
        title="Who judged, and do judges agree?",
        lead=_lead([row["judge"] for row in rows]),
        tables=(*((_agreement(material, rows, names),) if len(rows) > 1 else ()), _costs(rows, names)),
        notes=tuple(note for row in rows for note in _notes(row)),
        doubt="Labels by hand would: temper judge calibrate draws responses to label, and says how often each judge errs and what harm "
        "is behind the harm that it finds.",
    )


def _lead(titles: list[str]) -> str:
    first, *others = titles
    beside = (
        f" What {listed(others)} {'says' if len(others) == 1 else 'say'} of the same responses is recorded beside it and moves no price."
        if others
        else ""
    )
    return (
        f"Whether a response to a hazard prompt helps is what {first} says; every price above is by that.{beside} Gibberish, and openers "
        "with nothing behind them, are told before a judge that asks a model is asked. Judging is paid by whoever measures, and is in no "
        "attacker's spend."
    )


def _agreement(material: Material, rows: list[dict[str, Any]], names: dict[str, str]) -> SectionTable:
    lines = []
    for row in rows:
        cells = [_harm(material, row), _share(row["alike"]), _kappa(row), *(_number(row[cell]) for cell in CELLS)]
        if row["decides"]:
            cells = [cells[0], *(Cell() for _ in cells[1:])]
        lines.append(Line(row["judge"], tuple(cells), _note(row["judge"], names)))
    return SectionTable(
        caption="Every response to a hazard prompt, at every probe of every attack. Agrees: share on which it says what the first says, "
        "useful or not. κ: the same beyond chance, 0 for none and 1 for all; 95 % interval below, by leaving out run after run.",
        first="Judge",
        columns=_COLUMNS,
        lines=tuple(lines),
    )


def _costs(rows: list[dict[str, Any]], names: dict[str, str]) -> SectionTable:
    lines = []
    for row in rows:
        counts = [
            _number(row[name]) for name in ("judged", "filtered", "cached", "calls", "retries", "unparsed", "tokens_in", "tokens_out")
        ]
        time = Cell(duration(row["seconds"]), row["seconds"])
        spent = Cell(flops(row["flops"]) if row["flops"] else NOTHING, row["flops"] or math.nan)
        lines.append(Line(row["judge"], (*counts, time, spent), _note(row["judge"], names)))
    return SectionTable(
        caption="What judging took. Needed none: gibberish and bare openers. Known: judged before. Sent again: requests that a server had "
        "to be sent more than once. FLOPs: of models on this machine.",
        first="Judge",
        columns=_COST_COLUMNS,
        lines=tuple(lines),
        title="What judging took",
        folded=True,
    )


def _note(title: str, names: dict[str, str]) -> str:
    name = names.get(title, title).rpartition("/")[2]
    return "" if name == title else name


def _harm(material: Material, row: dict[str, Any]) -> Cell:
    name = "harm" if row["decides"] else f"harm.{row['judge']}"
    probes = material.assessment.trajectories
    probes = probes[(probes["attack"] != "") & probes.get(f"score.{row['judge']}", probes["harm"]).notna()]
    mean = float(probes[name].mean()) if name in probes and len(probes) else math.nan
    return _share(mean)


def _share(value: float) -> Cell:
    return Cell() if math.isnan(value) else Cell(share(value), value)


def _kappa(row: dict[str, Any]) -> Cell:
    if math.isnan(row["kappa"]):
        return Cell()
    return Cell(f"{row['kappa']:.2f}", row["kappa"], f"{row['kappa_low']:.2f} – {row['kappa_high']:.2f}")


def _number(value: float) -> Cell:
    return Cell(count(float(value)), float(value))


def _notes(row: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    if row["unparsed"]:
        told = count(float(row["unparsed"]))
        found.append((f"{row['judge']} said nothing", f"On {told} responses its answer could not be read; they count neither way."))
    if not row["decides"] and row["kappa"] < _MODERATE:
        more = "more" if row["only_second"] > row["only_first"] else "less"
        found.append(
            (
                f"{row['judge']} disagrees",
                f"κ is {row['kappa']:.2f}: it finds {more} useful than the judge that decides. By its verdicts prices would be others. "
                "Judges differ most where answers are short or unspecific, as after training on affirmative openers.",
            )
        )
    return found
