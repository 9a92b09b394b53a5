"""A read that fails for a moment says nothing of a snapshot or a model; what is damaged is put aside, and not removed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tempering.canonical import canonical_hash
from tempering.engine import defended, hardening, hardening_folder
from tempering.engine.hardening import finished, record_in
from tempering.engine.hardening_card import RECORD
from tempering.engine.hardening_folder import TENSORS, TrainingFolder, file_sha256
from tempering.errors import LeftAlone, StoreProblem

PASSING = [errno.ESTALE, errno.EMFILE, errno.ENFILE]
LOST = [errno.EIO, errno.EACCES, errno.ENOENT]


def failing(number: int) -> Callable[..., Any]:
    def fails(*arguments: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number), "a file")

    return fails


@pytest.fixture
def folder(tmp_path: Path) -> TrainingFolder:
    told: list[str] = []
    made = TrainingFolder(tmp_path / "model", "job", told.append)
    with made.held():
        for steps in (5, 6):
            made.write({"a": torch.tensor([float(steps)])}, {"steps": steps}, steps)
    return made


def latest(folder: TrainingFolder) -> int | None:
    with folder.held():
        found = folder.latest()
    return None if found is None else found[1]["steps"]


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("where", ["file_sha256", "load_file", "read_bytes"])
def test_a_snapshot_that_cannot_be_read_for_a_moment_stays(
    folder: TrainingFolder, where: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*((Path, where) if where == "read_bytes" else (hardening_folder, where)), failing(number))
        with pytest.raises(StoreProblem, match=r"cannot be used just now: .*; give the same command again"):
            latest(folder)
    assert latest(folder) == 6


def test_so_does_one_of_which_a_library_in_rust_tells(folder: TrainingFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> Any:
        raise hardening_folder.SafetensorError(f"Error while deserializing: {os.strerror(errno.EMFILE)} (os error {errno.EMFILE})")

    with monkeypatch.context() as patch:
        patch.setattr(hardening_folder, "load_file", fails)
        with pytest.raises(StoreProblem, match="just now"):
            latest(folder)
    assert latest(folder) == 6


@pytest.mark.parametrize("number", LOST)
def test_one_that_is_lost_is_put_aside_until_the_training_ends(
    folder: TrainingFolder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    folder.warn = told.append
    with monkeypatch.context() as patch:
        patch.setattr(hardening_folder, "file_sha256", failing(number))
        assert latest(folder) is None
    assert [path.name for path in sorted(folder.path.glob("[!.]*"))] == ["damaged-00000005-0", "damaged-00000006-0"]
    assert len(told) == 2
    assert all("it was moved to" in message for message in told)
    assert (folder.path / "damaged-00000006-0" / TENSORS).is_file()
    with folder.held():
        folder.write({"a": torch.tensor([7.0])}, {"steps": 6}, 6)
    (folder.path / "00000006" / TENSORS).write_bytes(b"")
    assert latest(folder) is None
    assert (folder.path / "damaged-00000006-1").is_dir()
    folder.remove()
    assert not folder.path.exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "hardened"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"weights")
    write_record(directory)
    return directory


def write_record(directory: Path, **changes: Any) -> None:
    record = {"schema": 1, "job": "job", "files": {"model.safetensors": file_sha256(directory / "model.safetensors")}, **changes}
    (directory / RECORD).write_text(json.dumps({**record, "seal": canonical_hash(record)}))


JOB: Any = SimpleNamespace(hash="job")


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("where", ["read_bytes", "file_sha256"])
def test_a_model_that_cannot_be_read_for_a_moment_is_not_given_up(
    model: Path, where: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defended, "job_of", lambda unit: JOB)
    monkeypatch.setattr(defended, "place_of", lambda unit, models: model)
    unit: Any = None
    with monkeypatch.context() as patch:
        patch.setattr(*((Path, where) if where == "read_bytes" else (hardening, where)), failing(number))
        with pytest.raises(LeftAlone, match=r"cannot be read just now: .*; it may be sound: give the same command again"):
            defended.damage_of(unit, model.parent)
    assert defended.damage_of(unit, model.parent) is None
    (model / "model.safetensors").write_bytes(b"others")
    assert "is not as it was written" in str(defended.damage_of(unit, model.parent))


@pytest.mark.parametrize("number", LOST)
def test_one_that_is_lost_is_said_to_be(model: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(hardening, "file_sha256", failing(number))
        with pytest.raises(StoreProblem, match="is not as it was written") as caught:
            finished(JOB, model)
    assert not isinstance(caught.value, LeftAlone)
    finished(JOB, model)


@pytest.mark.parametrize(("schema", "age"), [(2, "a newer"), (0, "an older"), ("x", "an older")])
def test_a_model_of_another_schema_is_left_alone(model: Path, schema: Any, age: str) -> None:
    write_record(model, schema=schema, job=None)
    with pytest.raises(
        LeftAlone, match=rf"was hardened by {age} version of Tempering \(schema {schema}; this version reads 1\); .*another --out"
    ):
        record_in(model)


def test_a_schema_that_has_rotted_is_damage(model: Path) -> None:
    (model / RECORD).write_text((model / RECORD).read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(StoreProblem, match="is not as it was written") as caught:
        record_in(model)
    assert not isinstance(caught.value, LeftAlone)
    (model / RECORD).write_text("[]")
    with pytest.raises(StoreProblem, match="holds no hardened model"):
        record_in(model)
