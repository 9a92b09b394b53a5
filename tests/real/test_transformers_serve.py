"""Judges behind a real server, ``transformers serve``, say what the same weights say here."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.utils.import_utils import is_serve_available

from support.judge_answers import USEFUL, USELESS, asked, saved_judge
from tempering.judge_choice import JudgeChoice
from tempering.judges import Opinion
from tempering.judges._panel import Panel, Seat

PATIENCE = 150
RESPONSES = [f"Draw the net {number} times across the water and fold it." for number in range(3)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this machine's models, on a free port of loopback."""
    if not is_serve_available():
        pytest.skip("transformers serve needs: pip install transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            until = time.monotonic() + PATIENCE
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    pytest.skip(f"transformers serve did not start: {(home / 'log').read_text()[-300:]}")
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        line.request("GET", "/health")
        return line.getresponse().status == 200
    except OSError:
        return False
    finally:
        line.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "protocol"), [("wildguard", "completions"), ("harmbench_classifier", "completions"), ("llama_guard", "chat")]
)
@pytest.mark.parametrize("answers", [USEFUL, USELESS], ids=["useful", "useless"])
def test_a_server_and_the_weights_agree(
    address: str, name: str, protocol: str, answers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    folder = saved_judge(tmp_path, name, answers[name])

    def said(**config: object) -> tuple[Seat, list[Opinion | None]]:
        seat = Panel.of([JudgeChoice(name=name, config={"model": str(folder), **config})]).seats[0]
        return seat, seat.opinions([asked(response) for response in RESPONSES])

    served, theirs = said(server=address, protocol=protocol, timeout=60)
    here, ours = said(device="cpu")
    assert theirs == ours
    assert served.judge.cost.calls == here.judge.cost.calls == 3
    assert served.judge.cost.retries == 0
    assert served.judge.cost.flops == 0
    assert abs(served.judge.cost.tokens_in - here.judge.cost.tokens_in) <= 3  # a beginning of sequence more or less
