"""Looks the locked versions up among known weaknesses, by pip-audit.

Where its data cannot be reached, it says so and leaves it out; any other trouble is an error, lest a lock that cannot be read pass for
sound.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
PATIENCE_S = 180
OUT_OF_REACH = ("your network may be blocking this service", "requests.exceptions.", "urllib3.exceptions.")
"""What pip-audit's words hold where nobody answered; a refusal by a proxy ends it with the traceback of a library."""


def main() -> int:
    """0 where nothing is known or nothing can be asked, 1 where a weakness is, 2 where pip-audit fails."""
    if importlib.util.find_spec("pip_audit") is None:
        return _left_out("pip-audit is not installed")
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", str(LOCK), "--format", "json"]
    try:
        run = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        packages = json.loads(run.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return _left_out(f"no answer within {PATIENCE_S} s")
    except (ValueError, KeyError, TypeError):
        last = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if any(words in run.stderr for words in OUT_OF_REACH):
            return _left_out(f"no data ({last.partition(':')[0]})")
        print(f"error: pip-audit ended with {run.returncode}: {last}", file=sys.stderr)
        return 2
    passed_over = [package for package in packages if "skip_reason" in package]
    if len(passed_over) == len(packages):
        return _left_out(f"of {len(packages)} packages nothing is known there")
    for package in passed_over:
        print(f"{package['name']}: passed over, {package['skip_reason']}")
    known = [(package, found) for package in packages for found in package.get("vulns", ())]
    for package, found in known:
        mended = ", ".join(found["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {found['id']}, mended in {mended}")
    print(f"{len(packages) - len(passed_over)} packages looked up, {len(passed_over)} passed over, {len(known)} known weaknesses")
    return 1 if known else 0


def _left_out(why: str) -> int:
    print(f"audit of dependencies: left out, {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
