"""Studies read, checked, planned, run and opened again: what :mod:`tempering.api` puts together for a notebook and the command line.

Whatever a user can get wrong is found out before the run directory is made, so that bad input leaves nothing half-written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tempering import consent, organisms, registry
from tempering.economics.prices import load_price_book
from tempering.engine.executors import LOCAL, ExecutorChoice
from tempering.engine.store import RunStore
from tempering.flags import reread, study_directory
from tempering.growing import Watcher, grow_all
from tempering.report.tables import assessment_of, conclusions_of
from tempering.rereading import reread_run, stored_report, stored_summary
from tempering.result import Run
from tempering.study import Study
from tempering.study_file import load_study
from tempering.trackers import chosen
from tempering.trackers._following import Following
from tempering.trackers._telling import followed_run, price_values

if TYPE_CHECKING:
    import pandas as pd

    from tempering.engine.units import Plan


executor_choice = ExecutorChoice.of
"""Where and how units are computed, from what the flags say; decides no result, but for rounding."""


def read_study(study: Study | str | Path, *, allow_code: bool = False) -> Study:
    """A study, from a YAML file where it is not one already.

    Raises:
        InvalidStudy: the file holds no study, or one that trusts a model's own code, which nobody has allowed.
    """
    return study if isinstance(study, Study) else _from_elsewhere(load_study(Path(study)), allow_code)


def _from_elsewhere(study: Study, allow_code: bool) -> Study:
    """A study that was read from a file, and may be a stranger's: that it trusts a model's code is not the user's word."""
    with consent.code_allowed(allow_code):
        for model in study.models:
            if model.trust_remote_code:
                consent.require(f"the study trusts the code that ships with {model.reference}, and")
    return study


def run_study(
    study: Study | str | Path,
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    executor: str | ExecutorChoice = LOCAL,
    allow_code: bool = False,
    track: str | Iterable[str] = (),
    on_event: Watcher | None = None,
) -> Run:
    """Run a study, or what is left of it, and write its report. Organisms that are not on this machine yet are grown first.

    Args:
        study: a study, or the YAML file that holds one.
        out: run directory; ``runs/<name>-<hash>`` unless told. A run of the same study that is there already is continued.
        workers: processes at work at once; chosen by cores and memory unless told.
        executor: where they are, as :func:`audit` takes it.
        allow_code: run the files of Python that the study names as ``path.py:Class``, and the code of models that a study file trusts.
        track: trackers that are told how the run goes, as names or one text with commas: ``wandb``, ``mlflow``, ``trackio``.
        on_event: is told of everything that happens.

    Raises:
        TemperingError: the study, a model, the data or the directory cannot be used; the message is one line.
    """
    from tempering.engine.run import execute

    where, trackers = executor_choice(executor), chosen(track)
    with consent.code_allowed(allow_code):
        study = validate_study(study)  # before minutes go into growing an organism
        grow_all(study, on_event=on_event)
        _tell_of_tampered(study, on_event)
        directory = study_directory(study, out)
        plan = plan_study(study, divided=where.devices > 1)
        _tell_of_data(plan, on_event)
        with Following(trackers, followed_run(plan, directory), on_event) as following:
            execute(plan, directory, workers=workers, executor=where, on_event=following.on_event)
            run = make_report(directory)
            following.results(price_values(run.summary))
        return run


def _tell_of_tampered(study: Study, on_event: Watcher | None) -> None:
    """Say which models are checkpoints that an attack of ours has tampered with: they can be audited, and are no releases."""
    from tempering.engine.events import Event
    from tempering.models.tampered import is_tampered

    for model in study.models:
        if on_event is not None and is_tampered(model.reference):
            told = f"{model.reference} is what an attack of Tempering made of a model; what is measured is no release of it"
            on_event(Event("warning", message=told))


def _tell_of_data(plan: Plan, on_event: Watcher | None) -> None:
    """Say which sets of the hub may change under the run."""
    from tempering.engine.events import Event

    told = dict.fromkeys(line for target in plan.targets if target.provenance is not None for line in target.provenance.warnings)
    if on_event is not None:
        for line in told:
            on_event(Event("warning", message=line))


def resume(
    directory: str | Path,
    *,
    workers: int | None = None,
    executor: str | ExecutorChoice = LOCAL,
    allow_code: bool = False,
    track: str | Iterable[str] = (),
    on_event: Watcher | None = None,
) -> Run:
    """Compute what an interrupted run still lacks, and write its report.

    Args:
        directory: the run directory.
        workers: processes at work at once; chosen by cores and memory unless told.
        executor: where they are, as :func:`audit` takes it.
        allow_code: as :func:`run_study` takes it; asked anew, because a run directory may come from a stranger too.
        track: as :func:`run_study` takes it; asked anew likewise.
        on_event: is told of everything that happens.

    Raises:
        StoreProblem: there is no run in the directory.
        InvalidStudy: it names code that nobody has allowed.
    """
    study = _from_elsewhere(RunStore(directory).study(), allow_code)
    return run_study(study, out=directory, workers=workers, executor=executor, allow_code=allow_code, track=track, on_event=on_event)


def make_report(
    directory: str | Path,
    *,
    tau: float | None = None,
    epsilon: float | None = None,
    accelerator: str | None = None,
    price_book: str | Path | None = None,
) -> Run:
    """Read a run's stored results anew and write its report; no attack is run.

    Args:
        directory: the run directory, finished or not.
        tau: another threshold than the study's, from 0.001 to 1.
        epsilon: another share of utility than the study's, in [0, 1).
        accelerator: another accelerator than the study's.
        price_book: another price book than the study's.

    Raises:
        StoreProblem: there is no run in the directory, or none of its units is done.
        InvalidStudy: a threshold is out of its range; the message names the flag.
    """
    from tempering.engine.defended import not_hardened
    from tempering.report.write import write_report

    read = reread_run(directory, tau=tau, epsilon=epsilon, accelerator=accelerator, price_book=price_book)
    conclusions = read.conclusions()
    write_report(
        Path(directory),
        read.study,
        read.assessment,
        read.tables,
        conclusions,
        skipped=(*read.plan.skipped, *not_hardened(read.plan, read.tables.units)),
        environment=RunStore(directory).environments()[-1],
        targets=[target.model_dump(mode="json") for target in read.plan.targets],
        others=read.at_thresholds(),
    )
    return Run(Path(directory), read.study, read.tables.units, read.assessment, conclusions, stored_summary(Path(directory)))


def open_run(directory: str | Path) -> Run:
    """Open a run whose report has been written, as its report shows it; nothing is computed.

    Raises:
        StoreProblem: there is no run in the directory, or it has no report yet.
    """
    return open_report(directory)[0]


def open_report(directory: str | Path) -> tuple[Run, dict[str, pd.DataFrame]]:
    """The same with every table of that report, by name.

    Raises:
        StoreProblem: as :func:`open_run` does.
    """
    directory = Path(directory)
    study = RunStore(directory).study()
    summary, frames = stored_report(directory)
    accelerator = summary.get("pricing", {}).get("accelerator")  # summaries of before had none, and their report the study's own
    shown = reread(study, **summary["threshold"], accelerator=accelerator)
    run = Run(directory, shown, frames["units"], assessment_of(frames, summary["cheapest"]), conclusions_of(frames), summary)
    return run, frames


def plan_study(study: Study | str | Path, *, divided: bool = False, allow_code: bool = False) -> Plan:
    """Make a study into units; nothing is run or grown.

    Args:
        study: a study, or the YAML file that holds one.
        divided: its models will lie over several devices; they are looked at in the host's memory.
        allow_code: as :func:`run_study` takes it.

    Raises:
        TemperingError: a method, a model, the data, the price book or the accelerator cannot be used.
    """
    from tempering.engine.plan import make_plan

    with consent.code_allowed(allow_code):
        return make_plan(validate_study(study), divided=divided)


def validate_study(study: Study | str | Path, *, allow_code: bool = False) -> Study:
    """Check a study as far as that is possible without loading a model.

    Args:
        study: a study, or the YAML file that holds one.
        allow_code: as :func:`run_study` takes it.

    Raises:
        TemperingError: the first thing that is wrong, in one line.
    """
    from tempering.engine.loading import divide_for_audit, unguarded_choice
    from tempering.models.references import resolve

    study = read_study(study, allow_code=allow_code)
    with consent.code_allowed(allow_code):
        for kind, choices in (("attacks", study.attacks), ("defenses", study.defenses), ("evaluators", study.probes.evaluators)):
            for choice in choices:
                registry.create(kind, choice.name, choice.config)
        for judge in study.probes.judges:
            registry.create("judges", judge.name, judge.config)
    load_price_book(study.price_book).accelerator(study.accelerator)
    for model in study.models:
        for named in (model, unguarded_choice(model)):
            if named is not None and organisms.is_organism(named.reference):
                organisms.parse_reference(named.reference)
            elif named is not None:
                resolve(named.reference)
        with consent.code_allowed(allow_code):
            divide_for_audit(study, model)
    return study
