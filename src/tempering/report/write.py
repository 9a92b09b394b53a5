"""Everything that a finished run leaves for its reader: tables, figures, summary and page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.economics.prices import load_price_book
from tempering.engine.files import explained, replace_file
from tempering.report.all_sections import SECTIONS
from tempering.report.checksums import write_checksums, writing_alone
from tempering.report.downloads import downloads
from tempering.report.drawing import pngs, write_pngs
from tempering.report.families import families_of
from tempering.report.figures import draw_all
from tempering.report.page import render
from tempering.report.section import Material, sections
from tempering.report.summary import audit_spend, dumps, make_summary
from tempering.report.tables import RunTables, parquet_bytes, run_tables, write_tables

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment
    from tempering.economics.conclusions import Conclusions
    from tempering.study import Study


def write_report(
    directory: Path,
    study: Study,
    assessment: Assessment,
    tables: RunTables,
    conclusions: Conclusions,
    *,
    skipped: Iterable[Any],
    environment: Mapping[str, Any],
    targets: Sequence[Mapping[str, Any]],
    spent: Mapping[str, float] | None = None,
    others: Mapping[float, Assessment] | None = None,
) -> Path:
    """Write tables, figures, ``summary.json`` and ``report.html`` into a run's directory.

    Everything is composed before the first file is written, and each file is put in place by one rename; a report that is already
    there is replaced file by file, the page last.

    Args:
        directory: the run's directory.
        study: the resolved study.
        assessment: what economics computed.
        tables: the engine's units and trajectories.
        conclusions: what follows from the assessment.
        skipped: attacks left out of the plan, each with ``attack``, ``reason`` and perhaps ``model``.
        environment: versions and hardware, as JSON values.
        targets: ``reference, digest, dtype, parameters, safeguard`` of each model.
        spent: ``wall_s`` and ``flops`` of the audit itself; from the units where it is not given.
        others: what economics computed at other thresholds, by τ, for the reader of the page to choose.

    Returns:
        Where the page is.

    Raises:
        StoreProblem: the directory cannot be written to, or its disk is full.
        UnknownName: the price book has no such accelerator.
    """
    directory = Path(directory)
    skipped = list(skipped)
    spent = {**audit_spend(tables.units), **(spent or {})}
    made = list(sections(Material(study, assessment, conclusions), SECTIONS))
    drawings = draw_all(assessment, study.threshold, families_of(study.attacks))
    summary = dumps(make_summary(study, assessment, conclusions, targets=targets, skipped=skipped, environment=environment, spent=spent))
    frames = run_tables(tables, assessment, conclusions)
    parquets = {name: parquet_bytes(frame) for name, frame in frames.items()}
    offered, csvs = downloads(frames, parquets)
    page = render(
        study,
        assessment,
        tables,
        drawings,
        made,
        price_book=load_price_book(study.price_book),
        skipped=skipped,
        environment=environment,
        targets=targets,
        spent=spent,
        others=others or {},
        downloads=offered,
    )
    pictures = pngs([*drawings, *(drawing for section in made for drawing in section.drawings)])
    contents = {
        **{f"tables/{name}.parquet": content for name, content in parquets.items()},
        **{f"tables/{name}.csv": content for name, content in csvs.items()},
        **{f"figures/{name}": picture for name, picture in pictures.items()},
        "summary.json": summary.encode(),
        "report.html": page.encode(),
    }
    with explained(directory):
        (directory / "tables").mkdir(parents=True, exist_ok=True)
        with writing_alone(directory / "tables"):
            write_pngs(pictures, directory / "figures")
            write_tables(directory / "tables", parquets, csvs)
            write_checksums(directory, contents)
            for name in ("summary.json", "report.html"):
                replace_file(directory / name, contents[name])
    return directory / "report.html"
