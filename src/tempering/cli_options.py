"""What the commands of the command line share: options, arguments, and how results are shown."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tempering.cli_completion import data, methods, models, trackers
from tempering.plain_text import clean_lines
from tempering.report.console import PlainConsole

if TYPE_CHECKING:
    from tempering.api import Run
    from tempering.report.progress import Display

DIRECTORY = "tempering.directory"
"""Key of the click context's ``meta`` under which a command leaves its run directory, for the message after Ctrl-C."""

RESUME = "tempering.resume"
"""Likewise where a command can be gone on with in another way: the folder that shows it, and what to do."""

_PIPED_WIDTH = 240
"""Columns of a table that no terminal limits."""


ASKED = "What is asked"
MODEL = "The model and its data"
PLACE = "Where it is computed"
SHOWN = "What comes out"
CONSENT = "What is allowed, by this one command"
SHELL = "The command itself"
PANELS = (ASKED, MODEL, PLACE, SHOWN, CONSENT, SHELL)
"""The groups that a help page sorts flags into, in this order."""


@dataclass
class Loudness:
    """How much a command says on standard error.

    Attributes:
        quiet: nothing but warnings and errors.
        verbose: every probe, the log, and where an error arose.
        sources: what was set by a file or the environment, for whoever wants to hear much.
    """

    quiet: bool = False
    verbose: bool = False
    sources: tuple[str, ...] = ()


loudness = Loudness()
"""Of the command that runs in this process; set anew by each."""


def option(flag: str, metavar: str, text: str, panel: str | None = None, *, default: bool = False, **limits: Any) -> Any:
    """An option for the help page, in a group of it; its default is shown only where that says something."""
    return typer.Option(flag, metavar=metavar, help=text, show_default=default, rich_help_panel=panel, **limits)


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="organism:tiny, a directory, hub-id@revision, a GGUF file or a PEFT adapter.",
        autocompletion=models,
    ),
]
DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; see examples/.")]
OutOption = Annotated[Path | None, option("--out", "DIR", "Run directory; runs/<name>-<hash> unless told.", SHOWN)]
WorkersOption = Annotated[
    int | None, option("--workers", "N", "Processes at work; by cores and memory unless told; 0: in this one.", PLACE, min=0)
]
ExecutorOption = Annotated[
    str,
    option("--executor", "local|ray|slurm", "Where units are computed: here, on a Ray cluster, in Slurm jobs.", PLACE, default=True),
]
AddressOption = Annotated[
    str | None, option("--address", "HOST:PORT", "The Ray cluster; auto: the one here; none: one for this run.", PLACE)
]
SlurmOption = Annotated[str | None, option("--slurm", "NAME=V,…", "Of a job: partition, account, time, gpus, cpus, memory, units.", PLACE)]
TogetherOption = Annotated[
    int | None,
    option("--together", "K", "Fine-tuning runs trained in one pass; by memory, where it pays; 1: one by one.", PLACE, min=1),
]
TrackOption = Annotated[
    list[str] | None,
    option("--track", "NAME", "Tell wandb, mlflow or trackio how it goes; may be repeated.", SHOWN, autocompletion=trackers),
]
DevicesOption = Annotated[
    int,
    option("--devices", "N", "Devices that hold each model together, where one is too small; fine-tuning attacks only.", PLACE, min=1),
]
CheckpointingOption = Annotated[bool, option("--activation-checkpointing", "", "Fine-tune in less memory, a third slower.", PLACE)]
JsonOption = Annotated[bool, option("--json", "", "Print one JSON document and nothing else.", SHOWN)]
AcceleratorOption = Annotated[str | None, option("--accelerator", "NAME", "What GPU-hours and dollars are reckoned for.", SHOWN)]
PriceBookOption = Annotated[Path | None, option("--price-book", "FILE", "A price book laid over the one that ships.", SHOWN)]
DataOption = Annotated[
    str | None,
    option("--data", "D", "File, folder, organism or named set (temper ls data); joined as a+b.", MODEL, autocompletion=data),
]
AttacksOption = Annotated[
    str,
    option(
        "--attacks",
        "a,b|quick|all",
        "Which attacks; see: temper ls attacks.",
        ASKED,
        default=True,
        autocompletion=methods("attacks", ",", also=("quick", "all")),
    ),
]
TauOption = Annotated[float, option("--tau", "T", "Recovered harm that counts as a break.", ASKED, default=True)]
EpsilonOption = Annotated[float, option("--epsilon", "E", "Share of its utility a broken model may lose.", ASKED, default=True)]
SearchOption = Annotated[int | None, option("--search", "N", "Settings that an attacker tries before using the best.", ASKED, min=1)]
DtypeOption = Annotated[str | None, option("--dtype", "TYPE", "float32, bfloat16 or float16; the checkpoint's own unless told.", MODEL)]
DeviceOption = Annotated[str | None, option("--device", "D", "cpu, cuda, cuda:1; an accelerator where there is one.", MODEL)]
TemplateOption = Annotated[Path | None, option("--chat-template", "FILE", "Jinja chat template, for a model without.", MODEL)]
SystemOption = Annotated[str | None, option("--system", "TEXT|FILE", "The system prompt that the model is deployed with.", MODEL)]
UnguardedOption = Annotated[
    str | None, option("--unguarded", "REF", "The same model without its safeguard, if known.", MODEL, autocompletion=models)
]
BaseOption = Annotated[
    str | None, option("--base", "REF", "The published model that this one was made from.", MODEL, autocompletion=models)
]
TrustOption = Annotated[bool, option("--trust-remote-code", "", "Run code that ships with this model.", CONSENT)]
KeepWeightsOption = Annotated[bool, option("--keep-weights", "", "Keep the weights that attacks end with in DIR/kept, marked.", CONSENT)]
KeepCompletionsOption = Annotated[bool, option("--keep-completions", "", "Keep what attacked models say in DIR/kept, marked.", CONSENT)]
CodeOption = Annotated[bool, option("--allow-code", "", "Run files of Python that are named as path.py:Class.", CONSENT)]
PromptsOption = Annotated[int, option("--prompts", "N", "Held-out prompts of each role in a probe, at most.", ASKED, default=True)]
JudgesOption = Annotated[
    list[str] | None,
    option(
        "--judge",
        "NAME[:k=v,…]",
        "Who tells what answers are: text (unless told), …; a second one is recorded beside it.",
        ASKED,
        autocompletion=methods("judges", "+"),
    ),
]
EvaluatorsOption = Annotated[
    list[str] | None,
    option(
        "--evaluator",
        "NAME:k=v,…",
        "A benchmark besides: lm-eval:tasks=mmlu, inspect:task=file.py@task; may be repeated.",
        ASKED,
        autocompletion=methods("evaluators"),
    ),
]
BudgetOption = Annotated[
    str, option("--budget", "NAME=N,…", "Where an attack is cut off: steps, examples, tokens, flops.", ASKED, default=True)
]
ThreatModelOption = Annotated[
    str,
    option("--threat-model", "NAME", "What the attacker holds: …+public-base, fine-tuning-api, query-only.", ASKED, default=True),
]


def progress_display(title: str) -> Display:
    """The display of a run, for standard error."""
    from tempering.report.progress import Display

    return Display(title=title, quiet=loudness.quiet, verbose=loudness.verbose)


def show(run: Run, as_json: bool) -> None:
    """Print a run: its prices and one plain sentence, or its summary as JSON."""
    if as_json:
        print_json(run.summary)
        return
    from tempering.report.capability_section import capability_lines
    from tempering.report.terminal import result_table, sentence

    console = output_console()
    console.print()
    console.print(result_table(run.assessment, width=console.width))
    console.print()
    print_text(sentence(run.assessment))
    for line in capability_lines(run.conclusions.capability):
        print_text(line)
    for entry in run.summary.get("defenses_not_tried", ()):
        print_text(f"Not compared: {entry['defense']} on {entry['model']} {entry['reason']}.")
    print_text(f"Report: {run.report_path}")


def output_console() -> PlainConsole:
    """Standard output, as it is at this moment; as wide as it needs where no terminal limits it."""
    console = PlainConsole(highlight=False)
    return console if console.is_terminal else PlainConsole(highlight=False, width=_PIPED_WIDTH)


def print_table(table: Table) -> None:
    """Print a table to standard output."""
    output_console().print(table)


def print_text(text: str) -> None:
    """Print a line to standard output, wrapped by nobody."""
    output_console().print(Text(text), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print strict JSON to standard output."""
    from tempering.report.summary import dumps, json_values

    typer.echo(dumps(json_values(value)), nl=False)


def say(line: str) -> None:
    """Print a line to standard error."""
    sys.stdout.flush()
    typer.echo(clean_lines(line), err=True)
