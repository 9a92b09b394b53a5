"""torture/promises/parsers.py: every parser is tried, with what it takes to begin from, and as often as is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tempering.errors import TemperingError
from torture.promise import Tally
from torture.promises._parsers import GROUPS, parsers
from torture.promises.parsers import count


def told(failed: int = 0, **inputs: int) -> dict[str, Any]:
    example = {"parser": "a", "error": "KeyError: 'x' (y.py:1)", "input": "00"}
    return {"inputs": inputs, "failures": failed, "failed": [example] * min(failed, 1)}


@pytest.mark.parametrize(
    ("seen", "trials", "failures", "says"),
    [
        (told(a=60, b=41), 101, 0, ""),
        (told(a=60, b=39), 100, 1, "only 99 inputs of 100 were tried"),
        (told(a=101, b=0), 102, 1, "b was given nothing"),
        (told(), 1, 1, "only 0 inputs of 100 were tried"),
        (told(3, a=60, b=41), 101, 3, "KeyError"),
    ],
)
def test_fewer_inputs_than_were_promised_are_a_failure(seen: dict[str, Any], trials: int, failures: int, says: str) -> None:
    tally = Tally()
    count("group", seen, 100, tally)
    assert (tally.trials, tally.failures) == (trials, failures)
    assert says in " ".join(tally.examples)


def test_the_long_form_tries_a_million_inputs_and_more() -> None:
    assert sum(inputs for _, inputs in GROUPS.values()) >= 10**6


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", list(GROUPS))
def test_every_parser_takes_the_first_input_that_it_is_begun_with(group: str, tmp_path: Path) -> None:
    for needed in ("datasets", "gguf"):
        pytest.importorskip(needed)
    for name, parser in parsers(group, tmp_path).items():
        assert parser.seeds, name
        taken = 0
        for seed in parser.seeds:
            try:
                parser.parse(seed)
                taken += 1
            except TemperingError:
                continue
        assert taken or name in NEVER_TAKEN, name


NEVER_TAKEN = {"data file", "tables of a report", "card to be pushed"}
"""Parsers of which no seed is sound as a whole: what a toy has is less than they ask for."""
