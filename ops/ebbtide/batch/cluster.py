"""The workers of a Ray cluster: plain tasks of one processor each, whose results are small.

Ray Data is not used: its streaming reads hold 2 to 5 times the data, unseen by its own accounting, and a pipeline that
maps and writes Parquet can run out of memory. Here a task gets the paths of its input and writes its part itself, so
nothing large passes through the object store. Tasks, not actors: no actor holds a processor that something else waits
for, and a task whose worker is killed runs again. Ray keeps the processes of tasks, so each loads its model once.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray

from ebbtide.batch.errors import BatchError

LOCAL = "local"
_OBJECT_STORE_BYTES = 128 * 2**20
"""Of a cluster that is started here; addresses of files and counts are all that passes through it."""
_CONNECT_TIMEOUT_S = 10.0

P = TypeVar("P")
T = TypeVar("T")


class Cluster:
    """A connection to a cluster."""

    def __init__(self, address: str, processes: int | None = None) -> None:
        """Connects, or starts a cluster on this machine; a process that is connected already stays with its cluster.

        Args:
            address: What ``ray.init`` takes, or `LOCAL`.
            processes: How many tasks are under way at a time; None for all processors but one, which is left to the
                process that asks.

        Raises:
            BatchError: There is no such cluster, or it has no processor.
        """
        self._is_mine = not ray.is_initialized()
        if self._is_mine:
            _connect(address, processes)
        self.machines = sum(bool(node["Alive"]) for node in ray.nodes())
        """That the cluster has now."""
        processors = int(ray.cluster_resources().get("CPU", 0))
        if processes is None and processors == 0:
            self.close()
            raise BatchError(
                f"--ray {address}: got a cluster without processors; expected some, or --processes for a cluster that "
                "grows when tasks wait"
            )
        self.at_once = max(processors - 1, 1) if processes is None else processes
        """Tasks that are under way at a time."""

    def close(self) -> None:
        """Ends the connection, and the cluster if it was started here."""
        if self._is_mine:
            ray.shutdown()

    def results(self, function: Callable[[P], T], pieces: Sequence[P]) -> Iterator[T]:
        """The results of a function for each piece, as they end; see `Workers.results`.

        Raises:
            BatchError: A worker was killed again and again, or does not see the files.
        """
        task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_call)
        waiting = iter(pieces)
        running: list[Any] = []
        try:
            while True:
                # No more than these: what waits in Ray would take memory for each piece.
                running += [task.remote(function, piece) for piece in islice(waiting, self.at_once - len(running))]
                if not running:
                    return
                (done,), running = ray.wait(running, num_returns=1)
                yield _result(done)
        finally:
            for one in running:
                ray.cancel(one)


def _connect(address: str, processes: int | None) -> None:
    # Workers say on the terminal what is an error anyhow.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        processors = max(len(os.sched_getaffinity(0)), (processes or 0) + 1)
        of_cluster = {"num_cpus": processors, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        ray.init(address=LOCAL, **of_cluster, **quiet)
        return
    try:
        _require_listener(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise BatchError(
            f"--ray {address}: no cluster answers: {reason}; expected the address of its head node, as `ray start "
            "--head` prints it, or local"
        ) from error


def _require_listener(address: str) -> None:
    """Connects once, because Ray tries for many minutes.

    Raises:
        OSError: Nothing listens at the address, or its host is not known.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()


def _call(function: Callable[[P], T], piece: P) -> T:
    """Runs on a worker."""
    try:
        return function(piece)
    except FileNotFoundError as error:
        raise BatchError(
            f"{error.filename}: no such file on {socket.gethostname()}, a machine of Ray; expected repository, --out "
            "and --scratch in folders that all of its machines share"
        ) from error


def _result(reference: Any) -> Any:  # noqa: ANN401 - an object reference, and what it stands for
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Its own text is the traceback on the worker.
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise BatchError(
            f"a worker of Ray was killed several times, perhaps for memory ({type(error).__name__}); what was written "
            "stays: run the same command again, with fewer --processes"
        ) from error
