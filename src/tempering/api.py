"""The notebook surface, and what every command of the command line calls.

    import tempering

    result = tempering.audit("organism:tiny")
    result.trajectories  # a pandas DataFrame, one row a probe
    result.prices  # one row an attack
    result  # in a notebook: the price table and one plain sentence

Running, resuming and opening stand in :mod:`tempering.running`, and are public here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tempering import consent, registry
from tempering.economics.power import MULTIPLIER, POWER
from tempering.engine.executors import ExecutorChoice
from tempering.flags import all_usable, make_study, study_directory
from tempering.growing import Watcher, build_organism, grow_all, list_models
from tempering.planning import priced_plan
from tempering.planning_power import basis_of, checked_question
from tempering.rereading import reread_run, stored_tables
from tempering.result import Run
from tempering.running import executor_choice, make_report, open_run, plan_study, read_study, resume, run_study, validate_study
from tempering.study import Budget, SearchSettings, Study
from tempering.threat_model import ThreatModel

if TYPE_CHECKING:
    from tempering.base_check import BaseCheck

__all__ = [
    "Run",
    "audit",
    "base_check_study",
    "build_organism",
    "check_base",
    "executor_choice",
    "list_data",
    "list_methods",
    "list_models",
    "make_report",
    "make_study",
    "open_run",
    "plan_document",
    "plan_study",
    "read_study",
    "reread_run",
    "resume",
    "run_study",
    "stored_tables",
    "study_directory",
    "validate_study",
]

Dtype = Literal["float32", "bfloat16", "float16"]


def audit(
    model: str = "organism:tiny",
    *,
    data: str | Path | None = None,
    attacks: str | Iterable[str | dict[str, Any]] = "quick",
    seeds: int | Iterable[int] = 5,
    budget: str | Budget = "steps=200",
    tau: float = 0.5,
    epsilon: float = 0.1,
    search: int | SearchSettings | None = None,
    threat_model: str | ThreatModel = "open-weights",
    out: str | Path | None = None,
    unguarded: str | None = None,
    base: str | None = None,
    dtype: Dtype | None = None,
    device: str | None = None,
    chat_template: str | Path | None = None,
    system: str | None = None,
    trust_remote_code: bool = False,
    prompts: int = 128,
    judges: str | Iterable[str | dict[str, Any]] = "text",
    evaluators: str | Iterable[str | dict[str, Any]] = (),
    accelerator: str = "H100-SXM",
    price_book: str | Path | None = None,
    workers: int | None = None,
    executor: str | ExecutorChoice = "local",
    allow_code: bool = False,
    track: str | Iterable[str] = (),
    on_event: Watcher | None = None,
) -> Run:
    """Price one model: run the attacks against it, and say what the cheapest break costs.

    Args:
        model: ``organism:tiny``, a directory, ``hub-id@revision``, a GGUF file or a PEFT adapter.
        data: a JSONL file, a folder of them or a saved Hugging Face dataset; an organism brings its own world.
        attacks: ``"quick"`` (more of them where the data hold no harmful answers), ``"all"``, names separated by commas, or a list of
            names and of ``{"name": …, "config": …}``.
        seeds: how many, or which.
        budget: where each attack is cut off: ``"steps=200,flops=1e15"``.
        tau: recovered harm at or above which the safeguard counts as broken, from 0.001 to 1.
        epsilon: share of its utility that the model may lose, in [0, 1).
        search: settings that each attacker tries of its attack before using the best; ``None`` takes the attack's defaults.
        threat_model: ``open-weights``, ``open-weights+public-base``, ``fine-tuning-api`` or ``query-only``; which attacks may run.
        out: run directory; ``runs/<name>-<hash>`` unless told. A run that is there already is continued.
        unguarded: the same model without the safeguard, where one is known; organisms know theirs.
        base: the published model that this one was made from, for attacks that merge with it; organisms know theirs.
        dtype: type of the weights; the checkpoint's own unless told.
        device: ``cpu``, ``cuda``, ``cuda:1``; an accelerator where there is one unless told.
        chat_template: a file with a Jinja chat template, for a model that comes without.
        system: the system prompt that the model is deployed with, or a file that holds it.
        trust_remote_code: run code that ships with the model.
        prompts: held-out prompts of each role in a probe, at most.
        judges: who tells what a response to a hazard prompt is: ``"text"``, ``"wildguard"``, ``"openai:server=http://…,model=…"``, several
            set apart by ``+`` or in a list. The first decides; the others are recorded beside it, with how far they agree.
        evaluators: benchmarks besides Tempering's own evaluators: ``"lm-eval:tasks=mmlu,limit=200"``, ``"inspect:task=file.py@task"``, or a
            list of these and of ``{"name": …, "config": …}``.
        accelerator: what GPU-hours and dollars are reckoned for; a name in the price book.
        price_book: a YAML file laid over the price book that ships.
        workers: workers at work at once; chosen by cores and memory unless told.
        executor: where units are computed: ``"local"``, ``"ray"``, ``"slurm"``, or what :func:`executor_choice` makes of more than a name.
        allow_code: run the files of Python that are named as ``path.py:Class``.
        track: trackers that are told how the run goes: ``wandb``, ``mlflow``, ``trackio``; see docs/trackers.md for what they are told.
        on_event: is told of everything that happens.

    Returns:
        The finished run.

    Raises:
        TemperingError: something in the arguments cannot be used; the message is one line.
    """
    where = executor_choice(executor)
    study = make_study(
        model,
        data=data,
        attacks=attacks,
        seeds=seeds,
        budget=budget,
        tau=tau,
        epsilon=epsilon,
        search=search,
        threat_model=threat_model,
        unguarded=unguarded,
        base=base,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        system=system,
        trust_remote_code=trust_remote_code,
        prompts=prompts,
        judges=judges,
        evaluators=evaluators,
        accelerator=accelerator,
        price_book=price_book,
        allow_code=allow_code,
    )
    return run_study(study, out=out, workers=workers, executor=where, allow_code=allow_code, track=track, on_event=on_event)


def check_base(
    model: str | Study = "organism:tiny",
    *,
    base: str | None = None,
    delta_only: bool = False,
    out: str | Path | None = None,
    workers: int | None = None,
    on_event: Watcher | None = None,
    **settings: Any,
) -> BaseCheck:
    """Say how far a model is a small delta on its public base, and what the attack ``merge`` then costs.

    Args:
        model: the model, as :func:`audit` takes it, or the study that :func:`base_check_study` made of it and the settings.
        base: the published model that it was made from; organisms and PEFT adapters know theirs.
        delta_only: compare the weights and run no attack; no data are needed then.
        out: directory of the audit by ``merge``; ``runs/<name>-<hash>`` unless told.
        workers: processes at work at once.
        on_event: is told of everything that happens.
        settings: further arguments of :func:`audit`: data, seeds, budget, dtype, device and so on.

    Raises:
        TemperingError: no base is known, it is the model itself or of another architecture, or something else cannot be used.
    """
    from tempering.base_check import BaseCheck, measure_delta

    study = model if isinstance(model, Study) else base_check_study(model, base=base, **settings)
    if not delta_only:
        validate_study(study)  # before weights are read
    grow_all(study, on_event=on_event)
    delta = measure_delta(study.models[0])
    return BaseCheck(delta, None if delta_only else run_study(study, out=out, workers=workers, on_event=on_event))


def base_check_study(model: str = "organism:tiny", *, base: str | None = None, **settings: Any) -> Study:
    """The study that a base check runs: ``merge`` alone, by an attacker who holds the public base.

    Raises:
        TemperingError: no base is known, or a setting cannot be used.
    """
    from tempering.base_check import ATTACK, THREAT_MODEL, find_base

    return make_study(model, base=find_base(model, base), attacks=ATTACK, threat_model=THREAT_MODEL, **settings)


def plan_document(
    study: Study | str | Path,
    *,
    pilot: str | Path | None = None,
    multiplier: float = MULTIPLIER,
    power: float = POWER,
    allow_code: bool = False,
) -> dict[str, Any]:
    """What ``temper plan`` shows; see :func:`tempering.planning.priced_plan`.

    Args:
        study: a study, or the YAML file that holds one.
        pilot: the directory of a run that says how costs vary from seed to seed; assumptions say it unless told.
        multiplier: of a price, that should be seen.
        power: with which probability.
        allow_code: as :func:`run_study` takes it.

    Raises:
        TemperingError: the study, the pilot or the question cannot be used; the message is one line.
    """
    checked_question(multiplier, power)
    with consent.code_allowed(allow_code):
        study = read_study(study)
        basis = basis_of(pilot, study)
        return priced_plan(plan_study(study), basis=basis, multiplier=multiplier, power=power)


def list_methods(kind: str) -> list[dict[str, Any]]:
    """Every installed method of a kind that works, as JSON values: ``name, summary, source, needs``. Of others the log is told.

    Args:
        kind: ``attacks``, ``defenses`` or ``evaluators``.
    """
    return [registry.card(kind, name).as_row() for name in all_usable(kind)]


def list_data() -> list[dict[str, Any]]:
    """Every data set that can be named, as JSON values: ``name, rows, summary, licence, use, gated, hub``. No network is asked."""
    from tempering.data.declarations import cards

    return cards()
