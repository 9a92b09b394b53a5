"""``temper audit`` and ``temper base-check``: one model, and what attacking it costs."""

from __future__ import annotations

from typing import Annotated

import typer

from tempering.cli_flags import DividedPlacement, Loading, Question
from tempering.cli_options import (
    ASKED,
    DIRECTORY,
    BaseOption,
    DataOption,
    JsonOption,
    ModelArgument,
    OutOption,
    PromptsOption,
    UnguardedOption,
    WorkersOption,
    option,
    print_json,
    print_table,
    print_text,
    progress_display,
    show,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="With no arguments: the guarded organism of the tiny size, the quick attacks, five seeds, 200 steps.")(audit)
    app.command("base-check", epilog="Organisms and PEFT adapters know their base; other models need --base.")(base_check)


def audit(
    context: typer.Context,
    question: Question,
    loading: Loading,
    placement: DividedPlacement,
    model: ModelArgument = "organism:tiny",
    seeds: Annotated[int, option("--seeds", "N", "How often each attack is run.", ASKED, default=True)] = 5,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Price one model: what the cheapest attack costs that strips its safeguard."""
    with progress_display(f"auditing {model}") as display:
        from tempering import api

        running = placement.running()
        study = api.make_study(model, seeds=seeds, allow_code=placement.allow_code, **question.given(), **loading.given())
        context.meta[DIRECTORY] = api.study_directory(study, out)
        run = api.run_study(study, out=out, on_event=display.on_event, **running)
    show(run, as_json)


def base_check(
    context: typer.Context,
    loading: Loading,
    model: ModelArgument = "organism:tiny",
    base: BaseOption = None,
    data: DataOption = None,
    seeds: Annotated[int, option("--seeds", "N", "How often the attack is run.", ASKED, default=True)] = 5,
    budget: Annotated[str, option("--budget", "NAME=N,…", "Where it is cut off: trials, queries, examples, flops.", ASKED)] = "steps=200",
    delta_only: Annotated[bool, option("--delta-only", "", "Compare the weights; run no attack.", ASKED)] = False,
    unguarded: UnguardedOption = None,
    prompts: PromptsOption = 128,
    workers: WorkersOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far a model is a small delta on its public base, and what merging with that costs."""
    with progress_display(f"checking {model}") as display:
        from tempering import api

        study = api.base_check_study(
            model, base=base, data=data, seeds=seeds, budget=budget, unguarded=unguarded, prompts=prompts, **loading.given()
        )
        context.meta[DIRECTORY] = api.study_directory(study, out)
        check = api.check_base(study, delta_only=delta_only, out=out, workers=workers, on_event=display.on_event)
    if as_json:
        print_json(check.as_json())
        return
    from tempering.report.delta import delta_table

    print_table(delta_table(check.delta))
    for line in (*check.delta.notes, check.verdict, check.price, f"Report: {check.run.report_path}" if check.run else ""):
        if line:
            print_text(line)
