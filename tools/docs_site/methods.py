"""A page for every registered method, made of its class: nothing has to be written or edited when one is added."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from tempering import registry
from tempering.settings import Choices, OnlyIf, Range, Settings
from tempering.threat_model import THREAT_MODELS
from tools.docs_site.docstrings import as_markdown, cleaned, code, documented_fields

DOCS = Path(__file__).parents[2] / "docs"
TITLES = {"attacks": "Attacks", "defenses": "Defences", "evaluators": "Evaluators", "judges": "Judges"}
NOUNS = {"attacks": "attack", "defenses": "defence", "evaluators": "evaluator", "judges": "judge"}
_METHOD = re.compile(r"tempering\.(attacks|defenses|evaluators|judges)\.(\w+)")


def page_of(kind: str, name: str) -> str:
    """Where a method's page stands in the site."""
    return f"methods/{kind}/{name}.md"


def pages() -> dict[str, str]:
    """Every page of a method and the pages that list them, as Markdown by place. Installed plug-ins have none."""
    made = {page_of(kind, name): method_page(kind, name) for kind in TITLES for name in registry.own_names(kind)}
    return made | {f"methods/{kind}/index.md": index_page(kind) for kind in TITLES}


def index_page(kind: str) -> str:
    """The list of a kind's methods."""
    rows = []
    for name in registry.own_names(kind):
        card = registry.card(kind, name)
        rows.append(f"| [{code(name)}]({name}.md) | {as_markdown(card.summary)} | {as_markdown(card.source)} |")
    head = [f"# {TITLES[kind]}", "", _INTRODUCTIONS[kind], "", "| name | does | source |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows, ""])


def by_threat_model() -> str:
    """Which attacks run under which threat model, as a table."""
    rows = []
    for name in registry.own_names("attacks"):
        needs = registry.get("attacks", name).needs
        if name != "chain":
            cells = ["yes" if needs <= allows else f"no: {_listed(needs - allows)}" for allows in THREAT_MODELS.values()]
            rows.append(f"| [{code(name)}]({page_of('attacks', name)}) | {' | '.join(cells)} |")
    head = ["| attack | " + " | ".join(code(model) for model in THREAT_MODELS) + " |", "| --- " * (len(THREAT_MODELS) + 1) + "|"]
    return "\n".join([*head, *rows])


def method_page(kind: str, name: str) -> str:
    """One method's page: what its docstring says, what it needs, its settings, how it is called."""
    method = registry.get(kind, name)
    text = as_markdown(cleaned(method), lambda other: _page_from(kind, other))
    summary, _, body = text.partition("\n\n")
    parts = [f"# {name.replace('_', ' ')}", f"*{NOUNS[kind]} {code(name)}*", summary, body, facts(kind, name, method)]
    parts += [settings_section(method.Config), f"## Use it\n\n{_usage(kind, name, method)}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(kind: str, name: str, method: Any) -> str:
    """What else the class says of itself, as a table."""
    rows: list[tuple[str, Any]] = [("Source", as_markdown(method.source))]
    if kind == "attacks":
        allowed = [model for model, allows in THREAT_MODELS.items() if method.needs <= allows]
        rows += [
            ("Family", method.family),
            ("Needs", _listed(method.needs)),
            ("Makes use of", _listed(method.uses)),
            ("Runs under", ", ".join(f"[{code(model)}](../../threat-models.md)" for model in allowed)),
            ("Run unasked", _unasked(method)),
        ]
    elif kind == "defenses":
        resists = ", ".join(f"[{code(attack)}]({_relative(kind, 'attacks', attack)})" for attack in _names(method.resists))
        rows += [
            ("Claim", as_markdown(_told(method.claim))),
            ("Against", resists),
            ("Needs", _listed(method.needs)),
            ("Withholds by", method.withholds),
        ]
        if (DOCS / "cards" / f"{name}.md").is_file():
            rows.append(("Put to the test", f"[claim card](../../cards/{name}.md)"))
    elif kind == "judges":
        rows.append(("Licence of the prompt or format", as_markdown(method.licence)))
    else:
        rows.append(("Measures", ", ".join(code(measure) for measure in method.measures)))
        rows.append(("Run unasked", "yes" if name in registry.unasked("evaluators") else "no: a study names it"))
    cells = [f"| {title} | {' '.join(_told(text).split())} |" for title, text in rows if text]
    return "\n".join(["## What it is", "", "| | |", "| --- | --- |", *cells])


def settings_section(config: type[BaseModel]) -> str:
    """Every setting with its default, what a search may set it to, and what it means."""
    rows = list(setting_rows(config))
    if not rows:
        return "## Settings\n\nNone."
    head = ["## Settings", "", "| setting | default | searched over | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def setting_rows(config: type[BaseModel], prefix: str = "", defaults: Any = None) -> Iterator[tuple[str, str, str, str]]:
    """The rows of that table; nested settings are written with a dot, as a search writes them."""
    meanings = documented_fields(config)
    for name, field in config.model_fields.items():
        default = getattr(defaults, name) if defaults is not None else field.get_default(call_default_factory=True)
        meaning = " ".join(as_markdown(meanings.get(name, "")).split())
        nested = nested_settings(field)
        if nested is not None and isinstance(default, nested):
            yield (code(prefix + name), "", _space(field), meaning)
            yield from setting_rows(nested, f"{prefix}{name}.", default)
        else:
            yield (code(prefix + name), _default(default), _space(field), meaning)


def nested_settings(field: FieldInfo) -> type[BaseModel] | None:
    """The settings that a field holds, where it holds some."""
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Settings)), None)


def _default(value: Any) -> str:
    return "must be given" if value is PydanticUndefined else code(json.dumps(to_jsonable_python(value), ensure_ascii=False))


def _space(field: FieldInfo) -> str:
    words = []
    for item in (*field.metadata, *(further for part in get_args(field.annotation) for further in getattr(part, "__metadata__", ()))):
        if isinstance(item, Range):
            words.append(f"{item.low:g} – {item.high:g}{', by the logarithm' if item.log else ''}")
        elif isinstance(item, Choices):
            words.append(", ".join(code(json.dumps(to_jsonable_python(option), ensure_ascii=False)) for option in item.options))
        elif isinstance(item, OnlyIf):
            words.append(f"only if {code(f'{item.field} = {json.dumps(to_jsonable_python(item.value))}')}")
    return "; ".join(words)


def _unasked(method: Any) -> str:
    """Whether an audit runs an attack that nobody names."""
    if method.quick:
        return "yes, it is quick"
    return "on data without harmful answers" if method.quick_unanswered else "no: name it, or ask for `--attacks all`"


def _listed(words: Any) -> str:
    return _told(words) if isinstance(words, property) else ", ".join(sorted(str(word) for word in words))


def _names(value: Any) -> tuple[str, ...]:
    return () if isinstance(value, property) else tuple(value)


def _told(value: Any) -> str:
    """A class's own word; a chain's depends on its links."""
    return "what its links say" if isinstance(value, property) else str(value)


def _relative(kind: str, other_kind: str, name: str) -> str:
    return f"{name}.md" if other_kind == kind else f"../{other_kind}/{name}.md"


def _page_from(kind: str, dotted: str) -> str | None:
    match = _METHOD.fullmatch(dotted)
    if match is None or match[2] not in registry.own_names(match[1]):
        return None
    return _relative(kind, match[1], match[2])


def _usage(kind: str, name: str, method: Any) -> str:
    if name == "chain":
        call = {
            "attacks": "temper audit --attacks refusal_ablation+retrieval",
            "defenses": "temper harden organism:tiny --defense undo+refat --out runs/hardened",
        }
        return f"    {call[kind]}\n\nLinks are joined by `+`; [studies](../../studies.md#labels-and-chains) give them settings."
    if kind == "attacks":
        allowing = [model for model, allows in THREAT_MODELS.items() if method.needs <= allows]
        flag = "" if "open-weights" in allowing else f" --threat-model {allowing[0]}"
        return f"    temper audit --attacks {name}{flag}\n\nSettings stand in a [study](../../studies.md)."
    if kind == "defenses":
        return (
            f"    temper harden organism:tiny --defense {name} --out runs/hardened\n"
            f"    temper compare --defenses {name} --attacks quick\n\n"
            "`--config FILE` takes settings: [hardening](../../hardening.md#which-defence-with-which-settings)."
        )
    if kind == "judges":
        must = [f"{field}=…" for field, said in method.Config.model_fields.items() if said.is_required()]
        call = f"{name}:{','.join(must)}" if must else name
        return f"    temper audit --judge {call}\n\nA second `--judge` is recorded beside the first. Settings stand behind a colon."
    return (
        "A [study](../../studies.md) that names its own evaluators, and no others then, does so under `probes`:\n\n"
        f"    probes: {{evaluators: [harm, refusal, utility{'' if name in ('harm', 'refusal', 'utility') else f', {name}'}]}}"
    )


_INTRODUCTIONS = {
    "attacks": "Everything that turns a target into a checkpoint that helps with the hazard. `temper ls attacks` prints this list;"
    " what came of them on the organisms stands [here](../../attacks.md). [Write your own](../../how-to/attack.md).",
    "defenses": "Everything that raises the price. `temper ls defenses` prints this list; what each paper claims and what was"
    " reproduced of it stands on the [claim cards](../../cards/index.md). [Write your own](../../how-to/defence.md).",
    "evaluators": "What a probe measures of a checkpoint. `temper ls evaluators` prints this list."
    " [Write your own](../../how-to/evaluator.md).",
    "judges": "What tells of a response whether it helps. `temper ls judges` prints this list. [Write your own](../../how-to/judge.md).",
}
