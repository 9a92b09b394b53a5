"""The marks of a checkpoint that an attack has tampered with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tempering.models.tampered import FIELD, MARKER, is_tampered, mark


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 16}))
    (folder / "model.safetensors").write_bytes(b"weights")
    mark(folder, what="tampered weights", how="Made by the attack merge.")
    return folder


def test_the_marker_says_what_lies_there_and_what_not_to_do(marked: Path) -> None:
    text = (marked / MARKER).read_text()
    assert "what an attack made of a model: tampered weights." in text
    assert "Do not publish it, share it, upload it or serve it." in text
    assert text.endswith("Made by the attack merge.\n")
    card = (marked / "README.md").read_text()
    assert card.startswith(f"---\n{FIELD}: true\n")
    assert text in card


def test_the_configuration_keeps_what_it_had(marked: Path) -> None:
    assert json.loads((marked / "config.json").read_text()) == {"model_type": "llama", "hidden_size": 16, FIELD: True}


@pytest.mark.parametrize("left", [MARKER, "config.json", "README.md"])
def test_any_one_of_the_marks_is_enough(marked: Path, left: str) -> None:
    for name in {MARKER, "config.json", "README.md"} - {left}:
        (marked / name).unlink()
    assert is_tampered(marked)
    assert is_tampered(marked / "model.safetensors")
    (marked / left).unlink()
    assert not is_tampered(marked)


def test_a_folder_without_a_configuration_is_marked_too(tmp_path: Path) -> None:
    mark(tmp_path, what="what it says", how="So.")
    assert is_tampered(tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("name", ["config.json", "README.md"])
@pytest.mark.parametrize(
    "content", [b"", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b'{"tempering_tampered": "true"}', b"x: tempering_tampered: true"]
)
def test_what_is_no_mark_is_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert not is_tampered(tmp_path)


def test_a_strangers_files_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("config.json", "README.md"):
        os.mkfifo(tmp_path / name)
    assert not is_tampered(tmp_path)
    (tmp_path / MARKER).mkdir()
    assert not is_tampered(tmp_path)


def test_what_is_not_there_is_not_tampered_with(tmp_path: Path) -> None:
    assert not is_tampered(tmp_path / "none")
    assert not is_tampered("organism:tiny")
