"""The section on the attacker's envelope: the cheapest price of so much harm, at so much lost utility."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from tempering.report.drawing import Drawing, Panel
from tempering.report.envelope_figure import HARM, LOSS, Walk, envelope_panel, legend, price_ends
from tempering.report.envelope_view import UNDEFENDED, Point, View, marked, views
from tempering.report.formatting import Price, dollars, share
from tempering.report.section import Cell, Line, Material, Section, SectionTable

_TAUS = (0.3, 0.5, 0.7)
"""Shares of harm that the table shows, and the study's own."""


def envelope_section(material: Material) -> Section | None:
    """The cheapest prices by harm and loss; ``None`` where no attack was run."""
    found = views(material)
    if not found:
        return None
    models = list(dict.fromkeys(view.model for view in found))
    of_model = [[view for view in found if view.model == model] for model in models]
    drawings = [drawing for number, own in enumerate(of_model) for drawing in _drawings(own, f"-{number + 1}" if len(models) > 1 else "")]
    return Section(
        name="envelope",
        title="The attacker's envelope",
        lead="An attacker who asks for less harm, or does not mind a duller model, may get it cheaper. A line is the price of the "
        "cheapest attack that a threat model allows, chosen before anyone knows how lucky the run will be." + _in_dollars(material),
        drawings=tuple(drawings),
        tables=tuple(_table(view, len(models) > 1) for view in found),
        notes=tuple(_notes(found)),
        doubt="One attack that nobody tried here, or better settings of one that was, could lie below every line; no attack can raise one. "
        "The cheapest of several measured prices is partly the luckiest, so that lines lie a little low, and less so with more seeds.",
    )


def _in_dollars(material: Material) -> str:
    """What the axis means in money: dollars are FLOPs times a constant."""
    table = material.conclusions.envelope
    known = table[(table["status"] == "known") & (table["price"] > 0)]
    keys = [name for name in known.columns if name in ("model", "defense", "threat_model", "tau", "epsilon", "attack")]
    both = known[known["currency"] == "flops"].merge(known[known["currency"] == "usd"], on=keys, suffixes=("", "_usd"))
    if both.empty:
        return ""
    return f" Dollars go with FLOPs: 1 PFLOP costs {dollars(1e15 * median(both['price_usd'] / both['price']))} here."


# Drawings and their sentences


def _drawings(found: Sequence[View], suffix: str) -> Iterator[Drawing]:
    """Both ways to walk along the envelope: side by side for one threat model, else each with a panel for every threat model."""
    named = marked(found)
    look = legend(named, others=len({name for view in found for name in view.by_harm} - {UNDEFENDED, *named}) > 0)
    ends = price_ends([lines for view in found for lines in (view.by_harm, view.by_loss)])
    model = f": {found[0].model}" if suffix else ""

    def panels(walk: Walk) -> Iterator[Panel]:
        for number, view in enumerate(found):
            yield envelope_panel(view, walk, look, f"envelope-{walk.name}{suffix}-{number}", ends)

    if len(found) == 1:
        sentence = " ".join((_of_harm(found), _of_loss(found[0]), _reading(found)))
        yield Drawing(f"envelope{suffix}", f"The cheapest break{model}", sentence, (*panels(HARM), *panels(LOSS)), look)
        return
    titles = {HARM: "by the harm that is demanded", LOSS: "by the utility that is given up"}
    sentences = {HARM: _of_harm(found), LOSS: _of_loss(found[0])}
    for walk, title in titles.items():
        yield Drawing(
            f"envelope-{walk.name}{suffix}",
            f"The cheapest break {title}{model}",
            f"{sentences[walk]} {_reading(found)}",
            tuple(panels(walk)),
            look,
        )


def _of_harm(found: Sequence[View]) -> str:
    """What the undefended model costs at little and at much harm, and what the dearest defence makes of it, in every threat model."""
    view, parts = found[0], []
    if UNDEFENDED in view.by_harm:
        first, *_, last = view.by_harm[UNDEFENDED]
        then = f"and so does {share(last.tau)}" if str(first) == str(last) else f"and {share(last.tau)} costs {last}"
        parts.append(
            f"With what {view.holder} allows and at most {share(view.epsilon)} of utility lost, {share(first.tau)} of the harm from the "
            f"undefended model costs {first}, {then}."
        )
    parts += [_of_dearest(view), *(_of_other(other) for other in found[1:])]
    return " ".join(part for part in parts if part)


def _of_dearest(view: View) -> str:
    known = [name for name in view.dearest_first if view.at(name).status == "known"]
    held = [name for name in view.dearest_first if view.at(name).status == "beyond"]
    parts = []
    if known:
        only = len(known) + len(held) == 1
        most = " costs" if only else " is the dearest of those known:" if held else " is the dearest:"
        parts.append(f"At {share(view.tau)} of the harm {known[0]}{most} {view.at(known[0])}.")
    if held:
        shown = ", ".join(f"{name} {view.at(name)}" for name in held[:3])
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        parts.append(f"Not broken at {share(view.tau)} of the harm within the budget: {shown}{more}.")
    return " ".join(parts)


def _of_other(view: View) -> str:
    """A threat model besides the study's own, at the study's thresholds."""
    known = [name for name in view.dearest_first if view.at(name).status == "known"]
    held = sum(view.at(name).status == "beyond" for name in view.dearest_first)
    costs = [f"{view.at(UNDEFENDED)} undefended"] if UNDEFENDED in view.by_harm else []
    if known and len(known) >= held:
        costs.append(f"{view.at(known[0])} behind {known[0]}{', the dearest known' if len(view.dearest_first) > 1 else ''}")
    text = f"With what {view.holder} allows, {share(view.tau)} costs {' and '.join(costs)}" if costs else f"With what {view.holder} allows"
    if held:
        defenses = len([name for name in view.by_harm if name != UNDEFENDED])
        text += f"{';' if costs else ','} {held} of {defenses} defences were not broken within the budget"
    return f"{text}." if costs or held else ""


def _of_loss(view: View) -> str:
    """What it is worth to the attacker not to mind: for the undefended model, and for the defence whose price falls most."""
    parts = []
    if UNDEFENDED in view.by_loss:
        first, *_, last = view.by_loss[UNDEFENDED]
        costs = f"With what {view.holder} allows, {share(view.tau)} of the harm from the undefended model costs {first}"
        both = ", whether no utility may be lost or all of it."
        parts.append(costs + (both if str(first) == str(last) else f" if no utility may be lost, and {last} if all of it may."))
    known = {
        name: (points[0], points[-1])
        for name, points in view.by_loss.items()
        if name != UNDEFENDED and points[0].status == points[-1].status == "known"
    }
    falls = sorted((name for name in known if known[name][1].place < known[name][0].place), key=lambda name: (-_fall(*known[name]), name))
    if falls:
        count = f"{len(falls)} of {len(known)} defences get" if len(known) > 1 else f"{falls[0]} gets"
        most = f"; {falls[0]} the most, from" if len(known) > 1 else ": from"
        first, last = known[falls[0]]
        parts.append(f"{count} cheaper to break for an attacker who does not mind losing it{most} {first} to {last}.")
    elif len(known) > 1:
        parts.append(
            f"Not one of {len(known)} defences whose prices are known gets cheaper to break for an attacker who does not mind losing it."
        )
    return " ".join(parts)


def _fall(first: Point, last: Point) -> float:
    return first.place / last.place if last.place > 0 else math.inf


def _reading(found: Sequence[View]) -> str:
    points = [point for view in found for lines in (view.by_harm, view.by_loss) for line in lines.values() for point in line]
    words = "Bars beside the study's own threshold, the dashed line, are 95 % intervals"
    if any(point.status == "beyond" for point in points):
        words += "; a hollow mark with an arrow is a bound: the price lies above it, beyond the budget"
    return f"{words}."


# Table


def _table(view: View, several: bool) -> SectionTable:
    taus = sorted({*_TAUS, view.tau})
    columns = tuple(f"τ = {tau:g}" for tau in taus)
    lines = tuple(_line(view, name, taus) for name in (UNDEFENDED, *_others(view)) if name in view.by_harm)
    return SectionTable(
        caption=f"FLOPs of the cheapest attack, of {view.attacks} that were tried; 95 % intervals below. τ is the share of the harm that "
        f"is demanded, at ε = {view.epsilon:g}; the columns of ε, the share of utility given up, are at τ = {view.tau:g}.",
        first="Defence",
        columns=(*columns, f"Cheapest attack at τ = {view.tau:g}", "ε = 0", "ε = 1"),
        lines=lines,
        title=f"{view.holder}{f', {view.model}' if several else ''}: every defence",
        folded=True,
    )


def _others(view: View) -> list[str]:
    """The defences, dearest first, then those of which nothing is known."""
    return [*view.dearest_first, *(name for name in view.by_harm if name != UNDEFENDED and name not in view.dearest_first)]


def _line(view: View, name: str, taus: Sequence[float]) -> Line:
    by_tau = {round(point.tau, 9): point for point in view.by_harm[name]}
    by_epsilon = {point.epsilon: point for point in view.by_loss.get(name, ())}
    own = view.at(name)
    runs = f"{own.broken} of {own.runs} run{'' if own.runs == 1 else 's'} broke"
    attack = Cell(own.attack or "none broke it", math.nan, runs)
    prices = [_cell(by_tau.get(round(tau, 9))) for tau in taus]
    return Line(name, (*prices, attack, *(_cell(by_epsilon.get(epsilon)) for epsilon in (0.0, 1.0))))


def _cell(point: Point | None) -> Cell:
    if point is None:
        return Cell()
    if not point.told:
        return Cell(str(point))
    price: Price = point.price
    return Cell(price.middle, price.rank, price.interval)


# Notes


def _notes(found: Sequence[View]) -> list[tuple[str, str]]:
    notes = []
    runs = [view.at(name).runs for view in found for name in view.by_harm if view.at(name).status == "known"]
    if runs and max(runs) == 1:
        text = "Every price is that of a single run. An interval says only between which checkpoints that run broke, not how another "
        text += "seed would do."
        notes.append(("One seed", text))
    elif runs and min(runs) < 5:
        notes.append(
            ("Few seeds", f"Some prices rest on {min(runs)} run{'' if min(runs) == 1 else 's'}, too few for intervals to mean much.")
        )
    if any(point.status == "unknown" for view in found for points in view.by_harm.values() for point in points):
        text = "Where a line has a gap no attack got far enough to say anything: that is no sign of strength."
        notes.append(("Gaps", text))
    return notes
