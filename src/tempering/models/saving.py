"""Writing a model so that the directory is either whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tempering.errors import StoreProblem
from tempering.models.belonging import names_in
from tempering.models.inspection import INDEX
from tempering.models.quiet import quiet_libraries
from tempering.partial import PARTIAL, REPLACED, bring_back, sync


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    replace: bool = False,
    beside: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write weights (safetensors), configuration, tokenizer and chat template; loading the directory gives the same digest.

    Everything is written into a folder aside, flushed to the disk and renamed last. Kill the process anywhere and ``directory`` is as
    it was before, with one exception: a directory that is replaced is moved away first, and between these two renames nothing stands in
    its place. What stood there then waits beside it, and comes back with the next :func:`put` or :func:`tempering.partial.sweep`.

    Args:
        model: the model; left as it is.
        tokenizer: its tokenizer, with the chat template to keep.
        directory: where to; its parents are made.
        replace: take the place of a directory that exists. An empty one is always taken.
        beside: writes further files into the folder, once the model's are there; they appear with them.

    Returns:
        The directory.

    Raises:
        StoreProblem: the directory exists, or the disk is full or not writable.
    """

    def fill(aside: Path) -> None:
        write_model(model, tokenizer, aside)
        beside(aside)

    return put(directory, fill, replace=replace)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights, configuration, tokenizer and chat template into a folder that is not in place yet."""
    with quiet_libraries():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _let_be_read(folder)


def files_in(folder: Path) -> list[Path]:
    """The files of a model that was just written here, in a fixed order: what is listed, and what has been written by its name.

    A network file system may list a file late that is there already; one left out here would be neither flushed nor sealed.
    """
    names = names_in(folder)
    if INDEX in names:
        names |= set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
    return sorted({path for path in (*folder.rglob("*"), *(folder / name for name in names)) if path.is_file()})


def put(directory: Path, fill: Callable[[Path], None], *, replace: bool = False) -> Path:
    """Put a folder of a model in place, whole or not at all; as :func:`save`, whatever is in it.

    Args:
        directory: where to; its parents are made.
        fill: writes the files into a folder aside.
        replace: take the place of a directory that exists. An empty one is always taken.

    Returns:
        The directory.

    Raises:
        StoreProblem: the directory exists, or the disk is full or not writable.
    """
    with contextlib.suppress(OSError):
        bring_back(directory.parent, directory.name)
    if not replace and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise StoreProblem(f"{directory} exists already", "choose another directory or remove it")
    try:
        _make(directory.parent)
        with _aside(directory) as aside:
            fill(aside)
            _flush(aside)
            _put_in_place(aside, directory)
    except Exception as error:
        if (reason := why_not_written(error)) is None:
            raise
        raise StoreProblem(f"cannot write the model to {directory}: {reason}", "free some space or choose another directory") from error
    return directory


def number_of(error: Exception) -> int | None:
    """The system's number for what went wrong, also where a library in Rust tells of it; ``None`` where it is not the system's."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def why_not_written(error: Exception) -> str | None:
    """What the system said when a file could not be written; ``None`` where the error is of another kind.

    The libraries that write weights and tokenizers are in Rust, and what the system told them they raise as errors of their own, down to
    a bare ``Exception``; only the words are the system's.
    """
    if isinstance(error, OSError):
        return str(error.strerror or error)
    number = number_of(error)
    return None if number is None else os.strerror(number)


@contextlib.contextmanager
def _aside(directory: Path) -> Iterator[Path]:
    """A fresh folder on the same disk, gone at the end whatever happens."""
    outer = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=PARTIAL, dir=directory.parent))
    try:
        inner = outer / "model"  # mkdtemp's folder is for the owner only; this one has the permissions a user expects
        inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _let_be_read(folder: Path) -> None:
    """Give the weights the permissions of the configuration; the library that writes them keeps them to the owner."""
    mode = (folder / "config.json").stat().st_mode
    for path in files_in(folder):
        if path.suffix == ".safetensors":
            path.chmod(mode)


def _put_in_place(aside: Path, directory: Path) -> None:
    """Rename the new folder to its place; the old one comes back where that fails, and by :mod:`tempering.partial` after a kill."""
    replaced = aside.parent / REPLACED
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied:
        os.replace(directory, replaced)  # noqa: PTH105 (looked up in os, so that a test can make it fail)
    try:
        os.replace(aside, directory)  # noqa: PTH105
    except OSError:
        if occupied:
            os.replace(replaced, directory)  # noqa: PTH105
        raise
    sync(directory.parent)


def _make(directory: Path) -> None:
    """Make a directory and what is missing above it, and wait until the disk has their names."""
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        sync(directory.parent)


def _flush(folder: Path) -> None:
    for path in files_in(folder):
        sync(path)
    sync(folder)
