"""Load from several worker processes: on this machine, or started by hand on others for loads beyond one machine."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from typing import Any

import numpy as np

from ebbtide.loadtest._triton import write_messages
from ebbtide.loadtest.access import ACCESS_VARIABLE, Access, write_access
from ebbtide.loadtest.arrivals import Floats
from ebbtide.loadtest.engine import interrupts
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.samples import Phase, read_phase
from ebbtide.loadtest.worker import GO, IGNORE_INTERRUPTS, KEY_VARIABLE, STOP

_START_S, _STOP_S = 180.0, 10.0
_LONGEST_WAIT_S = 0.2
_MODULE = "ebbtide.loadtest.worker"


class Workers:
    """Sends the requests of a workload from several processes; use it as a context manager.

    Request number n is the same as with `Generator`, whoever sends it, so both give the same totals. Coordinator and
    workers prove to each other that they know a key (HMAC); what they send is not encrypted.
    """

    def __init__(
        self,
        target: str,
        workload: Workload,
        *,
        timeout_s: float,
        workers: int,
        bind: str = "127.0.0.1:0",
        remote: bool = False,
        access: Access | None = None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Prepares the workers without starting them.

        Args:
            target: ``host:port``, as the workers reach it.
            workload: Requests and their order.
            timeout_s: Deadline of each request.
            workers: How many.
            bind: Where the coordinator listens for workers, ``host:port``; port 0 takes a free one.
            remote: Whether the workers are started by hand, on other machines; otherwise they are started here.
            access: Encryption and token. Workers read it from a file of theirs, and never over the connection.
            say: Called with the command that starts remote workers.

        Raises:
            LoadTestError: `bind` is not an address, or `access` does not fit the target.
        """
        host, _, port = bind.rpartition(":")
        if not host or not port.isdigit():
            raise LoadTestError.of_field("bind", bind, "host:port, as in 127.0.0.1:0 or 10.0.0.5:5557")
        self._bind = host, int(port)
        self._target, self._workload, self._timeout_s = target, workload, timeout_s
        self._count, self._remote, self._say = workers, remote, say
        self._access = access or Access()
        # Checked here: a worker would fail one by one.
        self._access.metadata(target)
        self._key = secrets.token_bytes(32)
        self._stack = ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []

    def __enter__(self) -> Workers:
        with ExitStack() as started:
            listener = started.enter_context(Listener(self._bind, backlog=self._count, authkey=self._key))
            folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="ebbtide-loadtest-")))
            started.callback(self._stop)
            self._start(folder, str(listener.address[0]), str(listener.address[1]))
            self._accept(listener)
            self._give()
            self._stack = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers of this machine."""
        return [process.pid for process in self._processes]

    @property
    def sink_host(self) -> str:
        """Where a server that does nothing must listen, so that the workers reach it."""
        return self._bind[0]

    def aim(self, target: str, *, plain: bool = False) -> None:
        """As `Generator.aim`."""
        self._tell_all({"do": "aim", "target": target, "plain": plain})
        self._hear_all(_START_S)

    def open_model(self, send_s: Floats, duration_s: float) -> Phase:
        """As `Generator.open_model`."""
        shares = [send_s[number :: self._count] for number in range(self._count)]
        return self._phase(duration_s, shares, [None] * self._count)

    def closed_model(self, concurrency: int, duration_s: float) -> Phase:
        """As `Generator.closed_model`."""
        shares: list[int | None] = [len(range(number, concurrency, self._count)) for number in range(self._count)]
        return self._phase(duration_s, [np.zeros(0)] * self._count, shares)

    def _phase(self, duration_s: float, times: list[Floats], concurrency: list[int | None]) -> Phase:
        for connection, share, at_a_time in zip(self._connections, times, concurrency, strict=True):
            self._tell(connection, {"do": "phase", "duration_s": duration_s, "concurrency": at_a_time})
            self._tell(connection, np.ascontiguousarray(share, dtype=np.float64).tobytes())
        self._hear_all(_START_S)
        with interrupts(lambda: self._tell_all(STOP)):
            # All workers have their share: a short message starts them together.
            self._tell_all(GO)
            phases = [read_phase(answer) for answer in self._hear_all(3 * duration_s + self._timeout_s + _START_S)]
        return Phase(
            records=np.concatenate([phase.records for phase in phases]),
            sent=sum(phase.sent for phase in phases),
            due=sum(phase.due for phase in phases),
            duration_s=max(phase.duration_s for phase in phases),
            began_unix_s=min(phase.began_unix_s for phase in phases),
            # The busiest worker's, since it is the first to be a limit.
            cpu_s=max(phase.cpu_s for phase in phases),
            interrupted=any(phase.interrupted for phase in phases),
        )

    def _start(self, folder: Path, host: str, port: str) -> None:
        if self._remote:
            file = "" if self._access == Access() else f" {ACCESS_VARIABLE}=access.json"
            command = f"{KEY_VARIABLE}={self._key.hex()}{file} python -m {_MODULE} {host} {port}"
            self._say(f"start {self._count} workers, each with: {command}")
            return
        environment = {**os.environ, KEY_VARIABLE: self._key.hex()}
        if self._access != Access():
            environment[ACCESS_VARIABLE] = str(write_access(self._access, folder / "access.json"))
        for _ in range(self._count):
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", _MODULE, host, port, IGNORE_INTERRUPTS],
                    env=environment,
                    # Python looks for modules in the working folder first: this one is empty.
                    cwd=folder,
                )
            )

    def _accept(self, listener: Listener) -> None:
        """Waits for the workers; whoever does not know the key is turned away."""

        def accept() -> None:
            while len(self._connections) < self._count:
                try:
                    connection = listener.accept()
                except (AuthenticationError, EOFError, ConnectionError):
                    continue
                except OSError:
                    return
                self._connections.append(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        end = None if self._remote else time.monotonic() + _START_S
        while thread.is_alive():
            thread.join(0.05)
            if any(process.poll() is not None for process in self._processes):
                raise LoadTestError("workers: got one that ended before the test; its error is above")
            if end is not None and time.monotonic() > end:
                raise LoadTestError(
                    f"workers: got {len(self._connections)} after {_START_S:g} s; expected {self._count}"
                )

    def _give(self) -> None:
        """Gives the workers their requests."""
        workload = self._workload
        packed = [write_messages(messages) for messages in workload.messages.values()]
        plan = {
            "do": "take",
            "target": self._target,
            "timeout_s": self._timeout_s,
            "workers": self._count,
            "mix": workload.mix,
            "users": workload.users,
            "seed": workload.seed,
            "by_user": workload.by_user,
        }
        for number, connection in enumerate(self._connections):
            self._tell(connection, {**plan, "worker": number})
            for messages in packed:
                self._tell(connection, messages)
        self._hear_all(_START_S)

    def _tell_all(self, what: dict[str, Any] | bytes) -> None:
        for connection in self._connections:
            self._tell(connection, what)

    def _tell(self, connection: Connection, what: dict[str, Any] | bytes) -> None:
        # A worker that is lost is noticed when its answer is missing.
        with suppress(OSError):
            connection.send_bytes(what if isinstance(what, bytes) else json.dumps(what).encode())

    def _hear_all(self, timeout_s: float) -> list[bytes]:
        """One answer of each worker, in their order.

        Raises:
            LoadTestError: A worker is lost, does not answer in time, or reports an error.
        """
        answers: dict[Connection, bytes] = {}
        end = time.monotonic() + timeout_s
        while len(answers) < self._count:
            missing = [connection for connection in self._connections if connection not in answers]
            left_s = end - time.monotonic()
            # In short waits: Ctrl-C does not end one if the system gives the signal to another thread than this.
            ready = wait(missing, max(0.0, min(left_s, _LONGEST_WAIT_S)))
            if not ready and left_s > 0:
                continue
            lost = 0 if ready else len(missing)
            for connection in ready:
                assert isinstance(connection, Connection)  # noqa: S101 - nothing else was waited for
                try:
                    answers[connection] = connection.recv_bytes()
                except (EOFError, OSError):
                    lost += 1
            if lost:
                raise LoadTestError(f"workers: {lost} of {self._count} are lost; expected an answer of each")
        for answer in answers.values():
            if answer.startswith(b'{"error"'):
                raise LoadTestError(json.loads(answer)["error"])
        return [answers[connection] for connection in self._connections]

    def _stop(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._connections.clear()
        self._processes.clear()
