"""One run of a coverage-guided fuzzer (atheris) over a group of parsers, in a process of its own.

``python -m torture.promises._fuzzing GROUP RUNS SEED OUT``: an input that ends in anything but the project's own errors is written down,
and the fuzzer goes on. The first byte of an input says which parser it is for.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

import atheris

from tempering.errors import TemperingError
from torture.promises._parsers import parsers
from torture.promises._parsing import Parser

LONGEST = 1 << 14
"""Bytes of an input."""
WRITTEN_EVERY = 500
"""Inputs after which the counts are written: the fuzzer ends without a word."""
SECONDS = 60
"""Of one input; a parser that takes longer is not bounded. The clock's, on a machine that may be busy."""


class Fuzzing:
    """Hands inputs to parsers, and keeps count."""

    def __init__(self, chosen: list[tuple[str, Parser]], runs: int, out: Path) -> None:
        self.chosen, self.runs, self.out = chosen, runs, out
        self.inputs = dict.fromkeys((name for name, _ in chosen), 0)
        self.refused = dict.fromkeys(self.inputs, 0)
        self.failed: list[dict[str, str]] = []
        self.failures = 0

    def one(self, content: bytes) -> None:
        which = content[0] % len(self.chosen) if len(self.chosen) > 1 and content else 0
        name, parser = self.chosen[which]
        given = content[1:] if len(self.chosen) > 1 else content
        self.inputs[name] += 1
        try:
            parser.parse(given)
        except TemperingError:
            self.refused[name] += 1
        except Exception as error:
            self.failures += 1
            if len(self.failed) < 200:
                where = traceback.extract_tb(error.__traceback__)[-1]
                words = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
                self.failed.append({"parser": name, "error": words, "input": given.hex()})
        if sum(self.inputs.values()) % WRITTEN_EVERY == 0 or sum(self.inputs.values()) >= self.runs:
            self.write()

    def write(self) -> None:
        told = {"inputs": self.inputs, "refused": self.refused, "failures": self.failures, "failed": self.failed}
        self.out.write_text(json.dumps(told))


def main(wanted: str, runs: int, seed: int, out: Path) -> None:
    """Fuzz, and write down what came of it."""
    quick = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="torture-", dir=quick if quick.is_dir() else None) as place:
        with atheris.instrument_imports(include=["tempering"], enable_loader_override=False):
            found = parsers(wanted, Path(place))
        chosen = list(found.items())
        fuzzing = Fuzzing(chosen, runs, out)
        corpus = Path(place) / "corpus"
        corpus.mkdir()
        for number, (_, parser) in enumerate(chosen):
            for place_, seed_input in enumerate(parser.seeds):
                prefix = bytes([number]) if len(chosen) > 1 else b""
                (corpus / f"{number}-{place_}").write_bytes(prefix + seed_input)
        dictionary = Path(place) / "words"
        dictionary.write_text("".join(f'"{word}"\n' for word in _words()))
        limits = [f"-max_len={LONGEST}", f"-timeout={SECONDS}", "-rss_limit_mb=4096", f"-dict={dictionary}", f"-artifact_prefix={place}/"]
        atheris.Setup(["fuzz", f"-runs={runs}", f"-seed={seed}", "-verbosity=0", *limits, str(corpus)], fuzzing.one)
        atheris.Fuzz()  # ends the process itself, without any of Python's ways of ending it


def _words() -> list[str]:
    """What parsers look for, in the fuzzer's notation."""
    marks = ["{", "}", "[", "]", ":", ",", "&a", "*a", "<<", "!!int", "!!python/object:os.system", "%YAML", "---", "? ", "- ", "|", ">"]
    numbers = ["NaN", "Infinity", "1e999", "-1", "0", "null", "true", "18446744073709551616", "9223372036854775808", "0x7f", "1_0", "1:30"]
    quoted = [
        r"\"prompt\"",
        r"\"role\"",
        r"\"hazard\"",
        r"\"kind\"",
        r"\"error\"",
        r"\"seal\"",
        r"\"\\ud800\"",
        r"\"model_type\"",
        r"\"r\"",
    ]
    raw = [
        r"\x00",
        r"\xff",
        r"\xed\xa0\x80",
        r"\x1b[31m",
        r"\xe2\x80\xae",
        r"\x0a",
        r"GGUF",
        r"PAR1",
        "../",
        "organism:",
        "@main",
        "steps=",
    ]
    return [*marks, *numbers, *quoted, *raw]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
