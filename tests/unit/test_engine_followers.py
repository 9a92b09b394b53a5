"""Rank 0 and the ranks that it started: units are handed on, and a group that cannot go on together ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tempering.engine.followers import Seat

RANK_ZERO = """
import sys, time
from tempering.engine import followers
followers.GRACE = 0.3
def command(descriptor, seat):
    return [sys.executable, "-c", sys.argv[1], str(descriptor), seat.as_text()]
group = followers.Followers(followers.Seat(size=3, meeting_point="here"), command)
group.send({"unit": 1})
time.sleep(float(sys.argv[2]))
group.finished()
time.sleep(2)
print("went on")
"""

RANK = """
import json, os, signal, socket, sys, time
from tempering.engine.channel import Channel
from tempering.engine.followers import Seat
seat = Seat.from_text(sys.argv[2])
assert (seat.size, seat.meeting_point) == (3, "here") and seat.rank in (1, 2)
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
assert channel.receive() == [{"unit": 1}]
if seat.rank == 2:
    ACT
channel.receive()
"""

FAILED = 'channel.send({"kind": "result", "result": {"status": "failed", "error": "out of memory: all of it"}})'
DONE = 'channel.send({"kind": "result", "result": {"status": "completed", "error": ""}})'


def ends(act: str, rank_zero_takes: float) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", RANK_ZERO, RANK.replace("ACT", act), str(rank_zero_takes)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    lines = (finished.stderr.strip() or finished.stdout.strip()).splitlines()
    return finished.returncode, lines[-1]


@pytest.mark.parametrize(
    ("act", "rank_zero_takes", "end"),
    [
        (DONE, 0.0, (0, "went on")),
        (FAILED, 0.0, (0, "went on")),  # rank 0 has come to the same end, and reports it
        (FAILED, 30.0, (1, "rank 2: out of memory: all of it")),  # rank 0 waits for a rank that has given up
        ("os.kill(os.getpid(), signal.SIGKILL)", 30.0, (1, "rank 2 was killed by signal 9")),
        ("sys.exit(7)", 30.0, (1, "rank 2 ended with code 7")),
    ],
)
def test_a_group_goes_on_while_its_ranks_agree(act: str, rank_zero_takes: float, end: tuple[int, str]) -> None:
    assert ends(act, rank_zero_takes) == end


def test_a_seat_survives_the_command_line() -> None:
    seat = Seat(2, 4, "a place", checkpointing=True)
    assert Seat.from_text(seat.as_text()) == seat
