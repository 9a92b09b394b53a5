"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache

LARGEST_KEPT = 256 * 2**20
"""Bytes: larger pieces are taken from the system, and given back, one by one."""

MOST_KEPT = 512 * 2**20
"""Bytes that are free at the end of the heap are given back when they are more than this."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""

_OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for what is asked for next, for the life of this process.

    A pass of a small model takes and frees many tensors of some megabytes. glibc by itself takes each from the system and gives it back,
    and the system clears every page of it anew: that is up to a quarter of the time that a LoRA attack on ``organism:tiny`` takes.

    Settings of the user's own are left alone, and so is a system without glibc.

    Returns:
        Whether glibc does so now.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OF_THE_USER):
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, MOST_KEPT))
    return False
