"""``temper answer-benign``: a model's own answers to the harmless prompts of a dataset without any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempering.cli_options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    TemplateOption,
    TrustOption,
    option,
    print_json,
    print_text,
    progress_display,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("answer-benign")(answer_benign)


def answer_benign(
    data: Annotated[str, typer.Argument(metavar="DATA", help="JSONL file, folder, saved dataset, or whatever else --data takes.")],
    model: Annotated[str, option("--model", "MODEL", "Who answers: organism:tiny, a directory, hub-id@revision, a GGUF file, an adapter.")],
    out: Annotated[Path, option("--out", "FILE.jsonl", "The dataset with the answers; not there yet.")],
    longest: Annotated[int, option("--longest", "N", "New tokens of an answer, at most.", default=True, min=1)] = 96,
    batch_size: Annotated[int, option("--batch-size", "N", "Prompts put at once.", default=True, min=1)] = 32,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    chat_template: TemplateOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Answer a dataset's harmless prompts by the model itself, for defences to rehearse; hazards are copied, never asked."""
    with progress_display(f"{model} answers {data}") as display:
        from tempering.answering import answer_benign as run
        from tempering.engine.events import Event

        answered = run(
            data,
            model=model,
            out=out,
            longest=longest,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            trust_remote_code=trust_remote_code,
            on_progress=lambda line: display.on_event(Event("preparing", message=line)),
        )
    if as_json:
        print_json(answered.as_json())
    else:
        print_text(answered.line())
