"""``temper run``, ``temper resume`` and ``temper report``: a study file's run, from its beginning to its page."""

from __future__ import annotations

from typing import Annotated

import typer

from tempering.cli_flags import DividedPlacement
from tempering.cli_options import (
    DIRECTORY,
    AcceleratorOption,
    DirectoryArgument,
    JsonOption,
    OutOption,
    PriceBookOption,
    StudyArgument,
    option,
    progress_display,
    show,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(resume)
    app.command()(report)


def run(
    context: typer.Context, study: StudyArgument, placement: DividedPlacement, out: OutOption = None, as_json: JsonOption = False
) -> None:
    """Run a study file."""
    with progress_display(f"running {study}") as display:
        from tempering import api

        running = placement.running()
        read = api.read_study(study, allow_code=placement.allow_code)
        context.meta[DIRECTORY] = api.study_directory(read, out)
        finished = api.run_study(read, out=out, on_event=display.on_event, **running)
    show(finished, as_json)


def resume(context: typer.Context, directory: DirectoryArgument, placement: DividedPlacement, as_json: JsonOption = False) -> None:
    """Compute what an interrupted run still lacks."""
    with progress_display(f"resuming {directory}") as display:
        from tempering import api

        running = placement.running()
        context.meta[DIRECTORY] = directory
        finished = api.resume(directory, on_event=display.on_event, **running)
    show(finished, as_json)


def report(
    directory: DirectoryArgument,
    tau: Annotated[float | None, option("--tau", "T", "Another threshold than the study's.")] = None,
    epsilon: Annotated[float | None, option("--epsilon", "E", "Another loss of utility than the study's.")] = None,
    accelerator: AcceleratorOption = None,
    price_book: PriceBookOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's report anew from its stored results; no attack is run."""
    from tempering import api

    show(api.make_report(directory, tau=tau, epsilon=epsilon, accelerator=accelerator, price_book=price_book), as_json)
