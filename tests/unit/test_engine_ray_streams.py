"""What a worker on a Ray node prints, which Ray shows at the driver and keeps in logs."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import pytest

from tempering import consent
from tempering.engine import ray_worker
from tempering.redaction import SECRET, guard_streams


def test_a_worker_prints_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, told = io.StringIO(), io.StringIO()
    monkeypatch.setenv("HF_TOKEN", "marmalade-42")
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(consent, "allow_code", lambda: None)
    monkeypatch.setattr(ray_worker, "folder_of", lambda run: tmp_path / run)
    monkeypatch.setattr(ray_worker, "sweep", lambda root: None)
    ray_worker.RayWorker("run", 1)
    print("with marmalade-42")
    print("with marmalade-42", file=sys.stderr)
    guarded = sys.stdout
    guard_streams()
    assert sys.stdout is guarded, "twice is once"
    assert (printed.getvalue(), told.getvalue()) == (f"with {SECRET}\n", f"with {SECRET}\n")
