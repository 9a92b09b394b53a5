"""The meter: what an attack has used so far, counted where it is spent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spend:
    """What an attack has used up to one moment.

    Attributes:
        examples: distinct examples (prompts or prompt-answer pairs) seen.
        tokens: tokens pushed through the model, padding left out, forward passes of inference included.
        steps: optimizer steps.
        flops: floating-point operations, forward and backward, by the analytic count of the architecture.
        device_seconds: seconds the attack itself ran on its device, probes left out; those of several devices are added up.
        trials: search trials (candidates, hyper-parameter settings) tried.
        queries: prompts sent to the model for an answer.
    """

    examples: int = 0
    tokens: int = 0
    steps: int = 0
    flops: float = 0.0
    device_seconds: float = 0.0
    trials: int = 0
    queries: int = 0

    def as_row(self) -> dict[str, float]:
        """The fields as a flat row for a table."""
        return asdict(self)


class Meter:
    """Counts one attack's spend. Nothing here ever falls."""

    def __init__(self, devices: int = 1) -> None:
        """Start at zero, with the clock stopped.

        Args:
            devices: how many are at work while the clock runs.
        """
        self._devices = devices
        self._seen: set[str] = set()
        self._tokens = 0
        self._steps = 0
        self._flops = 0.0
        self._trials = 0
        self._queries = 0
        self._elapsed = 0.0
        self._started: float | None = None

    def examples(self, identities: Iterable[str]) -> None:
        """Count examples by identity; one seen before is not counted again."""
        self._seen.update(identities)

    def compute(self, *, tokens: int, flops: float) -> None:
        """Count a pass through the model: unpadded tokens and floating-point operations."""
        if tokens < 0 or flops < 0:
            raise ValueError("spend never falls")
        self._tokens += tokens
        self._flops += flops

    def step(self) -> None:
        """Count one optimizer step."""
        self._steps += 1

    def trial(self) -> None:
        """Count one search trial."""
        self._trials += 1

    def query(self, count: int = 1) -> None:
        """Count prompts sent for an answer."""
        self._queries += count

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Run the clock while the block runs; the engine wraps the attack, never the probes, in it."""
        self._started = time.perf_counter()
        try:
            yield
        finally:
            self._elapsed += self._devices * (time.perf_counter() - self._started)
            self._started = None

    def worked(self, seconds: float) -> None:
        """Count time on the device that was taken elsewhere: a run's share of a pass that it made together with others."""
        self._elapsed += seconds

    def kept(self) -> dict[str, Any]:
        """Everything counted so far, as JSON values for :meth:`restored`."""
        return {**self.spend().as_row(), "examples": sorted(self._seen)}

    @classmethod
    def restored(cls, kept: dict[str, Any]) -> Meter:
        """A meter that goes on counting where another one left off.

        Args:
            kept: from :meth:`kept`.
        """
        meter = cls()
        meter._seen = set(kept["examples"])
        meter._tokens, meter._steps, meter._flops = int(kept["tokens"]), int(kept["steps"]), float(kept["flops"])
        meter._trials, meter._queries, meter._elapsed = int(kept["trials"]), int(kept["queries"]), float(kept["device_seconds"])
        return meter

    def spend(self) -> Spend:
        """The spend up to now."""
        running = 0.0 if self._started is None else self._devices * (time.perf_counter() - self._started)
        return Spend(
            examples=len(self._seen),
            tokens=self._tokens,
            steps=self._steps,
            flops=self._flops,
            device_seconds=self._elapsed + running,
            trials=self._trials,
            queries=self._queries,
        )
