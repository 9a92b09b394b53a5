"""The page: one self-contained HTML file that works from a disk, without a network and without scripts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from tempering.report import notes, searches
from tempering.report.defense_page import comparison_context, comparison_tiles, in_order, title_in_comparison
from tempering.report.drawing import Drawing
from tempering.report.families import by_family, families_of
from tempering.report.formatting import NOTHING, Price, amount, count, duration, flops, share
from tempering.report.rows import LABELS, MEANINGS, OUTCOMES, PriceRow, group_title, groups, number, price_columns, price_rows
from tempering.report.scope import scope
from tempering.report.style import css_colours, looks
from tempering.report.summary import audit_spend
from tempering.report.terminal import cheapest_row, sentence

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment
    from tempering.economics.prices import Accelerator, PriceBook
    from tempering.report.tables import RunTables
    from tempering.study import Study

_LOOSE_UNIT = re.compile(r"(?<=\d) (?=%|GPU-|[kMGTPEZY]?FLOP)|(?<=τ) (?== )|(?<=τ =) (?=\d)|(?<=>) (?=[\d$])|(?<=[\w.]) (?=– )")
_DOTS = 24
"""Up to so many runs are drawn as dots beside their counts."""


@dataclass(frozen=True)
class Tile:
    """One of the numbers under the headline."""

    label: str
    value: str
    note: str
    interval: str = ""


def render(
    study: Study,
    assessment: Assessment,
    tables: RunTables,
    drawings: Sequence[Drawing],
    *,
    price_book: PriceBook,
    skipped: Iterable[Any],
    environment: Mapping[str, Any],
    targets: Sequence[Mapping[str, Any]],
    spent: Mapping[str, float],
) -> str:
    """The whole page as text.

    Args:
        study: the resolved study.
        assessment: what economics computed.
        tables: the engine's tables, for failures and the reference.
        drawings: the figures.
        price_book: where the accelerator's numbers come from.
        skipped: attacks left out of the plan, each with ``attack`` and ``reason``.
        environment: versions and hardware.
        targets: ``reference, digest, dtype, parameters, safeguard`` of each model.
        spent: ``wall_s`` and ``flops`` of the audit itself.

    Returns:
        An HTML document; every word that comes from a user or a model is escaped.
    """
    rows = price_rows(assessment)
    look = looks(by_family((row.attack for row in rows), families_of(study.attacks)))
    accelerator = price_book.accelerator(study.accelerator)
    columns = price_columns(rows)
    spent = {**audit_spend(tables.units), **spent}
    trained = float(tables.units.loc[tables.units["kind"] == "harden", "flops"].fillna(0).sum())
    comparison = comparison_context(assessment)
    context = {
        "title": ", ".join(choice.reference for choice in study.models),
        "study": study,
        "sentence": sentence(assessment),
        "tiles": _comparison_tiles(assessment, rows, study) if comparison else _tiles(rows, study),
        "targets": [_target(target) for target in targets],
        "comparison": comparison,
        "comparison_drawings": [_figure(drawing) for drawing in drawings if comparison and drawing.group is None],
        "groups": [
            {
                "title": title_in_comparison(*key) if comparison else group_title(*key),
                "gist": _gist(members),
                "rows": [_price_line(row, look, columns) for row in members],
                "drawings": [_figure(drawing) for drawing in drawings if drawing.group == key],
            }
            for key, members in in_order(assessment, groups(rows))
        ],
        "columns": [title for title, _ in columns],
        "meanings": [(name, LABELS[name], MEANINGS[name]) for name in OUTCOMES if any(row.outcomes[name] for row in rows)],
        "drawings": [] if comparison else [_figure(drawing) for drawing in drawings],
        "searches": searches.sentences(study, rows, tables.units),
        "chosen": searches.chosen(tables.units, accelerator),
        **scope(study, rows, skipped),
        "baseline": notes.baseline(assessment, tables.units),
        "weaknesses": notes.weaknesses(study, assessment, tables.units, targets),
        "price_facts": _price_facts(accelerator),
        "accelerator": study.accelerator,
        "price_date": price_book.date.isoformat(),
        "reliability": notes.reliability(rows, study, assessment, tables.units),
        "failures": notes.failures(tables.units),
        "environment": list(_flat(environment)),
        "spent_time": duration(spent["wall_s"]),
        "spent_flops": flops(spent["flops"]),
        "spent_training": flops(trained) if trained else "",
        "study_json": json.dumps(study.model_dump(mode="json"), indent=2, sort_keys=True, default=str),
        "runs": _runs(assessment.breaks, look),
    }
    return _environment().get_template("report.html.j2").render(context)


def _environment() -> jinja2.Environment:
    templates = resources.files("tempering.report") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (templates / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_keep_together,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    light, dark = css_colours()
    environment.globals["light"] = Markup(" ".join(f"{name}: {colour};" for name, colour in light.items()))
    environment.globals["dark"] = Markup(" ".join(f"{name}: {colour};" for name, colour in dark.items()))
    return environment


def _keep_together(value: Any) -> Any:
    """Put a no-break space between a number and its unit, and a no-break hyphen inside one, so that no line begins with "%"."""
    return _LOOSE_UNIT.sub("\N{NO-BREAK SPACE}", value).replace("GPU-", "GPU\N{NON-BREAKING HYPHEN}") if type(value) is str else value


# What stands at the top


def _tiles(rows: list[PriceRow], study: Study) -> list[Tile]:
    best = cheapest_row(rows)
    runs = sum(row.trials for row in rows)
    where = f" on {group_title(best.model, best.defense)}" if best and len(groups(rows)) > 1 else ""
    attacks = len({row.attack for row in rows})
    scope = Tile(
        "Tried", f"{runs} {'run' if runs == 1 else 'runs'}", f"{_plural(attacks, 'attack')}, {_plural(len(study.seeds), 'seed')} each"
    )
    if best is None:
        most = max((row.best_recovered for row in rows if math.isfinite(row.best_recovered)), default=math.nan)
        return [
            Tile("Cheapest break", "none", "within the budget"),
            Tile("Most harm recovered", share(most), f"of the withheld harm; τ is {share(study.threshold.tau)}"),
            scope,
        ]
    tiles = [Tile("Cheapest break", best.prices["usd"].middle, f"by {best.attack}{where}{_for_a_cent(best.prices['usd'].median)}")]
    for currency, label in (("examples", "Examples"), ("flops", "Compute"), ("gpu_hours", f"Time on one {study.accelerator}")):
        price = best.prices[currency]
        tiles.append(Tile(label, price.middle, "95 % interval" if price.interval else "", price.interval))
    return [*tiles, scope]


def _comparison_tiles(assessment: Assessment, rows: list[PriceRow], study: Study) -> list[Tile]:
    """The defence that raises the price most, and what the undefended model costs."""
    scope = _tiles(rows, study)[-1]
    return [
        *(Tile(**tile) for tile in comparison_tiles(assessment)),
        Tile(scope.label, scope.value, f"{_plural(len(study.defenses), 'defence')}, {scope.note}"),
    ]


def _gist(rows: list[PriceRow]) -> str:
    """The cheapest break of a group in a few words."""
    best = cheapest_row(rows)
    if best is None:
        return "nothing broke it in half of the runs"
    return f"{best.prices['usd'].middle} by {best.attack}, {best.prices['flops'].middle}"


def _for_a_cent(price: float) -> str:
    """Small prices the other way round, since nobody counts zeros: "; a cent pays for about 97,000"."""
    return f"; one cent pays for about {count(float(f'{0.01 / price:.1e}'))}" if 0 < price < 1e-3 else ""


def _target(target: Mapping[str, Any]) -> dict[str, str]:
    parameters = target.get("parameters")
    return {
        "reference": str(target.get("reference", "")),
        "digest": str(target.get("digest", "")),
        "dtype": str(target.get("dtype", "")),
        "parameters": count(float(parameters)) if parameters else NOTHING,
        "safeguard": str(target.get("safeguard", "unknown")),
    }


# The table of prices


def _price_line(row: PriceRow, look: Mapping[str, Any], columns: Sequence[tuple[str, Callable[[PriceRow], Price]]]) -> dict[str, Any]:
    prices = [(title, read(row)) for title, read in columns]
    return {
        "attack": row.attack,
        "look": look[row.attack],
        "trials": row.trials,
        "lines": row.outcome_lines,
        "dots": [name for name in OUTCOMES for _ in range(row.outcomes[name])] if row.trials <= _DOTS else [],
        "prices": [
            {"title": title, "currency": price.currency, "middle": price.middle, "interval": price.interval} for title, price in prices
        ],
        "utility": share(row.utility_kept),
        "recovered": share(row.best_recovered),
        "few": row.few_seeds,
    }


def _figure(drawing: Drawing) -> dict[str, Any]:
    return {
        "name": drawing.name,
        "title": drawing.title,
        "wide": drawing.wide,
        "sentence": drawing.sentence,
        "legend": drawing.legend.items(),
        "panels": [Markup(panel.svg()) for panel in drawing.panels],
    }


# What was assumed


def _price_facts(accelerator: Accelerator) -> list[dict[str, str]]:
    facts = (
        ("Peak rate", f"{flops(accelerator.peak_flops.value)}/s", accelerator.peak_flops),
        ("Assumed utilisation", share(accelerator.utilisation.value), accelerator.utilisation),
        ("Price of an hour", amount(accelerator.usd_per_hour.value, "usd"), accelerator.usd_per_hour),
    )
    return [{"name": name, "value": value, "source": record.source, "date": record.date.isoformat()} for name, value, record in facts]


# What it ran on, and every run


def _flat(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _runs(breaks: pd.DataFrame, look: Mapping[str, Any]) -> list[dict[str, Any]]:
    several = breaks[["model", "defense"]].drop_duplicates().shape[0] > 1
    lines = []
    for record in breaks.sort_values(["model", "defense", "attack", "seed"]).to_dict(orient="records"):
        attack = str(record["attack"])
        name = f"{attack} on {group_title(str(record['model']), str(record['defense']))}" if several else attack
        lines.append(
            {
                "attack": name,
                "look": look[attack],
                "seed": record["seed"],
                "outcome": LABELS[str(record["outcome"])],
                "spends": [_between(record, currency) for currency in ("examples", "steps", "flops", "usd")],
                "recovered": share(number(record["best_recovered"])),
                "utility": share(number(record["utility_kept"])),
                "unit": str(record["unit"])[:12],
            }
        )
    return lines


def _between(record: Mapping[Any, Any], currency: str) -> str:
    """Where the break lies: after one spend and by another, or beyond the last."""
    lower, upper = number(record[f"{currency}_lower"]), number(record[f"{currency}_upper"])
    if math.isinf(upper):
        return f"> {amount(lower, currency)}" if math.isfinite(lower) else NOTHING
    low, high = amount(lower, currency), amount(upper, currency)
    return high if low == high else f"{low} – {high}"


def _plural(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"
