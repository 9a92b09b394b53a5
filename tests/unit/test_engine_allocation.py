"""What is freed is kept for what is asked for next."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tempering.engine import allocation
from tempering.engine.worker import reproducible

FAULTS = """
import resource, sys
import torch
from tempering.engine.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def churn():
    for _ in range(20):
        parts = [torch.ones(1 << 20) for _ in range(20)]  # 4 MiB each
        del parts

churn()
before = faults()
churn()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment |= {"PYTHONPATH": str(Path(allocation.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", FAULTS, how], env=environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_pages_are_not_cleared_again_and_again() -> None:
    assert 10 * page_faults("kept") < page_faults("as it comes")


def test_the_users_own_settings_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not allocation.keep_freed_memory.__wrapped__()


def test_a_system_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert not allocation.keep_freed_memory.__wrapped__()


def test_kernels_do_not_fill_what_nobody_reads() -> None:
    import torch

    settings = torch.utils.deterministic
    assert settings.fill_uninitialized_memory
    with reproducible(1):
        assert torch.are_deterministic_algorithms_enabled()
        assert not settings.fill_uninitialized_memory
    assert settings.fill_uninitialized_memory
