"""Keeps a tritonserver only as long as the process that started it: run as a script, with the standard library alone.

Why a process of its own, and not ``PR_SET_PDEATHSIG`` in a ``preexec_fn`` of the caller: that signal is tied to the
calling *thread*, so a server started in a worker thread would die with the thread; ``preexec_fn`` runs Python between
fork and exec, which can deadlock in a process that has threads (gRPC's, for one); and it would kill the server alone,
not its stubs. This process has one thread, notices by its pipe and by its parent's id that the caller is gone, whatever
killed it, and cleans up after the server: stubs and shared memory. Should this process be killed itself, the server
gets ``PR_SET_PDEATHSIG`` from it, which is safe here.

Usage: supervisor.py CALLER_PID STOP_TIMEOUT_S SHM_PREFIX SCRATCH -- COMMAND...

SCRATCH is a folder to remove if the caller died before it could, or empty.

Standard input is the caller's lifeline: when it closes, the server stops. One line with the server's pid goes to
standard output. The exit status is the server's own (128 + n where signal n ended it).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_CHECK_INTERVAL_MS = 200
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory, not a scratch folder


class _StopRequested(Exception):  # noqa: N818 - control flow, not an error
    """A signal asked this process to end."""


def _on_signal(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the handler's signature
    raise _StopRequested


def _has_ended(pid: int) -> bool:
    # WNOWAIT leaves the zombie, so that its process group's id can't be reused before the group is killed.
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _watch(pid: int, caller_pid: int) -> None:
    """Returns when the server ended, the lifeline closed, or the caller is gone."""
    lifeline = select.poll()
    lifeline.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    # The parent's id is checked as well: a forked child of the caller may hold the lifeline open.
    while not _has_ended(pid) and os.getppid() == caller_pid:
        if lifeline.poll(_CHECK_INTERVAL_MS):
            return


def _stop(pid: int, timeout_s: float) -> None:
    """SIGTERM, a grace period, then SIGKILL for whatever is left of the server's process group."""
    deadline = time.monotonic() + timeout_s
    if not _has_ended(pid):
        os.kill(pid, signal.SIGTERM)
    while not _has_ended(pid) and time.monotonic() < deadline:
        # Its end has to be asked for: waiting for it with a time limit takes a signal handler.
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Runs the server and returns its exit status."""
    caller_pid, timeout_s, shm_prefix, scratch = int(arguments[0]), float(arguments[1]), *arguments[2:4]
    command = arguments[arguments.index("--") + 1 :]
    libc = ctypes.CDLL(None)

    def die_with_supervisor() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    # Standard output carries the pid to the caller; the server's own output goes where standard error goes.
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
        preexec_fn=die_with_supervisor,
    )
    try:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, _on_signal)
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), f"{server.pid}\n".encode())
        _watch(server.pid, caller_pid)
    except _StopRequested:
        pass
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        _stop(server.pid, timeout_s)
        status = server.wait()
        for region in _SHARED_MEMORY.glob(f"{shm_prefix}*"):
            region.unlink(missing_ok=True)
        if scratch and os.getppid() != caller_pid:
            shutil.rmtree(scratch, ignore_errors=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
