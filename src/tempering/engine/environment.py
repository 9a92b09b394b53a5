"""What the numbers were computed with: versions and hardware, without names of hosts, users or paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("tempering", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pandas")


def describe_environment() -> dict[str, Any]:
    """Versions, processor, memory and accelerator of this machine, as JSON values.

    Returns:
        ``python``, one entry for each of :data:`PACKAGES`, ``system`` and ``machine`` (as ``Linux``, ``x86_64``), ``cpu`` (model name),
        ``cores`` this process may use, ``memory_gib``, ``accelerator`` (name, or ``"none"``).
    """
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(_physical_memory() / 2**30),
        "accelerator": _accelerator(),
    }


def usable_cores() -> int:
    """Cores that this process may run on, by its affinity where the system knows one."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that new processes can have without swapping, within the limit of a container.

    Where the system does not tell what is free, half of what is built in; 0 where it tells neither.
    """
    free = _memory("MemAvailable") or _physical_memory() // 2
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    used = _number(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used)) if free else max(0, limit - used)
    return free


def whole_memory() -> int:
    """Bytes that there are, whoever holds them, within the limit of a container; 0 where the system does not tell."""
    built_in, limit = _physical_memory(), _number(Path("/sys/fs/cgroup/memory.max"))
    return min(built_in, limit) if built_in and limit is not None else built_in


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")


def _memory(key: str) -> int:
    """One entry of ``/proc/meminfo`` in bytes, 0 where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _accelerator() -> str:
    import torch  # here, because seconds of import should not stand before the first line of progress

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return "Apple MPS"
    return "none"
