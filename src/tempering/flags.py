"""From the arguments of an audit to a study, and what is said of arguments that do not make one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tempering import consent, organisms, registry
from tempering.errors import InvalidStudy, TemperingError
from tempering.judge_choice import JudgeChoice
from tempering.model_choice import system_prompt
from tempering.reading import exists, expanded
from tempering.short_forms import parse_settings
from tempering.study import Budget, MethodChoice, SearchSettings, Study
from tempering.threat_model import ThreatModel

_log = logging.getLogger(__name__)

_FLAGS = {
    "tau": "--tau",
    "epsilon": "--epsilon",
    "seeds": "--seeds",
    "prompts": "--prompts",
    "dtype": "--dtype",
    "threat_model": "--threat-model",
    "search": "--search",
    "defenses": "--defenses",
    "utility_floor": "--utility-floor",
    "evaluators": "--evaluator",
}
"""The flag that gives a field of a study its value."""


def make_study(
    model: str = "organism:tiny",
    *,
    data: str | Path | None = None,
    attacks: str | Iterable[str | dict[str, Any]] = "quick",
    defenses: str | Iterable[str | dict[str, Any]] | None = None,
    seeds: int | Iterable[int] = 5,
    budget: str | Budget = "steps=200",
    tau: float = 0.5,
    epsilon: float = 0.1,
    search: int | SearchSettings | None = None,
    threat_model: str | ThreatModel = "open-weights",
    unguarded: str | None = None,
    base: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    chat_template: str | Path | None = None,
    system: str | None = None,
    trust_remote_code: bool = False,
    prompts: int = 128,
    judges: str | Iterable[str | dict[str, Any]] | None = None,
    evaluators: str | Iterable[str | dict[str, Any]] | None = None,
    accelerator: str = "H100-SXM",
    price_book: str | Path | None = None,
    utility_floor: float = 0.9,
    allow_code: bool = False,
) -> Study:
    """The study that the arguments of :func:`audit`, or of :func:`compare`, describe.

    Raises:
        UnknownName: there is no attack or defence of that name.
        InvalidStudy: a value is out of its range; the message names the flag.
    """
    with consent.code_allowed(allow_code):
        chosen = choose_attacks(attacks, data), () if defenses is None else choose_defenses(defenses), choose_evaluators(evaluators)
        judging = choose_judges(judges)
    values = {
        "name": study_name(model) if defenses is None else f"compare-{study_name(model)}",
        "models": [
            {
                "reference": model,
                "unguarded": unguarded,
                "base": base,
                "dtype": dtype,
                "device": device,
                "chat_template": chat_template,
                "system": system_prompt(system),
                "trust_remote_code": trust_remote_code,
            }
        ],
        "attacks": chosen[0],
        "defenses": chosen[1],
        "seeds": seeds if isinstance(seeds, int) else list(seeds),
        "budget": _read_budget(budget),
        "threshold": {"tau": tau, "epsilon": epsilon},
        "search": search,
        "threat_model": threat_model,
        "data": {"reference": None if data is None else str(data)},
        "probes": {"prompts": prompts, "evaluators": chosen[2]} | ({"judges": judging} if judging else {}),
        "accelerator": accelerator,
        "price_book": price_book,
        "utility_floor": utility_floor,
    }
    given = {"tau": tau, "epsilon": epsilon, "seeds": seeds, "prompts": prompts, "dtype": dtype, "search": search}
    return validated(values, {**given, "threat_model": threat_model, "defenses": defenses, "utility_floor": utility_floor})


def _read_budget(budget: str | Budget) -> Budget:
    if isinstance(budget, Budget):
        return budget
    try:
        return Budget.parse(budget)
    except InvalidStudy as error:
        raise InvalidStudy(f"--budget: {error}") from None


def choose_attacks(attacks: str | Iterable[str | dict[str, Any]], data: str | Path | None = None) -> list[MethodChoice]:
    """The attacks that ``quick``, ``all`` or a list of names stands for, each one looked up.

    Args:
        attacks: as :func:`make_study` takes them.
        data: what the model is audited with. Where it holds no harmful answers, ``quick`` takes in attacks that do without them.

    Raises:
        UnknownName: there is none of that name.
        InvalidStudy: none is named.
    """
    if isinstance(attacks, str) and attacks.strip() == "quick":
        unanswered = data is not None and lacks_answers(str(data))
        own = {name: registry.get("attacks", name) for name in registry.own_names("attacks")}
        attacks = [name for name, attack in own.items() if attack.quick or (unanswered and attack.quick_unanswered)]
    elif isinstance(attacks, str) and attacks.strip() == "all":
        attacks = all_usable("attacks")
    return _choices("attacks", attacks, "write quick, all, or names separated by commas; see: temper ls attacks")


def lacks_answers(data: str) -> bool:
    """Whether data hold hazards for the attacker without a compliant answer, so that attacks that train on those cannot be run.

    Of named sets their declarations say so, and nothing is fetched; data of one's own are read. What cannot be read is no matter here: the
    plan says what is wrong with it.
    """
    from tempering.data.declarations import declaration  # here, because few commands need them
    from tempering.data.examples import Part, Role
    from tempering.data.importers import load_dataset
    from tempering.data.members import members

    try:
        for member in (found := members(data)):
            if member.name:
                columns, roles = declaration(member.name).columns, declaration(member.name).roles
                if Role.HAZARD in roles and columns.answer is None and columns.choices is None:
                    return True
            elif not organisms.is_organism(member.reference):
                examples = load_dataset(member.reference, alone=len(found) == 1).examples
                mine = [each for each in examples if each.role is Role.HAZARD and each.part in (None, Part.ATTACKER)]
                if any(each.answer is None for each in mine):
                    return True
    except TemperingError:
        pass
    return False


def choose_defenses(defenses: str | Iterable[str | dict[str, Any]]) -> list[MethodChoice]:
    """The defences that ``all`` or a list of names stands for, each one looked up; ``a+b`` is a chain, which ``all`` leaves out.

    Raises:
        UnknownName: there is none of that name.
        InvalidStudy: none is named.
    """
    if isinstance(defenses, str) and defenses.strip() == "all":
        defenses = [name for name in all_usable("defenses") if name != "chain"]
    return _choices("defenses", defenses, "write all, or names separated by commas, a+b for a chain; see: temper ls defenses")


def choose_judges(judges: str | Iterable[str | dict[str, Any]] | None) -> list[JudgeChoice]:
    """The judges that names stand for, each one looked up: ``NAME``, ``NAME:setting=value,…``, or several of these set apart by ``+``.

    A ``+`` parts two judges where the name of one comes behind it; elsewhere it is a part of a value.

    Raises:
        UnknownName: there is none of that name.
        InvalidStudy: one cannot be read, or a setting of it cannot be used.
    """
    names = {spelt for name in registry.names("judges") for spelt in (name, name.replace("_", "-"))}
    parting = re.compile(rf"\+(?=\s*(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})\s*(?:[:+]|$))")
    named = [judges] if isinstance(judges, str) else list(judges or ())
    parts = [part for entry in named for part in (parting.split(entry) if isinstance(entry, str) else [entry])]
    try:
        choices = [JudgeChoice.model_validate(part) for part in parts]
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidStudy(f"--judge cannot be read: {problem}", "write NAME, or NAME:setting=value,setting=value") from None
    for choice in choices:
        registry.create("judges", choice.name, choice.config)
    return choices


def choose_evaluators(further: str | Iterable[str | dict[str, Any]] | None) -> list[MethodChoice]:
    """What ``--evaluator`` stands for: Tempering's own, and those named beside them; none where none is named, which means the same.

    Args:
        further: names, ``name:setting=value,…``, or ``{"name": …, "config": …}``; a hyphen may stand for an underscore.

    Raises:
        UnknownName: there is none of that name.
        InvalidStudy: a setting is wrong.
    """
    named = [_underscored(choice) for choice in ([further] if isinstance(further, str) else further or ())]
    return [MethodChoice(name=name) for name in registry.unasked("evaluators")] + _choices("evaluators", named, "") if named else []


def _underscored(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    """``lm-eval:…`` as ``lm_eval:…``, where only that is a method's name."""
    if not isinstance(choice, str):
        return choice
    name, _ = parse_settings(choice)
    own, known = name.replace("-", "_"), registry.names("evaluators")
    return own + choice.removeprefix(name) if own in known and name not in known else choice


def all_usable(kind: str) -> list[str]:
    """Every method of a kind that works; of those that do not, whoever listens is told."""
    working, problems = registry.usable(kind)
    for problem in problems:
        _log.warning("warning: %s", problem)
    return working


def _choices(kind: str, named: str | Iterable[str | dict[str, Any]], how: str) -> list[MethodChoice]:
    chosen = [name.strip() for name in named.split(",") if name.strip()] if isinstance(named, str) else list(named)
    if not chosen:
        raise InvalidStudy(f"--{kind} names no {registry.KINDS[kind]}", how)
    try:
        choices = [MethodChoice.model_validate(choice) for choice in chosen]
    except ValidationError as error:
        raise InvalidStudy(f"--{kind} cannot be read: {error.errors()[0]['msg']}", "give names, or {'name': ..., 'config': ...}") from None
    for choice in choices:
        registry.create(kind, choice.name, choice.config)
    return choices


def study_name(model: str) -> str:
    """What the study of a model is called: ``organism:tiny/base`` → ``organism-tiny-base``, ``./models/mine/`` → ``mine``."""
    path = expanded(model)
    name = path.resolve().name if not organisms.is_organism(model) and exists(path) else model
    return slug(name) or "audit"


def slug(name: str) -> str:
    """A name as a part of a file name: letters, digits, dots and hyphens, at most sixty."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60]


def study_directory(study: Study, out: str | Path | None = None) -> Path:
    """Where a study's run lies: ``out``, or ``runs/<name>-<hash>``."""
    return Path(out) if out is not None else Path("runs") / f"{slug(study.name) or 'study'}-{study.digest}"


def validated(values: dict[str, Any], given: dict[str, Any]) -> Study:
    """A study out of values, some of which were given by flags.

    Raises:
        InvalidStudy: a value is out of its range; the message names the flag and what was given.
    """
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        field = next((part for part in reversed(first["loc"]) if part in given), None)
        where = f"{_FLAGS[str(field)]} {given[field]}" if field else ".".join(str(part) for part in first["loc"])
        raise InvalidStudy(f"{where}: {message}") from None


def reread(
    study: Study,
    *,
    tau: float | None = None,
    epsilon: float | None = None,
    accelerator: str | None = None,
    price_book: str | Path | None = None,
) -> Study:
    """The study with other settings for reading the same results; ``None`` keeps what it has.

    Raises:
        InvalidStudy: a setting is no good, or the runs ended before they could reach that τ.
    """
    threshold = study.threshold.model_dump() | {name: value for name, value in (("tau", tau), ("epsilon", epsilon)) if value is not None}
    values = study.model_dump() | {"threshold": threshold}
    values |= {name: value for name, value in (("accelerator", accelerator), ("price_book", price_book)) if value is not None}
    read = validated(values, {"tau": tau, "epsilon": epsilon})
    if unseen := read.probes.why_unseen(read.threshold.tau):
        raise InvalidStudy(unseen, f"read the run with --tau {study.probes.until:g} or less")
    return read
