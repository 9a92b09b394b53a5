"""``temper export``, ``temper card`` and ``temper push``: what is handed to others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tempering.cli_options import CONSENT, AcceleratorOption, DirectoryArgument, JsonOption, PriceBookOption, option, print_json, print_text
from tempering.errors import InvalidStudy


class TableFormat(StrEnum):
    """What ``temper export`` can write."""

    PARQUET = "parquet"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="tables.json, beside the tables, says what every column means. In DuckDB: SELECT * FROM 'DIR/prices.parquet'")(
        export
    )
    app.command(epilog="Without --out the card goes to standard output, as Markdown or with --json.")(card)
    app.command(epilog="Only what temper harden made can be pushed, and nobody sees it but its owners unless --public is said.")(push)


def export(
    directory: DirectoryArgument,
    out: Annotated[Path | None, option("--out", "DIR", "Folder for the tables; absent, empty, or an earlier export.")] = None,
    inspect: Annotated[Path | None, option("--inspect", "DIR", "Folder for Inspect logs, for inspect view; likewise.")] = None,
    format_: Annotated[TableFormat, option("--format", "parquet|csv", "Of the files.", default=True)] = TableFormat.PARQUET,
    tau: Annotated[float | None, option("--tau", "T", "Another threshold than the study's.")] = None,
    epsilon: Annotated[float | None, option("--epsilon", "E", "Another loss of utility than the study's.")] = None,
    accelerator: AcceleratorOption = None,
    price_book: PriceBookOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write every table of a run as Parquet or CSV, with a data dictionary, or the run as Inspect logs."""
    from tempering import sharing

    if out is None and inspect is None:
        raise InvalidStudy("nowhere to export to", "give a folder: --out DIR for tables, --inspect DIR for Inspect logs")
    another: dict[str, Any] = {"tau": tau, "epsilon": epsilon, "accelerator": accelerator, "price_book": price_book}
    files = sharing.export(directory, out, format=format_.value, **another) if out is not None else []
    files += sharing.export_inspect(directory, inspect, **another) if inspect is not None else []
    if as_json:
        print_json([str(file) for file in files])
        return
    for file in files:
        print_text(str(file))


def card(
    directory: DirectoryArgument,
    out: Annotated[Path | None, option("--out", "DIR", "Folder to write card.md and card.json into.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the safety-case section of a model card: claim, evidence, what was not tried, how to reproduce."""
    from tempering import sharing

    made = sharing.card(directory)
    files = sharing.write_card(made, out) if out else []
    if as_json:
        print_json(made.as_json())
    elif files:
        for file in files:
            print_text(str(file))
    else:
        typer.echo(made.markdown, nl=False)


def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What temper harden made.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="org/name on the Hugging Face hub; made where there is none.")],
    public: Annotated[bool, option("--public", "", "Let everybody see it.", CONSENT)] = False,
    dry_run: Annotated[bool, option("--dry-run", "", "Check, print what would be sent, and ask no network.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a hardened model and its card on the Hugging Face hub, privately unless told."""
    from tempering import pushing

    pushed = pushing.push(directory, repository, public=public, dry_run=dry_run)
    if as_json:
        print_json(pushed.as_json())
        return
    from tempering.reading import size_in_words

    for name, size in pushed.files.items():
        print_text(f"{name}  {size_in_words(size)}")
    for note in pushed.notes:
        print_text(note)
    seen = "private" if pushed.private else "public"
    if dry_run:
        print_text(f"Would be pushed to {repository}, {seen}; nothing was sent.")
    else:
        print_text(f"Pushed to {repository}, {seen}: {pushed.url}")
