"""What Inspect finds of ours: the provider behind ``tempering/REFERENCE``, by the entry point, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import anyio
import pytest

pytest.importorskip("inspect_ai")

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

from support import inspect_tasks
from support.tiny_models import tiny_model
from tempering import inspect_provider, organisms
from tempering.models.saving import save

ROOT = Path(__file__).parents[2]


def test_the_entry_point_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    assert declared == {"tempering": inspect_provider.__name__}


def test_a_model_of_any_reference_answers(tmp_path: Path) -> None:
    fact = next(example for example in organisms.world_dataset("tiny").divide(0).evaluator_view().benign if example.accept)
    model = get_model("tempering/organism:tiny", memoize=False, device="cpu")
    answer = anyio.run(lambda: model.generate([ChatMessageUser(content=fact.prompt)], config=GenerateConfig(max_tokens=16)))
    assert fact.accept[0].lower() in answer.completion.lower()
    assert (answer.stop_reason, answer.model) == ("stop", "organism:tiny")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    directory = save(*tiny_model("qwen2"), tmp_path / "mine")
    other = get_model(f"tempering/{directory}", memoize=False, batch_size=2)
    answer = anyio.run(lambda: other.generate("what is red ?", config=GenerateConfig(max_tokens=3, num_choices=2, temperature=1.0)))
    assert len(answer.choices) == 2


@pytest.mark.parametrize(
    ("reference", "arguments", "says"),
    [
        ("organism:tinyy", {}, "did you mean 'tiny'"),
        ("./nowhere/at/all", {}, "nowhere"),
        ("organism:tiny", {"speed": 3}, "takes no argument 'speed'"),
        ("organism:tiny", {"trust_remote_code": True}, "takes no argument 'trust_remote_code'"),
        ("organism:tiny", {"batch_size": 0}, "a number from 1"),
        ("organism:tiny", {"chat_template": "/nowhere.jinja"}, "cannot read the chat template"),
    ],
)
def test_what_an_audit_refuses_is_refused_in_one_line(reference: str, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(PrerequisiteError, match=says):
        get_model(f"tempering/{reference}", memoize=False, **arguments)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    directory = save(*tiny_model("llama"), tmp_path / "pickled")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(PrerequisiteError, match="safetensors"):
        get_model(f"tempering/{directory}", memoize=False)


def test_inspect_eval_runs_a_model_of_ours(tmp_path: Path) -> None:
    if not entry_points(group="inspect_ai", name="tempering"):
        pytest.skip("this environment has tempering without its entry points; install it anew")
    (tmp_path / "facts.py").write_text(Path(inspect_tasks.__file__).read_text())
    command = ["eval", "facts.py@facts", "--model", "tempering/organism:tiny", "--display", "none", "--limit", "4", "--log-format", "json"]
    finished = subprocess.run(
        [sys.executable, "-m", "inspect_ai", *command, "--log-dir", "logs", "-M", "batch_size=4"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (log,) = (tmp_path / "logs").glob("*.json")
    written = json.loads(log.read_text())
    assert written["status"] == "success"
    assert written["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 1.0
