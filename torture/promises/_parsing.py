"""What a parser is to the fuzzer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering.engine.files import sealed

Parse = Callable[[bytes], object]


@dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        parse: reads an input; may raise the project's own errors.
        seeds: inputs that it takes, to begin from.
    """

    parse: Parse
    seeds: tuple[bytes, ...]


def as_text(content: bytes) -> str:
    """Bytes as a command line hands them over."""
    return content.decode("utf-8", "surrogateescape")


def as_json(content: bytes) -> Any:
    """JSON out of bytes, or nothing where they are none: what stands behind a seal is JSON at least."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def of_file(path: Path, parse: Callable[[Path], object]) -> Parse:
    """A parser of files as one of bytes."""

    def parsed(content: bytes) -> object:
        path.write_bytes(content)
        return parse(path)

    return parsed


def resealed(given: bytes) -> bytes | None:
    """An object of JSON under a seal that is right about it; nothing where it is none, or cannot be sealed."""
    values = as_json(given)
    try:
        return sealed({key: value for key, value in values.items() if key != "seal"}) if isinstance(values, dict) else None
    except (ValueError, RecursionError, UnicodeError):
        return None
