"""What jobs of a driver that was killed have left, where a line of it is not what was written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.engine_samples import plan, result
from tempering.engine import slurm_executor
from tempering.engine.agenda import Agenda
from tempering.engine.executor import Assignment, Watcher
from tempering.engine.executors import SlurmSettings
from tempering.engine.messages import result_message
from tempering.engine.slurm_executor import JOBS, _Queue
from tempering.engine.slurm_job import MESSAGES, UNITS, Listener, line_of
from tempering.errors import UnreadableMessage

PLAN = plan(3)
SAID = [line_of({"unit": unit.hash, **result_message(result(seed))}) for seed, unit in enumerate(PLAN.units)]


def left_behind(directory: Path, lines: list[bytes], name: str = "0123") -> Path:
    folder = directory / JOBS / name
    folder.mkdir(parents=True)
    (folder / UNITS).write_text("{}")
    (folder / MESSAGES).write_bytes(line_of({"unit": "", "kind": "ready", "environment": {"a": 1}}) + b"".join(lines))
    return folder


def taken_up(directory: Path) -> tuple[_Queue, list[str]]:
    told: list[str] = []
    queue = _Queue(None, SlurmSettings(), 1, 1, Assignment(Agenda(PLAN.units), Watcher(warned=told.append), 1, directory))
    queue.take_up()
    return queue, told


def test_what_is_sound_is_taken_up_and_the_folder_goes(tmp_path: Path) -> None:
    folder = left_behind(tmp_path, SAID)
    queue, told = taken_up(tmp_path)
    assert [queue.found[unit.hash].result.probes[1].measurements["harm"] for unit in PLAN.units] == [1 / 7 + seed for seed in range(3)]
    assert all(found.environment == {"a": 1} for found in queue.found.values())
    assert (told, folder.exists()) == ([], False)


DAMAGE: dict[str, bytes] = {
    "no JSON": b"{\n",
    "no object": b"[]\n",
    "no unit": b'{"kind": "result"}\n',
    "no kind": b'{"unit": "a"}\n' + SAID[1][:-9] + b"\n",
    "a unit that is none": b'{"unit": [], "kind": "started"}\n',
    "a digit": SAID[1].replace(b'"wall_s": 1.5', b'"wall_s": 2.5'),
    "no hash": json.dumps({"unit": PLAN.units[1].hash, **result_message(result(1))}).encode() + b"\n",
    "a result that is none": line_of({"unit": PLAN.units[1].hash, "kind": "result", "result": {}}),
    "another form of result": line_of({"unit": PLAN.units[1].hash, "kind": "result", "result": 3}),
    "not UTF-8": b"\xff\xfe\n",
    "nested deeply": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_line_is_put_aside_and_blocks_nothing(name: str, tmp_path: Path) -> None:
    assert DAMAGE[name] != SAID[1]
    folder = left_behind(tmp_path, [SAID[0], DAMAGE[name], SAID[2]])
    whole = left_behind(tmp_path, [SAID[2]], "4567")
    queue, told = taken_up(tmp_path)
    assert set(queue.found) == {PLAN.units[0].hash, PLAN.units[2].hash}, "what stands before it counts, and so do other jobs"
    assert not folder.exists()
    assert not whole.exists()
    assert (tmp_path / "quarantine" / "0123-0" / MESSAGES).is_file()
    assert len(told) == 1
    assert told[0].startswith("the Slurm job 0123 was damaged (")
    assert "\n" not in told[0]
    assert taken_up(tmp_path)[1] == [], "the next one meets nothing"


def test_a_result_whose_digit_has_changed_is_not_heard_of_a_living_job_either(tmp_path: Path) -> None:
    folder = left_behind(tmp_path, [DAMAGE["a digit"]])
    with pytest.raises(UnreadableMessage, match="not as it was written"):
        list(Listener(folder).messages())


def test_names_that_are_numbers_and_values_that_are_none_keep_their_hash(tmp_path: Path) -> None:
    folder = left_behind(tmp_path, [line_of({"unit": "", "kind": "result", "result": {10: float("nan"), 9: [float("inf")], "é": None}})])
    assert [message["kind"] for message in Listener(folder).messages()] == ["ready", "result"]


@pytest.mark.parametrize(("number", "is_lost"), [(errno.ESTALE, False), (errno.EMFILE, False), (errno.EIO, True), (errno.EACCES, True)])
def test_a_read_that_fails_for_a_moment_loses_nothing(number: int, is_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = left_behind(tmp_path, SAID)

    def fails(self: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(slurm_executor.Listener, "messages", fails)
        if is_lost:
            assert os.strerror(number) in taken_up(tmp_path)[1][0]
            assert (tmp_path / "quarantine" / "0123-0" / MESSAGES).is_file()
            return
        with pytest.raises(OSError, match=os.strerror(number)):
            taken_up(tmp_path)
    assert folder.exists()
    assert len(taken_up(tmp_path)[0].found) == 3
