"""How an attack is driven: seeded, timed, cut off at its budget, and ended in one line whatever goes wrong."""

from __future__ import annotations

import gc
import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tempering.attacks._contract import Attack, Checkpoint
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.redaction import one_line
from tempering.study import Budget
from tempering.training import Meter, Spend

COLLECTED_PARAMETERS = 10_000_000
"""From this size on, what an attack leaves in reference cycles is collected after every run; that takes half a second."""


def checkpoints(
    attack: Attack, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int
) -> Generator[Checkpoint, None, None]:
    """The checkpoints of an attack, the clock running only while it works on them.

    Close this when no more are wanted; the attack then puts away what it holds. Those beyond the budget are for the caller to refuse.
    """
    with meter.timing(), staying():
        made: Iterator[Checkpoint] = iter(attack.run(target, view, meter, budget=budget, seed=seed))
    try:
        while True:
            with meter.timing(), staying():
                checkpoint = next(made, None)
            if checkpoint is None:
                return
            yield checkpoint
    finally:
        getattr(made, "close", lambda: None)()


def exceeds(spend: Spend, budget: Budget) -> bool:
    """Whether a spend is beyond the budget in any currency that the budget limits."""
    limits = budget.model_dump()
    return any(limit is not None and getattr(spend, name) > limit for name, limit in limits.items())


@contextmanager
def randomness(seed: int) -> Iterator[None]:
    """Seed every global source of randomness for the block, and put back what was there before."""
    before = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextmanager
def staying() -> Iterator[None]:
    """Let code that asks the process to exit fail in place of that; others' methods may, and a run has more to do.

    Raises:
        RuntimeError: it asked.
    """
    try:
        yield
    except SystemExit as exit_:
        raise RuntimeError(f"it asked the process to exit with {exit_.code!r}") from exit_


def explain(error: Exception) -> str:
    """What went wrong, in one line."""
    name, said = "out of memory" if is_out_of_memory(error) else type(error).__name__, _words_of(error)
    return one_line(f"{name}: {said}" if said else name)


def _words_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # others' exceptions may not even know what to say
        return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on the accelerator."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = _words_of(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def release_memory(large: bool) -> None:
    """Collect what reference cycles keep alive, where that is worth the time."""
    if large:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_large(target: Target) -> bool:
    """Whether what an attack on this target leaves in memory is worth collecting at once."""
    return int(target.model.num_parameters()) >= COLLECTED_PARAMETERS
