"""TAR's outer step against its floor: time, and peak memory.

    python benchmarks/tar_floor.py                 a few minutes on one core, on Linux

**Time.** The floor of an outer step with K inner steps is K + K/4 + 1 forward and backward passes, timed alone: the rows of that very
step once more, K batches of the adversary's, K/4 of x_TR, and the step's retain batch (batches in the pieces that ours takes them
in), on a model whose gradients are cleared before each pass. Ours is the whole outer step as the hardening loop runs it: drawing and
encoding, resetting the working model, the adversary's clipping and AdamW, the looks, the reference's pass for the representation term,
the outer clipping and AdamW. Floor and outer step take turns, so that a busy machine slows both; the figure is the median of the
floor's share of the outer step, with its interval; the goal is an outer step of at most 1.25 floors, a share of 0.8. Seconds are those
of the process on its processor, one thread.

**Memory.** Two trainings of the larger model with TAR's own batches, every byte that torch allocates counted by its profiler: ours, and
the same without looks, so that adversaries tamper, nothing is summed up, and the outer step is one of retain training. "No more memory
than one gradient copy above the model" can be read in two ways, and both are reported:

- *above the model*: by the letter, weights and one gradient, and nothing else. No training by AdamW keeps that: there are both moments
  of the outer optimiser, the reference, the working copy with its gradient and the adversary's two moments, and activations.
- *above the same training without looks*: what TAR's sum along the trajectory adds to a training that has to hold all of those anyway.
  A look has more rows than an adversary's step, so its activations are in this figure too.

``copies`` is the peak in copies of the weights. The figure is what is allowed by what was taken.

Written to benchmarks/results/tar-floor.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import figure, paired_ratio, result, write_result

from tempering.data.chat import Encoded
from tempering.data.records import AttackerView
from tempering.defenses._tar_adversaries import Adversaries, Look
from tempering.defenses.tar import Tar
from tempering.models import Target, load
from tempering.organisms import world_dataset
from tempering.training import Answers, Hardening, Meter, Rows, Workshop, loop

COMMAND = "python benchmarks/tar_floor.py"
GOAL = 0.8
REPEATS = 15
STEPS, EVERY = 8, 4
SETTINGS: dict[str, Any] = {"inner_steps": STEPS, "look_every": EVERY, "adversaries": [{"name": "full_finetune"}], "steps": REPEATS + 1}
MEMORY_STEPS = 2
"""Outer steps of the trainings whose peaks are taken."""


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


class Passes:
    """The rows of every pass of an outer step that has a gradient, in their order."""

    def __init__(self, pad_id: int) -> None:
        """Nothing is noted yet.

        Args:
            pad_id: what the adversary's rows are padded with.
        """
        self.rows: list[Rows] = []
        self._pad_id = pad_id

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what passes while the block runs: the adversary's steps by the training loop, and all else by the workshop."""
        self.rows = []
        step, run = loop._backward, Workshop.run

        def stepped(model: Any, pieces: Sequence[Sequence[Encoded]], *others: Any) -> float:
            self.rows += [Rows(tuple(piece), ("",) * len(piece), self._pad_id) for piece in pieces]
            return step(model, pieces, *others)

        def passed(workshop: Workshop, rows: Rows, *others: Any) -> Answers:
            if torch.is_grad_enabled():
                self.rows.append(rows)
            return run(workshop, rows, *others)

        with patch.object(loop, "_backward", stepped), patch.object(Workshop, "run", passed):
            yield


class Floor:
    """The passes of one outer step, and nothing else."""

    def __init__(self, target: Target) -> None:
        """Take a copy to run passes on.

        Args:
            target: whose.
        """
        model = target.copy_model().requires_grad_(True)
        self.workshop = Workshop(model, target.chat, Meter(), seed=(0, 0), steps=1, autocast=False)

    def run(self, passes: Sequence[Rows]) -> None:
        """A forward and a backward pass over each."""
        for rows in passes:
            self.workshop.model.zero_grad(set_to_none=True)
            self.workshop.run(rows).cross_entropy().backward()  # type: ignore[no-untyped-call]


def timed(name: str, large: bool, repeats: int) -> dict[str, Any]:
    """The result of one model: seconds of floor and outer step."""
    target, view = organism(large), world_dataset("tiny").divide(0).defender_view()
    stages = Tar(Tar.Config(**{**SETTINGS, "steps": repeats + 1})).stages(target, view, seed=0)
    steps = iter(Hardening(target, stages[:1], seed=0).run())
    floor, passes, turns = Floor(target), Passes(target.chat.pad_id), []
    for turn in range(-1, repeats):  # the first is a warm-up
        with passes.noted():
            whole = seconds(partial(next, steps))
        if len(passes.rows) < STEPS + STEPS // EVERY + 1:
            raise RuntimeError(f"an outer step of {STEPS} inner ones had {len(passes.rows)} passes only")
        alone = seconds(partial(floor.run, passes.rows))
        if turn >= 0:
            turns.append((whole, alone))
    ours, theirs = zip(*turns, strict=True)
    return result(
        f"tar-floor: the floor's share of an outer step, {name} of {target.model.num_parameters() / 1e6:.1f} M parameters",
        paired_ratio(ours, theirs),
        goal=GOAL,
        ours=median(ours),
        theirs=median(theirs),
        command=f"{COMMAND} --repeats {repeats}",
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


def peak(method: type[Tar], *, large: bool = True) -> dict[str, int]:
    """The most that two outer steps had allocated at once, and what one copy of the weights takes, in bytes.

    Args:
        method: TAR, or the same without looks.
        large: the larger model, or the embedded organism.
    """
    view = world_dataset("tiny").divide(0).defender_view()
    with tempfile.TemporaryDirectory() as folder:
        # it counts from here on: the model is made inside
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            target = organism(large)
            defense = method(Tar.Config(**{**SETTINGS, "steps": MEMORY_STEPS}))
            for _ in Hardening(target, list(defense.stages(target, view, seed=0))[:1], seed=0).run():
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


def memory(ours: dict[str, int], without: dict[str, int]) -> list[dict[str, Any]]:
    """The results of both readings.

    Args:
        ours: as :func:`peak` measures TAR.
        without: the same training without looks.
    """
    weights = ours["weights"]
    letter = (
        "allowed are the weights and one gradient; both optimisers' moments, the reference, the working copy with its gradient are more"
    )
    added = "allowed are the peak of the same training without looks, and one gradient; a look's activations are in the peak"
    readings = {"the model": (2 * weights, letter), "the same training without looks": (without["peak"] + weights, added)}
    return [
        result(
            f"tar-floor: one gradient copy above {above}, by what TAR's training takes at its peak",
            paired_ratio([ours["peak"]], [allowed]),
            goal=1.0,
            ours=ours["peak"],
            theirs=allowed,
            command=COMMAND,
            note=f"bytes allocated, as torch's profiler counts them, the model itself among them; {why}; a copy of the weights has "
            f"{weights} bytes; TAR's own batches; sized down: {MEMORY_STEPS} outer steps of a random Llama",
            copies={"ours": figure(ours["peak"] / weights), "without looks": figure(without["peak"] / weights)},
        )
        for above, (allowed, why) in readings.items()
    ]


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
    peaks = [_in_a_process_of_its_own(kind) for kind in METHODS]
    write_result("tar-floor", *(timed(name, large, arguments.repeats) for name, large in kinds), *memory(*peaks))


if __name__ == "__main__":
    main()
