"""The page: one self-contained HTML file that works from a disk and without a network.

Without scripts it shows all there is to know of the study. The one script that it may run, by its hash, sorts tables and puts prices in
another currency or at another threshold in the place of those shown; both are in the page already.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from tempering.report import notes, searches
from tempering.report.data_sources import data_sentences, provenance_of
from tempering.report.defense_page import in_order
from tempering.report.downloads import Download
from tempering.report.drawing import Drawing
from tempering.report.families import by_family, families_of
from tempering.report.formatting import NOTHING, amount, beyond, count, duration, flops, share
from tempering.report.rows import LABELS, group_title, groups, number, price_columns, price_rows
from tempering.report.scope import scope
from tempering.report.section import Section
from tempering.report.style import css_colours, looks
from tempering.report.summary import audit_spend
from tempering.report.views import choices, left_out, views

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment
    from tempering.economics.prices import Accelerator, PriceBook
    from tempering.report.tables import RunTables
    from tempering.study import Study

_LOOSE_UNIT = re.compile(r"(?<=\d) (?=%|GPU-|[kMGTPEZY]?FLOP)|(?<=τ) (?== )|(?<=τ =) (?=\d)|(?<=>) (?=[\d$])|(?<=[\w.]) (?=– )")


def render(
    study: Study,
    assessment: Assessment,
    tables: RunTables,
    drawings: Sequence[Drawing],
    sections: Sequence[Section],
    *,
    price_book: PriceBook,
    skipped: Iterable[Any],
    environment: Mapping[str, Any],
    targets: Sequence[Mapping[str, Any]],
    spent: Mapping[str, float],
    others: Mapping[float, Assessment],
    downloads: Sequence[Download],
) -> str:
    """The whole page as text.

    Args:
        study: the resolved study.
        assessment: what economics computed.
        tables: the engine's tables, for failures and the reference.
        drawings: the figures.
        sections: what follows from the prices, question by question.
        price_book: where the accelerator's numbers come from.
        skipped: attacks left out of the plan, each with ``attack`` and ``reason``.
        environment: versions and hardware.
        targets: ``reference, digest, dtype, parameters, safeguard`` of each model.
        spent: ``wall_s`` and ``flops`` of the audit itself.
        others: what economics computed at other thresholds.
        downloads: the tables that the page offers.

    Returns:
        An HTML document; every word that comes from a user or a model is escaped.
    """
    rows = price_rows(assessment)
    look = looks(by_family((row.attack for row in rows), families_of(study.attacks)))
    accelerator = price_book.accelerator(study.accelerator)
    columns = price_columns(rows)
    spent = {**audit_spend(tables.units), **spent}
    trained = float(tables.units.loc[tables.units["kind"] == "harden", "flops"].fillna(0).sum())
    own, *others_at = views(study, assessment, others, look, columns)
    compared = own["comparison"] is not None
    keys = [key for key, _ in in_order(assessment, groups(rows))]
    script = _script()
    context = {
        "title": ", ".join(choice.title for choice in study.models),
        "study": study,
        "own": own,
        "other_views": others_at,
        "by_threshold": sorted([own, *others_at], key=lambda view: float(view["tau"])),
        "left_out": left_out(len(assessment.breaks)),
        "choices": choices(rows),
        "script": Markup(script),  # ours, and without a closing tag in it
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "downloads": downloads,
        "targets": [_target(target) for target in targets],
        "comparison": own["comparison"],
        "comparison_drawings": [_figure(drawing) for drawing in drawings if compared and drawing.group is None],
        "group_drawings": [[_figure(drawing) for drawing in drawings if drawing.group == key] for key in keys],
        "columns": [title for title, _ in columns],
        "drawings": [] if compared else [_figure(drawing) for drawing in drawings],
        "sections": [{**vars(section), "drawings": [_figure(drawing) for drawing in section.drawings]} for section in sections],
        "searches": searches.sentences(study, rows, tables.units),
        "chosen": searches.chosen(tables.units, accelerator),
        **scope(study, rows, skipped),
        "baseline": notes.baseline(assessment, tables.units),
        "data_sentences": data_sentences(provenance_of(targets)),
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


def _script() -> str:
    """The page's script, as it stands between its tags."""
    text = (resources.files("tempering.report") / "templates" / "report.js").read_text(encoding="utf-8")
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("report.js would end its own element")
    return text


def keyed(value: float) -> Markup:
    """The attribute by which the script sorts a cell; nothing where there is no number."""
    number = float(value)
    if math.isnan(number):
        return Markup("")
    return Markup(f' data-value="{number!r}"' if math.isfinite(number) else f' data-value="{"" if number > 0 else "-"}Infinity"')


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
    environment.globals["keyed"] = keyed
    return environment


def _keep_together(value: Any) -> Any:
    """Put a no-break space between a number and its unit, and a no-break hyphen inside one, so that no line begins with "%"."""
    return _LOOSE_UNIT.sub("\N{NO-BREAK SPACE}", value).replace("GPU-", "GPU\N{NON-BREAKING HYPHEN}") if type(value) is str else value


# What stands at the top


def _target(target: Mapping[str, Any]) -> dict[str, str]:
    parameters = target.get("parameters")
    return {
        "reference": str(target.get("reference", "")),
        "digest": str(target.get("digest", "")),
        "dtype": str(target.get("dtype", "")),
        "parameters": count(float(parameters)) if parameters else NOTHING,
        "safeguard": str(target.get("safeguard", "unknown")),
    }


def _figure(drawing: Drawing) -> dict[str, Any]:
    return {
        "name": drawing.name,
        "title": drawing.title,
        "wide": drawing.wide,
        "sentence": drawing.sentence,
        "legend": drawing.legend.items(),
        "panels": [{"svg": Markup(panel.svg()), "currency": panel.currency, "extra": panel.extra} for panel in drawing.panels],
        "single": len(drawing.shown) == 1,
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
                "spends": [
                    {"currency": currency, "text": _between(record, currency), "rank": _place(record, currency)}
                    for currency in ("examples", "steps", "flops", "usd")
                ],
                "recovered": share(number(record["best_recovered"])),
                "most": number(record["best_recovered"]),
                "utility": share(number(record["utility_kept"])),
                "kept": number(record["utility_kept"]),
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


def _place(record: Mapping[Any, Any], currency: str) -> float:
    """By what a table sorts where a run broke: the spend that saw it broken, or just above the last that did not."""
    lower, upper = number(record[f"{currency}_lower"]), number(record[f"{currency}_upper"])
    return upper if math.isfinite(upper) else beyond(lower)
