"""How time and peak memory of training grow with the number K of adversaries that are trained at once, and with the model's size.

Part of ``plan_growth.py``, which writes what comes of it. *Adversaries*: K runs of ``full_finetune``, or of ``lora_finetune``, on
``organism:tiny`` in one cohort (:class:`tempering.training.cohort.Cohort`), each with a seed of its own. *Model size*: one run of
``full_finetune`` on random Llamas with the organism's tokenizer. Each point is measured in a process of its own: processor seconds a
step, the first left out, and the peak memory above what the process had before the model was loaded.

The ratio is what linear growth from the second largest size would give, by what the largest took: 1 is linear, more is better (work that
adversaries share is done once).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import exponent, figure, median_interval, result

from tempering import registry
from tempering.attacks._contract import FineTuningAttack
from tempering.models import Target, load
from tempering.organisms import world_dataset
from tempering.study import Budget
from tempering.training import Meter, fine_tune
from tempering.training.cohort import Cohort

GOAL = 0.67
ADVERSARIES = (1, 2, 4, 8, 16, 32)
SHAPES = ((128, 4), (256, 6), (512, 6), (768, 10))
"""Hidden size and layers of the models: 1, 5, 20 and 75 million parameters."""
STEPS = 6
ATTACKS = ("full_finetune", "lora_finetune")


def random_llama(hidden: int, layers: int) -> Target:
    """A Llama of random weights with the organism's tokenizer."""
    own = load("organism:tiny")
    config = LlamaConfig(
        vocab_size=own.model.config.vocab_size,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=512,
        pad_token_id=own.chat.pad_id,
    )
    torch.manual_seed(0)
    return Target("random", LlamaForCausalLM(config).eval().requires_grad_(False), own.tokenizer, own.chat, digest="")


def measure(attack: str, together: int, shape: tuple[int, int] | None, steps: int = STEPS) -> dict[str, Any]:
    """Processor seconds a step, and the peak memory above what this process had.

    Args:
        attack: a fine-tuning attack.
        together: runs that are trained at once.
        shape: hidden size and layers of a random model; ``None`` takes the embedded organism.
        steps: of every run, at least two.
    """
    method = registry.create("attacks", attack)
    assert isinstance(method, FineTuningAttack)
    view = world_dataset("tiny").divide(0).attacker_view().limited_to(method.requires | method.uses)
    before = _peak()
    target = load("organism:tiny") if shape is None else random_llama(*shape)
    declared = [method.declare(target, view, budget=Budget(steps=steps), seed=seed) for seed in range(together)]
    every = tuple(range(1, steps + 1))
    runs = [replace(declaration, probes=every) for declaration in declared]
    passes: Iterator[object] = fine_tune(target, runs[0], Meter()) if together == 1 else Cohort(target, runs, [Meter() for _ in runs]).run()
    seconds = []
    for _ in every:
        started = time.process_time()
        next(passes)
        seconds.append(time.process_time() - started)
    return {
        "adversaries": together,
        "parameters": target.model.num_parameters(),
        "seconds": figure(statistics.median(seconds[1:])),
        "bytes": _peak() - before,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_process_of_its_own(attack: str, together: int, shape: tuple[int, int] | None) -> dict[str, Any]:
    """So that no earlier peak is counted."""
    command = [sys.executable, __file__, "--one", attack, str(together), *map(str, shape or ())]
    point: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    about = f"{point['adversaries']} of {attack}, {point['parameters'] / 1e6:.1f} M parameters"
    print(f"{about}: {point['seconds']:.3g} s a step, {point['bytes'] / 2**20:.0f} MiB", flush=True)
    return point


def growth_case(name: str, size: str, curves: dict[str, list[dict[str, Any]]], command: str) -> dict[str, Any]:
    """The result over some curves.

    Args:
        name: what grows.
        size: its key in the points.
        curves: points of rising size, at least two each, by attack.
        command: what makes it anew.
    """
    kept = {
        attack: {
            "points": points,
            "exponents": {
                what: figure(exponent([point[size] for point in points], [point[what] for point in points]))
                for what in ("seconds", "bytes")
            },
        }
        for attack, points in curves.items()
    }
    each = [(_by(points[-1], size), _by(points[-2], size)) for points in curves.values()]
    return result(
        f"plan-growth: {name}",
        median_interval([smaller / larger for larger, smaller in each]),
        goal=GOAL,
        ours=statistics.median(larger for larger, _ in each),
        theirs=statistics.median(smaller for _, smaller in each),
        command=command,
        note=f"processor microseconds of a training step by {size}, at the largest size against the second largest; peaks are bytes above "
        f"what the process had before the model was loaded; exponents over all sizes; sized down: {STEPS} steps each",
        curves=kept,
    )


def _by(point: dict[str, Any], size: str) -> float:
    return 1e6 * float(point["seconds"]) / float(point[size])


def training_cases(
    command: str, adversaries: Sequence[int] = ADVERSARIES, shapes: Sequence[tuple[int, int]] = SHAPES
) -> list[dict[str, Any]]:
    """The results of both kinds of growth, measured."""
    at_once = {attack: [in_a_process_of_its_own(attack, together, None) for together in adversaries] for attack in ATTACKS}
    sizes = {"full_finetune": [in_a_process_of_its_own("full_finetune", 1, shape) for shape in shapes]}
    return [growth_case("adversaries", "adversaries", at_once, command), growth_case("model size", "parameters", sizes, command)]


def main() -> None:
    """Measure one point in this process, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs="+", required=True, metavar="ATTACK TOGETHER [HIDDEN LAYERS]")
    attack, together, *shape = parser.parse_args().one
    torch.set_num_threads(1)
    print(json.dumps(measure(attack, int(together), (int(shape[0]), int(shape[1])) if shape else None)))


if __name__ == "__main__":
    main()
