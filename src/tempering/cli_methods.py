"""``temper ls`` and ``temper organism``: what there is to attack with, to defend with, and to try both on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tempering.cli_options import JsonOption, option, print_json, print_table, print_text, progress_display
from tempering.cli_shell import Shell


class Kind(StrEnum):
    """What ``temper ls`` can list."""

    ATTACKS = "attacks"
    DEFENSES = "defenses"
    EVALUATORS = "evaluators"
    JUDGES = "judges"
    MODELS = "models"
    DATA = "data"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ls")(list_)
    organism = Shell(name="organism", no_args_is_help=True, help="The embedded organisms: tiny chat models of an invented world.")
    organism.command()(build)
    app.add_typer(organism)


def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: JsonOption = False) -> None:
    """List the attacks, defences, evaluators, judges, embedded models, or the data sets that can be named."""
    from tempering import api

    listed = {Kind.MODELS: api.list_models, Kind.DATA: api.list_data}
    rows = listed[kind]() if kind in listed else api.list_methods(kind.value)
    if as_json:
        print_json(rows)
    elif not rows:
        print_text(f"no {kind.value} are installed")
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in rows[0]:
            table.add_column(name.capitalize(), overflow="fold", no_wrap=name == "name")
        for row in rows:
            table.add_row(*(Text(", ".join(value) if isinstance(value, list) else str(value)) for value in row.values()))
        print_table(table)


def build(
    name: Annotated[str, typer.Argument(help="nano, tiny, small or smollm2.")],
    variant: Annotated[str | None, option("--variant", "NAME", "guarded (unless told), base, filtered or filtered-guarded.")] = None,
    source: Annotated[Path | None, option("--source", "PATH", "smollm2: weights that are already on this machine.")] = None,
) -> None:
    """Grow an organism by its seeded recipe into the cache, and print where it lies."""
    with progress_display(f"growing {name}") as display:
        from tempering import api

        directory = api.build_organism(name, variant, source=source, on_event=display.on_event)
    print_text(str(directory))
