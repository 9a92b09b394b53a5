"""The safety case of a model's card as Markdown, made of its JSON alone.

It is a section, to be put into a card that exists: its headings begin at the second level. Every word that comes from a user, a model
or a file goes through :mod:`tempering.report.markdown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from tempering.report.card_schema import Card, MethodPart
from tempering.report.formatting import NOTHING, amount, flops, share
from tempering.report.markdown import bullets, cell, code, inert, table
from tempering.report.rows import MEANINGS

_WORDS = {
    "Safeguard": "what keeps the model from helping with the hazard: it refuses, or it never learnt the subject.",
    "Break": "the moment from which the attacked model gives enough of the withheld help and is still useful.",
    "Price": "what an attack had used by then. It leaves out people's time and failed ideas.",
    "FLOP": "one arithmetic operation of a computer. MFLOP, GFLOP, TFLOP: a million, billion, trillion of them.",
    "Run, seed": "one attempt at an attack. Its seed is the number that its random choices are drawn from.",
    "Median": "half of the runs had broken the safeguard at this price or below.",
    "95 % interval": "a range made by a rule that catches the true value in 95 of 100 repetitions; with few runs, in fewer.",
    "Weights": "the numbers that a model consists of. Whoever has them can change them.",
    "Fine-tuning": "training a finished model a little further. An optimizer step is one small change of its weights.",
    "Prompt": "a question or an instruction to the model.",
    "Utility": "how many harmless questions the model still answers well: its usefulness.",
    "Probe": "one look at the attacked model: held-out prompts are put to it, and its answers judged.",
    "Greedily": "the model gives the answer that it finds likeliest, with no chance in it.",
}
"""Terms of the card, for readers who know none of them."""


def card_text(card: Card) -> str:
    """The whole section, with a line end."""
    title = ", ".join(inert(model.reference) for model in card.models)
    parts = [
        f"## What it costs to strip the safeguard of {title}",
        "### Claim",
        *_claims(card),
        *([f"**Warning: few seeds.** {inert(card.seeds.warning)}"] if card.seeds.warning else []),
        "### Evidence",
        *_evidence(card),
        "### Threat model",
        *_threat_model(card),
        "### Attacks that were tried",
        bullets(_method(part) for part in card.tried) or "None.",
        "### Attacks that were not tried",
        *_not_tried(card),
        "### What the judging cannot see",
        bullets(inert(sentence) for sentence in card.cannot_see),
        "### Intervals and seeds",
        *_intervals(card),
        "### What the defences cost honest users",
        *_tax(card),
        "### What would change this claim",
        bullets(inert(sentence) for sentence in card.would_change),
        "### How to reproduce this",
        *_reproduce(card),
        "### Words",
        bullets(f"**{word}**: {inert(meaning)}" for word, meaning in _WORDS.items()),
        f"Written by Tempering {inert(card.tempering)} from the results of study {code(card.reproduce.study_digest)}. The same for "
        "programs: `card.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _claims(card: Card) -> Iterable[str]:
    if card.kind == "audit":
        for claim in card.claims:
            yield inert(" ".join(claim.sentences))
        return
    for _, claims in groupby(card.claims, key=lambda claim: claim.model):
        own = list(claims)
        for claim in own:
            if claim.defense == "none":
                yield inert(" ".join(claim.sentences))
        yield bullets(inert(" ".join(claim.sentences)) for claim in own if claim.defense != "none")
    yield (
        "These factors compare the attacks that were tried. One that was not tried may find a defence weaker than it looks here, or the "
        "model as it came cheaper."
    )


def _evidence(card: Card) -> Iterable[str]:
    tau, kept = (f"{100 * value:g} %" for value in (card.threshold.tau, 1 - card.threshold.epsilon))
    yield (
        f"A run breaks the safeguard when the model gives back at least {tau} of the withheld harm and keeps at least {kept} of its "
        "usefulness. Each price is the median over runs, with its 95 % interval in brackets. A price after “>” was not reached in half of "
        "the runs: their median is more than that, and “from” is where the interval begins. Usefulness kept is the median at the break, "
        "with the lowest and highest run in brackets."
    )
    several = len({(part.model, part.defense) for part in card.evidence}) > 1
    searched = any(part.with_search for part in card.evidence)
    titles = [*(["Model"] if several else []), "Attack", "Outcome", "Computation", "Dollars", "Examples", "Usefulness kept"]
    rows = []
    for part in card.evidence:
        where = code(part.model) if part.defense == "none" else f"{code(part.model)} behind {code(part.defense)}"
        cells = [
            code(part.attack),
            cell(part.shown),
            *(cell(cost.shown) for cost in (part.cost.flops, part.cost.usd, part.cost.examples)),
        ]
        total = [cell(part.with_search.shown if part.with_search else NOTHING)] if searched else []
        rows.append([*([where] if several else []), *cells, cell(part.utility_kept.shown), *total])
    yield table([*titles, *(["Dollars with the search for settings"] if searched else [])], rows)
    if any(part.runs == 1 for part in card.evidence):
        yield "Of a single run, the brackets hold the two looks at the model between which it broke, and say nothing of other runs."
    seen = [name for name in MEANINGS if any(getattr(part.outcomes, name) for part in card.evidence)]
    yield bullets(f"{name.replace('_', ' ')}: {MEANINGS[name]}" for name in seen)
    if card.multipliers:
        yield "How many times as much computation a break takes as without the defence, for the best attacker and the best of each kind:"
        families = sorted({name for part in card.multipliers for name in part.families})
        yield table(
            ["Model", "Defence", "Best attacker", *map(cell, families), "Seeds broken"],
            [
                [
                    code(part.model),
                    code(part.defense),
                    cell(part.best_attacker.shown),
                    *(cell(part.families[name].shown if name in part.families else NOTHING) for name in families),
                    f"{part.broken} of {part.seeds}",
                ]
                for part in card.multipliers
            ],
        )


def _threat_model(card: Card) -> Iterable[str]:
    threat = card.threat_model
    budget = ", ".join(threat.budget) or "any amount"
    yield f"The attacker of {code(threat.name)} may spend at most {inert(budget)} in one run."
    yield f"The attacker holds: {inert('; '.join(threat.holds) or 'nothing')}."
    yield f"The attacker does not hold: {inert('; '.join(threat.lacks) or 'nothing was kept back')}."


def _method(part: MethodPart) -> str:
    known = f" ({code(part.method)})" if part.method else ""
    words = [f"{code(part.name)}{known}"]
    if part.plain:
        words.append(f" {inert(part.plain)}.")
    if part.source:
        words.append(f" Source: {inert(part.source)}.")
    return "".join(words)


def _not_tried(card: Card) -> Iterable[str]:
    yield "Each of these might be cheaper than what was tried."
    if card.not_tried.left_out:
        yield "Asked for, but left out:"
        yield bullets(f"{code(part.name)}{_on(part.model, card)} {inert(part.reason)}." for part in card.not_tried.left_out)
    if card.not_tried.available:
        yield "Available in Tempering, but not in this study:"
        by_kind: dict[str, list[str]] = {}
        for part in card.not_tried.available:
            by_kind.setdefault(part.plain or "other", []).append(code(part.name))
        yield bullets(f"{', '.join(names)}: {inert(plain)}." for plain, names in by_kind.items())
    if card.not_tried.unavailable:
        yield "Known from the literature, and not available in Tempering yet:"
        yield bullets(f"{inert(part.name)}: {inert(part.plain)} ({inert(part.source)})." for part in card.not_tried.unavailable)


def _on(model: str, card: Card) -> str:
    return f" on {code(model)}" if model and len(card.models) > 1 else ""


def _intervals(card: Card) -> Iterable[str]:
    seeds = card.seeds.values
    shown = ", ".join(map(str, seeds)) if len(seeds) <= 12 else f"{seeds[0]} … {seeds[-1]}"
    yield (
        f"Every attack was to be run with {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'} ({shown}). Intervals come from drawing the "
        "runs again with replacement. The model is looked at only now and then, and the gap between two looks is part of every interval."
    )
    if card.seeds.warning:
        yield inert(card.seeds.warning)
    noted = [note for note in card.reliability if note.head != "Few seeds"]
    if noted:
        yield bullets(f"**{inert(note.head)}.** {inert(note.text)}" for note in noted)


def _tax(card: Card) -> Iterable[str]:
    if not card.tax:
        yield "No defence was compared with the model as it came. So nothing is known here about what the safeguard costs honest users."
        return
    yield (
        "Usefulness kept is a share of that of the model as it came. Borderline questions sound dangerous and are not; refusing them is a "
        "loss. The lesson is an honest user's: how many times as many steps it takes to teach the model something new and harmless."
    )
    titles = ["Model", "Defence", "Usefulness kept", "Borderline refused", "Change of that", "Lesson", "Training", "Knowledge"]
    yield table(
        titles,
        [
            [
                code(part.model),
                code(part.defense) + (f" ({part.trained} of {part.trainings} trained)" if part.trained < part.trainings else ""),
                *(cell(estimate.shown) for estimate in (part.utility_kept, part.over_refusal, part.over_refusal_change)),
                *(cell(estimate.shown) for estimate in (part.lesson, part.training_flops)),
                cell(part.knowledge or NOTHING),
            ]
            for part in card.tax
        ],
    )


def _reproduce(card: Card) -> Iterable[str]:
    made, priced = card.reproduce, card.pricing
    yield "Inside the run's directory, where the resolved study lies:"
    yield f"```sh\n{made.command}\n```"
    lines = [f"Study: {code(made.study)}, digest {code(made.study_digest)}; plan digest {code(made.plan_digest)}"]
    lines += [
        f"Model: {code(model.reference)}, {inert(model.dtype)}, safeguard: {inert(model.safeguard)}; SHA-256 of weights and chat template "
        f"{code(model.digest)}"
        for model in card.models
    ]
    several = len(card.models) > 1
    lines += [
        f"Data{f' of {code(part.model)}' if several else ''}: {code(part.reference)}, divided with seed {part.seed}; SHA-256 "
        f"{code(part.digest)}"
        for part in made.data
    ]
    lines.append(f"Versions and hardware: {inert(', '.join(_flat(made.environment)))}")
    facts = (
        ("peak rate", f"{flops(priced.peak_flops.value)}/s", priced.peak_flops),
        ("share of it used", share(priced.utilisation.value), priced.utilisation),
        ("price of an hour", amount(priced.usd_per_hour.value, "usd"), priced.usd_per_hour),
    )
    assumed = "; ".join(f"{name} {value} ({fact.source}, {fact.date})" for name, value, fact in facts)
    lines.append(
        f"Dollars: operations were counted, the rest is assumed, for one {code(priced.accelerator)} by the price book of "
        f"{inert(priced.price_book)}: {inert(assumed)}"
    )
    yield bullets(lines)


def _flat(values: Mapping[str, Any]) -> Iterable[str]:
    for name, value in values.items():
        yield f"{name} {'; '.join(_flat(value)) if isinstance(value, Mapping) else value}"
