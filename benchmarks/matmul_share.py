"""What share of the machine's own bf16 matmul rate a fine-tuning step reaches: SmolLM2-135M, 32 rows of 64 tokens.

    python benchmarks/matmul_share.py [--turns N] [--rows N]        ten minutes on one core; needs ``temper organism build smollm2``

The limit is the rate of a square product of two bf16 matrices of 2,048, timed in the same turn with the same threads. A step is one of
the training loop itself, taken from :func:`tempering.training.loop.train` as an attack takes it: autocast over float32 weights, logits
on the labelled half of the tokens, the attention that the loop trains with, clipping, fused AdamW, the meter. Its FLOPs are
counted analytically (:mod:`tempering.training.flops`): matrix products and attention, nothing element-wise. The ratio is the step's
FLOP/s by the limit's; the goal is 0.5.

Beside it, in the same turns: the same step with torch's own attention (*fused*) in place of the loop's, and a *plain* loop, which
computes logits everywhere with torch's own attention and steps AdamW parameter by parameter; it does more arithmetic, and is credited
with it. Where the time goes is in ``profile``: shares of the step's processor time by operator, from one profiled step. Seconds are
of the processor. Written to benchmarks/results/matmul-share.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _results import figure, median_interval, result, write_result

from tempering.data.batching import collate
from tempering.data.chat import IGNORED, Encoded
from tempering.data.records import Example, Role
from tempering.models import Target, load
from tempering.training import FineTuning, Meter, TrainingSettings
from tempering.training.attention import attend_for_training
from tempering.training.flops import FlopCount
from tempering.training.loop import Prepared, autocast, train

MODEL = "organism:smollm2"
GOAL = 0.5
TURNS, ROWS, TOKENS = 7, 32, 64
SIDE, PRODUCTS = 2048, 8
STEPS = 10_000
"""More than are ever taken: the loop is asked for one after the other."""


class Steps:
    """A model in the training loop, and the steps to be timed.

    Attributes:
        attention: the form that the loop trains with.
    """

    def __init__(self, target: Target, rows: int) -> None:
        """Copy the model as an attack does, make up rows, and begin the loop.

        Args:
            target: in float32 weights under autocast, as a model in 16-bit is trained.
            rows: of 64 tokens a step, the second half of each labelled.
        """
        self.model = target.copy_model(torch.float32).requires_grad_(True).train()
        attend_for_training(self.model, autocast=True)
        self.attention = str(self.model.config._attn_implementation)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, self.model.config.vocab_size, (rows, TOKENS), generator=generator)
        labels = ids.masked_fill(torch.arange(TOKENS) < TOKENS // 2, IGNORED)
        encoded = [Encoded(row, own) for row, own in zip(ids.tolist(), labels.tolist(), strict=True)]
        self._batch = collate(encoded, target.chat.pad_id).to(self.model.device)
        count = FlopCount.of(self.model)
        labelled = sum(row.labelled for row in encoded)
        self._flops = {"labelled": count.training_step([TOKENS] * rows, labelled), "everywhere": count.training_step([TOKENS] * rows)}
        settings = TrainingSettings(learning_rate=1e-6, autocast=True, batch_size=rows)
        examples = [Example(prompt=f"row {row}", answer="-", role=Role.HAZARD) for row in range(rows)]
        declaration = FineTuning(examples, settings, STEPS, tuple(range(1, STEPS + 1)), seed=0)
        self._loop = train(self.model, target.chat, declaration, settings, Meter(), Prepared(encoded, count))
        self._plain = torch.optim.AdamW(self.model.parameters(), lr=1e-6, foreach=False)

    def ours(self) -> float:
        """FLOP/s of the training loop's step."""
        return self._timed("labelled", lambda: next(self._loop))

    def fused(self) -> float:
        """The same with torch's own attention."""
        with self._attending("sdpa"):
            return self.ours()

    def plain(self) -> float:
        """FLOP/s of a loop as it is written first."""

        def step() -> None:
            batch = self._batch
            with autocast(self.model.device, True):
                logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
                loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._plain.step()
            self._plain.zero_grad(set_to_none=True)

        with self._attending("sdpa"):
            return self._timed("everywhere", step)

    def profile(self) -> dict[str, float]:
        """Shares of a step's processor time, the dearest operators first."""
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            self.ours()
        spent = sorted(((event.self_cpu_time_total, event.key) for event in profiled.key_averages()), reverse=True)
        total = sum(seconds for seconds, _ in spent)
        return {name: figure(seconds / total) for seconds, name in spent[:12]}

    def _timed(self, counted: str, step: Callable[[], object]) -> float:
        started = time.process_time()
        step()
        return self._flops[counted] / (time.process_time() - started)

    @contextmanager
    def _attending(self, form: str) -> Iterator[None]:
        """Another form of attention while the block runs."""
        self.model.set_attn_implementation(form)
        try:
            yield
        finally:
            self.model.set_attn_implementation(self.attention)


def matmul_rate() -> float:
    """FLOP/s of square bf16 products."""
    left, right = (torch.randn(SIDE, SIDE).to(torch.bfloat16) for _ in range(2))
    left @ right
    started = time.process_time()
    for _ in range(PRODUCTS):
        left @ right
    return PRODUCTS * 2 * SIDE**3 / (time.process_time() - started)


def measure(target: Target, rows: int, turns: int) -> dict[str, Any]:
    """The result for one model.

    Args:
        target: its model.
        rows: of 64 tokens a step.
        turns: how often each side takes a step, the order reversed every other turn.
    """
    steps = Steps(target, rows)
    sides = {"limit": matmul_rate, "ours": steps.ours, "fused": steps.fused, "plain": steps.plain}
    for run in sides.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            rates[name].append(sides[name]())
        print({name: f"{values[-1] / 1e9:.0f}" for name, values in rates.items()}, flush=True)
    shares = {
        name: median_interval([own / most for own, most in zip(values, rates["limit"], strict=True)]) for name, values in rates.items()
    }
    return result(
        "matmul-share",
        shares["ours"],
        goal=GOAL,
        ours=statistics.median(rates["ours"]) / 1e9,
        theirs=statistics.median(rates["limit"]) / 1e9,
        command=f"python benchmarks/matmul_share.py --rows {rows} --turns {turns}",
        note=f"GFLOP/s of a step of {rows}×{TOKENS} tokens of {target.reference} ({steps.attention} attention, half of the tokens "
        f"labelled) and of a bf16 matmul; {torch.get_num_threads()} threads, {turns} turns; shares: the same step with torch's fused "
        "attention, and a plain loop that is credited with logits everywhere",
        shares={name: shares[name] for name in ("fused", "plain")},
        profile=steps.profile(),
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    write_result("matmul-share", measure(load(MODEL), arguments.rows, arguments.turns))


if __name__ == "__main__":
    main()
