"""Examples for the help page of every command."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "audit": (
        ("temper audit", "the embedded organism, in minutes"),
        ("temper audit ./my-model --data my-data.jsonl", "a model of your own"),
        ("temper audit --attacks refusal_ablation --seeds 1 --json", "one attack, once, for a program"),
        ("temper audit --budget steps=50,flops=1e15 --track mlflow", "cut off early, and followed"),
        ("temper audit --settings audit.yaml --seeds 3", "flags from a file, one of them anew"),
    ),
    "base-check": (
        ("temper base-check organism:tiny --delta-only", "how the weights differ; no attack"),
        ("temper base-check ./tuned --base org/base@main --data my-data.jsonl", "and what merging with the base costs"),
    ),
    "compare": (
        ("temper compare organism:tiny --defenses refusal_sft,refat --seeds 3", "two defences and none"),
        ("temper compare ./my-model --data my-data.jsonl --defenses all", "every defence"),
    ),
    "harden": (
        ("temper harden organism:tiny --defense refat --out runs/refat", "train a defence into a model"),
        ("temper harden ./my-model --data my-data.jsonl --defense undo+refat --out safer", "a chain of two"),
        ("temper harden --defense rmu --out runs/rmu --track mlflow", "followed"),
    ),
    "judge calibrate": (
        ("temper judge calibrate runs/mine --out labels.jsonl", "a sample to label by hand; then:"),
        ("temper judge calibrate labels.jsonl --judge text --judge wildguard --of runs/mine", "how far each can be trusted"),
    ),
    "answer-benign": (
        ("temper answer-benign data.jsonl --model ./my-model --out answered.jsonl", "the model's own harmless answers; then:"),
        ("temper harden ./my-model --defense refusal_sft --data answered.jsonl --out safer", "a defence that rehearses them"),
    ),
    "run": (
        ("temper run examples/audit_tiny.yaml", "a study file"),
        ("temper run study.yaml --out runs/mine --workers 2 --track wandb", "where to, with how many, and followed"),
    ),
    "resume": (("temper resume runs/mine", "what an interrupted run still lacks"),),
    "report": (
        ("temper report runs/mine", "write the page anew"),
        ("temper report runs/mine --tau 0.3 --accelerator A100-80GB", "with another threshold and another price"),
    ),
    "export": (
        ("temper export runs/mine --out tables", "Parquet"),
        ("temper export runs/mine --out tables --format csv", "for a spreadsheet"),
    ),
    "card": (
        ("temper card runs/mine", "to standard output, as Markdown"),
        ("temper card runs/mine --out card", "card.md and card.json"),
    ),
    "push": (
        ("temper push runs/refat org/model-hardened --dry-run", "what would be sent; asks no network"),
        ("temper push runs/refat org/model-hardened", "into a private repository"),
    ),
    "plan": (
        ("temper plan examples/audit_tiny.yaml", "what a study would cost; runs nothing"),
        ("temper plan study.yaml --pilot runs/pilot --multiplier 3", "how many seeds see a threefold price"),
    ),
    "validate": (("temper validate study.yaml", "keys, values, methods and references"),),
    "ls": (
        ("temper ls attacks", "what there is to attack with"),
        ("temper ls models --json", "the organisms, for a program"),
    ),
    "organism build": (
        ("temper organism build small", "grow the guarded organism of that size"),
        ("temper organism build tiny --variant filtered", "one that never saw the hazard"),
    ),
    "doctor": (
        ("temper doctor", "what this machine can run; asks no network"),
        ("temper doctor --online --json", "whether the hub answers too, for a program"),
    ),
}
"""By command: what to type, and what it does."""


def epilog_of(command: str, note: str | None = None) -> str:
    """The end of a command's help page: a note, and its examples."""
    lines = [f"{line}  [dim]# {text}[/dim]" for line, text in EXAMPLES.get(command, ())]
    return "\n\n".join([*([note] if note else []), *(["[bold]Examples[/bold]", *lines] if lines else [])])
