"""The most memory that an audit takes: at most the model, one set of what is trained, and a constant.

    python benchmarks/memory_peak.py        a quarter of an hour; ``organism:smollm2`` needs to be built

Each case is an audit in a process of its own, with the engine in that process: the model is loaded, probed untouched, attacked for two
optimizer steps by K runs at once, and every run is probed. The peak is what the system says of that process (``ru_maxrss``),
interpreter and libraries among it. Allowed are

- the model, as it is loaded;
- the copy that is attacked; K times in float32 where all weights are trained, once beside K sets of adapters;
- for each number that is trained, of each run, a gradient and two moments in float32, and the adapters themselves;
- the constant: what this very process takes with everything imported and before any model is loaded, measured, and 64 MiB for what
  kernels, autograd and the engine touch on the way. On ``organism:tiny``, where nothing else weighs, that was 30 MB.

The ratio is what is allowed by what was taken; the goal is 1. What a step keeps of its forward pass is *not* allowed for, since it grows
with the batch and is no constant; ``parts`` holds it as the engine estimates it, and ``with_activations`` is the ratio if it were.
Written to benchmarks/results/memory-peak.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import figure, paired_ratio, result, write_result

from tempering import registry
from tempering.attacks._contract import FineTuningAttack
from tempering.engine.executors import ExecutorChoice
from tempering.engine.loading import load_records
from tempering.engine.plan import make_plan
from tempering.engine.run import execute
from tempering.model_choice import ModelChoice
from tempering.models import Target, load
from tempering.study import Budget, DataChoice, MethodChoice, ProbeSettings, Study
from tempering.training import LoraSettings
from tempering.training.adapters import lora_parameters
from tempering.training.memory import fine_tuning_memory

CASES = {
    "organism:tiny": (("full_finetune", 1), ("lora_finetune", 1), ("refusal_ablation", 1), ("full_finetune", 8), ("lora_finetune", 8)),
    "organism:smollm2": (("full_finetune", 1), ("lora_finetune", 1), ("refusal_ablation", 1), ("full_finetune", 2), ("lora_finetune", 4)),
}
"""Attacks on each model, and how many runs of them at once."""

FLOAT32 = 4
WORKSPACE = 2**26
"""Bytes of the constant beside the process with its libraries."""
PROMPTS = 8
_LATE = ("tempering.engine.cohorts", "tempering.engine.worker", "tempering.training.cohort", "torch._dynamo", "peft")
"""What is imported when it is first needed, and belongs to the process all the same."""


def state_bytes(target: Target, attack: str, together: int) -> int:
    """Bytes of the copies that are attacked and of what training keeps of them.

    Args:
        target: what is attacked.
        attack: its name.
        together: runs at once.
    """
    weights = list(target.model.parameters())
    numbers = sum(weight.numel() for weight in weights)
    own = sum(weight.numel() * weight.element_size() for weight in weights)
    if attack == "full_finetune":
        return together * numbers * FLOAT32 * 4
    adapters = lora_parameters(target.model, LoraSettings()) if attack == "lora_finetune" else 0
    return own + together * adapters * FLOAT32 * 4


def activation_bytes(target: Target, attack: str, budget: Budget) -> int:
    """What a step of one run keeps of its forward pass, as the engine estimates it; 0 for an attack that trains nothing."""
    method = registry.create("attacks", attack)
    if not isinstance(method, FineTuningAttack):
        return 0
    division = load_records(DataChoice(), ModelChoice(reference=target.reference)).divide(0)
    view = division.attacker_view().limited_to(method.requires | method.uses)
    return fine_tuning_memory(target, method.declare(target, view, budget=budget, seed=0)).parts["activations"]


def libraries(attack: str) -> int:
    """Bytes of this process once everything is imported that an audit imports."""
    for name in registry.unasked("evaluators"):
        registry.create("evaluators", name)
    registry.create("attacks", attack)
    for module in _LATE:
        importlib.import_module(module)
    return peak_of_this_process()


def measure(reference: str, attack: str, together: int, steps: int = 2) -> dict[str, int]:
    """Bytes that an audit took in this process, and what it was allowed.

    Args:
        reference: the model.
        attack: its name.
        together: seeds, all trained in one pass.
        steps: of the optimiser.
    """
    imported, budget = libraries(attack), Budget(steps=steps)
    study = Study(
        models=(ModelChoice(reference=reference),),
        attacks=(MethodChoice(name=attack),),
        seeds=together,
        budget=budget,
        probes=ProbeSettings(prompts=PROMPTS),
    )
    plan = make_plan(study)
    planned = peak_of_this_process()
    with tempfile.TemporaryDirectory() as folder:
        tables = execute(plan, folder, workers=0, executor=ExecutorChoice(together=together))
    peak = peak_of_this_process()
    failed = tables.units[tables.units["status"] == "failed"]
    if len(failed):
        raise SystemExit(f"error: {len(failed)} units failed: {failed.iloc[0]['error']}")
    target = load(reference)
    return {
        "model": sum(weight.numel() * weight.element_size() for weight in target.model.parameters()),
        "state": state_bytes(target, attack, together),
        "constant": imported + WORKSPACE,
        "libraries": imported,
        "after planning": planned,
        "peak": peak,
        "activations, not allowed for": together * activation_bytes(target, attack, budget),
    }


def peak_of_this_process() -> int:
    """Bytes, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def case(reference: str, attack: str, together: int, seen: dict[str, int]) -> dict[str, Any]:
    """The result of one audit.

    Args:
        reference: the model.
        attack: its name.
        together: runs at once.
        seen: what :func:`measure` measured.
    """
    allowed = seen["model"] + seen["state"] + seen["constant"]
    kept = seen["activations, not allowed for"]
    runs = f"{together} runs of {attack} at once" if together > 1 else attack
    return result(
        f"memory-peak: {runs} on {reference}",
        paired_ratio([seen["peak"]], [allowed]),
        goal=1.0,
        ours=seen["peak"],
        theirs=allowed,
        command="python benchmarks/memory_peak.py",
        note=f"bytes: the peak of the process, against model, state and the constant: {seen['libraries'] / 2**20:.0f} MiB of libraries "
        f"(measured) and {WORKSPACE / 2**20:.0f} MiB; what a step keeps of its forward pass is {kept / 2**20:.0f} MiB beyond, by estimate. "
        "Sized down: two steps of the attack's own batch, eight prompts",
        with_activations=figure((allowed + kept) / seen["peak"]),
        parts={key: figure(value) for key, value in seen.items()},
    )


def in_a_process_of_its_own(reference: str, attack: str, together: int) -> dict[str, Any]:
    """So that no earlier peak is counted."""
    command = [sys.executable, __file__, "--one", reference, attack, str(together)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    made = case(reference, attack, together, json.loads(lines[-1]))
    print(f"{made['name']}: {made['ratio']['median']:g}", flush=True)
    return made


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "ATTACK", "TOGETHER"), help="measure one audit in this process, and print it")
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(1)
        reference, attack, together = arguments.one
        print(json.dumps(measure(reference, attack, int(together))))
        return
    write_result("memory-peak", *(in_a_process_of_its_own(model, *each) for model in arguments.models for each in CASES[model]))


if __name__ == "__main__":
    main()
