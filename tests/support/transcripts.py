"""Plays the transcripts of a page of the documentation, in order and in one folder, and compares what is printed with what is shown.

What counts in a page are its fenced blocks:

- ``title="name"``: a file, written to the folder;
- ``console``: after ``$`` what is typed (a line that ends in a backslash goes on in the next), below it what is printed;
- ``pycon``: the same of Python, after ``>>>``; every block is a session of its own.

What is shown must be what is printed, line for line; but a number stands for any number (a count of what is done, ``[1/6]``, for
itself), any white space for any other, ``…`` for anything within a line, and a line of ``…`` alone for any lines. A line ``^C`` is
Ctrl-C, pressed when what is shown above it has been printed.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
_COUNT = re.compile(r"(\[\d+/\d+\])")
_ELSE = "…"
INTERRUPT = "^C"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: the word behind the fence.
        title: the file that it is, or ``""``.
        text: what stands in it.
    """

    language: str
    title: str
    text: str


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(match["language"], match["title"] or "", match["text"]) for match in _FENCE.finditer(markdown)]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """What a ``console`` block types, and the lines it shows below each."""
    found: list[tuple[str, list[str]]] = []
    for line in text.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            assert found, f"{line!r} stands above every command"
            found[-1][1].append(line)
    return found


def difference(shown: list[str], printed: list[str]) -> str | None:
    """The first line that is not in its place, shown and printed; ``None`` where they agree. Empty lines do not count."""
    wanted = [line for line in map(_squeezed, shown) if line]
    there = [line for line in map(_squeezed, printed) if line]
    return _differs(wanted, there)


def _differs(wanted: list[str], there: list[str]) -> str | None:
    place = 0
    skipping = False
    for line in wanted:
        if line == _ELSE:
            skipping = True
            continue
        pattern = _pattern(line)
        last = len(there) if skipping else min(place + 1, len(there))
        found = next((number for number in range(place, last) if pattern.fullmatch(there[number])), None)
        if found is None:
            instead = there[place] if place < len(there) and not skipping else "nothing like it"
            return f"shown: {line}\nprinted: {instead}"
        place, skipping = found + 1, False
    if place < len(there) and not skipping:
        return f"shown: nothing more\nprinted: {there[place]}"
    return None


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def _pattern(line: str) -> re.Pattern[str]:
    parts = []
    for part in line.split(_ELSE):
        counts = _COUNT.split(part)
        parts.append("".join(re.escape(text) if place % 2 else _any_numbers(text) for place, text in enumerate(counts)))
    return re.compile(".*".join(parts))


def _any_numbers(text: str) -> str:
    return _NUMBER.pattern.join(re.escape(between) for between in _NUMBER.split(text))


def play(markdown: str, folder: Path, *, skip: Callable[[str], bool] = lambda command: False) -> list[str]:
    """Do in a folder what a page does.

    Args:
        markdown: the page.
        folder: an empty one.
        skip: says which commands are only for reading.

    Returns:
        What was typed.

    Raises:
        AssertionError: something else is printed than the page shows, or a command fails.
    """
    environment = _environment(folder / ".bin")
    typed = []
    for block in blocks(markdown):
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        elif block.language == "pycon":
            _play_python(block.text, folder, environment)
            typed.append(block.text)
        elif block.language == "console":
            for command, shown in commands(block.text):
                if not skip(command):
                    _play_command(command, shown, folder, environment)
                    typed.append(command)
    return typed


def _environment(programs: Path) -> dict[str, str]:
    """The environment of somebody who has installed this checkout: ``temper`` and ``python`` are the ones under test."""
    programs.mkdir()
    for name, call in (("temper", "-m tempering"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        program.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    return {**inherited, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def _play_command(command: str, shown: list[str], folder: Path, environment: dict[str, str]) -> None:
    interrupted = INTERRUPT in shown
    until = shown[: shown.index(INTERRUPT)] if interrupted else None
    code, printed = _run(["bash", "-c", command], until, folder, environment)
    assert code == (130 if interrupted else 0), f"$ {command}\nended with {code}:\n" + "\n".join(printed)
    told = difference([line for line in shown if line != INTERRUPT], printed)
    assert told is None, f"$ {command}\n{told}\nall that was printed:\n" + "\n".join(printed)


def _run(command: list[str], until: list[str] | None, folder: Path, environment: dict[str, str]) -> tuple[int, list[str]]:
    """Run a command, and interrupt it once when what it has printed agrees with these lines."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs are born deaf to Ctrl-C
    )
    assert process.stdout is not None
    printed = []
    try:
        for line in process.stdout:
            printed.append(line.rstrip("\n"))
            if until is not None and difference(until, printed) is None:
                os.killpg(process.pid, signal.SIGINT)
                until = None
        return process.wait(), printed
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _play_python(text: str, folder: Path, environment: dict[str, str]) -> None:
    examples = doctest.DocTestParser().get_examples(text)
    mark = "-- the next one --"
    script = "\n".join(f"exec(compile({example.source!r}, '<page>', 'single'))\nprint({mark!r}, flush=True)" for example in examples)
    code, printed = _run([sys.executable, "-c", script], None, folder, environment)
    assert code == 0, "\n".join(printed)
    outputs = "\n".join(printed).split(mark)
    for example, output in zip(examples, outputs, strict=False):
        told = difference(example.want.splitlines(), output.splitlines())
        assert told is None, f">>> {example.source}{told}\nall that was printed:\n{output}"
