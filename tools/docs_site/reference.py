"""The reference of what a program may import: the public names of ``tempering``, and the contracts of methods."""

from __future__ import annotations

import tempering

COMMANDS = ("run_study", "resume", "make_report", "plan_study", "validate_study", "list_methods")
"""What ``tempering.api`` has for commands that no public name of the package stands for."""

CONTRACTS = {
    "Attacks": ("tempering.attacks", ("Attack", "FineTuningAttack", "Checkpoint", "AttackEnded")),
    "Defences": ("tempering.defenses", ("Defense", "Material")),
    "Evaluators": ("tempering.evaluators", ("Evaluator", "Subject")),
    "Judges": ("tempering.judges", ("Judge", "Asked", "Opinion", "Verdict")),
    "Settings": ("tempering.settings", ("Settings", "Range", "Choices", "OnlyIf")),
    "Training": ("tempering.training", ("FineTuning", "TrainingSettings", "LoraSettings", "Stage", "Objective", "Meter", "Spend")),
    "Data": ("tempering.data.records", ("Example", "AttackerView", "DefenderView", "EvaluatorView", "Role")),
    "Ways of asking": ("tempering.data.asking", ("Asking",)),
    "Models": ("tempering.models", ("Target",)),
    "Threat models": ("tempering.threat_model", ("Need", "ThreatModel")),
}
"""By heading: where what a method of one's own needs is imported from."""


def public_names() -> list[str]:
    """The names of ``tempering``, functions first."""
    return sorted((name for name in tempering.__all__ if not name.startswith("_")), key=lambda name: (name[0].isupper(), name))


def pages() -> dict[str, str]:
    """The two pages, as Markdown by place."""
    return {"api/index.md": _public(), "api/contracts.md": _contracts()}


def _public() -> str:
    parts = [
        "# Python",
        "Everything that the command line does, `import tempering` does too. What is not on this page may change without notice.",
    ]
    parts += [_directive(f"tempering.{name}", 2) for name in public_names()]
    parts += ["## Studies and runs", f"    from tempering.api import {', '.join(COMMANDS)}"]
    return "\n\n".join([*parts, *(_directive(f"tempering.api.{name}", 3) for name in COMMANDS)]) + "\n"


def _contracts() -> str:
    parts = [
        "# Contracts",
        "What a method of your own derives from and is handed: [attack](../how-to/attack.md), [defence](../how-to/defence.md), "
        "[evaluator](../how-to/evaluator.md), [judge](../how-to/judge.md).",
    ]
    for heading, (module, names) in CONTRACTS.items():
        parts += [f"## {heading}", f"    from {module} import {', '.join(names)}", *(_directive(f"{module}.{name}", 3) for name in names)]
    return "\n\n".join(parts) + "\n"


def _directive(name: str, level: int) -> str:
    return f"::: {name}\n    options:\n      heading_level: {level}"
