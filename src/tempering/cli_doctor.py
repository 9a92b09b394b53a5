"""``temper doctor``: what this machine can run."""

from __future__ import annotations

from typing import Annotated

import typer

from tempering.cli_options import JsonOption, option, print_json, print_table, print_text


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Memory is reckoned for batches of 10 rows of 256 tokens, in bfloat16; what fits leaves a tenth free.")(doctor)


def doctor(
    online: Annotated[bool, option("--online", "", "Ask the hub whether it answers, and knows you.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can run, and what to install for more."""
    from tempering.diagnosis import diagnose

    document = diagnose(online=online)
    if as_json:
        print_json(document)
        return
    from tempering.report.doctor import extras_table, machine_table, sizes_table

    for table in (machine_table(document), sizes_table(document), extras_table(document)):
        print_table(table)
        print_text("")
    for line in document["advice"]:
        print_text(line)
