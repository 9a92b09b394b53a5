"""TAR's outer step against its floor: time, and peak memory.

    python benchmarks/tar_floor.py                 a few minutes on one core, on Linux

**Time.** The floor of an outer step with K inner steps is K + K/4 + 1 forward and backward passes, timed alone: K on an adversary's
batch, K/4 on x_TR, one on the step's own retain batch (in the pieces of similar length that ours takes it in), on a model whose
gradients are cleared before each pass. Ours is the whole outer step as the hardening loop runs it: drawing and encoding, resetting
the working model, the adversary's clipping and AdamW, the looks, the reference's pass for the representation term, the outer clipping
and AdamW. Floor and outer step take turns, so that a busy machine slows both; the figure is the median of the floor's share of the
outer step, with its interval; the goal is an outer step of at most 1.25 floors, a share of 0.8. Seconds are those of the process on its
processor, one thread.

**Memory.** Two trainings of the larger model, with every byte that torch allocates counted by its profiler: ours, and the same
without looks, so that adversaries tamper, nothing is summed up, and the outer step is one of retain training. That one holds what any
such training must: the trained weights with both moments of the outer AdamW, the reference, the working copy with its gradient and
both moments of the adversary's AdamW, and activations; a pass over x_TR has fewer rows here than one of the adversary's. TAR may hold
one gradient more: the sum along the trajectory. The figure is what is allowed, that training's peak and one copy of the weights more, by
ours.

Written to benchmarks/results/tar-floor.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import paired_ratio, result, take_turns, write_result

from tempering.data.records import AttackerView, DefenderView
from tempering.defenses._tar_adversaries import Adversaries, Look
from tempering.defenses._tar_training import TamperResistance
from tempering.defenses.tar import Tar
from tempering.models import Target, load
from tempering.organisms import world_dataset
from tempering.training import Hardening, Meter, Rows, Workshop

COMMAND = "python benchmarks/tar_floor.py"
GOAL = 0.8
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


def timed(name: str, large: bool, repeats: int) -> dict[str, Any]:
    """The result of one model: seconds of floor and outer step."""
    target, view = organism(large), world_dataset("tiny").divide(0).defender_view()
    stages = Tar(Tar.Config(**{**SETTINGS, "steps": repeats + 1})).stages(target, view, seed=0)
    steps = iter(Hardening(target, stages[:1], seed=0).run())
    next(steps)
    assert isinstance(stages[0].objective, TamperResistance)
    floor = Floor(target, view, stages[0].objective)
    floor.run(0)
    numbers = itertools.count(1)
    turns = list(take_turns(lambda: seconds(partial(next, steps)), lambda: seconds(partial(floor.run, next(numbers))), repeats))
    ours, theirs = zip(*turns, strict=True)
    return result(
        f"tar-floor: the floor's share of an outer step, {name} of {target.model.num_parameters() / 1e6:.1f} M parameters",
        paired_ratio(ours, theirs),
        goal=GOAL,
        ours=median(ours),
        theirs=median(theirs),
        command=COMMAND,
        note=f"K = {STEPS}, looks every {EVERY}; processor seconds of one thread, {repeats} turns",
    )


def seconds(run: Callable[[], Any]) -> float:
    """Of processor time."""
    started = time.process_time()
    run()
    return time.process_time() - started


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
    """The result of both peaks."""
    ours, theirs = (_in_a_process_of_its_own(kind) for kind in METHODS)
    allowed = theirs["peak"] + round((1 + SCALARS) * ours["weights"])
    return result(
        "tar-floor: memory that TAR's training may take by what it takes at its peak",
        paired_ratio([ours["peak"]], [allowed]),
        goal=1.0,
        ours=ours["peak"],
        theirs=allowed,
        command=COMMAND,
        note=f"bytes allocated, as torch's profiler counts them; allowed are the same training without the sum of gradients, one copy "
        f"of the weights ({ours['weights']} bytes), and {SCALARS} of one for losses and norms",
    )


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
    kinds = (("organism:tiny", False), ("a random Llama", True))
    write_result("tar-floor", *(timed(name, large, arguments.repeats) for name, large in kinds), memory())


if __name__ == "__main__":
    main()
