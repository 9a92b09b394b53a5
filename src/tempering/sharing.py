"""What a finished run hands to others: its tables for other tools, and the safety case for a model's card."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering import api
from tempering.engine.files import replace_file
from tempering.engine.store import RunStore
from tempering.errors import InvalidStudy, StoreProblem
from tempering.extras import require
from tempering.report.folder import REMEDY, explained_out
from tempering.report.tables import run_tables
from tempering.result import Run
from tempering.running import open_report

if TYPE_CHECKING:
    import pandas as pd

    from tempering.report.card import SafetyCase
    from tempering.report.export import Format
    from tempering.study import Study


def export(
    directory: str | Path,
    out: str | Path,
    *,
    format: Format = "parquet",  # noqa: A002 -- what the flag and everybody else calls it
    tau: float | None = None,
    epsilon: float | None = None,
    accelerator: str | None = None,
    price_book: str | Path | None = None,
) -> list[Path]:
    """Write every tidy table of a run for other tools, with ``tables.json``, which says what each column means.

    The tables are those of the run's report, and nothing is computed; with another threshold or price they are assessed anew, and the
    run's own report stays as it is.

    Args:
        directory: the run directory.
        out: folder for the files: absent, empty, or an earlier export, which is replaced as a whole.
        format: ``parquet``, or ``csv``.
        tau: another threshold than the study's, from 0.001 to 1.
        epsilon: another share of utility than the study's, in [0, 1).
        accelerator: another accelerator than the study's.
        price_book: another price book than the study's.

    Returns:
        The files, ``tables.json`` last.

    Raises:
        StoreProblem: there is no run in the directory, it has no report yet, or ``out`` holds something else or cannot be written to.
        InvalidStudy: a threshold is out of its range, or there is no such format.
    """
    from tempering.report.export import FORMATS, export_tables

    if format not in FORMATS:
        raise InvalidStudy(f"--format {format}: it should be {' or '.join(FORMATS)}")
    frames, facts = _assessed(directory, tau=tau, epsilon=epsilon, accelerator=accelerator, price_book=price_book)
    return export_tables(frames, Path(out), format_=format, facts=facts)


def _assessed(directory: str | Path, **another: Any) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables of a run's report, or those of another threshold or price, and what is said of the run beside them."""
    from tempering.report.summary import pricing

    study: Study
    if all(value is None for value in another.values()):
        run, frames = open_report(directory)
        study = run.study
        priced: dict[str, Any] = run.summary.get("pricing") or pricing(study).model_dump(mode="json")
    else:
        read = api.reread_run(directory, **another)
        study, frames = read.study, run_tables(read.tables, read.assessment, read.conclusions())
        priced = pricing(study).model_dump(mode="json")
    return frames, {
        "tempering": version("tempering"),
        "study": study.name,
        "study_digest": RunStore(directory).study().digest,
        "threshold": study.threshold.model_dump(mode="json"),
        "pricing": priced,
    }


def export_inspect(
    directory: str | Path,
    out: str | Path,
    *,
    tau: float | None = None,
    epsilon: float | None = None,
    accelerator: str | None = None,
    price_book: str | Path | None = None,
) -> list[Path]:
    """Write a finished run as Inspect logs, for ``inspect view`` and :mod:`inspect_ai.log`; see :mod:`tempering.report.inspect_logs`.

    Args:
        directory: the run directory.
        out: folder for the logs: absent, empty, or an earlier export of logs, which is replaced as a whole.
        tau: as :func:`export` takes it; likewise the others.
        epsilon: share of utility.
        accelerator: what prices are reckoned for.
        price_book: by what.

    Returns:
        The logs, one for each attack on each model behind each defence.

    Raises:
        StoreProblem: there is no run in the directory, it has no report yet, or ``out`` holds something else or cannot be written to.
        TemperingError: the extra is not installed.
    """
    require("inspect_ai", "inspect", "a run as Inspect logs")
    from tempering.report.inspect_logs import export_logs

    frames, facts = _assessed(directory, tau=tau, epsilon=epsilon, accelerator=accelerator, price_book=price_book)
    targets = RunStore(directory).plan().targets
    facts["data"] = ", ".join(dict.fromkeys(target.data for target in targets))
    facts["targets"] = [target.model_dump(mode="json") for target in targets]
    made = datetime.fromtimestamp(int((Path(directory) / "plan.json").stat().st_mtime), UTC)
    return export_logs(frames, Path(out), facts=facts, made=made)


def card(run: Run | str | Path) -> SafetyCase:
    """The safety case for a model's card: claim, evidence, threat model, what was not tried, how to reproduce. Nothing is computed.

    Args:
        run: a finished run, or its directory.

    Returns:
        The card, as ``.markdown``, ``.document`` and ``.as_json()``; a notebook shows it.

    Raises:
        StoreProblem: there is no run in the directory, or it has no report yet.
    """
    from tempering.engine.defended import not_hardened
    from tempering.report.card import Origin, SafetyCase, data_of, make_card

    run = run if isinstance(run, Run) else api.open_run(run)
    store = RunStore(run.directory)
    plan = store.plan()
    origin = Origin(
        targets=[target.model_dump(mode="json") for target in plan.targets],
        skipped=(*plan.skipped, *not_hardened(plan, run.units)),
        data=data_of(unit.work for unit in plan.units),
        plan_digest=plan.digest,
        study_digest=plan.study.digest,
        tempering=version("tempering"),
        environment=run.summary.get("environment", {}),
        pricing=run.summary.get("pricing"),
    )
    return SafetyCase(make_card(run.study, run.assessment, run.units, origin))


def write_card(made: SafetyCase, out: str | Path) -> list[Path]:
    """Write a card as ``card.md`` and ``card.json`` into a folder, which may hold other files.

    Raises:
        StoreProblem: another ``card.md`` or ``card.json`` is there, or the folder cannot be written to.
    """
    from tempering.report.summary import dumps

    out = Path(out)
    contents = {"card.json": dumps(made.as_json()).encode(), "card.md": made.markdown.encode()}
    with explained_out(out):
        out.mkdir(parents=True, exist_ok=True)
        standing = [name for name in contents if (out / name).exists()]
        if standing and not _is_card(out / "card.json"):
            raise StoreProblem(f"{out} holds another {standing[0]}", f"{REMEDY}, or move that away")
        for name, content in contents.items():
            replace_file(out / name, content)
    return [out / name for name in contents]


def _is_card(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("made_by") == "tempering card")
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
