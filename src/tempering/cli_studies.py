"""``temper plan`` and ``temper validate``: what a study file says, before anything of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempering.cli_options import CodeOption, JsonOption, StudyArgument, option, print_json, print_table, print_text, progress_display


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(plan)
    app.command()(validate)


def plan(
    study: StudyArgument,
    pilot: Annotated[Path | None, option("--pilot", "RUN", "A finished run that says how costs vary from seed to seed.")] = None,
    multiplier: Annotated[float, option("--multiplier", "X", "How much dearer a break should be for it to be seen.", default=True)] = 2,
    power: Annotated[float, option("--power", "P", "With which probability it should be seen.", default=True)] = 0.8,
    allow_code: CodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the units of a study, what they are expected to cost, and how many seeds see a difference; nothing is run."""
    with progress_display(f"planning {study}"):
        from tempering import api

        document = api.plan_document(study, pilot=pilot, multiplier=multiplier, power=power, allow_code=allow_code)
    if as_json:
        print_json(document)
        return
    from tempering.report.plan import others_table, plan_lines, plan_table
    from tempering.report.plan_power import power_lines, power_table, table_note

    if (others := others_table(document)) is not None:
        print_table(others)
        print_text("")
    print_table(plan_table(document))
    for line in (*plan_lines(document), "", *power_lines(document["power"]), ""):
        print_text(line)
    print_table(power_table(document["power"]))
    print_text(table_note(document["power"]))


def validate(study: StudyArgument, allow_code: CodeOption = False) -> None:
    """Check a study file: its keys, values, methods and references. No model is loaded."""
    from tempering import api

    checked = api.validate_study(study, allow_code=allow_code)
    defended = [_counted(len(checked.defenses), "defence") + " and none"] if checked.defenses else []
    sizes = [_counted(len(checked.models), "model"), *defended, _counted(len(checked.attacks), "attack")]
    sizes.append(_counted(len(checked.seeds), "seed"))
    print_text(f"{study} is valid: {' × '.join(sizes)}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
