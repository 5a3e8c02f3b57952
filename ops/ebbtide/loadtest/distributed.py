"""Load from several Locust workers: on this machine, or started by hand on others for loads beyond one."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ebbtide.loadtest._triton import write_messages
from ebbtide.loadtest.access import ACCESS_VARIABLE, Access, write_access
from ebbtide.loadtest.arrivals import Floats
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.samples import Phase, load_phase

# gevent patches the standard library before anything else is imported.
_PYTHON = ("-m", "gevent.monkey", "--module", "ebbtide.loadtest.locust_process")
_STOP_S = 10.0
_STEP_S = 0.5


class LocustGenerator:
    """Sends the requests of a workload from Locust workers; use it as a context manager.

    Request number n is the same as with `Generator`, whoever sends it, so both give the same totals.
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
        web_port: int | None = None,
        access: Access | None = None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Prepares the master and the workers without starting them.

        Args:
            target: ``host:port``, as the workers reach it.
            workload: Requests and their order.
            timeout_s: Deadline of each request.
            workers: How many.
            bind: Where the master listens, and its workers find it.
            remote: Whether the workers are started by hand, on other machines; else they are started here.
            web_port: Port of Locust's page on this machine; None for none.
            access: Encryption and token. Workers read it from a file, since what master and workers say to each other
                is not encrypted: on other machines from one that is there already.
            say: Told how to start remote workers.

        Raises:
            LoadTestError: `bind` is no address.
        """
        host, _, port = bind.rpartition(":")
        if not host or not port.isdigit():
            raise LoadTestError.of_field("locust_bind", bind, "host:port, as in 127.0.0.1:0 or 10.0.0.5:5557")
        self._host, self._port = host, int(port) or _free_port(host)
        self._target, self._workload, self._timeout_s = target, workload, timeout_s
        self._count, self._remote, self._web_port, self._say = workers, remote, web_port, say
        self._access = access or Access()
        # Here rather than in the workers, which can only say that they are lost.
        self._access.metadata(target)
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> LocustGenerator:
        self._folder = tempfile.TemporaryDirectory(prefix="ebbtide-loadtest-")
        try:
            web = "" if self._web_port is None else str(self._web_port)
            self._start("master", self._host, str(self._port), str(self._count), str(self._timeout_s), web)
            if self._remote:
                file = "" if self._access == Access() else f"{ACCESS_VARIABLE}=access.json "
                command = f"{file}python {' '.join(_PYTHON)} worker {self._host} {self._port}"
                self._say(f"on each of {self._count} workers: {command}")
            else:
                for _ in range(self._count):
                    self._start("worker", self._host, str(self._port))
            self._write_workload(Path(self._folder.name))
            self._ask(do="workload", folder=self._folder.name)
            self.aim(self._target)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()
        self._folder.cleanup()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers of this machine."""
        return [process.pid for process in self._processes[1:]]

    @property
    def sink_host(self) -> str:
        """Where a server that does nothing must listen, so that the workers reach it."""
        return self._host

    def aim(self, target: str, *, plain: bool = False) -> None:
        """As `Generator.aim`."""
        self._ask(do="aim", target=target, plain=plain)

    def open_model(self, send_s: Floats, duration_s: float) -> Phase:
        """As `Generator.open_model`."""
        path = Path(self._folder.name) / "send.npy"
        np.save(path, send_s, allow_pickle=False)
        return self._phase(duration_s, str(path), 0)

    def closed_model(self, concurrency: int, duration_s: float) -> Phase:
        """As `Generator.closed_model`."""
        return self._phase(duration_s, None, concurrency)

    def wait(self) -> None:
        """Waits until the master ends."""
        # In steps: a Ctrl-C that another thread receives is noticed between two of them only.
        while self._processes[0].poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._processes[0].wait(_STEP_S)

    def _phase(self, duration_s: float, send: str | None, concurrency: int) -> Phase:
        out = Path(self._folder.name) / "phase.npz"
        self._ask(do="phase", out=str(out), duration_s=duration_s, send=send, concurrency=concurrency)
        return load_phase(out)

    def _start(self, role: str, *arguments: str) -> None:
        environment = dict(os.environ)
        if role == "worker" and self._access != Access():
            environment[ACCESS_VARIABLE] = str(write_access(self._access, Path(self._folder.name) / "access.json"))
        self._processes.append(
            subprocess.Popen(
                [sys.executable, *_PYTHON, role, *arguments],
                stdin=subprocess.PIPE if role == "master" else subprocess.DEVNULL,
                stdout=subprocess.PIPE if role == "master" else subprocess.DEVNULL,
                text=True,
                env=environment,
                # Python looks for modules in the working folder first: here nothing is in the way.
                cwd=self._folder.name,
                # Ctrl-C is for this process, which then ends them in order.
                start_new_session=True,
            )
        )

    def _write_workload(self, folder: Path) -> None:
        workload = self._workload
        plan = {"mix": workload.mix, "users": workload.users, "seed": workload.seed}
        (folder / "workload.json").write_text(json.dumps(plan), encoding="utf-8")
        for name, messages in workload.messages.items():
            (folder / f"{name}.bin").write_bytes(write_messages(messages))

    def _ask(self, **command: Any) -> dict[str, Any]:  # noqa: ANN401
        master = self._processes[0]
        assert master.stdin is not None  # noqa: S101 - asked for a pipe
        assert master.stdout is not None  # noqa: S101 - asked for a pipe
        with suppress(BrokenPipeError):
            master.stdin.write(json.dumps(command) + "\n")
            master.stdin.flush()
        while not select.select([master.stdout], [], [], _STEP_S)[0]:
            pass
        line = master.stdout.readline()
        if not line:
            raise LoadTestError("locust: the master ended by itself; its words are above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LoadTestError(f"locust: {answer['error']}")
        return answer


def serve_page(
    target: str,
    workload: Workload,
    workers: int,
    bind: str,
    web_port: int,
    timeout_s: float,
    *,
    remote: bool = False,
    access: Access | None = None,
    say: Callable[[str], object],
) -> None:
    """Serves Locust's page, where users and their number are set by hand, until Ctrl-C.

    Raises:
        LoadTestError: A process does not start.
    """
    generator = LocustGenerator(
        target,
        workload,
        timeout_s=timeout_s,
        workers=workers,
        bind=bind,
        remote=remote,
        web_port=web_port,
        access=access,
        say=say,
    )
    with generator, suppress(KeyboardInterrupt):
        say(f"Locust's page: http://127.0.0.1:{web_port}; Ctrl-C ends")
        generator.wait()


def _free_port(host: str) -> int:
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
