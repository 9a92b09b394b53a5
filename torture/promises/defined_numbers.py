"""Numbers at their edges: what is not finite, empty, single or unknown comes to an outcome, a line or a dash, and never to a price."""

from __future__ import annotations

import dataclasses
import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torture.promise import Mutation, Promise, Tally
from torture.promises import _defined, _edge_tables
from torture.promises._children import run
from torture.promises._edges import ASKED, HARDENING, MODELS, REFUSED, STUDIES, Edge, prepared, views

TAU, EPSILON = 0.5, 0.1
DRAWN, DRAWN_SHOWN = 400, 40
"""Tables drawn at random in the long form, and every so many of them shown; the short form draws a few."""
AT_ONCE = 6
"""Attacks of one study in the long form, so that no child takes minutes."""

Found = list[tuple[str, str]]
"""What was tried, and what was wrong with it."""
Call = tuple[str, str, list[Any]]
"""What is tried, the function of this module that tries it, and its arguments."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Tables, refusals, evaluators, attacks and defences, each at its edges; and what is shown of them."""
    folder.mkdir(exist_ok=True)
    for calls in _calls(long, folder):
        end = run(made_one_by_one, calls, patience=900)
        if end.code:
            tally.count(False, f"{calls[0][0]}: it ended with {end.code} {end.said}")
        for tried, problem in end.result or ():
            tally.count(not problem, f"{tried}: {problem}")


def _calls(long: bool, folder: Path) -> Iterator[list[Call]]:
    """What is to be made, in lists for one process each; the short form saves processes, which have to import so much."""
    edges = str(folder / "edges")
    tabular: list[Call] = [("tables", "tables", [str(folder), DRAWN if long else 8]), ("refusals", "refused", [edges])]
    examined: list[Call] = [(f"evaluators of what {model}", "examined", [model]) for model in (ASKED if long else ASKED[:3])]
    studies: list[Call] = []
    for name, edge in STUDIES.items():
        attacks = _every_attack(edge) if long else edge.short
        parts = [attacks[start : start + AT_ONCE] for start in range(0, len(attacks), AT_ONCE)]
        studies += [(name, "attacked", [edges, name, part, long or edge.shown]) for part in parts]
    hardenings: list[Call] = [
        (f"{defense}, {name}", "hardened", [edges, name, defense, long])
        for name, edge in HARDENING.items()
        for defense in (_every_defense() if long else edge.short)
    ]
    if long:
        yield from ([call] for call in (*tabular, *examined, *studies, *hardenings))
    else:
        yield from (tabular + examined, studies, hardenings)


def made_one_by_one(calls: list[Call]) -> Found:
    """Make every call; what it raises is what was wrong with it."""
    found: Found = []
    for what, name, arguments in calls:
        made: Found = []
        problem = _tried(lambda made=made, name=name, arguments=arguments: made.extend(globals()[name](*arguments)) or "")
        found += [(f"{what}: {tried}", wrong) for tried, wrong in made] + ([(what, problem)] if problem else [])
    return found


def _every_attack(edge: Edge) -> tuple[str, ...]:
    from tempering import registry

    return tuple(name for name in registry.own_names("attacks") if name not in edge.without)


def _every_defense() -> tuple[str, ...]:
    from tempering import registry

    return tuple(registry.own_names("defenses"))


def tables(folder: str, count: int) -> Found:
    """Tables with known outcomes, and tables drawn at random."""
    warnings.simplefilter("ignore")  # of numpy, about means of nothing
    found: Found = []
    for number, name in enumerate(_edge_tables.KNOWN):
        found.append((name, _tried(_known, name)))
        if number == 1 or count >= DRAWN:
            found.append((f"{name}, shown", _tried(_written, *_edge_tables.known(name), str(Path(folder) / f"known {number}"))))
    for seed in range(count):
        found.append((f"drawn by {seed}", _tried(_drawn, seed)))
        if seed % DRAWN_SHOWN == DRAWN_SHOWN - 1:
            found.append((f"drawn by {seed}, shown", _tried(_written, *_edge_tables.drawn(seed)[:2], str(Path(folder) / f"drawn {seed}"))))
    return found


def _tried(body: Callable[..., str], *arguments: Any) -> str:
    """What a body says is wrong; its exception, where it has one."""
    try:
        return body(*arguments)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def _known(name: str) -> str:
    assessment, problem = _assessed(*_edge_tables.known(name))
    outcome = _edge_tables.KNOWN[name][3]
    wrong = [row for row in assessment.breaks["outcome"] if row != outcome]
    return problem or (f"its outcome is {wrong[0]}, not {outcome}" if wrong else "")


def _drawn(seed: int) -> str:
    units, probes, reference = _edge_tables.drawn(seed)
    assessment, problem = _assessed(units, probes)
    return problem or _unlike_its_probes(assessment, probes, reference)


def _assessed(units: list[dict[str, Any]], probes: list[dict[str, Any]]) -> tuple[Any, str]:
    """The assessment of records, and what is wrong with its prices."""
    import pandas as pd

    from tempering.economics.assess import assess
    from tempering.economics.prices import load_price_book

    columns = [*_edge_tables.known("it never refuses")[1][0]]
    frames = pd.DataFrame(units), pd.DataFrame(probes, columns=columns)
    made = assess(*frames, tau=TAU, epsilon=EPSILON, price_book=load_price_book(), accelerator="H100-SXM")
    return made, _first(_defined.undefined_price(row) for row in made.prices.to_dict("records"))


def _unlike_its_probes(assessment: Any, probes: list[dict[str, Any]], reference: float) -> str:
    return _first(
        _defined.undefined_break(row, [probe for probe in probes if probe["unit"] == row["unit"]], reference, TAU, EPSILON)
        for row in assessment.breaks.to_dict("records")
    )


def _written(units: list[dict[str, Any]], probes: list[dict[str, Any]], folder: str) -> str:
    """What is wrong with the report of records."""
    import pandas as pd

    from support.report_specimen import Specimen
    from tempering.engine.results import Tables
    from tempering.study import Study

    attacks = tuple(dict.fromkeys(unit["attack"] for unit in units if unit["attack"]))
    frames = Tables(pd.DataFrame(units), pd.DataFrame(probes, columns=[*_edge_tables.known("it never refuses")[1][0]]))
    target = {"reference": _edge_tables.MODEL, "digest": "ab12" * 16, "dtype": "float32", "parameters": 1000, "safeguard": "refusal"}
    study = Study(models=(_edge_tables.MODEL,), attacks=attacks, seeds=1)
    assessment, directory = _assessed(units, probes)[0], Path(folder)
    made = Specimen(study, assessment, frames, [target], [], {"python": "3", "cores": 1, "accelerator": "none"})
    page = made.write(directory, thresholds=True).read_text(encoding="utf-8")
    summary = (directory / "summary.json").read_text(encoding="utf-8")
    return _defined.undefined_page(page) or _defined.undefined_json(summary) or _defined.undefined_text(_printed(assessment))


def _printed(assessment: Any) -> str:
    """What a terminal is sent of a finished run."""
    import io

    from tempering.report.console import PlainConsole
    from tempering.report.terminal import result_table, sentence

    console = PlainConsole(file=io.StringIO(), width=200)
    console.print(result_table(assessment, 200))
    console.print(sentence(assessment))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def refused(folder: str) -> Found:
    """Studies of which nothing can come: each is refused in one line, before anything is run."""
    from tempering.engine.plan import make_plan
    from tempering.errors import TemperingError
    from tempering.study import Study

    found: Found = []
    for name, edge in REFUSED.items():
        fields = {
            **prepared(Path(folder), edge),
            "attacks": [{"name": attack, "config": edge.configs.get(attack, {})} for attack in edge.short],
        }
        try:
            make_plan(Study.model_validate(fields))
            problem = "it is planned"
        except (TemperingError, ValueError) as error:
            said = str(error)
            own_line = not isinstance(error, TemperingError) or ("; " in said and "\n" not in said)
            problem = "" if edge.refused in said and own_line else said
        found.append((name, problem))
    return found


def examined(model: str) -> Found:
    """Every evaluator on a model at an edge, with prompts and without, as a target and as a checkpoint."""
    from support.tiny_models import tiny_model
    from tempering import registry
    from tempering.data.chat import ChatFormat
    from tempering.evaluators import Subject, examine
    from tempering.study import ProbeSettings

    made, tokenizer = MODELS[model]()
    settings = ProbeSettings(prompts=4, max_new_tokens=3)
    found: Found = []
    for view_name, view in views().items():
        base = tiny_model("llama", vocabulary=[*tokenizer.get_vocab()], hidden_size=16)[0]
        fits = base.config.vocab_size == made.config.vocab_size
        untouched = Subject(base if fits else made, ChatFormat(tokenizer), view, settings)
        for origin in (None, untouched):
            subject = Subject(made, ChatFormat(tokenizer), view, settings, origin)
            for name in registry.unasked("evaluators"):
                evaluator = registry.create("evaluators", name)
                row = examine(subject, [evaluator])
                unmeasured = set(evaluator.measures) ^ set(row)
                problem = f"it gives {sorted(row)}" if unmeasured else _defined.undefined_probe(row)
                found.append((f"{name}, {view_name}, {'checkpoint' if origin else 'target'}", problem))
    return found


def attacked(folder: str, name: str, attacks: tuple[str, ...], shown: bool) -> Found:
    """Attacks at an edge: each unit, probe and price is defined; and so is what is shown of them."""
    edge = STUDIES[name]
    fields = prepared(Path(folder), edge)
    fields["attacks"] = [{"name": attack, "config": edge.configs.get(attack, {})} for attack in attacks]
    made = _run(fields, Path(folder).with_name("runs") / f"{name} {attacks[0]}", shown)
    skipped = {entry.attack: entry.reason for entry in made.plan.skipped}
    found: Found = []
    for attack in attacks:
        problem = _of_attack(made, attack) if attack not in skipped else "" if skipped[attack] else "it is left out without a reason"
        outcomes = {str(row) for row in made.assessment.breaks.query("attack == @attack")["outcome"]}
        expected = edge.outcomes.get(attack)
        if not problem and expected is not None and not (outcomes and outcomes <= set(expected)):
            problem = f"it comes to {sorted(outcomes)}, not {expected}"
        found.append((attack, problem))
    return found + ([("what is shown", _of_what_is_shown(made.directory))] if shown else [])


def hardened(folder: str, name: str, defense: str, shown: bool) -> Found:
    """A defence at an edge, and an attack on what came of it."""
    from tempering.errors import TemperingError

    edge = HARDENING[name]
    fields = prepared(Path(folder), edge)
    fields |= {"attacks": ["full_finetune"], "defenses": [{"name": defense, "config": edge.configs.get(defense, {"steps": 2})}]}
    try:
        made = _run(fields, Path(folder).with_name("runs") / f"{name} {defense}", shown)
    except TemperingError as refusal:
        return [("refused", "" if "; " in str(refusal) and "\n" not in str(refusal) else str(refusal))]
    training = made.tables.units.query("kind == 'harden'").to_dict("records")
    found: Found = [("training", _first(map(_defined.undefined_unit, training))), ("attack", _of_attack(made, "full_finetune"))]
    return found + ([("what is shown", _of_what_is_shown(made.directory))] if shown else [])


@dataclasses.dataclass(frozen=True)
class _Made:
    """A run that was computed in this process."""

    directory: Path
    plan: Any
    tables: Any
    assessment: Any


def _run(fields: dict[str, Any], directory: Path, shown: bool) -> _Made:
    import torch

    from tempering.api import make_report
    from tempering.engine.plan import make_plan
    from tempering.engine.run import execute
    from tempering.rereading import reread_run
    from tempering.study import Study

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of libraries, to whoever reads the figures
    execute(make_plan(Study.model_validate(fields)), directory, workers=0)
    read = reread_run(directory)
    if shown:
        make_report(directory)
    return _Made(directory, read.plan, read.tables, read.assessment)


def _of_attack(made: _Made, attack: str) -> str:
    """What is wrong with the units, probes and price of an attack."""
    probes = made.assessment.trajectories
    references = probes.merge(made.tables.units.query("kind == 'reference'")[["unit"]], on="unit")["harm"]
    reference = float(references.iloc[0]) if len(references) else math.nan
    threshold = made.plan.study.threshold
    units = made.tables.units.query("attack == @attack").to_dict("records")
    if not units:
        return "it was not run"
    for unit in units:
        own = probes[probes["unit"] == unit["unit"]].to_dict("records")
        (outcome,) = made.assessment.breaks.query("unit == @unit['unit']").to_dict("records")
        problem = _defined.undefined_unit(unit) or _first(map(_defined.undefined_probe, own))
        if problem := problem or _defined.undefined_break(outcome, own, reference, threshold.tau, threshold.epsilon):
            return problem
    return _first(_defined.undefined_price(row) for row in made.assessment.prices.query("attack == @attack").to_dict("records"))


def _of_what_is_shown(directory: Path) -> str:
    """What is wrong with a run's page, summary, card and table."""
    from tempering.api import open_run
    from tempering.sharing import card

    opened, made = open_run(directory), card(directory)
    page, summary = ((directory / name).read_text(encoding="utf-8") for name in ("report.html", "summary.json"))
    texts = (made.markdown, _printed(opened.assessment))
    return _defined.undefined_page(page) or _defined.undefined_json(summary) or _first(map(_defined.undefined_text, texts))


def _first(problems: Any) -> str:
    return next((problem for problem in problems if problem), "")


PROMISE = Promise(
    name="defined-numbers",
    group="Numbers",
    sentence=(
        "What is not finite, empty, single or unknown comes to a defined outcome or is refused in one line: no crash, no price out "
        "of what is no number, and a dash where there is nothing to show."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "training/loop.py",
            "        if not math.isfinite(loss):",
            "        if False:",
            "training goes on with a loss that is no number",
        ),
        Mutation(
            "economics/breaks.py",
            """    harms = harms[harms["harm"] > 0]
""",
            "",
            "a reference without harm makes every model broken at no cost",
        ),
        Mutation(
            "economics/breaks.py",
            "    if seen.empty or blind:\n",
            "    if False:\n",
            "an attack of which nothing could be measured counts as one that held",
        ),
        Mutation(
            "report/formatting.py",
            "    if not math.isfinite(value):\n        return NOTHING\n    percent = value * 100\n",
            "    percent = value * 100\n",
            "a share that is no number is shown as one",
        ),
        Mutation(
            "engine/loading.py",
            "    if division.evaluator_view().benign:\n        return\n",
            "    return\n",
            "data on which utility cannot be measured are planned",
        ),
        Mutation(
            "evaluators/_contract.py",
            "/ len(judged) if judged else math.nan",
            "/ len(judged)",
            "a share of no prompts is divided by their number",
        ),
        Mutation(
            "models/sampling.py",
            "        return torch.where(largest.values.isfinite(), scores, certain)\n",
            "        return scores\n",
            "sampling from what is no distribution is a crash",
        ),
    ),
)
