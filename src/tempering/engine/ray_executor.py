"""Runs units on a Ray cluster: one actor a share of a node, each with a model and data of its own.

Nodes need not share a file system. What lies on the driver's disk goes through Ray's object store, in pieces, and is put down once a node
under its digest; a defended model comes back the same way, and is in the run directory before anything that waits for it begins. The
driver alone commits. A worker that dies, with its node or alone, has its units tried once more, and nodes that join are put to work.
Fine-tuning runs of small models go to a worker several at a time, which trains them in one pass as a worker of one machine does.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tempering.engine.environment import describe_environment, usable_cores
from tempering.engine.executor import TRIES, Assignment, Finished, lost
from tempering.engine.local import memory_of_worker
from tempering.engine.messages import heard, rebuilt
from tempering.engine.ray_worker import RayWorker, clear
from tempering.engine.results import UnitResult
from tempering.engine.shipping import DEFENDED, Arrival, Packer, Parcel, pinned
from tempering.engine.units import CODE_VERSION, Plan, PlannedTarget, Unit
from tempering.errors import TemperingError
from tempering.redaction import one_line

SURVEY_SECONDS = 1.0
"""How long the driver waits for words of its workers before it asks the cluster what nodes it has."""

CLEARING_SECONDS = 60.0
"""How long nodes may take to remove what they were sent; a busy node takes many seconds to start the process that does it."""


@dataclass(frozen=True)
class Node:
    """A living node of the cluster.

    Attributes:
        id: what Ray calls it.
        cpus: cores that Ray gives out there.
        gpus: accelerators, likewise.
        memory: bytes, likewise; 0 where Ray does not tell.
    """

    id: str
    cpus: int
    gpus: int
    memory: int

    def room(self, threads: int, memory: int, on_gpu: bool) -> int:
        """How many workers there should be on this node: as many as its cores, memory and accelerators allow, but one at least.

        Args:
            threads: that each computes with.
            memory: bytes that each takes.
            on_gpu: each needs an accelerator of its own; a node without any has no room.
        """
        fitting = self.memory // memory if self.memory else self.cpus
        room = max(1, min(self.cpus // threads, fitting))
        return min(room, self.gpus) if on_gpu else room


class RayExecutor:
    """Runs units in actors of a Ray cluster."""

    def __init__(self, address: str | None, workers: int | None, together: int | None = None) -> None:
        """Connect.

        Args:
            address: ``host:port``, or ``auto``; ``None``: that of ``RAY_ADDRESS``, or a cluster on this machine that ends with the run.
            workers: actors at once; ``None`` takes as many as there is room for.
            together: runs that an actor trains in one pass at most; ``None`` takes as many as its memory holds where that pays.

        Raises:
            TemperingError: Ray is not installed, or there is no cluster at the address.
        """
        self._ray, self._ours = _connected(address)
        self._most = workers
        self._together = together

    def threads(self, plan: Plan) -> int:
        """The cores of the smallest node, divided among as many workers as there is room for."""
        nodes = nodes_of(self._ray)
        need, on_gpu = memory_of_worker(plan.targets), _needs_gpu(plan.targets)
        return min((max(1, node.cpus // max(1, node.room(1, need, on_gpu))) for node in nodes), default=1)

    def run(self, assignment: Assignment) -> Generator[Finished, None, None]:
        """Run what is left."""
        from tempering.engine.companions import gathered  # with the attacks, which a light command does without

        crew = _Crew(self._ray, assignment, self._most, gathered(assignment.agenda, assignment.targets, self._together))
        try:
            while crew.is_busy:
                crew.hire()
                yield from crew.listen()
        finally:
            crew.end()

    def close(self) -> None:
        """Leave the cluster; one that was started for this run ends."""
        if self._ours:
            self._ray.shutdown()


def nodes_of(ray: Any) -> list[Node]:
    """The nodes of the cluster that can compute."""
    found = []
    for node in ray.nodes():
        resources = node["Resources"]
        if node["Alive"] and resources.get("CPU", 0) >= 1:
            counts = (int(resources.get(name, 0)) for name in ("CPU", "GPU", "memory"))
            found.append(Node(node["NodeID"], *counts))
    return found


@dataclass(eq=False)
class _Hand:
    """One actor, seen from the driver.

    Attributes:
        actor: Ray's handle.
        node: where it is.
        awaited: its greeting, or the stream of what it says of its units; ``None`` while it has none.
        environment: what it computes with, once it has greeted.
        units: what it has yet to finish, by the places in which it was given them, as they were taken from the agenda.
        model: the defended model that it is sending.
    """

    actor: Any
    node: str
    awaited: Any
    environment: dict[str, Any] | None = None
    units: dict[int, Unit] = field(default_factory=dict)
    model: Arrival | None = None


@dataclass
class _Crew:
    """The actors of a run, and the units that they have yet to run."""

    ray: Any
    assignment: Assignment
    most: int | None
    together: int
    hands: list[_Hand] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    shipped: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    staffed: set[str] = field(default_factory=set)
    surveyed: float = -SURVEY_SECONDS
    warned: bool = False

    def __post_init__(self) -> None:
        """Look up what every worker is told and takes."""
        self.agenda, self.watcher = self.assignment.agenda, self.assignment.watcher
        self.packer = Packer(self.assignment.models)
        self.name = uuid.uuid4().hex[:16]
        self.need, self.on_gpu = memory_of_worker(self.assignment.targets), _needs_gpu(self.assignment.targets)
        self.remaining = Counter(unit.defended for unit in self.agenda)

    @property
    def is_busy(self) -> bool:
        """Whether anything is left or under way."""
        return bool(self.agenda) or any(hand.units for hand in self.hands)

    def hire(self) -> None:
        """Look now and again which nodes there are, and start workers where there is room."""
        if time.monotonic() - self.surveyed < SURVEY_SECONDS:
            return
        nodes = {node.id: node for node in nodes_of(self.ray)}
        self.surveyed = time.monotonic()
        for hand in [hand for hand in self.hands if not hand.units and hand.node not in nodes]:
            self._dismiss(hand)
        sound = [node for node in nodes.values() if self.failures[node.id] < TRIES]
        wanted = len(self.agenda) + sum(bool(hand.units) for hand in self.hands)
        wanted = wanted if self.most is None else min(wanted, self.most)
        while len(self.hands) < wanted:
            working = Counter(hand.node for hand in self.hands)
            free = {node.id: node.room(self._threads_on(node), self.need, self.on_gpu) - working[node.id] for node in sound}
            best = max(free, key=lambda name: free[name], default=None)
            if best is None or free[best] <= 0:
                break
            self._start(nodes[best])
        if not self.hands and not self.warned:
            self.warned = True
            self.watcher.warned(f"no node of the Ray cluster has {'a GPU' if self.on_gpu else 'a core'} to give; waiting for one to join")

    def listen(self) -> Iterator[Finished]:
        """Wait until some worker says something, but not for long."""
        awaited = {id(hand.awaited): hand for hand in self.hands if hand.awaited is not None}
        if not awaited:
            time.sleep(SURVEY_SECONDS)
            return
        ready, _ = self.ray.wait([hand.awaited for hand in awaited.values()], timeout=SURVEY_SECONDS)
        for reference in ready:
            hand = awaited[id(reference)]
            self.hands.remove(hand)
            self.hands.append(hand)  # last, so that one that says much does not keep the others from being heard
            try:
                message = self.ray.get(next(hand.awaited) if hand.units else hand.awaited)
            except self.ray.exceptions.RayError as error:
                yield from self._bury(hand, error)
            else:
                yield from self._hear(hand, message)

    def end(self) -> None:
        """End every worker at once, and remove what their nodes were sent."""
        for hand in list(self.hands):
            self._dismiss(hand)
        with suppress(self.ray.exceptions.RayError, KeyError):
            living = {node.id for node in nodes_of(self.ray)}
            clearing = [self._placed(clear, node, num_cpus=0).remote(self.name) for node in sorted(self.staffed & living)]
            if clearing:
                self.ray.wait(clearing, num_returns=len(clearing), timeout=CLEARING_SECONDS)

    def _start(self, node: Node) -> None:
        """Start a worker on a node. It is given work when it has greeted, so that one that waits for room holds nothing up."""
        options = {"num_cpus": self._threads_on(node), "num_gpus": int(self.on_gpu), "max_restarts": 0}
        actor = self._placed(RayWorker, node.id, **options).remote(self.name, self.assignment.threads)
        self.hands.append(_Hand(actor, node.id, actor.greet.remote()))
        self.staffed.add(node.id)

    def _placed(self, what: Any, node: str, **options: Any) -> Any:
        """A class or function of ours, for Ray to run on one node and nowhere else."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return self.ray.remote(what).options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), **options)

    def _threads_on(self, node: Node) -> int:
        return min(self.assignment.threads, node.cpus)

    def _hear(self, hand: _Hand, message: dict[str, Any]) -> Iterator[Finished]:
        if not hand.units:
            self._welcome(hand, message)
        elif message["kind"] == "error":
            raise rebuilt(message)
        elif message["kind"] == "model":
            hand.model = Arrival(Parcel.from_json(message["parcel"]), self.assignment.models)
        elif message["kind"] == "piece" and hand.model is not None:
            hand.model.add(message["file"], message["content"])
        elif (result := heard(message, unit := hand.units[message["of"]], self.watcher)) is not None:
            if hand.model is not None:
                hand.model.settle()
                hand.model = None
            del hand.units[message["of"]]
            hand.awaited = hand.awaited if hand.units else None
            self._finished(unit, result)
            yield Finished(unit, result, hand.environment)

    def _welcome(self, hand: _Hand, greeting: dict[str, Any]) -> None:
        """Take a worker on, and give it its first units."""
        theirs, ours = (greeting["environment"]["tempering"], greeting["code"]), (describe_environment()["tempering"], CODE_VERSION)
        if theirs != ours:
            versions = "a node of the Ray cluster has tempering {} (code {}), and the driver {} (code {})".format(*theirs, *ours)
            raise TemperingError(versions, "install the same everywhere")
        hand.environment, hand.awaited = greeting["environment"], None
        self._give_next(hand)

    def _give_next(self, hand: _Hand) -> None:
        """Give a worker what is next, or send it home where nothing is left; it sits idle where all that is left waits for others."""
        units = self.agenda.take_together(self.together, max(1, len(self.hands)))
        if units:
            needed = {parcel.digest: (parcel, unit) for unit in units for parcel in self.packer.parcels(unit)}
            content = {digest: self._sent(parcel, unit) for digest, (parcel, unit) in needed.items()}
            described = [parcel.as_json() for parcel, _ in needed.values()]
            hand.units = dict(enumerate(units))
            sent = [pinned(unit).as_json() for unit in units]
            hand.awaited = hand.actor.run.options(num_returns="streaming").remote(sent, described, content)
        elif not self.agenda:
            self._dismiss(hand)

    def _sent(self, parcel: Parcel, unit: Unit) -> dict[str, list[Any]]:
        """References to a parcel's pieces in the object store, where it is put when the first unit needs it."""
        if parcel.digest not in self.shipped:
            self.shipped[parcel.digest] = {file: [self.ray.put(piece) for piece in parcel.pieces(file)] for file in parcel.files}
            if parcel.key.startswith(DEFENDED):
                self.models[unit.defended] = parcel.digest
        return self.shipped[parcel.digest]

    def _finished(self, unit: Unit, result: UnitResult) -> None:
        """Take in a result and give work to everyone who has none, since others may have waited for it."""
        self.agenda.finished(unit, result)
        self.remaining[unit.defended] -= 1
        if not self.remaining[unit.defended] and unit.defended in self.models:
            self.shipped.pop(self.models.pop(unit.defended))  # nobody needs that model any more, so the object store may forget it
        for hand in [hand for hand in self.hands if hand.environment is not None and not hand.units]:
            self._give_next(hand)

    def _dismiss(self, hand: _Hand) -> None:
        self.hands.remove(hand)
        if hand.model is not None:
            hand.model.give_up()
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(hand.actor)

    def _bury(self, hand: _Hand, error: Exception) -> Iterator[Finished]:
        """A worker is gone without a word: try its units once more, each alone, on another one."""
        units, words = list(hand.units.values()), _last_words(error)
        self._dismiss(hand)
        self.surveyed = -SURVEY_SECONDS  # its node may be gone too
        if not units:
            self._count_failure(hand.node, words)
        for unit in units:
            self.deaths[unit.hash] += len(units) == 1  # of several, each is tried alone before it is blamed
            if self.deaths[unit.hash] < TRIES:
                self.agenda.put_back(unit)
                self.watcher.warned(f"the worker of {unit.label} is gone ({words}); the unit is tried once more")
            else:
                result = lost("on the Ray cluster died", f": {words}")
                self._finished(unit, result)
                yield Finished(unit, result)

    def _count_failure(self, node: str, words: str) -> None:
        """A worker could not start. Where that is so everywhere, nothing will ever be computed."""
        living = {each.id for each in nodes_of(self.ray)}
        if node not in living:
            return
        self.failures[node] += 1
        if self.failures[node] < TRIES:
            return
        if not self.hands and all(self.failures[each] >= TRIES for each in living):
            raise TemperingError(f"no worker can start on the Ray cluster: {words}", "see that tempering is installed on every node")
        self.watcher.warned(f"no worker can start on node {node[:12]} of the Ray cluster, which is left out: {words}")


def _last_words(error: Exception) -> str:
    """What Ray says of a dead worker, or what it died of, in one line."""
    text = str(getattr(error, "cause", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return one_line(lines[-1] if "Traceback" in text else " ".join(lines)) if lines else type(error).__name__


def _needs_gpu(targets: Iterable[PlannedTarget]) -> bool:
    return any(target.device == "cuda" for target in targets)


def _connected(address: str | None) -> tuple[Any, bool]:
    """Ray, connected, and whether that is ours to undo.

    Raises:
        TemperingError: it is not installed, or there is no cluster at the address.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise TemperingError("the executor ray needs the package ray, which is not installed", "pip install 'tempering[ray]'") from None
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False, "num_cpus": usable_cores()} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False, **own)
    except Exception as error:  # whatever the network, or another version of Ray, makes it raise
        raise TemperingError(
            f"cannot join the Ray cluster at {address}: {one_line(str(error)) or type(error).__name__}",
            "start one with: ray start --head, or leave --address out",
        ) from error
    _silence(ray)
    return ray, True


def _silence(ray: Any) -> None:
    """Keep what Ray says of dead nodes off standard output, which is for results; ``log_to_driver`` does not, and events tell it."""
    module: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(module, "print_to_stdstream"):
        module.print_to_stdstream = lambda *arguments, **options: None


_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0"}
"""Keeps Ray's advice off standard error; a user's setting wins."""
