"""``temper compare``: defences side by side, under the same attacks."""

from __future__ import annotations

from typing import Annotated

import typer

from tempering.cli_completion import methods
from tempering.cli_flags import Loading, Placement, Question
from tempering.cli_options import ASKED, DIRECTORY, JsonOption, ModelArgument, OutOption, option, progress_display, show


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="With no arguments: every defence on organism:tiny against the quick attacks, five seeds. The control is always there."
    )(compare)


def compare(
    context: typer.Context,
    question: Question,
    loading: Loading,
    placement: Placement,
    model: ModelArgument = "organism:tiny",
    defenses: Annotated[
        str,
        option(
            "--defenses",
            "a,b,c+d|all",
            "Which defences; c+d: a chain; see: temper ls defenses.",
            ASKED,
            default=True,
            autocompletion=methods("defenses", ",", "+", also=("all",)),
        ),
    ] = "all",
    seeds: Annotated[int, option("--seeds", "N", "How often each defence is trained, and each attack run on it.", ASKED, default=True)] = 5,
    floor: Annotated[float, option("--utility-floor", "F", "Share of utility that a training must leave.", ASKED, default=True)] = 0.9,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare defences: what each multiplies the price of a break by, and what it takes."""
    with progress_display(f"comparing defences of {model}") as display:
        from tempering import api
        from tempering.comparison import comparison_study

        running = placement.running()
        asked = question.given() | loading.given()
        study = comparison_study(model, defenses=defenses, seeds=seeds, utility_floor=floor, allow_code=placement.allow_code, **asked)
        context.meta[DIRECTORY] = api.study_directory(study, out)
        run = api.run_study(study, out=out, on_event=display.on_event, **running)
    show(run, as_json)
