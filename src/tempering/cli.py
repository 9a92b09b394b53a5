"""The command line: commands, and how their results are shown. What they do stands in :mod:`tempering.api`.

Results go to standard output, everything else to standard error. Heavy libraries are imported inside the commands, so that
``temper --help`` answers at once and an audit's first line of progress stands before torch is loaded.
"""

from __future__ import annotations

import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tempering import __version__, cli_answering, cli_compare, cli_harden, cli_sharing
from tempering.cli_options import (
    DIRECTORY,
    RESUME,
    AcceleratorOption,
    AddressOption,
    AttacksOption,
    BaseOption,
    BudgetOption,
    CheckpointingOption,
    CodeOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    DirectoryArgument,
    DtypeOption,
    EpsilonOption,
    ExecutorOption,
    JsonOption,
    KeepCompletionsOption,
    KeepWeightsOption,
    ModelArgument,
    OutOption,
    PriceBookOption,
    PromptsOption,
    SearchOption,
    SlurmOption,
    StudyArgument,
    TauOption,
    TemplateOption,
    ThreatModelOption,
    TogetherOption,
    TrustOption,
    UnguardedOption,
    WorkersOption,
    option,
    print_json,
    print_table,
    print_text,
    progress_display,
    say,
    show,
)
from tempering.errors import TemperingError
from tempering.redaction import guard_streams, traceback_of

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}
"""Keeps the libraries' own bars and warnings off standard error, in this process and in its workers; a user's setting wins."""


class _Commands(TyperGroup):
    """Turns what a user can mend, and Ctrl-C, into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TemperingError as error:
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


app = typer.Typer(
    name="temper",
    cls=_Commands,
    add_completion=False,
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
    "temper ls attacks  [dim]# what there is to attack with[/dim]",
)
organism = typer.Typer(no_args_is_help=True, help="The embedded organisms: tiny chat models of an invented world.")
app.add_typer(organism, name="organism")


class Kind(StrEnum):
    """What ``temper ls`` can list."""

    ATTACKS = "attacks"
    DEFENSES = "defenses"
    EVALUATORS = "evaluators"
    MODELS = "models"


def main() -> None:
    """Run the command line."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the libraries' warnings say nothing that a user of ours could act on
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    guard_streams()
    try:
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
        option("--version", "", "Print the version and stop.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Everything happens in the commands."""


@app.command(epilog="With no arguments: the guarded organism of the tiny size, the quick attacks, five seeds, 200 steps.")
def audit(
    context: typer.Context,
    model: ModelArgument = "organism:tiny",
    data: DataOption = None,
    attacks: AttacksOption = "quick",
    seeds: Annotated[int, option("--seeds", "N", "How often each attack is run.", default=True)] = 5,
    budget: BudgetOption = "steps=200",
    tau: TauOption = 0.5,
    epsilon: EpsilonOption = 0.1,
    search: SearchOption = None,
    threat_model: ThreatModelOption = "open-weights",
    out: OutOption = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    chat_template: TemplateOption = None,
    unguarded: UnguardedOption = None,
    base: BaseOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    slurm: SlurmOption = None,
    together: TogetherOption = None,
    devices: DevicesOption = 1,
    activation_checkpointing: CheckpointingOption = False,
    keep_weights: KeepWeightsOption = False,
    keep_completions: KeepCompletionsOption = False,
    trust_remote_code: TrustOption = False,
    allow_code: CodeOption = False,
    prompts: PromptsOption = 128,
    accelerator: AcceleratorOption = None,
    price_book: PriceBookOption = None,
) -> None:
    """Price one model: what the cheapest attack costs that strips its safeguard."""
    with progress_display(f"auditing {model}") as display:
        from tempering import api

        where = api.executor_choice(executor, address, slurm, together, devices, activation_checkpointing, keep_weights, keep_completions)
        more: dict[str, Any] = {"accelerator": accelerator} if accelerator else {}
        study = api.make_study(
            model,
            data=data,
            attacks=attacks,
            seeds=seeds,
            budget=budget,
            tau=tau,
            epsilon=epsilon,
            search=search,
            threat_model=threat_model,
            unguarded=unguarded,
            base=base,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            trust_remote_code=trust_remote_code,
            prompts=prompts,
            price_book=price_book,
            allow_code=allow_code,
            **more,
        )
        context.meta[DIRECTORY] = api.study_directory(study, out)
        run = api.run_study(study, out=out, workers=workers, executor=where, allow_code=allow_code, on_event=display.on_event)
    show(run, as_json)


@app.command("base-check", epilog="Organisms and PEFT adapters know their base; other models need --base.")
def base_check(
    context: typer.Context,
    model: ModelArgument = "organism:tiny",
    base: BaseOption = None,
    data: DataOption = None,
    seeds: Annotated[int, option("--seeds", "N", "How often the attack is run.", default=True)] = 5,
    budget: Annotated[str, option("--budget", "NAME=N,…", "Where it is cut off: trials, queries, examples, flops.")] = "steps=200",
    out: OutOption = None,
    as_json: JsonOption = False,
    delta_only: Annotated[bool, option("--delta-only", "", "Compare the weights; run no attack.")] = False,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    chat_template: TemplateOption = None,
    unguarded: UnguardedOption = None,
    workers: WorkersOption = None,
    trust_remote_code: TrustOption = False,
    prompts: PromptsOption = 128,
) -> None:
    """Say how far a model is a small delta on its public base, and what merging with that costs."""
    with progress_display(f"checking {model}") as display:
        from tempering import api

        study = api.base_check_study(
            model,
            base=base,
            data=data,
            seeds=seeds,
            budget=budget,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            unguarded=unguarded,
            trust_remote_code=trust_remote_code,
            prompts=prompts,
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


cli_compare.register(app)
cli_harden.register(app)
cli_answering.register(app)


@app.command()
def run(
    context: typer.Context,
    study: StudyArgument,
    out: OutOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    slurm: SlurmOption = None,
    together: TogetherOption = None,
    devices: DevicesOption = 1,
    activation_checkpointing: CheckpointingOption = False,
    keep_weights: KeepWeightsOption = False,
    keep_completions: KeepCompletionsOption = False,
    allow_code: CodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a study file."""
    with progress_display(f"running {study}") as display:
        from tempering import api

        where = api.executor_choice(executor, address, slurm, together, devices, activation_checkpointing, keep_weights, keep_completions)
        read = api.read_study(study, allow_code=allow_code)
        context.meta[DIRECTORY] = api.study_directory(read, out)
        finished = api.run_study(read, out=out, workers=workers, executor=where, allow_code=allow_code, on_event=display.on_event)
    show(finished, as_json)


@app.command()
def resume(
    context: typer.Context,
    directory: DirectoryArgument,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    slurm: SlurmOption = None,
    together: TogetherOption = None,
    devices: DevicesOption = 1,
    activation_checkpointing: CheckpointingOption = False,
    keep_weights: KeepWeightsOption = False,
    keep_completions: KeepCompletionsOption = False,
    allow_code: CodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compute what an interrupted run still lacks."""
    with progress_display(f"resuming {directory}") as display:
        from tempering import api

        where = api.executor_choice(executor, address, slurm, together, devices, activation_checkpointing, keep_weights, keep_completions)
        context.meta[DIRECTORY] = directory
        finished = api.resume(directory, workers=workers, executor=where, allow_code=allow_code, on_event=display.on_event)
    show(finished, as_json)


@app.command()
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


cli_sharing.register(app)


@app.command()
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


@app.command()
def validate(study: StudyArgument, allow_code: CodeOption = False) -> None:
    """Check a study file: its keys, values, methods and references. No model is loaded."""
    from tempering import api

    checked = api.validate_study(study, allow_code=allow_code)
    defended = [_counted(len(checked.defenses), "defence") + " and none"] if checked.defenses else []
    sizes = [_counted(len(checked.models), "model"), *defended, _counted(len(checked.attacks), "attack")]
    sizes.append(_counted(len(checked.seeds), "seed"))
    print_text(f"{study} is valid: {' × '.join(sizes)}")


@app.command("ls")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: JsonOption = False) -> None:
    """List the attacks, defences, evaluators or embedded models."""
    from tempering import api

    rows = api.list_models() if kind is Kind.MODELS else api.list_methods(kind.value)
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


@organism.command()
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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
