"""The worker process: ``python -m tempering.engine.service DESCRIPTOR THREADS MODELS``.

It reads units from the socket that it inherits, runs them, and writes back every probe and result. It dies with its driver:
the system kills it on Linux, and everywhere the end of the socket does.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tempering.engine.channel import Channel

PR_SET_PDEATHSIG = 1
"""``prctl`` option of Linux: the signal to get when the parent dies."""


def main(descriptor: int, threads: int, models: Path) -> None:
    """Serve one driver until it closes the connection.

    Args:
        descriptor: of the inherited socket.
        threads: to compute with.
        models: folder of the defended models.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    _serve(channel, inbox, threads, models)


def _listen(channel: Channel, inbox: queue.SimpleQueue[dict[str, Any]]) -> None:
    while (messages := channel.receive()) is not None:
        for message in messages:
            inbox.put(message)
    os._exit(0)  # the driver is gone, and nobody wants what is being computed


def _serve(channel: Channel, inbox: queue.SimpleQueue[dict[str, Any]], threads: int, models: Path) -> None:
    from tempering.engine.messages import (  # here: imports take seconds, in which the driver may die
        error_message,
        result_message,
        run_units,
    )

    try:
        from tempering.engine.units import Unit
        from tempering.engine.worker import Worker, reproducible

        worker = Worker(models)
        with reproducible(threads):
            channel.send({"kind": "ready"})
            while True:
                units = [Unit.from_json(values) for values in inbox.get()["units"]]
                for place, result in run_units(worker, units, channel.send):
                    channel.send({**result_message(result), "of": place})
    except Exception as error:
        channel.send(error_message(error))
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
