"""What share of the machine's own bf16 matmul rate a fine-tuning step reaches: SmolLM2-135M, 32 rows of 64 tokens.

    python benchmarks/matmul_share.py [--turns N] [--rows N]        ten minutes on one core; needs ``temper organism build smollm2``

The limit is the rate of a square product of two bf16 matrices of 2,048, timed in the same turn with the same threads. A step is one of
the training loop: forward and backward under autocast over float32 weights, logits on the labelled half of the tokens, clipping, fused
AdamW. Its FLOPs are counted analytically (:mod:`tempering.training.flops`): matrix products and attention, nothing element-wise. The
ratio is the step's FLOP/s by the limit's; the goal is 0.5.

Beside it, in the same turns: the same step with attention written out (*eager*) in place of torch's own, and a *plain* loop, which
computes logits everywhere and steps AdamW parameter by parameter; it does more arithmetic, and is credited with it. Where the
time goes is in ``profile``: shares of the step's processor time by operator, from one profiled step. Seconds are of the processor.
Written to benchmarks/results/matmul-share.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import figure, median_interval, result, write_result

from tempering.data.batching import Batch
from tempering.models import load
from tempering.training import TrainingSettings
from tempering.training.flops import FlopCount
from tempering.training.loop import _backward, autocast, build_optimiser

MODEL = "organism:smollm2"
GOAL = 0.5
TURNS, ROWS, TOKENS = 7, 32, 64
SIDE, PRODUCTS = 2048, 8
SETTINGS = TrainingSettings(learning_rate=1e-6, autocast=True)


class Steps:
    """A model with an optimiser, and the steps to be timed."""

    def __init__(self, rows: int) -> None:
        """Copy the model and make up a batch.

        Args:
            rows: of 64 tokens, the second half of each labelled.
        """
        target = load(MODEL)
        self.model = target.copy_model(torch.float32).requires_grad_(True).train()
        self.attention = str(self.model.config._attn_implementation)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(100, 40_000, (rows, TOKENS), generator=generator)
        labels = ids.masked_fill(torch.arange(TOKENS) < TOKENS // 2, -100)
        self.batch = Batch(ids, torch.ones_like(ids), labels)
        self.optimiser = build_optimiser(self.model, SETTINGS)
        count, lengths = FlopCount.of(self.model), [TOKENS] * rows
        self.flops = {"labelled": count.training_step(lengths, rows * TOKENS // 2), "everywhere": count.training_step(lengths)}

    def ours(self) -> float:
        """FLOP/s of the training loop's step."""
        return self._timed("labelled", lambda: _backward(self.model, self.batch, SETTINGS), self.optimiser.step)

    def eager(self) -> float:
        """The same with attention written out."""
        self.model.set_attn_implementation("eager")
        try:
            return self.ours()
        finally:
            self.model.set_attn_implementation(self.attention)

    def plain(self) -> float:
        """FLOP/s of a loop as it is written first."""

        def backward() -> None:
            with autocast(self.model.device, True):
                batch = self.batch
                logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
                loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten())
            loss.backward()

        optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-6, foreach=False)
        optimiser.state = self.optimiser.state
        return self._timed("everywhere", backward, optimiser.step)

    def _timed(self, counted: str, backward: Callable[[], object], step: Callable[[], object]) -> float:
        started = time.process_time()
        backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        step()
        self.optimiser.zero_grad(set_to_none=True)
        return self.flops[counted] / (time.process_time() - started)

    def profile(self) -> dict[str, float]:
        """Shares of a step's processor time, the dearest operators first."""
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            self.ours()
        spent = sorted(((event.self_cpu_time_total, event.key) for event in profiled.key_averages()), reverse=True)
        total = sum(seconds for seconds, _ in spent)
        return {name: figure(seconds / total) for seconds, name in spent[:12]}


def matmul_rate() -> float:
    """FLOP/s of square bf16 products."""
    left, right = (torch.randn(SIDE, SIDE).to(torch.bfloat16) for _ in range(2))
    left @ right
    started = time.process_time()
    for _ in range(PRODUCTS):
        left @ right
    return PRODUCTS * 2 * SIDE**3 / (time.process_time() - started)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    steps = Steps(arguments.rows)
    sides = {"limit": matmul_rate, "ours": steps.ours, "eager": steps.eager, "plain": steps.plain}
    for run in sides.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(arguments.turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            rates[name].append(sides[name]())
        print({name: f"{values[-1] / 1e9:.0f}" for name, values in rates.items()}, flush=True)
    shares = {
        name: median_interval([own / most for own, most in zip(values, rates["limit"], strict=True)]) for name, values in rates.items()
    }
    details: dict[str, Any] = {"shares": {name: shares[name] for name in ("eager", "plain")}, "profile": steps.profile()}
    write_result(
        "matmul-share",
        result(
            "matmul-share",
            shares["ours"],
            goal=GOAL,
            ours=statistics.median(rates["ours"]) / 1e9,
            theirs=statistics.median(rates["limit"]) / 1e9,
            command=f"python benchmarks/matmul_share.py --rows {arguments.rows} --turns {arguments.turns}",
            note=f"GFLOP/s of a step of {arguments.rows}×{TOKENS} tokens of SmolLM2-135M ({steps.attention} attention, half of the tokens "
            f"labelled) and of a bf16 matmul; {torch.get_num_threads()} threads, {arguments.turns} turns",
            **details,
        ),
    )


if __name__ == "__main__":
    main()
