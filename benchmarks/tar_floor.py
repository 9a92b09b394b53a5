"""TAR's outer step against its floor: time, and peak memory.

    python benchmarks/tar_floor.py                 a few minutes on one core, on Linux

**Time.** The floor of an outer step with K inner steps is K + K/4 + 1 forward and backward passes, timed alone: K on an adversary's
batch, K/4 on x_TR, one on the step's own retain batch (in the pieces of similar length that ours takes it in), on a model whose
gradients are cleared before each pass. Ours is the whole outer step as the hardening loop runs it: drawing and encoding, resetting
the working model, the adversary's clipping and AdamW, the looks, the reference's pass for the representation term, the outer clipping
and AdamW. Floor and outer step take turns, so that a busy machine slows both; the figure is the median of their ratios, with the
lowest and the highest. Seconds are those of the process on its processor, one thread.

**Memory.** Two trainings of the larger model, with every byte that torch allocates counted by its profiler: ours, and the same
without looks, so that adversaries tamper, nothing is summed up, and the outer step is one of retain training. That one holds what any
such training must: the trained weights with both moments of the outer AdamW, the reference, the working copy with its gradient and
both moments of the adversary's AdamW, and activations; a pass over x_TR has fewer rows here than one of the adversary's. TAR may hold
one gradient more: the sum along the trajectory.

Written to benchmarks/results/tar-floor.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from tempering.data.records import AttackerView, DefenderView
from tempering.defenses._tar_adversaries import Adversaries, Look
from tempering.defenses._tar_training import TamperResistance
from tempering.defenses.tar import Tar
from tempering.models import Target, load
from tempering.organisms import world_dataset
from tempering.training import Hardening, Meter, Rows, Workshop

RESULTS = Path(__file__).resolve().parent / "results" / "tar-floor.json"
GOAL = 1.25
REPEATS = 15
STEPS, EVERY, INNER_BATCH = 8, 4, 10
SETTINGS: dict[str, Any] = {"inner_steps": STEPS, "look_every": EVERY, "adversaries": [{"name": "full_finetune"}], "steps": REPEATS + 1}
SCALARS = 0.001
"""Of a copy of the weights: losses and norms that lie about beside the sum of gradients."""


def organism(large: bool) -> Target:
    """The embedded organism, or a random Llama of 20 M parameters with its tokenizer."""
    target = load("organism:tiny")
    if not large:
        return target
    config = LlamaConfig(
        vocab_size=target.model.config.vocab_size,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=512,
        pad_token_id=target.chat.pad_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return Target("random", model, target.tokenizer, target.chat, digest="")


class Floor:
    """The passes of one outer step, and nothing else."""

    def __init__(self, target: Target, view: DefenderView, objective: TamperResistance) -> None:
        """Take rows as a step has them.

        Args:
            target: whose copy passes are run on.
            view: the defender's examples.
            objective: TAR's, begun.
        """
        config = Tar.Config(**SETTINGS)
        model = target.copy_model().requires_grad_(True)
        self.workshop = Workshop(model, target.chat, Meter(), seed=(0, 0), steps=1, autocast=False)
        self.objective = objective
        refused = [example.model_copy(update={"answer": config.refusals[0]}) for example in view.hazard[: config.held_out_batch]]
        encode = target.chat.encode
        inner = [encode(example) for example in view.hazard[:INNER_BATCH]]
        looked = [encode(example) for example in (*refused, *view.hazard[: config.held_out_batch])]
        self.inner, self.looked = (Rows(tuple(rows), ("",) * len(rows), target.chat.pad_id) for rows in (inner, looked))

    def run(self, step: int) -> None:
        """K + K/4 + 1 passes; the retain pass over the rows of a step, in the pieces that ours takes it in."""
        for rows in (*[self.inner] * STEPS, *[self.looked] * (STEPS // EVERY), *self.objective.kept_rows(step)):
            self.workshop.model.zero_grad(set_to_none=True)
            self.workshop.run(rows).cross_entropy().backward()  # type: ignore[no-untyped-call]


def timed(large: bool, repeats: int) -> dict[str, Any]:
    """Ratios of outer step to floor, and seconds of both."""
    target, view = organism(large), world_dataset("tiny").divide(0).defender_view()
    stages = Tar(Tar.Config(**{**SETTINGS, "steps": repeats + 1})).stages(target, view, seed=0)
    steps = iter(Hardening(target, stages[:1], seed=0).run())
    next(steps)
    assert isinstance(stages[0].objective, TamperResistance)
    floor = Floor(target, view, stages[0].objective)
    floor.run(0)
    ours, theirs = [], []
    for step in range(1, repeats + 1):
        theirs.append(seconds(partial(floor.run, step)))
        ours.append(seconds(partial(next, steps)))
    ratios = np.array(ours) / np.array(theirs)
    return {
        "parameters": int(target.model.num_parameters()),
        "ratio": {"median": figure(np.median(ratios)), "low": figure(ratios.min()), "high": figure(ratios.max())},
        "ours": figure(np.median(ours)),
        "theirs": figure(np.median(theirs)),
    }


def seconds(run: Callable[[], Any]) -> float:
    """Of processor time."""
    started = time.process_time()
    run()
    return time.process_time() - started


def processor() -> str:
    """Model of the processor, where the system tells."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")


def figure(value: Any) -> float:
    """Four digits."""
    return float(f"{float(value):.4g}")


class Unlooked(Adversaries):
    """Adversaries whose tampering is never looked at."""

    def looks(self, workshop: Workshop, view: AttackerView) -> Iterator[Look]:
        """Let the adversary train to its end."""
        for _ in super().looks(workshop, view):
            pass
        return iter(())


class WithoutSum(Tar):
    """The same training without the sum: adversaries tamper, and the outer step is one of retain training."""

    def adversaries(self) -> Adversaries:
        """Those of the settings, not looked at."""
        config: Tar.Config = self.config
        return Unlooked(config.adversaries, config.data, steps=STEPS, every=STEPS, growth=0.0)


def peak(method: type[Tar]) -> dict[str, int]:
    """The most that two outer steps of the larger model had allocated at once, and what one copy of its weights takes, in bytes.

    The looks are given fewer rows than the adversaries' steps, so that the peak lies in the latter both with and without them.
    """
    target, view = organism(True), world_dataset("tiny").divide(0).defender_view()
    defense = method(Tar.Config(**{**SETTINGS, "steps": 2, "held_out_batch": INNER_BATCH // 4}))
    hardening = Hardening(target, list(defense.stages(target, view, seed=0))[:1], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            for _ in hardening.run():
                pass
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    allocated = max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]")
    return {"peak": allocated, "weights": sum(value.numel() * value.element_size() for value in target.model.parameters())}


METHODS: dict[str, type[Tar]] = {"ours": Tar, "theirs": WithoutSum}


def _in_a_process_of_its_own(kind: str) -> dict[str, int]:
    """So that nothing an earlier one left is counted."""
    command = [sys.executable, __file__, "--peak", kind]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(json.loads(lines[-1]))


def memory() -> dict[str, Any]:
    """Peaks of both trainings, and the difference in copies of the weights."""
    ours, theirs = (_in_a_process_of_its_own(kind) for kind in METHODS)
    copies = (ours["peak"] - theirs["peak"]) / ours["weights"]
    return {
        "name": "peak memory of TAR above the same training without the sum of gradients, in copies of the weights",
        "ratio": {"median": figure(copies), "low": figure(copies), "high": figure(copies)},
        "goal": 1.0,
        "met": bool(copies <= 1 + SCALARS),
        "ours": ours["peak"],
        "theirs": theirs["peak"],
        "note": f"bytes allocated, as torch's profiler counts them; met up to {SCALARS} of a copy, for losses and norms",
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--peak", choices=list(METHODS), help="measure one training's memory in this process, and print it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(json.dumps(peak(METHODS[arguments.peak])))
        return
    rows = []
    for name, large in (("organism:tiny", False), ("a random Llama", True)):
        measured = timed(large, arguments.repeats)
        what = f"TAR's outer step against its floor, {name} of {measured.pop('parameters') / 1e6:.1f} M parameters"
        note = f"K = {STEPS}, looks every {EVERY}; processor seconds of one thread, medians of {arguments.repeats} turns"
        rows.append({"name": what, **measured, "goal": GOAL, "met": measured["ratio"]["median"] <= GOAL, "note": note})
    rows.append(memory())
    common = {"command": "python benchmarks/tar_floor.py", "machine": f"{platform.machine()}, {processor()}, torch {torch.__version__}"}
    for row in rows:
        row |= common
        print(
            f"{row['name']}: {row['ratio']['median']} ({row['ratio']['low']} to {row['ratio']['high']}), goal {row['goal']}: {row['met']}"
        )
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
