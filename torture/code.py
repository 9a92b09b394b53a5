"""Which code a promise was tried on, so that figures of other code are not taken for figures of this one."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Any

from torture.mutations import ROOT

TRIED = ("src", "torture", "tests/support")
"""Folders whose sources decide what trying a promise comes to."""


def code_now() -> dict[str, Any]:
    """The code that is there now.

    Returns:
        ``commit``, empty where this is no repository; ``clean``, whether the sources are those of the commit, or ``None`` where nobody
        knows; and ``digest``, the SHA-256 of the sources, by which two rows are of the same code or not. A commit alone would not do:
        the one that puts the page into the repository is a later one of the same code.
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", *TRIED) if commit else None
    return {"commit": commit or "", "clean": None if changed is None else not changed, "digest": _digest()}


def of_one_row(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What stands in a row of the code: that at its beginning, and not clean where it was changed meanwhile."""
    return before if before["digest"] == after["digest"] else {**before, "clean": False}


def _digest() -> str:
    found = hashlib.sha256()
    for path in sorted(path for folder in TRIED for path in (ROOT / folder).rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _git(*arguments: str) -> str | None:
    """What git says, or ``None`` where there is no git, or nothing that it knows."""
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
