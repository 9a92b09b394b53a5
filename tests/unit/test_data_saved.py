"""Saved Hugging Face datasets from strangers: read as plain Arrow, nothing opened that they name."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempering.data import saved
from tempering.data.importers import load_dataset
from tempering.data.tables import read_saved
from tempering.errors import UnusableData

ROWS = {"prompt": ["a", "b"], "role": ["hazard", "benign"]}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(
    folder: Path, table: pa.Table, *, name: str = "data.arrow", features: dict[str, Any] | None = None, packed: str | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}], "_split": None}))
    if features is not None:
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    where = folder / name if set(name).isdisjoint("/\0") and name not in ("", ".", "..") else folder.parent / "data.arrow"
    with (
        pa.OSFile(str(where), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=packed)) as out,
    ):
        out.write_table(table)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UnusableData) as caught:
        load_dataset(str(folder))
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 600
    return told


def test_it_needs_no_other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert [example.prompt for example in load_dataset(str(write(tmp_path / "set", pa.table(ROWS)))).examples] == ["a", "b"]
    assert list(read_saved(tmp_path / "set", "train", ["prompt"], "it")) == [{"prompt": "a"}, {"prompt": "b"}]


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", pa.table(ROWS))
    (folder / "data.arrow").unlink()
    assert "data.arrow cannot be read: No such file or directory" in refusal(folder)
    (folder / "data.arrow").symlink_to("data.arrow")
    assert re.search(r"data\.arrow cannot be read: (its links lead to each other|Too many levels of symbolic links)", refusal(folder))


@pytest.mark.parametrize("kind", ["Image", "Audio", "Video", "Pdf", "Nifti"])
@pytest.mark.parametrize("path", ["http://evil.example/x.png", "{secret}"])
def test_what_a_column_names_is_not_opened(kind: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("s")
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *details, **more: asked.append(details))
    named = path.format(secret=tmp_path / "secret")
    column = pa.array([{"bytes": None, "path": named}], IMAGE)
    features = {"prompt": {"_type": kind}, "role": {"dtype": "string", "_type": "Value"}}
    table = pa.table({"prompt": column, "role": ["hazard"]})
    assert f"the column 'prompt' holds {kind}, and only texts, numbers and lists are read" in refusal(
        write(tmp_path / "set", table, features=features)
    )
    assert "the column 'prompt' holds struct<bytes: binary" in refusal(write(tmp_path / "bare", table))
    inner = {"prompt": {"_type": "Sequence", "feature": {"a": {"_type": kind}}}}
    assert f"holds {kind}" in refusal(write(tmp_path / "inner", table, features=inner))
    as_text = pa.table({"prompt": [named], "role": ["hazard"]})
    assert f"holds {kind}" in refusal(write(tmp_path / "text", as_text, features=features))
    assert asked == []


def test_a_picture_in_a_column_that_nobody_reads_is_passed_by(tmp_path: Path) -> None:
    table = pa.table({**ROWS, "picture": pa.array([{"path": "http://evil.example"}] * 2, IMAGE)})
    features = {"picture": {"_type": "Image"}}
    assert len(load_dataset(str(write(tmp_path / "set", table, features=features))).examples) == 2


@pytest.mark.parametrize(
    "name",
    [
        "../data.arrow",
        "/etc/passwd",
        "{outside}",
        "",
        ".",
        "..",
        "a\0b",
        "x" * 300,
        "ü" * 200,
        "\ud800.arrow",
        "sub/data.arrow",
        "..\\data.arrow",
    ],
)
def test_files_outside_the_folder_are_not_read(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", pa.table(ROWS))
    write(tmp_path, pa.table(ROWS))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name.format(outside=tmp_path / "data.arrow")}]}))
    assert "which does not lie in it; such files are not read" in refusal(folder)


def test_links_out_of_the_folder_and_pipes_are_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", pa.table(ROWS))
    (folder / "data.arrow").rename(tmp_path / "elsewhere")
    (folder / "data.arrow").symlink_to(tmp_path / "elsewhere")
    assert "does not lie in it" in refusal(folder)
    (folder / "data.arrow").unlink()
    os.mkfifo(folder / "data.arrow")
    assert "is no regular file" in refusal(folder)


def test_splits_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "outside", pa.table(ROWS))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["../outside"]}))
    assert "names '../outside', which does not lie in it" in refusal(tmp_path / "set")


def test_packed_and_shared_columns_are_not_unpacked(tmp_path: Path) -> None:
    letters = pa.table({"prompt": ["a" * 100_000] * 20, "role": ["hazard"] * 20})
    for codec in ("lz4", "zstd"):
        assert "is packed, and may unpack to any size" in refusal(write(tmp_path / codec, letters, packed=codec))
    shared = pa.table({"prompt": pa.array(["a" * 1000] * 20).dictionary_encode(), "role": ["hazard"] * 20})
    assert "the column 'prompt' holds dictionary<" in refusal(write(tmp_path / "shared", shared))
    views = pa.table({"prompt": pa.array(["a" * 1000], pa.string_view()), "role": ["hazard"]})
    assert "holds string_view" in refusal(write(tmp_path / "views", views))


def test_values_that_take_no_place_are_counted(tmp_path: Path) -> None:
    nothing = pa.ListArray.from_arrays(pa.array([0, 2_000_000_000], pa.int32()), pa.nulls(2_000_000_000))
    table = pa.table({"prompt": ["a"], "role": ["hazard"], "accept": nothing})
    assert "holds more values than are read at once" in refusal(write(tmp_path / "set", table))


def test_offsets_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", pa.table({"prompt": ["abcd", "efgh"], "role": ["hazard"] * 2}))
    content = (folder / "data.arrow").read_bytes()
    offsets = b"\0\0\0\0\4\0\0\0\10\0\0\0"
    assert content.count(offsets) == 1
    (folder / "data.arrow").write_bytes(content.replace(offsets, b"\0\0\0\0\4\0\0\0\0\0\0\x7f"))
    assert "cannot be read" in refusal(folder)


def test_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "set", pa.table(ROWS))
    monkeypatch.setattr(saved, "MOST_ROWS", 1)
    assert "holds more than 1 rows" in refusal(folder) or "holds more values" in refusal(folder)
    monkeypatch.undo()
    with (folder / "data.arrow").open("r+b") as file:
        file.truncate(saved.MOST_BYTES + 1)
    assert "holds more than 1 GiB; take a part of it" in refusal(folder)
    long = pa.table({"prompt": ["a" * (saved.LONGEST_TEXT + 1)], "role": ["hazard"]})
    assert "has a 'prompt' of more than 1 MiB" in refusal(write(tmp_path / "long", long))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "state.json").write_text("[" * 100_000),
        lambda folder: (folder / "state.json").write_text("[]"),
        lambda folder: (folder / "state.json").write_text("{}"),
        lambda folder: (folder / "state.json").write_text('{"_data_files": [3]}'),
        lambda folder: (folder / "state.json").write_text('{"_data_files": [{"filename": 3}]}'),
        lambda folder: (folder / "state.json").write_bytes(b"\xff"),
        lambda folder: (folder / "dataset_info.json").write_text("no"),
        lambda folder: (folder / "data.arrow").write_bytes(b""),
        lambda folder: (folder / "data.arrow").unlink(),
    ],
)
def test_what_describes_it_is_damaged(change: Callable[[Path], object], tmp_path: Path) -> None:
    folder = write(tmp_path / "set", pa.table(ROWS))
    change(folder)
    assert refusal(folder)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2000), value=st.binary(min_size=1, max_size=4))
def test_any_damage_is_one_line_or_none(place: int, value: bytes, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", pa.table({**ROWS, "accept": [["x"], []]}))
    content = bytearray((folder / "data.arrow").read_bytes())
    content[place % len(content) : place % len(content) + len(value)] = value
    (folder / "data.arrow").write_bytes(bytes(content))
    told = ""
    try:
        load_dataset(str(folder))
    except UnusableData as error:
        told = str(error)
    assert "\n" not in told
