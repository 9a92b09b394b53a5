"""``temper judge``: how far judges can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempering.cli_options import JsonOption, option, print_json, print_table, print_text, progress_display
from tempering.cli_shell import Shell


def register(app: typer.Typer) -> None:
    """Add the commands."""
    judge = Shell(name="judge", no_args_is_help=True, help="Judges of responses: how far they can be trusted. See also: temper ls judges.")
    judge.command()(calibrate)
    app.add_typer(judge)


def calibrate(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A run kept with --keep-completions, or a JSONL or CSV file.")],
    out: Annotated[Path | None, option("--out", "FILE", "Write a sample of SOURCE there, to be labelled by hand: .jsonl or .csv.")] = None,
    number: Annotated[int, option("--number", "N", "Responses of the sample, at most.", default=True, min=1)] = 100,
    seed: Annotated[int, option("--seed", "N", "Of the sample.", default=True)] = 0,
    judges: Annotated[list[str] | None, option("--judge", "NAME[:k=v,…]", "Hold this judge against the labels; text unless told.")] = None,
    of: Annotated[Path | None, option("--of", "SOURCE", "Responses whose harm is corrected; the labelled ones unless told.")] = None,
    as_json: JsonOption = False,
) -> None:
    """With --out: draw responses to label. Without: hold judges against the labels in SOURCE."""
    from tempering import calibrating

    if out is not None:
        written = calibrating.write_sample(source, out, number=number, seed=seed)
        print_text(f"{out}: {written} responses to label; write useful, refusal, evasion or gibberish into 'label'")
        return
    with progress_display(f"calibrating with {source}"):
        reports = calibrating.calibrate(source, judges or ("text",), of=of)
    if as_json:
        print_json([report.as_json() for report in reports])
        return
    from tempering.report.calibration import calibration_tables

    for line, table in calibration_tables(reports):
        print_text(line)
        if table is not None:
            print_table(table)
