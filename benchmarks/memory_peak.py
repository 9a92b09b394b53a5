"""The most memory that an audit's unit takes: at most the model, one set of what is trained, and a constant.

    python benchmarks/memory_peak.py [--models organism:tiny organism:smollm2]        minutes; the second needs to be built

Each attack runs in a process of its own as a worker runs it: the model is loaded, probed untouched, attacked for two optimizer steps and
probed at every checkpoint. The peak is what the system says of that process at its end (``ru_maxrss``), interpreter and libraries among
it. Allowed are

- the model, as it is loaded;
- the copy that is attacked, in float32 where all of its 16-bit weights are trained;
- a gradient and two moments in float32 for each number that is trained, adapters or all weights, and the adapters themselves;
- 1.5 GiB for the process, which is the constant that the engine reckons with when it decides how many workers fit.

The ratio is what is allowed by what was taken; the goal is 1. Written to benchmarks/results/memory-peak.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import figure, paired_ratio, result, write_result

from tempering import registry
from tempering.data.records import Dataset
from tempering.engine.loading import load_records
from tempering.engine.local import PROCESS_BYTES
from tempering.evaluators import Subject, examine
from tempering.models import Target, load
from tempering.study import Budget, DataChoice, ModelChoice, ProbeSettings
from tempering.training import LoraSettings, Meter
from tempering.training.adapters import lora_parameters

MODELS = ("organism:tiny", "organism:smollm2")
ATTACKS = ("full_finetune", "lora_finetune", "refusal_ablation")
FLOAT32 = 4
BUDGET = Budget(steps=2)
PROBES = ProbeSettings(prompts=8)


def state_bytes(target: Target, attack: str) -> int:
    """Bytes of the copy that is attacked and of what training it keeps."""
    weights = list(target.model.parameters())
    numbers = sum(weight.numel() for weight in weights)
    own = sum(weight.numel() * weight.element_size() for weight in weights)
    if attack == "full_finetune":
        return numbers * FLOAT32 * 4
    adapters = lora_parameters(target.model, LoraSettings()) if attack == "lora_finetune" else 0
    return own + adapters * FLOAT32 * 4


def measure(reference: str, name: str) -> dict[str, int]:
    """Bytes that one attack took in this process, and what it was allowed."""
    target = load(reference)
    records: Dataset = load_records(DataChoice(), ModelChoice(reference=reference))
    division = records.divide(0)
    evaluators = [registry.create("evaluators", evaluator) for evaluator in registry.names("evaluators")]
    evaluated = division.evaluator_view().limited(PROBES.prompts)
    loaded = peak_of_this_process()
    untouched = Subject(target.model, target.chat, evaluated, PROBES)
    examine(untouched, evaluators)
    probed = peak_of_this_process()
    attack = registry.create("attacks", name)
    view = division.attacker_view().limited_to(attack.requires | attack.uses)
    for checkpoint in attack.run(target, view, Meter(), budget=BUDGET, seed=0):
        subject = Subject(checkpoint.model, target.chat, evaluated, PROBES, untouched=untouched, asking=checkpoint.asking)
        examine(subject, evaluators)
    model = sum(weight.numel() * weight.element_size() for weight in target.model.parameters())
    return {
        "model": model,
        "state": state_bytes(target, name),
        "constant": PROCESS_BYTES,
        "after loading": loaded,
        "after probing the untouched model": probed,
        "peak": peak_of_this_process(),
    }


def peak_of_this_process() -> int:
    """Bytes, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def case(reference: str, name: str) -> dict[str, Any]:
    """The result of one attack, measured in a process of its own."""
    command = [sys.executable, __file__, "--one", reference, name]
    seen = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    allowed = seen["model"] + seen["state"] + seen["constant"]
    return result(
        f"memory-peak: {name} on {reference}",
        paired_ratio([seen["peak"]], [allowed]),
        goal=1.0,
        ours=seen["peak"],
        theirs=allowed,
        command="python benchmarks/memory_peak.py",
        note=f"bytes: the peak of the process, against model, state and {PROCESS_BYTES / 2**30:g} GiB; two steps of the attack's own batch",
        parts={key: figure(value) for key, value in seen.items()},
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "ATTACK"), help="measure one attack in this process, and print it")
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(1)
        print(json.dumps(measure(*arguments.one)))
        return
    write_result("memory-peak", *(case(reference, name) for reference in arguments.models for name in ATTACKS))


if __name__ == "__main__":
    main()
