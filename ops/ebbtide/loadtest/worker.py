"""One worker of a distributed load test: ``python -m ebbtide.loadtest.worker HOST PORT``.

It connects to the coordinator (`ebbtide.loadtest.workers`), takes its requests, and sends its share of every phase with
the same `Generator` as a load test in one process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from multiprocessing.connection import Client, Connection
from typing import Any

import numpy as np

from ebbtide.loadtest._triton import read_messages
from ebbtide.loadtest.access import ACCESS_VARIABLE, read_access
from ebbtide.loadtest.engine import Generator
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.samples import Phase, phase_bytes

KEY_VARIABLE = "EBBTIDE_LOADTEST_KEY"
"""Environment variable with the key, in hexadecimal, that coordinator and workers share."""

IGNORE_INTERRUPTS = "--ignore-interrupts"
"""Argument of workers that the coordinator started."""

GO, STOP = b"go", b"stop"
"""Begins a phase whose share the worker has; ends the one under way."""

_POLL_S = 0.05


def work(connection: Connection) -> None:
    """Does what the coordinator says until it closes the connection.

    Commands are JSON, each followed by its data; bytes only, so nothing that arrives is executed.
    """
    generator: Generator | None = None
    try:
        while True:
            message = connection.recv_bytes()
            if message in (GO, STOP):
                # It came when the phase had just ended.
                continue
            command = json.loads(message)
            try:
                if command["do"] == "take":
                    generator = _generator(command, connection)
                    answer = b"{}"
                elif command["do"] == "aim":
                    assert generator is not None  # noqa: S101 - the coordinator sends requests first
                    generator.aim(command["target"], plain=command["plain"])
                    answer = b"{}"
                else:
                    assert generator is not None  # noqa: S101 - the coordinator sends requests first
                    answer = _phase(generator, command, connection)
            except LoadTestError as error:
                answer = json.dumps({"error": str(error)}).encode()
            connection.send_bytes(answer)
    except EOFError:
        return
    finally:
        if generator is not None:
            generator.close()


def _generator(command: dict[str, Any], connection: Connection) -> Generator:
    messages = {name: read_messages(connection.recv_bytes()) for name in command["mix"]}
    return Generator(
        command["target"],
        Workload(command["mix"], messages, (), command["users"], command["seed"], by_user=command["by_user"]),
        timeout_s=command["timeout_s"],
        access=read_access(os.environ.get(ACCESS_VARIABLE)),
        share=(command["worker"], command["workers"]),
    )


def _phase(generator: Generator, command: dict[str, Any], connection: Connection) -> bytes:
    """Runs a phase in a thread of its own, so that the coordinator can stop it."""
    send_s = np.frombuffer(connection.recv_bytes(), dtype=np.float64)
    connection.send_bytes(b"{}")
    stopped = connection.recv_bytes() == STOP
    phases: list[Phase] = []

    def run() -> None:
        if command["concurrency"] is None:
            phases.append(generator.open_model(send_s, command["duration_s"]))
        else:
            phases.append(generator.closed_model(command["concurrency"], command["duration_s"]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while thread.is_alive():
            if connection.poll(_POLL_S):
                stopped |= connection.recv_bytes() == STOP
            if stopped:
                # Again each time: the phase may only be about to begin.
                generator.interrupt()
    except EOFError:
        generator.interrupt()
        raise
    finally:
        thread.join()
    return phase_bytes(phases[0])


def _main() -> None:
    host, port, *options = sys.argv[1:]
    if IGNORE_INTERRUPTS in options:
        # Ctrl-C is for the coordinator, which stops the workers in order. A session of their own would protect them
        # too, but Linux shares the processor among sessions: on a busy machine such workers were several times slower.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Client((host, int(port)), authkey=bytes.fromhex(os.environ[KEY_VARIABLE])) as connection:
        work(connection)


if __name__ == "__main__":
    _main()
