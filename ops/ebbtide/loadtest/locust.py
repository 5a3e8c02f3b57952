"""Locust users for Ebbtide: one for locustfiles of your own, and the one that replays sessions.

    from locust import task
    from ebbtide.loadtest.locust import InterestUser

    class Visitor(InterestUser):
        host = "localhost:8001"

        @task
        def recommend(self):
            self.client.recommend(history=[...], top_n=10)

Importing this patches the standard library for gevent, as Locust does: import it in processes that Locust runs, only.
"""

from __future__ import annotations

import time
from typing import Any

# First: it patches the standard library, which grpc must find patched.
from locust import User, task

# isort: split
import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
from locust.env import Environment

from ebbtide.client import Call, ClientConfig, Hooks, InterestClient
from ebbtide.loadtest._triton import open_channel, raw_call
from ebbtide.loadtest.access import Access
from ebbtide.loadtest.replay import CHOICES, Workload
from ebbtide.loadtest.samples import CANCELLED, OK, Recorder

grpc_gevent.init_gevent()

_CONNECTIONS = 4
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
"""A channel opens a connection of its own; gRPC would share one among all channels to the same address."""
_IDLE_S = 0.05


class InterestUser(User):
    """A Locust user whose `client` is an `InterestClient`; each call is one request in Locust's statistics.

    `host` is the server's gRPC address.
    """

    abstract = True
    config = ClientConfig()
    """How the client calls; hooks are added to it."""

    def __init__(self, environment: Environment) -> None:
        """Opens the client."""
        super().__init__(environment)
        # Without it Locust kills a user within a call, which counts as a failure, or leaves gRPC with a lock held.
        environment.stop_timeout = max(environment.stop_timeout or 0.0, self.config.timeout_s)
        kept = {name: getattr(self.config, name) for name in self.config.__dataclass_fields__}
        hooks = (*self.config.hooks, Hooks(after_call=self._report))
        self.client = InterestClient(str(self.host), config=ClientConfig(**{**kept, "hooks": hooks}))

    def on_stop(self) -> None:
        """Closes the client."""
        self.client.close()
        # It and the user refer to each other: freed only when the process ends, gRPC would wait for a gevent long gone.
        del self.client

    def _report(self, call: Call) -> None:
        fire: Any = self.environment.events.request.fire
        fire(
            request_type="gRPC",
            name=call.method,
            response_time=1e3 * call.duration_s,
            response_length=0,
            exception=call.error,
            context={},
        )


class Replay:
    """What one worker sends: its share of a phase, or whatever Locust's page asks for."""

    def __init__(
        self, environment: Environment, workload: Workload, timeout_s: float, worker: int, workers: int
    ) -> None:
        """Prepares the worker; `aim` opens its connections.

        Args:
            environment: Locust's, whose statistics hear of every request.
            workload: What to send.
            timeout_s: Deadline of each request.
            worker: This worker's number, from 0.
            workers: How many there are; request number n of a phase is sent by worker n modulo that.
        """
        self._environment = environment
        self._channels: list[grpc.Channel] = []
        self._calls: list[Any] = []
        self._metadata: list[tuple[str, str]] = []
        self._endpoints, self._choices = workload.endpoints, workload.choices()
        self._messages = [workload.messages[endpoint] for endpoint in workload.endpoints]
        self._timeout_s = timeout_s
        self._worker, self._workers = worker, workers
        self._first = 0
        self.recorder = Recorder()
        self.sent = 0
        self._began = time.perf_counter()

    def aim(self, target: str, access: Access) -> None:
        """Sends to this address from now on."""
        for channel in self._channels:
            channel.close()
        self._metadata = access.metadata(target)
        self._channels = [open_channel(target, access, _CHANNEL_OPTIONS) for _ in range(_CONNECTIONS)]
        self._calls = [raw_call(channel) for channel in self._channels]

    def begin(self) -> None:
        """Starts a phase: counts from nothing, with the clock at 0."""
        self._first += self.sent * self._workers
        self.recorder, self.sent = Recorder(), 0
        self._began = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since the phase began."""
        return time.perf_counter() - self._began

    def open_model(self, send_s: list[float], give_up_s: float) -> None:
        """Sends a request at each moment, and waits until all have ended."""
        under_way = []
        for timestamp_s in send_s:
            wait_s = timestamp_s - self.now_s()
            gevent.sleep(max(0.0, wait_s))
            if -wait_s > give_up_s:
                break
            under_way.append(gevent.spawn(self.send, timestamp_s))
        gevent.joinall(under_way)

    def closed_model(self, concurrency: int, duration_s: float) -> None:
        """Keeps requests under way for so long, and waits until all have ended."""

        def one_after_the_other() -> None:
            while (now_s := self.now_s()) < duration_s:
                if not self.send(now_s):
                    gevent.sleep(0.01)

        gevent.joinall([gevent.spawn(one_after_the_other) for _ in range(concurrency)])

    def send(self, intended_s: float) -> bool:
        """Sends the next request and records its end; whether it was answered."""
        number = self._first + self._worker + self.sent * self._workers
        endpoint = self._choices[number % CHOICES]
        messages = self._messages[endpoint]
        call = self._calls[self.sent % len(self._calls)]
        self.sent += 1
        late_s = self.now_s() - intended_s
        failure: BaseException | None = None
        code = CANCELLED
        try:
            call(messages[number % len(messages)], timeout=self._timeout_s, metadata=self._metadata)
            code = OK
        except grpc.RpcError as error:
            failure = error
            status: Any = error
            code = int(status.code().value[0])
        finally:
            took_s = self.now_s() - intended_s
            self.recorder.add(endpoint, code, intended_s, late_s, took_s)
        fire: Any = self._environment.events.request.fire
        fire(
            request_type="gRPC",
            name=self._endpoints[endpoint],
            response_time=1e3 * took_s,
            response_length=0,
            exception=failure,
            context={},
        )
        return code == OK

    def results(self) -> dict[str, Any]:
        """What the master is told at the end of a phase."""
        return {"sent": self.sent, "records": self.recorder.records().tobytes(), "cpu_s": time.process_time()}


class ReplayUser(User):
    """Sends a worker's requests one after the other for as long as it lives: the load that Locust's page sets."""

    replay: Replay | None = None
    """Set by the worker once it has its requests."""

    @task
    def send_next(self) -> None:
        """Sends one request."""
        replay = type(self).replay
        if replay is None or not replay.send(replay.now_s()):
            gevent.sleep(_IDLE_S)
