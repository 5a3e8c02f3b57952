"""Starts the embedded Triton on this machine, waits until it is ready, and stops it cleanly."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ebbtide.serve import startup, supervisor
from ebbtide.serve.config import ServerConfig
from ebbtide.serve.distribution import embedded_server
from ebbtide.serve.errors import (
    ModelLoadError,
    PortInUseError,
    ServerCrashError,
    ServerStalledError,
    ServerStartError,
    ServerStateError,
)
from ebbtide.serve.launch import command_line, environment
from ebbtide.serve.plain_paths import has_plain_state, is_plain, plain_path, plain_scratch, plain_state
from ebbtide.serve.ports import Ports, authority, choose_ports, connect_host
from ebbtide.serve.stalls import STALLED_S, StallWatch
from ebbtide.serve.startup import LogFollower, Progress
from ebbtide.store import ADDRESS_VARIABLE

logger = logging.getLogger("ebbtide.serve")

_POLL_INTERVAL_S = 0.05
_PORT_ATTEMPTS = 5
_CRASHES = 3
"""So often a server may end by a signal before its start fails."""
_SIGNALLED = 128
"""Exit statuses above it tell a signal."""
_TAIL_LINES = 20
_SUPERVISOR_MARGIN_S = 5.0


class TritonServer:
    """A tritonserver process of this machine, as a context manager.

    Example:
        with TritonServer(ServerConfig(Path("model_repository"))) as server:
            client = tritonclient.grpc.InferenceServerClient(server.grpc_url)

    The server lives in a session of its own, so that Ctrl-C reaches only the caller, whose `with` then stops the
    server once. It also stops when the caller dies, even by SIGKILL (see `ebbtide.serve.supervisor`).

    An instance is used from one thread.
    """

    def __init__(self, config: ServerConfig, *, on_progress: Callable[[Progress], None] | None = None) -> None:
        """Prepares a server without starting it.

        Args:
            config: what to serve, and where.
            on_progress: called while the server starts, whenever a model was loaded or refused.
        """
        self._config = config
        self._on_progress = on_progress
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._ports: Ports | None = None
        self._startup_s = 0.0
        self._watches_stalls = True
        self._log_path: Path | None = None
        self._scratch: Path | None = None
        self._cleanup: weakref.finalize[..., TritonServer] | None = None

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def config(self) -> ServerConfig:
        """The settings this server was made with."""
        return self._config

    @property
    def grpc_url(self) -> str:
        """``host:port``, as Triton's gRPC clients take it."""
        return authority(self._config.host, self._running_ports().grpc)

    @property
    def http_url(self) -> str:
        """The KServe v2 HTTP endpoint."""
        return f"http://{authority(self._config.host, self._running_ports().http)}"

    @property
    def metrics_url(self) -> str:
        """The Prometheus endpoint."""
        return f"http://{authority(self._config.host, self._running_ports().metrics)}/metrics"

    @property
    def pid(self) -> int:
        """Process id of tritonserver itself."""
        self._running_ports()
        assert self._pid is not None  # noqa: S101 - set with the ports
        return self._pid

    @property
    def log_path(self) -> Path:
        """The file with the server's output."""
        if self._log_path is None:
            raise ServerStateError("the server was not started: it has no log yet")
        return self._log_path

    @property
    def startup_s(self) -> float:
        """Seconds that the last start took."""
        return self._startup_s

    def hold_ports(self) -> None:
        """Makes later starts use the ports of this one, free ones that were chosen too."""
        ports = self._running_ports()
        self._config = dataclasses.replace(
            self._config, grpc_port=ports.grpc, http_port=ports.http, metrics_port=ports.metrics
        )

    def log_tail(self) -> str:
        """The last lines of the server's output."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server and returns when every model is ready.

        Raises:
            EmbeddedServerError: the embedded Triton can't run in this environment.
            PortInUseError: a port that the config names is taken.
            ModelLoadError: the server refused a model.
            ServerStartError: the server died, or was not ready within `startup_timeout_s`.
            ServerStateError: it runs already.
        """
        if self._process is not None:
            raise ServerStateError("the server was started already: stop it first")
        config, began = self._config, time.monotonic()
        fixed = None not in (config.grpc_port, config.http_port, config.metrics_port)
        crashes, self._watches_stalls = 0, True
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._start_once()
            except PortInUseError:
                # Another process bound the free port between its choice and the server's bind.
                if fixed or self._ports is None or attempt == _PORT_ATTEMPTS:
                    raise
                self._ports = None
            except ServerCrashError as error:
                # Seen where a busy machine let it wait for seconds: the Python backend ends the server with an uncaught
                # `boost::interprocess::lock_exception`.
                crashes += 1
                if crashes == _CRASHES or attempt == _PORT_ATTEMPTS:
                    raise
                logger.warning("%s; it is started again", str(error).partition(". The end of its log")[0])
                self._ports = None
            except ServerStalledError as error:
                if attempt == _PORT_ATTEMPTS:
                    raise
                # A model may well wait for something of its own: the second start has all the time that it needs.
                self._watches_stalls = False
                logger.warning("%s; it is started again", str(error).partition(". The end of its log")[0])
                self._ports = None
            else:
                self._startup_s = time.monotonic() - began
                return

    def stop(self) -> None:
        """Stops the server: SIGTERM, `stop_timeout_s` of grace, SIGKILL. Does nothing where none runs."""
        self._end_process()
        self._ports = None
        self._pid = None
        self._remove_scratch()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits until the server ends by itself.

        Returns:
            Its exit status, 128 + n where signal n ended it; None if it still runs after `timeout_s`.
        """
        if self._process is None:
            raise ServerStateError("the server is not running")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _running_ports(self) -> Ports:
        if self._process is None or self._ports is None:
            raise ServerStateError("the server is not running: use it within its `with` block")
        return self._ports

    def _start_once(self) -> None:
        config = self._config
        distribution = embedded_server()
        repository = config.model_repository.resolve()
        ports = choose_ports(config.host, config.grpc_port, config.http_port, config.metrics_port)
        state = environment(distribution, config).get(ADDRESS_VARIABLE, "")
        has_plain_paths = is_plain(repository) and is_plain(distribution.root) and has_plain_state(state)
        log_path = self._open_log(needs_links=not has_plain_paths)
        if self._scratch is not None:
            repository = plain_path(repository, self._scratch, "models")
            distribution = distribution.at(plain_path(distribution.root, self._scratch, "triton"))
            state = plain_state(state, self._scratch)
        log = LogFollower(log_path)
        # /dev/shm is one name space for the whole machine.
        shm_prefix = f"ebbtide_{os.getpid()}_{secrets.token_hex(4)}_"
        started = False
        try:
            with log_path.open("ab") as output:
                self._process = subprocess.Popen(
                    [
                        # Isolated and without site: the supervisor needs the standard library alone, and at once.
                        *(sys.executable, "-I", "-S", supervisor.__file__),
                        *(str(os.getpid()), str(config.stop_timeout_s), shm_prefix),
                        *(str(self._scratch or ""), "--"),
                        *command_line(distribution, config, repository, ports, shm_prefix),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    env={**environment(distribution, config), **({ADDRESS_VARIABLE: state} if state else {})},
                    start_new_session=True,
                )
            self._ports = ports
            self._read_pid()
            self._wait_until_ready(log)
            started = True
        finally:
            if not started:
                self._end_process()
                if self._cleanup is not None:
                    # The error names the log in it.
                    self._cleanup.detach()

    def _open_log(self, *, needs_links: bool) -> Path:
        """Creates the log and, for a log without a name of its own and for links, the scratch folder."""
        self._remove_scratch()
        path = self._config.log_file
        if path is None or needs_links:
            self._scratch = plain_scratch("ebbtide-triton-")
            self._cleanup = weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
            path = path or self._scratch / "tritonserver.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._log_path = path
        return path

    def _read_pid(self) -> None:
        assert self._process is not None  # noqa: S101 - called after Popen
        assert self._process.stdout is not None  # noqa: S101 - asked for a pipe
        line = self._process.stdout.readline()
        self._process.stdout.close()
        if not line:
            raise ServerStartError(f"tritonserver could not be executed, see {self._log_path}:\n{self.log_tail()}")
        self._pid = int(line)

    def _wait_until_ready(self, log: LogFollower) -> None:
        assert self._process is not None  # noqa: S101 - called after Popen
        config = self._config
        begun = time.monotonic()
        expected = startup.models_in(config.model_repository)
        if config.model_control == "explicit" and config.load_models != ("*",):
            expected = list(config.load_models)
        reported: Progress | None = None
        stalls = StallWatch(self.pid) if self._watches_stalls else None
        while True:
            elapsed_s = time.monotonic() - begun
            # An ensemble loads the models it is made of, which `load_models` need not name.
            log.read()
            total = len({*expected, *log.loaded, *log.failed})
            progress = Progress(tuple(log.loaded), tuple(log.failed), total, elapsed_s)
            if self._on_progress and (
                reported is None or (reported.loaded, reported.failed) != (progress.loaded, progress.failed)
            ):
                self._on_progress(progress)
                reported = progress
            status = self._process.poll()
            if status is not None:
                self._raise_died(log, status)
            if self._serves():
                break
            if elapsed_s > config.startup_timeout_s:
                raise ServerStartError(
                    f"the server was not ready after startup_timeout_s={config.startup_timeout_s}: loaded "
                    f"{len(log.loaded)} of {total} models ({', '.join(log.loaded) or 'none'}). The end of "
                    f"{self._log_path}:\n{log.tail(_TAIL_LINES)}"
                )
            if stalls is not None and stalls.has_stalled(len(log.loaded)):
                missing = ", ".join(sorted({*expected} - {*log.loaded})) or "none"
                raise ServerStalledError(
                    f"the server did nothing for {STALLED_S:g} s while it was starting, with {len(log.loaded)} of "
                    f"{total} models loaded (not: {missing}). The end of its log ({self._log_path}):\n"
                    f"{log.tail(_TAIL_LINES)}"
                )
            # Triton does not announce that it is ready, so it is polled.
            time.sleep(_POLL_INTERVAL_S)
        assert self._ports is not None  # noqa: S101 - set with the process
        log.read()
        failures = startup.refused_models(connect_host(config.host), self._ports.http, expected, log, config.admin_key)
        if failures:
            shown = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
            raise ModelLoadError(
                f"the server refused {len(failures)} of {total} models in {config.model_repository}:\n{shown}\n"
                f"The end of its log ({self._log_path}):\n{log.tail(_TAIL_LINES)}",
                failures,
            )

    def _serves(self) -> bool:
        """Whether all three endpoints answer; Triton opens them only after it tried every model."""
        assert self._ports is not None  # noqa: S101 - set with the process
        host = connect_host(self._config.host)
        if not startup.answers(host, self._ports.http, "/v2/health/live"):
            return False
        if not startup.answers(host, self._ports.metrics, "/metrics"):
            return False
        try:
            socket.create_connection((host, self._ports.grpc), timeout=1.0).close()
        except OSError:
            return False
        return self.is_running()

    def _raise_died(self, log: LogFollower, status: int) -> None:
        log.read()
        tail = f"The end of its log ({self._log_path}):\n{log.tail(_TAIL_LINES)}"
        if log.port_taken:
            raise PortInUseError(f"the server could not bind a port of {self._ports} on {self._config.host}. {tail}")
        kind = ServerCrashError if status > _SIGNALLED and not log.failed else ServerStartError
        refused = "".join(f"\n  {name}: {log.reason(name)}" for name in log.failed)
        after = f", after it had refused:{refused}\n" if refused else ". "
        raise kind(f"the server ended with status {status} while starting{after}{tail}")

    def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        # The supervisor stops the server when its lifeline closes.
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if process.stdout is not None:
            process.stdout.close()
        try:
            process.wait(self._config.stop_timeout_s + _SUPERVISOR_MARGIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def _remove_scratch(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
