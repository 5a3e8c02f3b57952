"""A Locust master or worker in a process of its own, driven by messages: started by `LocustGenerator`.

The master takes one JSON command per line on its standard input and answers each with a line on its standard output. It
gives the workers their requests, splits every phase among them, and gathers what became of each request.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ebbtide.loadtest import locust as replaying

# isort: split
import gevent
import gevent.event
import numpy as np
from gevent.fileobject import FileObject
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from ebbtide.loadtest._triton import read_messages
from ebbtide.loadtest.access import ACCESS_VARIABLE, Access, read_access
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.samples import RECORD, Phase, save_phase

_TAKE, _AIM, _GO, _DONE = "ebbtide-take", "ebbtide-aim", "ebbtide-go", "ebbtide-done"
_START_UP_S = 60.0
_LEAD_S = 0.2


class Master:
    """Serves the commands of the process that started it."""

    def __init__(self, host: str, port: int, workers: int, timeout_s: float, web_port: int | None) -> None:
        """Listens for workers."""
        self._environment = Environment(user_classes=[replaying.ReplayUser])
        self._runner: MasterRunner = self._environment.create_master_runner(host, port)
        self._workers, self._timeout_s = workers, timeout_s
        self._ids: list[str] = []
        self._told: dict[str, dict[str, Any]] = {}
        self._news = gevent.event.Event()
        self._runner.register_message(_DONE, self._hear)
        if web_port is not None:
            self._environment.create_web_ui("127.0.0.1", web_port)

    def _hear(self, environment: Environment, msg: Any, **_: object) -> None:  # noqa: ANN401, ARG002
        self._told[str(msg.node_id)] = msg.data
        self._news.set()

    def serve(self) -> None:
        """Answers commands until the input ends."""
        lines = FileObject(sys.stdin.buffer, "rb", close=False)
        for line in lines:
            command = json.loads(line)
            try:
                answer = getattr(self, f"_do_{command.pop('do')}")(**command)
            except RuntimeError as error:
                answer = {"error": str(error)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        self._runner.quit()

    def _do_workload(self, folder: str) -> dict[str, Any]:
        """Waits for the workers and gives them their requests."""
        self._wait(lambda: len(self._runner.clients.ready) >= self._workers, _START_UP_S, "workers that are ready")
        self._told.clear()
        plan = json.loads((Path(folder) / "workload.json").read_text(encoding="utf-8"))
        messages = {name: (Path(folder) / f"{name}.bin").read_bytes() for name in plan["mix"]}
        self._ids = sorted(client.id for client in self._runner.clients.ready)[: self._workers]
        for number, client in enumerate(self._ids):
            share = {"timeout_s": self._timeout_s, "worker": number, "workers": self._workers}
            self._runner.send_message(_TAKE, {**share, **plan, "messages": messages}, client)
        self._gather(_START_UP_S, "workers that took their requests")
        return {"workers": self._workers}

    def _do_aim(self, target: str, plain: bool) -> dict[str, Any]:
        """Has the workers send to an address."""
        self._told.clear()
        for client in self._ids:
            self._runner.send_message(_AIM, {"target": target, "plain": plain}, client)
        self._gather(_START_UP_S, "workers that connected")
        return {"target": target}

    def _do_phase(self, out: str, duration_s: float, send: str | None, concurrency: int) -> dict[str, Any]:
        """Runs a phase on all workers and writes what became of it."""
        times = [] if send is None else np.load(send, allow_pickle=False).tolist()
        self._told.clear()
        began = time.time()
        for number, client in enumerate(self._ids):
            share = {
                "send_s": times[number :: self._workers],
                "concurrency": len(range(number, concurrency, self._workers)),
                "duration_s": duration_s,
                "is_open": send is not None,
            }
            self._runner.send_message(_GO, share, client)
        told = self._gather(3 * duration_s + self._timeout_s + _START_UP_S, "workers that finished")
        records = np.concatenate([np.frombuffer(one["records"], dtype=RECORD) for one in told])
        sent = sum(int(one["sent"]) for one in told)
        cpu_s = max(float(one["cpu_s"]) for one in told)
        save_phase(Path(out), Phase(records, sent, len(times) if send else sent, duration_s, began, cpu_s))
        return {"sent": sent}

    def _gather(self, timeout_s: float, what: str) -> list[dict[str, Any]]:
        self._wait(lambda: all(client in self._told for client in self._ids), timeout_s, what)
        return [self._told[client] for client in self._ids]

    def _wait(self, ready: Any, timeout_s: float, what: str) -> None:  # noqa: ANN401
        end = time.monotonic() + timeout_s
        while not ready():
            self._news.clear()
            lost = [client for client in self._ids if self._is_lost(client)]
            if lost or time.monotonic() > end:
                raise RuntimeError(
                    f"workers: {len(lost) or 'some'} of {self._workers} are lost; expected {self._workers} {what}"
                )
            self._news.wait(0.05)

    def _is_lost(self, client: str) -> bool:
        """Whether a worker left, or has not been heard of for some seconds."""
        return client not in self._runner.clients or self._runner.clients[client].state == STATE_MISSING


class Worker:
    """Takes requests and phases from the master."""

    def __init__(self, host: str, port: int) -> None:
        """Connects to the master."""
        self._environment = Environment(user_classes=[replaying.ReplayUser])
        self._runner: WorkerRunner = self._environment.create_worker_runner(host, port)
        self._replay: replaying.Replay | None = None
        self._runner.register_message(_TAKE, self._take)
        self._runner.register_message(_AIM, self._aim)
        self._runner.register_message(_GO, self._go)

    def serve(self) -> None:
        """Works until the master quits."""
        self._runner.greenlet.join()

    def _take(self, environment: Environment, msg: Any, **_: object) -> None:  # noqa: ANN401
        share = msg.data
        # Locust would else kill a user of its page within a call.
        environment.stop_timeout = share["timeout_s"]
        messages = {name: read_messages(packed) for name, packed in share["messages"].items()}
        workload = Workload(share["mix"], messages, (), share["users"], share["seed"])
        timeout_s, worker, workers = share["timeout_s"], share["worker"], share["workers"]
        self._replay = replaying.Replay(environment, workload, timeout_s, worker, workers)
        self._runner.send_message(_DONE, {})

    def _aim(self, environment: Environment, msg: Any, **_: object) -> None:  # noqa: ANN401, ARG002
        assert self._replay is not None  # noqa: S101 - the master sends requests first
        access = Access() if msg.data["plain"] else read_access(os.environ.get(ACCESS_VARIABLE))
        self._replay.aim(msg.data["target"], access)
        replaying.ReplayUser.replay = self._replay
        self._runner.send_message(_DONE, {})

    def _go(self, environment: Environment, msg: Any, **_: object) -> None:  # noqa: ANN401, ARG002
        # A greenlet of its own: the runner hears heartbeats meanwhile.
        gevent.spawn(self._phase, msg.data)

    def _phase(self, share: dict[str, Any]) -> None:
        assert self._replay is not None  # noqa: S101 - the master sends requests first
        # All workers have heard of the phase when it begins.
        gevent.sleep(_LEAD_S)
        cpu_s = time.process_time()
        self._replay.begin()
        if share["is_open"]:
            self._replay.open_model(share["send_s"], 2 * share["duration_s"])
        else:
            self._replay.closed_model(share["concurrency"], share["duration_s"])
        results = self._replay.results()
        self._runner.send_message(_DONE, {**results, "cpu_s": results["cpu_s"] - cpu_s})


def _main() -> None:
    role, host, port, *rest = sys.argv[1:]
    if role == "worker":
        Worker(host, int(port)).serve()
    else:
        workers, timeout_s, web = rest
        Master(host, int(port), int(workers), float(timeout_s), int(web) if web else None).serve()


if __name__ == "__main__":
    _main()
    # Locust's greenlets may still hold the interpreter.
    sys.stdout.flush()
    os._exit(0)
