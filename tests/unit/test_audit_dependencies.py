"""tools/audit_dependencies.py: left out only where pip-audit's data cannot be reached."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pip_audit")

TOOL = Path(__file__).parents[2] / "tools" / "audit_dependencies.py"
BLOCKED = (
    "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\n"
    "ERROR:pip_audit._cli:Tip: your network may be blocking this service. Try another service with `-s SERVICE`\n"
)
REFUSED = "Traceback\nrequests.exceptions.HTTPError: 403 Client Error\nTraceback\npip_audit._service.interface.ServiceError\n"
SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
WEAK = {"name": "jinja2", "version": "3.0", "vulns": [{"id": "CVE-1", "fix_versions": ["3.1"]}]}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1)"}


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_dependencies", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str) -> int:
    ended = subprocess.CompletedProcess([], code, out, err)
    monkeypatch.setattr(tool.subprocess, "run", lambda *arguments, **rest: ended)
    return int(tool.main())


def found(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("code", "out", "err", "ends_with", "says"),
    [
        (0, found(SOUND), "", 0, "1 packages looked up, 0 passed over, 0 known weaknesses"),
        (1, found(SOUND, WEAK), "", 1, "jinja2 3.0: CVE-1, mended in 3.1"),
        (0, found(SOUND, UNKNOWN), "", 0, "own: passed over, Dependency not found on PyPI"),
        (0, found(UNKNOWN), "", 0, "left out, of 1 packages nothing is known there"),
        (1, "", BLOCKED, 0, "left out, no data"),
        (1, "", REFUSED, 0, "left out, no data"),
        (
            1,
            "",
            "ERROR:pip_audit._cli:requirements.lock: no hashes for numpy\n",
            2,
            "ended with 1: ERROR:pip_audit._cli:requirements",
        ),
        (2, "", "usage: pip-audit\npip-audit: error: unrecognized arguments: --disable-pip\n", 2, "unrecognized arguments"),
        (0, "[]", "", 2, "it said nothing"),
        (0, '{"packages": []}', "", 2, "it said nothing"),
    ],
)
def test_only_what_cannot_be_reached_is_left_out(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    out: str,
    err: str,
    ends_with: int,
    says: str,
) -> None:
    assert asked(tool, monkeypatch, code, out, err) == ends_with
    told = capsys.readouterr()
    assert says in told.out + told.err


def test_a_lock_that_cannot_be_read_is_an_error_for_the_real_pip_audit(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anybody is asked."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.0\n")  # has no hash
    monkeypatch.setattr(tool, "LOCK", lock)
    assert tool.main() == 2
    assert "error: pip-audit ended with 1" in capsys.readouterr().err
