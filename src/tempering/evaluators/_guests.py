"""Others' evaluation libraries at work in this process: what they print, log, seed and set is kept away from ours.

They draw bars, set up logging, seed global random states and change the environment, none of which an audit may notice: standard output
is for results, standard error for the progress display, and a probe leaves the attack's random state as it was.
"""

from __future__ import annotations

import io
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import torch

from tempering.models.quiet import quiet_libraries

SEED = 1234
"""Of every random choice that a guest makes, so that two checkpoints are asked the same."""


def is_file(task: str) -> bool:
    """Whether a task is a file or folder of the user's own, which is written with a slash or an ending, and no name of a library's."""
    return "/" in task or task.endswith((".yaml", ".yml", ".py"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which is for the worker to deal with."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError))


def one_line(error: BaseException) -> str:
    """What went wrong, short enough to be a part of a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'nothing more was said'}"[:300]


@contextmanager
def guest(*loggers: str) -> Iterator[None]:
    """Let a library work without a trace: streams, logging, environment, warnings and random states are as before afterwards.

    Args:
        loggers: names of the loggers that it writes to.
    """
    with ExitStack() as stack:
        stack.enter_context(_streams())
        stack.enter_context(_logging(loggers))
        stack.enter_context(_environment())
        stack.enter_context(_randomness())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(quiet_libraries())
        yield


@contextmanager
def _streams() -> Iterator[None]:
    """What is printed goes nowhere. Our own display holds the stream that it was made with, and goes on."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


@contextmanager
def _logging(names: tuple[str, ...]) -> Iterator[None]:
    """No handlers of a guest's at the root, and nothing below a critical error from it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    guests = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in guests]
    for logger in guests:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, before in zip(guests, levels, strict=True):
            logger.setLevel(before)
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _randomness() -> Iterator[None]:
    """Every global source of randomness seeded by :data:`SEED`, and put back afterwards."""
    before = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
