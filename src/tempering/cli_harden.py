"""``temper harden``: a defence trained into a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tempering.cli_completion import methods
from tempering.cli_options import (
    RESUME,
    CodeOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    PromptsOption,
    TemplateOption,
    TrackOption,
    TrustOption,
    loudness,
    option,
    print_json,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from tempering.hardening import Hardened


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="An interrupted training goes on with the same command. What the result withstands: temper audit DIR.")(harden)


def harden(
    context: typer.Context,
    defense: Annotated[
        str, option("--defense", "NAME", "Which defence; a+b: a chain; see: temper ls defenses.", autocompletion=methods("defenses", "+"))
    ],
    out: Annotated[Path, option("--out", "DIR", "Directory for the hardened model; absent or empty.")],
    model: ModelArgument = "organism:tiny",
    config: Annotated[Path | None, option("--config", "FILE.yaml", "Settings of the defence; of a chain, by the link's name.")] = None,
    lora: Annotated[bool, option("--lora", "", "Train low-rank adapters, merged at the end, not all weights.")] = False,
    data: DataOption = None,
    seed: Annotated[int, option("--seed", "N", "Decides every random choice.", default=True, min=0)] = 0,
    floor: Annotated[float, option("--utility-floor", "F", "Share of the model's utility that a stage must leave.", default=True)] = 0.9,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    chat_template: TemplateOption = None,
    trust_remote_code: TrustOption = False,
    allow_code: CodeOption = False,
    prompts: PromptsOption = 128,
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a defence into a model, and write the safer checkpoint with a card."""
    from tempering.report.training_progress import TrainingDisplay

    with TrainingDisplay(f"hardening {model} by {defense}", quiet=loudness.quiet) as display:
        from tempering.hardening import harden as run
        from tempering.study_file import load_settings

        context.meta[RESUME] = Path(f"{out.resolve()}.training"), "give the same command again to go on"
        hardened = run(
            model,
            defense=defense,
            out=out,
            data=data,
            seed=seed,
            config=None if config is None else load_settings(config),
            lora=lora,
            floor=floor,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            trust_remote_code=trust_remote_code,
            prompts=prompts,
            allow_code=allow_code,
            track=track or (),
            on_event=display.on_event,
        )
    if as_json:
        print_json(hardened.as_json())
    else:
        _show(hardened)


def _show(hardened: Hardened) -> None:
    from tempering.report.hardening import effect_table, spend_sentence

    print_table(effect_table(hardened.rows()))
    for line in hardened.stage_lines():
        print_text(line)
    print_text(spend_sentence(hardened.spend, *hardened.steps))
    print_text(f"Model and card: {hardened.directory}")
    print_text(f"What it costs to strip its safeguard: {hardened.next_command}")
