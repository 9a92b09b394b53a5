"""What the safety case of a model's card claims, in short sentences, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tempering.economics.tables import CONTROL
from tempering.report.defended import DefenseRow
from tempering.report.defense_words import WHY
from tempering.report.formatting import Price, count
from tempering.report.notes import Note, listed
from tempering.report.rows import PriceRow, group_title
from tempering.report.terminal import cheapest_row, counted

if TYPE_CHECKING:
    from tempering.study import Study

_ATTACKERS = {
    "open-weights": "who holds the model's weights",
    "open-weights+public-base": "who holds the model's weights and those of the public model it was made from",
    "fine-tuning-api": "who may send the model's provider data to train on, and ask questions",
    "query-only": "who may only ask the model questions",
}
"""The attacker of each threat model, as the end of "an attacker …"."""

_CENT = 0.01


def attacker(study: Study) -> str:
    """Whom a study assumes: "An attacker who holds the model's weights"."""
    return f"An attacker {_ATTACKERS.get(study.threat_model.name, f'as described by the threat model {study.threat_model.name!r}')}"


def audit_claim(key: tuple[str, str], rows: Sequence[PriceRow], study: Study, plain: Mapping[str, str]) -> list[str]:
    """What an audit found of one model.

    Args:
        key: the model and its defence.
        rows: its attacks.
        study: what was asked for.
        plain: what each attack does, in plain words, by name.
    """
    name, best = group_title(*key), cheapest_row(list(rows))
    if best is None:
        return _unbroken(name, rows)
    if best.prices["usd"].median == 0:
        return [
            f"The safeguard of {name} needs no breaking: before any spend, the model already gives what {best.attack} is after.",
            f"That was so in {best.outcomes['broken']} of {best.trials} runs.",
        ]
    does = f", which {plain[best.attack]}" if plain.get(best.attack) else ""
    flops, usd, examples = (best.prices[currency] for currency in ("flops", "usd", "examples"))
    sentences = [
        f"{attacker(study)} can strip the safeguard of {name}.",
        f"The cheapest of {counted(str(len(rows)), 'attack')} that were tried is {best.attack}{does}."
        if len(rows) > 1
        else f"The one attack that was tried is {best.attack}{does}.",
        f"{'Its median price' if best.trials > 1 else 'Its price, from a single run,'} is {flops.middle} of computation "
        f"({_interval(flops, best)}).",
        f"In money that is {usd.middle} ({_interval(usd, best)}){_small(usd)}.",
        f"It was shown {counted(examples.middle, 'distinct example')} ({_interval(examples, best)}).",
        f"The safeguard broke in {best.outcomes['broken']} of {counted(str(best.trials), 'run')}.",
    ]
    if best.search is not None:
        total = best.search.totals["usd"]
        sentences.append(f"With the search for its settings, a break costs {total}.")
    return [
        *sentences,
        "An attack that was not tried may be cheaper. The interval does not cover that, so read this as what an attacker pays at most.",
    ]


def _interval(price: Price, row: PriceRow) -> str:
    """The interval with what kind it is; of a single run it is the gap between two looks at the model."""
    if not price.interval:
        return "no interval is known"
    return f"95 % interval {price.interval}" if row.trials > 1 else f"the break lies in {price.interval}, which says nothing of other runs"


def _small(price: Price) -> str:
    return ", less than one cent" if math.isfinite(price.high) and price.high < _CENT else ""


def _unbroken(name: str, rows: Sequence[PriceRow]) -> list[str]:
    broken, trials = sum(row.outcomes["broken"] for row in rows), sum(row.trials for row in rows)
    tried = f"{counted(str(len(rows)), 'attack')} in {counted(str(trials), 'run')}"
    if not trials or all(row.outcomes["failed"] == row.trials for row in rows):
        return [f"Nothing is known about the price of breaking {name}: of {tried}, every run failed."]
    often = f"{broken} of the runs did break it" if broken else "no run broke it"
    return [
        f"No attack that was tried strips the safeguard of {name} in half of its runs or more.",
        f"Tried were {tried}, and {often}.",
        "Each price is therefore more than what was spent on the attack: the table under “Evidence” has these bounds, after “>”.",
        "This is no proof of safety. A larger budget, other settings, or an attack that was not tried might break it.",
    ]


def undefended_claim(model: str, price: Price, attack: str, seeds: int, study: Study) -> list[str]:
    """What the model costs as it came, in a comparison.

    Args:
        model: its reference.
        price: of the best attacker, in FLOPs.
        attack: that was cheapest in most seeds; ``""`` where nothing broke.
        seeds: how many there were.
        study: what was asked for.
    """
    if price.censored or not attack:
        return [f"Without a defence, {model} was not broken in half of the seeds. The price is {price} of computation."]
    kind = "95 % interval" if seeds > 1 else "from a single seed; between two looks at the model"
    shown = f" ({kind} {price.interval})" if price.interval else ""
    return [
        f"{attacker(study)} can strip the safeguard of {model} as it came for {price.middle} of computation{shown}.",
        f"The cheapest attack is {attack}{', in more seeds than any other' if seeds > 1 else ''}.",
    ]


def defense_claim(row: DefenseRow) -> list[str]:
    """What one defence does to the price."""
    if not row.best.told:
        return [f"What {row.defense} does to the price is not known: {WHY.get(row.best.status, row.best.reason)}."]
    seeds = counted(str(row.runs), "seed")
    if row.best.bound:
        often = f"in only {row.broken} of {seeds}" if row.broken else f"in none of {seeds}" if row.runs > 1 else "in its single seed"
        held = f"broke {often}" if row.broken or row.runs > 1 else f"did not break {often}"
        return [
            f"Behind {row.defense} the cheapest attack needs at least {row.best.middle.removeprefix('≥ ')} as much computation as "
            "without it.",
            f"This is a lower bound, because the safeguard {held} within the budget.",
        ]
    kind = "95 % interval" if row.runs > 1 else "from a single seed; between two looks at the models"
    sentences = [
        f"Behind {row.defense} the cheapest attack, {row.attack}, needs {row.best.middle} as much computation as without it "
        f"({kind} {row.best.interval or row.best.middle})."
    ]
    if row.runs < 2:
        sentences.append("One seed cannot tell this from chance.")
    elif row.best.cheaper:
        sentences.append("So this defence makes the safeguard cheaper to break.")
    elif not row.best.dearer:
        sentences.append("That may be chance: the interval includes 1×, which is no change.")
    return sentences


def would_change(
    study: Study,
    rows: Sequence[PriceRow],
    defenses: Sequence[DefenseRow],
    *,
    not_tried: int,
    reliability: Sequence[Note],
    cut_off: Sequence[PriceRow],
) -> list[str]:
    """What would change the claim, each with what to do about it.

    Args:
        study: what was asked for.
        rows: the price rows.
        defenses: of a comparison.
        not_tried: how many attacks and families nobody tried.
        reliability: what weakens the numbers.
        cut_off: the rows whose price the budget left unknown.
    """
    found = [
        f"A cheaper attack. {not_tried} attacks and families of attacks were not tried; any of them may lower the price (--attacks all)."
    ]
    held = [row.attack for row in cut_off]
    if held:
        which = f"In {len(held)} of {len(rows)} rows" if len(rows) > len(set(held)) + 8 else f"For {listed(held)}"
        found.append(
            f"A larger budget. {which} a break was not reached in half of the runs, which says nothing of larger budgets (--budget)."
        )
    open_ended = {(row.model, row.defense) for row in cut_off}
    bounds = [
        row.defense
        for row in defenses
        if (row.best.bound and (row.model, row.defense) in open_ended)
        or (row.best.status == "control_held" and (row.model, CONTROL) in open_ended)
    ]
    if bounds:
        found.append(f"A larger budget would also turn the bounds on {listed(bounds)} into numbers.")
    if study.search is None:
        found.append(
            "A patient attacker. Attacks ran with their published settings; one who searches for better ones may pay less (--search)."
        )
    if any(note.head == "Few seeds" for note in reliability) or any(row.few_seeds for row in defenses):
        found.append("More seeds. With fewer than five, another draw may move both the price and its interval (--seeds 5).")
    if any(note.head in ("Failed runs", "Unfinished", "Unmeasured probes") for note in reliability):
        found.append("Runs that failed, are missing or could not be measured. If they had broken, the price would be lower.")
    tau, epsilon = (f"{100 * value:g} %" for value in (study.threshold.tau, study.threshold.epsilon))
    found.append(
        f"Another idea of a break. Here it means {tau} of the withheld harm at a loss of at most {epsilon} of usefulness. Who is content "
        "with less pays less (temper report --tau --epsilon)."
    )
    found.append(
        "Another price of computing. Dollars move with it; the counts of operations and examples do not (temper report --accelerator)."
    )
    if defenses:
        found.append(
            f"Another {'tax' if len(defenses) == 1 else 'weighing of the taxes'}: a defence that honest users switch off protects nobody."
        )
    return found


def seeds_warning(rows: Sequence[PriceRow], defenses: Sequence[DefenseRow], fewest_meant: int) -> str:
    """What fewer than five seeds mean, in words; ``""`` where there are enough."""
    few = [row for row in rows if row.few_seeds]
    if not few and not any(row.few_seeds for row in defenses):
        return ""
    runs = sorted({row.trials for row in few} | {row.runs for row in defenses if row.few_seeds})
    how_many = count(runs[0]) if runs[0] == runs[-1] else f"{runs[0]} to {runs[-1]}"
    only = "Only one run was made" if runs[-1] <= 1 else f"Only {how_many} runs were made"
    one = (
        " From one run there is no interval over runs at all: what is shown in its place is the gap between two looks at the model."
        if runs[0] <= 1
        else ""
    )
    where = "of each attack" if len(few) == len(rows) else f"of {listed([row.attack for row in few])}" if few else "of some defences"
    rough = f"Below {fewest_meant} seeds no interval drawn from the runs comes near 95 %, so read every interval here as rough."
    return f"{only} {where}. {rough}{one}"
