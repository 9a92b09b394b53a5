"""The network."""

from __future__ import annotations

import os
from pathlib import Path

from torture.mutations import ROOT
from torture.promise import Mutation, Promise, Tally
from torture.promises._forks import Commands
from torture.promises._hostile_model_list import SMALL
from torture.promises._hostile_models import GIB, Room, make_sound
from torture.promises.hostile_data import SAVED

GUARD = """
import os, socket

def refuse(what):
    def refused(self_or_host, *details, **more):
        if getattr(self_or_host, "family", None) != socket.AF_UNIX:
            with open(os.environ["ATTEMPTS"], "a") as file:
                file.write(f"{what} {details or self_or_host}\\n")
            raise OSError("no network here")
        return original[what](self_or_host, *details, **more)
    return refused

original = {"connect": socket.socket.connect, "connect_ex": socket.socket.connect_ex, "sendto": socket.socket.sendto}
for what in original:
    setattr(socket.socket, what, refuse(what))
socket.getaddrinfo = refuse("getaddrinfo")
"""
"""Loaded by Python itself at the start of every process that a command starts, as ``sitecustomize``."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Run the commands over what is on this machine, in processes where every connection fails and is written down."""
    make_sound(folder)
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    (folder / "here").mkdir()
    paths = [str(folder / "guard"), *os.environ.get("PYTHONPATH", "").split(os.pathsep), str(ROOT)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "ATTEMPTS": str(folder / "attempts")}
    caches = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HOME": str(folder / "hub"), "TEMPERING_CACHE": str(folder / "cache")}
    with Commands(memory=8 * GIB, cpu_s=300, wall_s=1200) as commands:
        for arguments, codes in _commands(folder, long):
            ended = commands.temper(*arguments, folder=folder / "here", **environment, **caches)
            tried = [*ended.attempts, *((folder / "attempts").read_text().splitlines() if (folder / "attempts").exists() else [])]
            (folder / "attempts").unlink(missing_ok=True)
            words = f"temper {' '.join(arguments[:2])}"
            tally.count(not tried, f"{words}: {tried[:1]}")
            if ended.code not in codes:
                tally.count(False, f"{words} ended with {ended.code}: {ended.stderr[-200:]}")


def _commands(folder: Path, long: bool) -> list[tuple[list[str], tuple[int, ...]]]:
    """Commands with the exit codes that they may have, in an order in which each finds what it needs."""
    data, sound, other = str(folder / "data.jsonl"), str(folder / "sound"), str(folder / "other")
    (folder / "study.yaml").write_text(
        f"models: [{{reference: {sound}, unguarded: {other}, device: cpu}}]\nattacks: [prefilling]\nseeds: 1\n"
        f"data: {{reference: {data}}}\nprobes: {{prompts: 2}}\n"
    )
    (folder / "few.yaml").write_text("steps: 2\n")
    study = str(folder / "study.yaml")
    room = Room(folder / "sound", folder / "mark", folder / "sound", folder / "adapters")
    room.beside.mkdir()
    audit = ["--data", data, "--attacks", "prefilling"]
    done, refused = (0,), (2,)
    few: list[tuple[list[str], tuple[int, ...]]] = [
        *((["ls", kind], done) for kind in ("attacks", "defenses", "evaluators", "models")),
        (["validate", study], done),
        (["plan", study], done),
        (["run", study, "--out", "run", "--workers", "0"], done),
        (["resume", "run", "--workers", "0"], done),
        (["report", "run"], done),
        (["card", "run"], done),
        (["export", "run", "--out", "tables"], done),
        (["export", "run", "--out", "texts", "--format", "csv"], done),
        (["audit", str(room.adapter("someone/some-model")), *audit, *SMALL], refused),
        (["audit", str(folder / "nowhere"), *audit, *SMALL], refused),
        (["audit", sound, "--data", _pictures(folder / "pictures"), "--attacks", "prefilling", *SMALL], refused),
    ]
    if not long:
        return few
    harden = ["--defense", "refusal_sft", "--config", str(folder / "few.yaml"), "--data", data, "--prompts", "2", "--device", "cpu"]
    compared = ["--defenses", "refusal_sft", "--attacks", "prefilling", "--data", data, *SMALL]
    return [
        *few,
        (["audit", sound, *audit, *SMALL[:-4], "--workers", "1", "--device", "cpu", "--out", "worker"], done),
        (["audit", str(folder / "sound.gguf"), *audit, *SMALL, "--out", "gguf"], done),
        (["base-check", sound, "--base", other, "--data", data, *SMALL, "--out", "base"], done),
        (["base-check", sound, "--base", other, "--delta-only"], done),
        (["harden", sound, *harden, "--out", "hardened"], done),
        (["audit", "hardened", *audit, *SMALL, "--out", "of-hardened"], done),
        (["compare", sound, *compared, "--out", "compared"], done),
        (["report", "compared"], done),
        (["card", "compared", "--out", "card"], done),
        (["plan", study, "--pilot", "compared"], (0, 2)),
    ]


def _pictures(folder: Path) -> str:
    """A saved dataset whose prompts are pictures on a server."""
    SAVED["pictures of a server"].write(folder)
    return str(folder)


PROMISE = Promise(
    name="no-network",
    group="Nothing let in",
    sentence="No command asks the network for anything while all that it names is on this machine",
    attempt=attempt,
    mutations=(
        Mutation(
            "models/hub.py",
            "local_files_only=local_only",
            "local_files_only=False",
            "the hub is asked for what only a file on this machine names",
        ),
        Mutation(
            "cli.py",
            '    """Run the command line."""\n',
            '    """Run the command line."""\n    import contextlib\n    import socket\n\n    with contextlib.suppress(OSError):\n'
            '        socket.create_connection(("pypi.org", 443))\n',
            "the command line looks for a newer version of itself",
        ),
    ),
)
