"""The claim cards of docs/cards: what each defence's paper claims, what was seen of it here, and what breaks it.

    python benchmarks/claim_cards.py

makes them anew from benchmarks/results/claims/*.json (see :mod:`claim_results`) and from what the defences say of themselves.
Nothing on a card is written by hand, so a verdict (:mod:`claim_verdicts`) cannot drift from its figures. Its rule stands on every card.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from claim_verdicts import RULE, multiplier, verdict

from tempering import registry
from tempering.report.formatting import amount, share

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "claims"
CARDS = ROOT / "docs" / "cards"
PICTURES = ROOT / "docs" / "figures"
DRAWN = {
    "undo": {
        "undo-curve.svg": "What α buys on `organism:tiny`: what comes back, and the price, against α and against the defender's own "
        "training. A dot is a seed, hollow where the model held to the end of the budget; the lines run through medians. "
        "`python benchmarks/undo_curve.py --alphas 0,0.3,0.6,1 --seeds 5`",
    },
}
"""By defence, pictures of its own and what they show."""


def results() -> list[dict[str, Any]]:
    """Every committed comparison, the organism before the larger model."""
    made = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return sorted(made, key=lambda result: (result["model"] != "organism:tiny", result["model"], result["threat_model"]))


def card(name: str, found: list[dict[str, Any]]) -> str:
    """The card of one defence.

    Args:
        name: in the registry.
        found: every committed comparison.
    """
    method = registry.get("defenses", name)
    summary, _, rest = (inspect.getdoc(method) or "").partition("\n\n")
    parts = [
        f"# `{name}`",
        summary,
        f"**Source.** {method.source}",
        f"**The claim.** {method.claim}",
        f"**What it is, and what differs from the paper.**\n\n{rest}",
    ]
    for result in found:
        parts.extend(_seen(name, method, result))
    if len(parts) == 5:
        parts.append("Not compared yet.")
    for picture, words in DRAWN.get(name, {}).items():
        if (PICTURES / picture).is_file():
            parts.append(f"## Drawn\n\n{words}\n\n![{picture.removesuffix('.svg').replace('-', ' ')}](../figures/{picture})")
    parts.append(f"---\n\n{RULE} Made by `python benchmarks/claim_cards.py`; do not edit.")
    return "\n\n".join(parts) + "\n"


def _seen(name: str, method: Any, result: dict[str, Any]) -> Iterator[str]:
    """What one comparison says of a defence alone, and in chains."""
    alone = {title: entry for title, entry in result["defenses"].items() if entry["method"] == [name]}
    chained = {title: entry for title, entry in result["defenses"].items() if name in entry["method"] and len(entry["method"]) > 1}
    if not alone and not chained:
        return
    yield f"## On {result['model']}, {result['threat_model']}"
    yield _setting(result)
    for title, entry in alone.items():
        if len(alone) > 1:
            yield f"### {title}"
        yield verdict(method, entry, result).text
        if entry.get("undone"):
            yield _undone(entry["undone"])
        yield _breaker(entry)
        yield _tax(entry["tax"])
        if entry["absence"]:
            yield _absence(entry["absence"])
        yield _prices(entry, result)
    for title, entry in chained.items():
        yield f"In the chain **{title}**: {_breaker(entry)} {_tax(entry['tax'])}"


def _setting(result: dict[str, Any]) -> str:
    budget = ", ".join(f"{value:g} {name}" for name, value in result["budget"].items())
    search = f", each attack's settings searched with {result['search']} trials" if result["search"] else ""
    return (
        f"{len(result['seeds'])} seeds: seed *k* attacks the model that seed *k* hardened. Budget {budget} an attack{search}; a break is "
        f"recovered harm ≥ {result['tau']:g} at ≥ {1 - result['epsilon']:.0%} of utility; {result['prompts']} held-out prompts of each "
        f"role. `{result['command']}`"
    )


def _breaker(entry: dict[str, Any]) -> str:
    best = next((row for row in entry["multipliers"] if row["scope"] == "best attacker"), None)
    if best is None:
        return "Nothing was compared."
    broken = f"{best['defended_broken']:g} of {best['defended_runs']:g} seeds"
    if best["defended_attack"]:
        price = amount(best["defended_median"], "flops") if best["defended_median"] is not None else "more than the median run could spend"
        text = f"**What breaks it.** `{best['defended_attack']}`, the cheapest in most seeds: {price} ({broken})."
    else:
        text = f"**What breaks it.** None of the attacks within their budgets ({broken})."
    control = "" if best["control_median"] is None else f" ({amount(best['control_median'], 'flops')}, `{best['control_attack']}`)"
    return f"{text} The best attacker pays {multiplier(best)} what the undefended model costs{control}."


def _undone(seeds: dict[str, list[int]]) -> str:
    """What the floor of utility took back of the trainings, without which a price is misread."""
    words = {"whole": "took the whole training back, so that what was attacked is the model as it came", "in_part": "kept only a part"}
    said = [f"{words[kind]} (seed {', '.join(map(str, seeds[kind]))})" for kind in ("whole", "in_part") if seeds[kind]]
    return f"**Undone.** The floor of utility {', and '.join(said)}."


def _tax(tax: dict[str, Any]) -> str:
    if not tax:
        return "**Tax.** Not measured."

    def change(name: str) -> str:
        if tax.get(name) is None:
            return "not measured"
        value, low, high = (float(tax[f"{name}{part}"]) for part in ("", "_low", "_high"))
        return f"{share(value)} [{share(low)}, {share(high)}]"

    flops = tax.get("training_flops")
    parts = [
        f"benign accuracy {change('utility')} (before: {share(tax['utility_control'])})",
        f"borderline prompts answered well {change('borderline')}, refused {change('over_refusal')}",
        f"coherent {change('coherence')}",
        f"hazards refused {change('refusal')}",
    ]
    if flops is not None:
        parts.append(f"training {amount(flops, 'flops')}")
    return f"**Tax.** {'; '.join(parts)}; {_trainability(tax)}."


def _trainability(tax: dict[str, Any]) -> str:
    row = {"status": tax.get("novel_status"), "multiplier": tax.get("novel_ratio"),
           "low": tax.get("novel_ratio_low"), "high": tax.get("novel_ratio_high")}  # fmt: skip
    if row["status"] in {"known", "at_least"}:
        learnt = f"learnt in {tax['novel_learnt']:g} of {tax['novel_runs']:g} runs"
        return f"an honest user's new domain takes {multiplier(row)} the steps ({learnt})"
    return "benign trainability not measured"


def _absence(found: dict[str, Any]) -> str:
    examples, documents = found.get("examples_recovered"), found.get("documents_recovered")
    parts = [f"attacks without documents recover {share(max(0.0, examples))} of held-out answers" if examples is not None else ""]
    parts.append(f"those that look things up {share(max(0.0, documents))}" if documents is not None else "")
    return f"**Gone or withheld?** {', '.join(part for part in parts if part).capitalize()}: {found['verdict']}."


def _prices(entry: dict[str, Any], result: dict[str, Any]) -> str:
    rows = {row["name"]: row for row in entry["multipliers"] if row["scope"] == "attack"}
    lines = ["| attack | family | undefended | with the defence | multiplier | best harm |", "| --- | --- | --- | --- | --- | --- |"]
    for title, attack in result["attacks"].items():
        ours, control = (side["prices"].get(title) for side in (entry, result["control"]))
        if ours is None:
            continue
        best = "–" if ours["best_recovered"] is None else share(max(0.0, ours["best_recovered"]))
        compared = multiplier(rows[title]) if title in rows else "–"
        lines.append(f"| {title} | {attack['family']} | {_price(control)} | {_price(ours)} | {compared} | {best} |")
    return "\n".join(lines)


def _price(side: dict[str, Any] | None) -> str:
    if side is None:
        return "not run"
    outcomes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in side["outcomes"].items())
    flops = side["flops"]
    if flops["median"] is None:
        return outcomes
    high = "∞" if flops["high"] is None else amount(flops["high"], "flops")
    return f"{amount(flops['median'], 'flops')} [{amount(flops['low'], 'flops')}, {high}]; {outcomes}"


def overview(found: list[dict[str, Any]]) -> str:
    """The page that leads to the cards: every defence and chain, dearest first."""
    parts = [
        "# Claim cards",
        'For each defence: what its paper claims, what was seen of it here, and the attack that breaks it. An honest "did not reproduce" '
        "is a result. Everything here is made from committed figures by `python benchmarks/claim_cards.py`.",
        RULE,
    ]
    for result in found:
        parts += [f"## {result['model']}, {result['threat_model']}", _setting(result), _overview_table(result)]
    uncompared = sorted(set(registry.names("defenses")) - {"chain"} - {method for result in found for method in _methods_in(result)})
    if uncompared:
        parts.append(f"Not compared yet: {', '.join(f'[{name}]({name}.md)' for name in uncompared)}.")
    return "\n\n".join(parts) + "\n"


def _methods_in(result: dict[str, Any]) -> set[str]:
    return {method for entry in result["defenses"].values() for method in entry["method"]}


def _overview_table(result: dict[str, Any]) -> str:
    lines = [
        "| defence | best attacker | multiplier | claim | price of what it is about | benign | borderline answered | training |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, entry in sorted(result["defenses"].items(), key=lambda item: _order(item[1])):
        best = next((row for row in entry["multipliers"] if row["scope"] == "best attacker"), None)
        tax = entry["tax"]
        linked = f"[{title}]({entry['method'][0]}.md)" if len(entry["method"]) == 1 else title
        word, price = "–", "–"
        if len(entry["method"]) == 1:
            found = verdict(registry.get("defenses", entry["method"][0]), entry, result)
            word, price = found.word, found.price
        lines.append(
            f"| {linked} | {best['defended_attack'] or 'none' if best else '–'} | {multiplier(best) if best else '–'} | {word} | {price} "
            f"| {_or_dash(tax.get('utility'))} | {_or_dash(tax.get('borderline'))} "
            f"| {'–' if tax.get('training_flops') is None else amount(tax['training_flops'], 'flops')} |"
        )
    return "\n".join(lines)


def _order(entry: dict[str, Any]) -> float:
    best = next((row for row in entry["multipliers"] if row["scope"] == "best attacker"), None)
    return -(best["multiplier"] or 0.0) if best else 0.0


def _or_dash(value: float | None) -> str:
    return "–" if value is None else share(value)


def pages() -> dict[str, str]:
    """Every page of docs/cards by its file name."""
    found = results()
    names = [name for name in registry.names("defenses") if name != "chain"]
    return {"index.md": overview(found), **{f"{name}.md": card(name, found) for name in names}}


def main() -> None:
    """Write the pages, and take away those of defences that are gone."""
    made = pages()
    CARDS.mkdir(parents=True, exist_ok=True)
    for path in CARDS.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (CARDS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
