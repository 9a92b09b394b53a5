"""Killed at random moments on a Ray cluster, driver, workers or whole nodes, a run goes on where it was."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from tempering.engine.executors import ExecutorChoice
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import Child, run
from torture.promises.killed_at_random import LOOK_S, Chain, _kill


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    from torture.ray_nodes import MARK, ray_cluster

    _toy.prepare(folder)
    if (end := run(_toy.compute, str(folder), "small", str(folder / "undisturbed"))).code != 0:
        raise RuntimeError(f"the undisturbed run ended with {end.code} {end.said}")
    reference = _toy.rows(folder / "undisturbed")
    chance, kills = random.Random(0), {"drivers with workers": 0, "workers": 0, "nodes": 0}
    with ray_cluster(1, 1) as cluster:
        mark = os.environ[MARK]
        executor = ExecutorChoice.of("ray", cluster.address)
        for number in range(12 if long else 1):
            chain = Chain(folder, "small", folder / f"ray-{number}", 1, tally, kills, executor)
            chain.arguments = (*chain.arguments[:3], None, *chain.arguments[4:])
            before = dict(kills)
            problem = chain.go(
                reference,
                lambda child, turn=number: _disturb(child, cluster, mark, chance, kills, _TURNS[turn % len(_TURNS)]),  # type: ignore[misc]
                most=1,
            )
            if nodes := kills["nodes"] - before["nodes"]:
                tally.count(not problem, f"ray-{number}, of which a node was killed: {problem}", trials=nodes)
            if _TURNS[number % len(_TURNS)] == "worker" and (workers := kills["workers"] - before["workers"]):
                tally.count(not problem, f"ray-{number}, of which a worker was killed, and not its driver: {problem}", trials=workers)
    for name, count in kills.items():
        tally.note(f"{name} killed", count)


_TURNS = ("worker", "node and driver", "worker and driver")
"""What is killed, in turns. A driver that is killed too is followed by one that looks anew for what is left to do; one that lives must
know it by itself."""


def _disturb(child: Child, cluster: Any, mark: str, chance: random.Random, kills: dict[str, int], what: str) -> str:
    """Kill a worker, or a node with all that is on it; ask for the driver's end when more is done, or not at all (``""``)."""
    directory = Path(child.arguments[2])
    said = ""
    for units in sorted(chance.sample(range(1, 7), 2)):
        while len(_toy.standing(directory)) < units and child.alive:
            time.sleep(LOOK_S)
        if not child.alive:
            return ""
        if not said and what == "node and driver":
            cluster.remove_node(chance.choice(sorted(cluster.worker_nodes, key=str)), allow_graceful=False)
            cluster.add_node(num_cpus=1)
            kills["nodes"] += 1
            said = f"a node when {units} units were done"
        elif not said and (workers := _ray_workers(mark)):
            _kill(chance.choice(workers))
            if what == "worker":
                kills["workers"] += 1
                return ""
            said = f"worker when {units} units were done"
    return f"{said}, driver when {units} were"


def _ray_workers(mark: str) -> list[int]:
    """Processes of the cluster that compute units. A node's own agents are called "ray::" too, and with one of them its node would end."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes() and (path / "cmdline").read_bytes().startswith(b"ray::RayWorker"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


PROMISE = Promise(
    name="killed-on-ray",
    group="Nothing lost",
    sentence=(
        "Killed (SIGKILL) at random moments on a Ray cluster, drivers, workers and whole nodes, and resumed, a run yields the same tables, "
        "and no unit that was done is repeated."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/ray_executor.py",
            """                self.agenda.put_back(unit)
                self.watcher.warned(f"the worker of""",
            """                self.watcher.warned(f"the worker of""",
            "the unit of a worker that died is forgotten",
        ),
    ),
    needs=("ray",),
)
