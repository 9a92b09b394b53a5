"""Every parser of the project, under a coverage-guided fuzzer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from torture.mutations import ROOT
from torture.promise import Mutation, Promise, Tally
from torture.promises._parsers import GROUPS

SEED = 7
INPUTS_SHORT = 4000
"""Over all parsers at once."""
PATIENCE_S = 4 * 3600


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Fuzz the parsers: all in one process, or group by group."""
    if not long:
        count("all", _fuzzed("all", INPUTS_SHORT, folder), INPUTS_SHORT, tally)
        return
    for group, (_, inputs) in GROUPS.items():
        count(group, _fuzzed(group, inputs, folder), inputs, tally)


def _fuzzed(name: str, inputs: int, folder: Path) -> dict[str, Any]:
    """What a fuzzer says of a group of parsers; and where it did not come to its end, how it ended."""
    out = folder / "fuzzed.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torture.promises._fuzzing", name, str(inputs), str(SEED), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    told: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"inputs": {}, "failures": 0, "failed": []}
    if run.returncode != 0:
        told["ended"] = f"the fuzzer ended with {run.returncode}: {' '.join(run.stderr.split())[-300:]}"
    return told


def count(name: str, told: dict[str, Any], wanted: int, tally: Tally) -> None:
    """Count what a fuzzer has tried, and see that it tried as much as it should, and every parser.

    Args:
        name: of the group.
        told: what the fuzzer has written down.
        wanted: inputs that it was to try.
        tally: counts an input as a trial.
    """
    tried = sum(told["inputs"].values())
    if tried < wanted:
        tally.count(False, f"{name}: only {tried:,} inputs of {wanted:,} were tried")
    for parser in [parser for parser, inputs in told["inputs"].items() if not inputs]:
        tally.count(False, f"{name}: {parser} was given nothing")
    for failed in told["failed"]:
        tally.count(False, f"{failed['parser']}: {failed['error']}; input in hexadecimal: {failed['input'][:200]}")
    if more := told["failures"] - len(told["failed"]):
        tally.count(False, f"{name}: {more} further ones", trials=more)
    tally.count(True, trials=tried - told["failures"])
    if "ended" in told:
        tally.count(False, f"{name}: {told['ended']}")
    for parser, inputs in told["inputs"].items():
        tally.note(parser, inputs)


PROMISE = Promise(
    name="parsers",
    group="Nothing let in",
    sentence="Whatever stands in a file, a flag or a message: it is taken, or refused with an error of the project's own",
    attempt=attempt,
    mutations=(
        Mutation(
            "reading.py",
            "    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, UnicodeError) as error:",
            "    except (TypeError, LookupError) as error:",
            "values that do not fit their tags in YAML are not caught",
        ),
        Mutation(
            "data/importers.py",
            '    except ValueError as error:\n        raise UnusableData(f"{where} is not JSON',
            '    except LookupError as error:\n        raise UnusableData(f"{where} is not JSON',
            "a line of data that is no JSON is not caught",
        ),
        Mutation(
            "engine/channel.py",
            "    except (ValueError, RecursionError) as error:",
            "    except RecursionError as error:",
            "a message that is no JSON ends the driver",
        ),
        Mutation(
            "models/gguf_header.py",
            "            if kind not in GGML_QUANT_SIZES:",
            "            if kind < 0:",
            "a tensor of an unknown kind in a GGUF file is not caught",
        ),
        Mutation(
            "plain_text.py",
            "\\u202a-\\u202e\\u2066-\\u2069",
            "\\u202a-\\u202d\\u2066-\\u2069",
            "names may turn the direction of writing on the terminal",
        ),
    ),
    needs=("atheris",),
)
