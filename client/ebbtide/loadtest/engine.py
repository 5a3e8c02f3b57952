"""The load generator: encoded requests over gRPC on one event loop, timed from the moment that each was meant to leave.

An open model sends at given moments, whatever the server does: a request that leaves late, since the generator or the
machine was held up, counts its wait as latency, so that a slow server is not spared ("coordinated omission"). A closed
model keeps a number of requests under way, each following an answer; its latency starts when the request leaves.
"""

from __future__ import annotations

import asyncio
import selectors
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio

from ebbtide.loadtest._triton import raw_call
from ebbtide.loadtest.arrivals import Floats
from ebbtide.loadtest.replay import CHOICES, Deck
from ebbtide.loadtest.samples import CANCELLED, OK, Phase, Recorder

T = TypeVar("T")

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
)
"""A channel opens a connection of its own; gRPC would share one among all channels to the same address."""

_PAUSE_AFTER_FAILURE_S = 0.01


class Generator:
    """Sends the requests of a deck to one address; use it from one thread, and close it."""

    sink_host = "127.0.0.1"
    """Where a server that does nothing must listen, to be reached."""

    def __init__(self, target: str, deck: Deck, *, timeout_s: float, connections: int = 4) -> None:
        """Prepares the generator; the connections open with the first requests.

        Args:
            target: ``host:port``, or any target that gRPC resolves.
            deck: Requests and their order.
            timeout_s: Deadline of each request, from the moment that it leaves.
            connections: HTTP/2 connections that requests take turns on.
        """
        self._timeout_s = timeout_s
        self._choices = deck.choices()
        self._messages = [deck.messages[endpoint] for endpoint in deck.endpoints]
        # select() waits to the microsecond; epoll's timeouts are whole milliseconds, and every one would be latency.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._next = 0
        self._connections = connections
        self._channels: list[grpc.aio.Channel] = []
        self._calls: list[Any] = []
        self.aim(target)

    def aim(self, target: str) -> None:
        """Sends to this address from now on."""
        self._run(self._open(target))

    async def _open(self, target: str) -> None:
        await self._close()
        self._channels = [grpc.aio.insecure_channel(target, CHANNEL_OPTIONS) for _ in range(self._connections)]
        self._calls = [raw_call(channel) for channel in self._channels]

    def close(self) -> None:
        """Closes the connections."""
        if not self._loop.is_closed():
            self._run(self._close())
            self._loop.close()

    async def _close(self) -> None:
        for channel in self._channels:
            await channel.close(None)

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_model(self, send_s: Floats, duration_s: float) -> Phase:
        """Sends a request at each of the given moments and waits until all have ended.

        Args:
            send_s: Seconds from the start, ascending.
            duration_s: Length of the run; what has not left after twice that long never does.
        """
        return self._phase(lambda load: load.send_at(send_s, 2 * duration_s), duration_s, len(send_s))

    def closed_model(self, concurrency: int, duration_s: float) -> Phase:
        """Keeps requests under way for so long and waits until all have ended."""
        return self._phase(lambda load: load.keep_busy(concurrency, duration_s), duration_s, None)

    def _phase(self, drive: Callable[[_Load], Coroutine[Any, Any, None]], duration_s: float, due: int | None) -> Phase:
        load = _Load(self._calls, self._messages, self._choices, self._timeout_s, self._next)
        began_unix_s, cpu_s = time.time(), time.process_time()
        with _interrupts(self._loop, load.interrupt):
            self._run(load.drive(drive(load)))
        self._next += load.sent
        return Phase(
            records=load.recorder.records(),
            sent=load.sent,
            due=load.sent if due is None else due,
            duration_s=min(duration_s, load.stopped_s or duration_s),
            began_unix_s=began_unix_s,
            cpu_s=time.process_time() - cpu_s,
            interrupted=load.stopped_s is not None,
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        asyncio.set_event_loop(self._loop)
        try:
            return self._loop.run_until_complete(work)
        finally:
            asyncio.set_event_loop(None)


class _Load:
    """One phase under way."""

    def __init__(
        self, calls: list[Any], messages: list[list[bytes]], choices: list[int], timeout_s: float, first: int
    ) -> None:
        self.recorder = Recorder()
        self.sent = 0
        self.stopped_s: float | None = None
        self._calls, self._messages, self._choices = calls, messages, choices
        self._timeout_s, self._first = timeout_s, first
        self._tasks: set[asyncio.Task[object]] = set()
        self._driver: asyncio.Task[None] | None = None
        self._began = time.perf_counter()

    def interrupt(self) -> None:
        """Sends nothing more and cancels what is under way."""
        if self.stopped_s is None:
            self.stopped_s = time.perf_counter() - self._began
        for task in (self._driver, *self._tasks):
            if task is not None:
                task.cancel()

    async def drive(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs the phase to its end: until every request that left has ended."""
        self._began = time.perf_counter()
        self._driver = asyncio.create_task(work)
        await asyncio.wait([self._driver])
        if not self._driver.cancelled():
            self._driver.result()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def send_at(self, send_s: Floats, give_up_s: float) -> None:
        """The open model."""
        for moment_s in send_s.tolist():
            wait_s = moment_s - (time.perf_counter() - self._began)
            # Also without a wait: answers must be read between two late requests.
            await asyncio.sleep(max(0.0, wait_s))
            if -wait_s > give_up_s:
                return
            self._start(self._one(moment_s))

    async def keep_busy(self, concurrency: int, duration_s: float) -> None:
        """The closed model."""

        async def one_after_the_other() -> None:
            while self.stopped_s is None and (now_s := time.perf_counter() - self._began) < duration_s:
                if not await self._one(now_s):
                    # A server that refuses at once would otherwise be asked thousands of times per second.
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

        for _ in range(concurrency):
            self._start(one_after_the_other())

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, intended_s: float) -> bool:
        """Sends one request and records its end; whether it was answered."""
        if self.stopped_s is not None:
            return False
        number = self._first + self.sent
        endpoint = self._choices[number % CHOICES]
        messages = self._messages[endpoint]
        late_s = time.perf_counter() - self._began - intended_s
        self.sent += 1
        try:
            await self._calls[number % len(self._calls)](messages[number % len(messages)], timeout=self._timeout_s)
            code = OK
        except grpc.aio.AioRpcError as error:
            code = int(error.code().value[0])
        except asyncio.CancelledError:
            code = CANCELLED
        self.recorder.add(endpoint, code, intended_s, late_s, time.perf_counter() - self._began - intended_s)
        return code == OK


@contextmanager
def _interrupts(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """While it lasts, Ctrl-C ends the phase in order instead of the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
