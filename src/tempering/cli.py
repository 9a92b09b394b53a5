"""The command line: what is common to all commands. Each stands in a ``cli_*`` file; what they do, in :mod:`tempering.api`.

Results go to standard output, everything else to standard error. Heavy libraries are imported inside the commands, so that
``temper --help`` answers at once and an audit's first line of progress stands before torch is loaded.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tempering import (
    __version__,
    cli_answering,
    cli_audit,
    cli_compare,
    cli_doctor,
    cli_harden,
    cli_judge,
    cli_methods,
    cli_runs,
    cli_sharing,
    cli_studies,
)
from tempering.cli_completion import for_bash
from tempering.cli_options import DIRECTORY, RESUME, loudness, option, say
from tempering.cli_shell import Shell
from tempering.errors import TemperingError
from tempering.redaction import guard_streams, traceback_of

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}
"""Keeps the libraries' own bars and warnings off standard error, in this process and in its workers; a user's setting wins."""


class _Commands(TyperGroup):
    """Turns what a user can mend, and Ctrl-C, into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        loudness.quiet, loudness.verbose, loudness.sources = False, False, ()
        try:
            return super().invoke(ctx)
        except TemperingError as error:
            if loudness.verbose:
                sys.stderr.write(traceback_of(error))
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            directory = ctx.meta.get(DIRECTORY)
            resumable = directory is not None and (directory / "plan.json").is_file()
            folder, remedy = ctx.meta.get(RESUME, (None, ""))
            if folder is None or not folder.is_dir():
                remedy = f"resume with: temper resume {directory}" if resumable else "nothing was kept"
            say(f"interrupted; {remedy}")
            raise typer.Exit(130) from None


app = Shell(
    name="temper",
    cls=_Commands,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What does it cost to strip the safeguards from an open-weight language model?",
    epilog="[bold]Examples[/bold]\n\n"
    "temper audit  [dim]# the embedded organism, in minutes[/dim]\n\n"
    "temper audit ./my-model --data my-data.jsonl  [dim]# a model of your own[/dim]\n\n"
    "temper audit --attacks refusal_ablation --seeds 1 --json  [dim]# one attack, once, for a program[/dim]\n\n"
    "temper plan examples/audit_tiny.yaml  [dim]# what a study would cost; runs nothing[/dim]\n\n"
    "temper ls attacks  [dim]# what there is to attack with[/dim]\n\n"
    "temper doctor  [dim]# what this machine can run[/dim]",
)


def main() -> None:
    """Run the command line."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the libraries' warnings say nothing that a user of ours could act on
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    guard_streams()
    try:
        with for_bash():
            app(prog_name="temper")
    except Exception as error:  # a defect of ours; whoever reports it reports no secret
        sys.stderr.write(traceback_of(error))
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"temper {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        option("--version", "", "Print the version and stop.", is_eager=True, callback=_print_version, allow_from_autoenv=False),
    ] = False,
) -> None:
    """Everything happens in the commands."""


_PARTS = (
    *(cli_audit, cli_compare, cli_harden, cli_judge, cli_answering, cli_runs),
    *(cli_sharing, cli_studies, cli_methods, cli_doctor),
)
for _part in _PARTS:
    _part.register(app)
