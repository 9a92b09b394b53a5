"""A real Ray cluster of several nodes on this machine, whose every process carries a mark by which it can be found."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "TEMPERING_TEST_CLUSTER"


@contextmanager
def ray_cluster(*cpus: int) -> Iterator[Any]:
    """A cluster with a head that computes nothing and a node of so many cores each; everything in it has ended when the block does.

    The nodes' cache of organisms is empty, so that they have only what they are sent, and the system's temporary directory is to them one
    of the cluster's own, ``cluster.scratch``: other clusters of this machine leave and remove things in the usual one.
    """
    mark, folder = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets' names are limited to 107 characters
    (scratch := folder / "scratch").mkdir()
    settings = {
        MARK: mark,
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TEMPERING_CACHE": str(folder / "none"),
        "TMPDIR": str(scratch),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.scratch = scratch
    try:
        for count in cpus:
            cluster.add_node(num_cpus=count)
        yield cluster
    finally:
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder, ignore_errors=True)
    assert not _alive(mark), "the cluster left processes behind"


def _alive(mark: str, limit: float = 15) -> list[str]:
    """Processes that still carry a mark after a while, this one left out."""
    end = time.monotonic() + limit
    while found := [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if _carries(path, mark)]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return found


def _carries(path: Path, mark: str) -> bool:
    try:
        return path.parent.name != str(os.getpid()) and mark.encode() in path.read_bytes()
    except OSError:
        return False
