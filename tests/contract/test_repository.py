"""The repository as a newcomer and as continuous integration meet it."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tempering

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = {
    canonicalize_name(name): version
    for name, version in (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
}


UNTESTED_EXTRAS = {"quantised"}
"""peft imports bitsandbytes wherever it is there, so that the suite runs without it; where it is installed, its tests run."""


def requirements() -> list[Requirement]:
    """What the project and the suite's environment ask for."""
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *(text for name in extras.keys() - UNTESTED_EXTRAS for text in extras[name])]
    return [Requirement(text) for text in texts if not text.startswith("tempering")]


def test_the_suite_runs_with_every_extra_but_those_it_says() -> None:
    (own,) = (text for text in PROJECT["project"]["optional-dependencies"]["dev"] if text.startswith("tempering["))
    assert set(own.removeprefix("tempering[").removesuffix("]").split(",")) == {
        *PROJECT["project"]["optional-dependencies"].keys() - UNTESTED_EXTRAS - {"dev"}
    }


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    for requirement in requirements():
        assert canonicalize_name(requirement.name) in PINS, requirement.name
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


def test_what_the_requirements_need_is_pinned_too() -> None:
    seen: set[tuple[str, frozenset[str]]] = set()

    def visit(requirement: Requirement) -> None:
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            return
        seen.add(key)
        for text in metadata.distribution(requirement.name).requires or ():
            further = Requirement(text)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}):
                visit(further)

    for requirement in requirements():
        visit(requirement)
    names = {name for name, _ in seen}
    assert names - set(PINS) == set()
    assert set(PINS) - names == set(), "pinned, but nothing needs it"


def test_the_suite_runs_on_the_pinned_versions() -> None:
    installed = {name: metadata.version(name) for name in PINS}
    different = {name: version for name, version in installed.items() if Version(version).public != PINS[name]}
    assert different == {}


def test_pins_are_plain_versions() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert PINS["torch"] == "2.13.0"


def test_the_version_stands_in_one_way() -> None:
    assert tempering.__version__ == PROJECT["project"]["version"] == metadata.version("tempering")
    assert re.search(rf"## \[(Unreleased|{re.escape(tempering.__version__)})\]", (ROOT / "CHANGELOG.md").read_text())


def test_the_licence_is_the_whole_apache_two() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_continuous_integration_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert script.read_text().rstrip().endswith("make --no-print-directory test")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("setup", ["torch==2.13.0", '-c constraints.txt -e ".[dev]"']),
        ("demo", ["torch==2.13.0", "temper audit --out runs/demo"]),
        ("test", ["torch==2.13.0", "ruff check .", "ruff format --check .", "/mypy", "/lint-imports", "/pytest -n 2"]),
    ],
)
def test_make_does_it_from_nothing_and_in_order(tmp_path: Path, target: str, expected: list[str]) -> None:
    """What make would do in a fresh clone, where there is no environment yet."""
    printed = subprocess.run(
        ["make", "--dry-run", target, f"VENV={tmp_path / 'none'}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    places = [printed.index(text) for text in expected]
    assert places == sorted(places)


def test_make_setup_does_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / ".installed").touch()
    printed = subprocess.run(
        ["make", "--dry-run", "setup", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "pip" not in printed


def test_hooks_are_local() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [entry["repo"] for entry in hooks] == ["local"]
    assert all(hook["language"] == "system" for hook in hooks[0]["hooks"])


def test_nothing_committed_names_a_machine() -> None:
    machine = re.compile(rb"/(?:home|root|Users|work)/[A-Za-z][\w.-]*/")
    found = [path.name for path in tracked() if machine.search(path.read_bytes())]
    assert found == []


def test_shipped_weights_are_small_and_no_pickles() -> None:
    pickles = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
    assert [path for path in tracked() if path.suffix in pickles] == []
    assert [path for path in tracked() if path.stat().st_size > 3 * 1024**2] == []


def test_test_files_are_told_apart_by_their_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
