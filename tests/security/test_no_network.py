"""No network unless asked: in a process where every connection fails and is written down, nothing is written down."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.command_line import temper_apart, toy_arguments
from torture.promises.hostile_data import SAVED
from torture.promises.no_network import GUARD


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    """Environment of a process, and of its children, that can reach nobody; what they try is written to a file."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    paths = os.pathsep.join(filter(None, [str(tmp_path / "guard"), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": paths, "ATTEMPTS": str(tmp_path / "attempts"), "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}


def test_an_audit_of_a_local_model_reaches_nobody(tmp_path: Path, guarded: dict[str, str]) -> None:
    arguments = [*toy_arguments(tmp_path, seeds=1), "--out", "out", "--workers", "1", "--json"]
    finished = temper_apart(*arguments, folder=tmp_path, **guarded)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["attacks"][0]["trials"] == 1
    assert json.loads(finished.stdout)["attacks"][0]["outcomes"]["failed"] == 0
    assert not (tmp_path / "attempts").exists(), (tmp_path / "attempts").read_text()


def test_the_guard_would_have_seen_a_hub(tmp_path: Path, guarded: dict[str, str]) -> None:
    """The same process, asked for a model of the hub, does try; so the test above can fail."""
    toy_arguments(tmp_path)
    finished = temper_apart("audit", "org/name", "--data", "data.jsonl", "--attacks", "refusal_ablation", folder=tmp_path, **guarded)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert "getaddrinfo" in (tmp_path / "attempts").read_text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["ls", "attacks", "--json"], ["ls", "models"], ["ls", "data"], ["validate", "study.yaml"]])
def test_lists_and_validation_reach_nobody(tmp_path: Path, guarded: dict[str, str], arguments: list[str]) -> None:
    (tmp_path / "study.yaml").write_text("models: [organism:tiny, organism:smollm2]\nattacks: [refusal_ablation]\n")
    finished = temper_apart(*arguments, folder=tmp_path, **guarded)
    assert finished.returncode == 0, finished.stderr
    assert not (tmp_path / "attempts").exists(), (tmp_path / "attempts").read_text()


def test_data_that_names_pictures_on_a_server_reaches_nobody(tmp_path: Path, guarded: dict[str, str]) -> None:
    arguments = toy_arguments(tmp_path, seeds=1)
    SAVED["pictures of a server"].write(tmp_path / "pictures")
    arguments[arguments.index("--data") + 1] = "pictures"
    finished = temper_apart(*arguments, folder=tmp_path, **guarded)
    assert finished.returncode == 2
    assert "the column 'prompt' holds Image, and only texts, numbers and lists are read" in " ".join(finished.stderr.split())
    assert not (tmp_path / "attempts").exists(), (tmp_path / "attempts").read_text()
