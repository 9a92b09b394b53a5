"""What a process does to files, one operation after the other, with a hook before and after each.

Everything that Tempering writes passes through these functions of ``os``, through ``open``, or through the two libraries written in Rust
that write weights and tokenizers.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Operation:
    """One of them.

    Attributes:
        number: from 0.
        name: of the function, as ``rename``.
        path: what it is done to.
        to: where it is moved to.
    """

    number: int
    name: str
    path: Path
    to: Path | None = None

    def __str__(self) -> str:
        return f"operation {self.number}, {self.name} {self.path.name}"


Hook = Callable[[Operation], None]

WITH_PATH = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir")
WITH_HANDLE = ("write", "fsync")
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ADDING = ("open", "write", "mkdir", "rename", "replace", "fsync", "weights", "tokenizer")
"""Those that may find no space."""
READING = ("read", "list")
"""Those that change nothing."""


def watch(folder: Path, before: Hook = lambda operation: None, after: Hook = lambda operation: None, *, reads: bool = False) -> None:
    """From now on call hooks around every operation of this process on something in a folder. There is no way back.

    Args:
        folder: where.
        before: called before each.
        after: called after each.
        reads: files that are opened to be read, and folders that are listed, are operations too: those in :data:`READING`.
    """
    watcher = _Watcher(folder, before, after)
    if reads:
        os.open = watcher.around("read", os.open, _path_if_unchanged)
        builtins.open = io.open = watcher.around("read", io.open, _path_if_read)
        for name in ("listdir", "scandir"):
            setattr(os, name, watcher.around("list", getattr(os, name), _path_if_named))
    for name in WITH_PATH:
        setattr(os, name, watcher.around(name, getattr(os, name), _path_of))
    for name in WITH_HANDLE:
        setattr(os, name, watcher.around(name, getattr(os, name), _path_of_handle))
    os.open = watcher.around("open", os.open, _path_if_changing)
    builtins.open = io.open = watcher.around("open", io.open, _path_if_written)
    own = safetensors.torch.serialize_file  # type: ignore[attr-defined]
    watched = watcher.around("weights", own, lambda tensors, file, **rest: Path(file))
    safetensors.torch.serialize_file = watched  # type: ignore[attr-defined]
    _watch_tokenizers(watcher)


class _Watcher:
    def __init__(self, folder: Path, before: Hook, after: Hook) -> None:
        self._folder, self._before, self._after = folder, before, after
        self._count = 0
        self._inside = False

    def around(self, name: str, function: Any, path_of: Callable[..., Path | None]) -> Any:
        def watched(*arguments: Any, **rest: Any) -> Any:
            path = None if self._inside else path_of(*arguments, **rest)
            if path is None or not path.is_relative_to(self._folder):
                return function(*arguments, **rest)
            to = Path(os.fspath(arguments[1])) if name in ("rename", "replace") else None
            operation = Operation(self._count, name, path, to)
            self._count += 1
            self._aside(self._before, operation)
            result = function(*arguments, **rest)
            self._aside(self._after, operation)
            return result

        return watched

    def _aside(self, hook: Hook, operation: Operation) -> None:
        self._inside = True
        try:
            hook(operation)
        finally:
            self._inside = False


def _path_of(path: Any, *arguments: Any, dir_fd: int | None = None, **rest: Any) -> Path | None:
    if dir_fd is not None:
        return _path_of_handle(dir_fd).joinpath(os.fspath(path))
    return Path(os.fspath(path)) if not isinstance(path, int) else _path_of_handle(path)


def _path_of_handle(handle: int, *arguments: Any) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115


def _path_if_changing(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Path | None:
    return _path_of(path, dir_fd=dir_fd) if flags & CHANGING else None


def _path_if_written(file: Any, mode: str = "r", *arguments: Any, **rest: Any) -> Path | None:
    return None if isinstance(file, int) or not set(mode) & set("wax+") else _path_of(file)


def _path_if_unchanged(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Path | None:
    return None if flags & CHANGING else _path_of(path, dir_fd=dir_fd)


def _path_if_read(file: Any, mode: str = "r", *arguments: Any, **rest: Any) -> Path | None:
    return None if isinstance(file, int) or set(mode) & set("wax+") else _path_of(file)


def _path_if_named(path: Any = None) -> Path | None:
    return None if path is None or isinstance(path, int) else _path_of(path)


def _watch_tokenizers(watcher: _Watcher) -> None:
    """``Tokenizer.save`` is written in Rust and cannot be replaced; whoever is handed a tokenizer to save it from is given this."""
    from transformers import PreTrainedTokenizerFast

    class Watched:
        def __init__(self, tokenizer: Tokenizer) -> None:
            self._tokenizer = tokenizer
            self.save = watcher.around("tokenizer", tokenizer.save, lambda path, *rest: Path(path))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

    owner = next(owner for owner in PreTrainedTokenizerFast.__mro__ if isinstance(owner.__dict__.get("backend_tokenizer"), property))
    real = owner.__dict__["backend_tokenizer"].fget
    owner.backend_tokenizer = property(lambda self: Watched(real(self)))  # type: ignore[attr-defined]
