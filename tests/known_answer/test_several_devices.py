"""Two processes that hold a model together train and probe it as one process does: same weights, losses, spend and rows, to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from support import rank_course
from tempering.training import LoraSettings

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks and a process alone have written what came of the same trainings."""
    made = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "support.rank_course", str(rank), str(size), str(made)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, size in ((0, 2), (1, 2), (0, 1))
    ]
    try:
        for process in started:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    finally:
        for process in started:
            process.kill()
    return made


EXACT = [name for name, course in rank_course.COURSES.items() if course.dtype == "float32"]


def told(folder: Path, size: int, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"{size}-{rank}.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("course", EXACT)
def test_two_ranks_train_the_weights_of_one_process(folder: Path, course: str) -> None:
    alone, together = (load_file(folder / f"{course}-{size}.safetensors") for size in (1, 2))
    assert alone.keys() == together.keys()
    settings = rank_course.COURSES[course].settings
    for name, weight in alone.items():
        difference = (together[name] - weight).abs()
        assert difference.mean() < 1e-3 * settings.learning_rate, name
        assert difference.max() < 1e-2 * settings.learning_rate, name


def test_sixteen_bits_are_trained_on_a_divided_float32_copy(folder: Path) -> None:
    # AdamW's first steps are as long as the rate whatever the gradient: where that is all but zero, bfloat16's rounding decides the way
    alone, together = (load_file(folder / f"sixteen bit-{size}.safetensors") for size in (1, 2))
    for name, weight in alone.items():
        assert weight.dtype == together[name].dtype
        assert (together[name] - weight).abs().mean() < 2e-2 * rank_course.CLIPPED.learning_rate, name
    ours, theirs = told(folder, 2)["sixteen bit"], told(folder, 1)["sixteen bit"]
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-2)
    assert ours["spend"] == theirs["spend"]
    assert ours["rows"][0] == pytest.approx(theirs["rows"][0], rel=1e-2, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("course", EXACT)
def test_two_ranks_tell_the_losses_spend_and_probes_of_one_process(folder: Path, course: str) -> None:
    alone, together, other = told(folder, 1)[course], told(folder, 2)[course], told(folder, 2, rank=1)[course]
    assert json.dumps(other) == json.dumps(together)  # whichever rank is asked
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert together["spend"] == alone["spend"]
    assert together["said"] == alone["said"]
    assert len(together["rows"]) == len(alone["rows"]) == 4
    for ours, theirs in zip(together["rows"], alone["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5, nan_ok=True)


def test_the_trainings_did_something(folder: Path) -> None:
    alone = told(folder, 1)
    assert alone["full"]["rows"][0] != alone["full"]["rows"][-1]
    assert len({tuple(alone[course]["losses"]) for course in rank_course.COURSES}) == len(rank_course.COURSES)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_activations_computed_anew_change_no_digit(lora: LoraSettings | None) -> None:
    course = rank_course.Course("llama", lora=lora)
    plain, anew = (rank_course.follow(replace(course, checkpointing=again), rank_course.ALONE) for again in (False, True))
    assert json.dumps(plain[1]) == json.dumps(anew[1])
    assert all(weight.equal(anew[0][name]) for name, weight in plain[0].items())


def test_drawn_answers_are_those_of_one_process(folder: Path) -> None:
    assert told(folder, 2)["sampled"] == told(folder, 2, rank=1)["sampled"] == told(folder, 1)["sampled"]


def test_what_would_come_out_otherwise_is_refused_in_one_line(folder: Path) -> None:
    assert told(folder, 1)["refusals"] == ["done", "done"]
    adafactor, dropout = told(folder, 2)["refusals"]
    assert adafactor.startswith("adafactor looks at more than one number at a time")
    assert dropout.startswith("dropout draws other masks")


def test_ranks_hear_each_other_whatever_the_length(folder: Path) -> None:
    assert told(folder, 2)["messages"] == told(folder, 2, rank=1)["messages"] == [[], ["é"]]
