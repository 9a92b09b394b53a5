"""Which files of a model's directory may be opened: regular ones, of a size that makes sense, that lie in the directory."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tempering.errors import UnusableModel
from tempering.reading import Unreadable, read_text, size_in_words

CONFIG_BYTES = 8 << 20
"""Of a JSON file that describes: the longest known, with a name for each of many labels, take a tenth of it."""
TOKENIZER_BYTES = 128 << 20
"""Of a file of a tokenizer, or of the list of shards: a quarter of a million tokens and their merges take 35 MB."""

TEMPLATES = "additional_chat_templates"
"""The one folder in a model's directory that transformers reads too."""

_LARGE = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model")
_SMALL = (
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.json", "processor_config.json", "preprocessor_config.json"),
)
_WEIGHTS = (".safetensors", ".gguf")
_BY_NAME = (
    *(*_LARGE, *_SMALL, TEMPLATES, "chat_template.jinja"),
    *("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
)
"""What is opened by its name, whether a listing shows it or not."""
_READ = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", *_WEIGHTS)
"""Endings of what transformers, tokenizers and PEFT open; anything else in the directory is left alone."""


def names_in(directory: Path) -> set[str]:
    """What a model's directory holds: what is listed, and what is there when asked for by its name.

    A network file system may list a file late that is there already.

    Raises:
        OSError: the directory cannot be read.
    """
    return {path.name for path in directory.iterdir()} | {name for name in _BY_NAME if os.path.lexists(directory / name)}


def check_belonging(directory: Path, reference: str) -> None:
    """Look at every file of a directory that loading might open, without opening any.

    A directory of the hub's cache holds links into the folder of blobs beside it, and those belong to it.

    Args:
        directory: the model's or adapter's.
        reference: what the user called it, for messages.

    Raises:
        UnusableModel: a link leads out of the directory or nowhere, something is a pipe or a device, or far too large.
    """
    home = directory.resolve()
    homes = [home, *([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [])]
    try:
        for path in _to_be_read(directory):
            _check_place(path, homes, reference)
    except OSError as error:
        raise UnusableModel(f"cannot read {reference}: {error.strerror or error}") from None


def _to_be_read(directory: Path) -> Iterator[Path]:
    for name in sorted(names_in(directory)):
        if name.endswith(_READ) or name == TEMPLATES:
            yield directory / name
    if (directory / TEMPLATES).is_dir():
        yield from sorted((directory / TEMPLATES).iterdir())


def _check_place(path: Path, homes: list[Path], reference: str) -> None:
    try:
        place = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise UnusableModel(f"{path.name} of {reference} is a link that leads nowhere", "download the model again") from None
    if not any(place.is_relative_to(home) for home in homes):
        raise UnusableModel(
            f"{path.name} of {reference} is a link that leads out of the directory", "copy the file into it, if it is meant to be read"
        )
    about = place.stat()
    if stat.S_ISDIR(about.st_mode) and path.name == TEMPLATES:
        return
    if not stat.S_ISREG(about.st_mode):
        raise UnusableModel(f"{path.name} of {reference} is no regular file", "download the model again")
    most = _most_bytes(path.name)
    if most is not None and about.st_size > most:
        raise UnusableModel(
            f"{path.name} of {reference} has {size_in_words(about.st_size)}, and such a file has at most {size_in_words(most)}",
            "take the model from a source you trust",
        )


def _most_bytes(name: str) -> int | None:
    if name in _LARGE or name.endswith((".tiktoken", ".index.json")):
        return TOKENIZER_BYTES
    return CONFIG_BYTES if name in _SMALL or name.endswith(".jinja") else None


def read_json(path: Path, reference: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UnusableModel: unreadable, too large, no JSON, or not an object.
    """
    try:
        value = json.loads(read_text(path, _most_bytes(path.name) or CONFIG_BYTES))
    except Unreadable as error:
        raise UnusableModel(f"cannot read {path.name} of {reference}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UnusableModel(f"{path.name} of {reference} is not JSON: {error}", "download the model again") from None
    if not isinstance(value, dict):
        raise UnusableModel(f"{path.name} of {reference} holds no JSON object", "download the model again")
    return value
