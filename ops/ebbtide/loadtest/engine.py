"""The load generator: sends encoded requests from one thread, and times each from when it was due.

An open model sends at given times, whatever the server does. If the generator or the machine is delayed, the wait of a
request counts as latency, so that a stalled server does not look fast ("coordinated omission"). A closed model keeps a
number of requests under way, each sent after an answer; its latency starts when the request is sent.
"""

from __future__ import annotations

import gc
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ebbtide.loadtest.access import Access
from ebbtide.loadtest.arrivals import Floats
from ebbtide.loadtest.channel import Channel, Link, Route
from ebbtide.loadtest.http2 import DEADLINE_EXCEEDED, UNAVAILABLE, ProtocolError, prefixed
from ebbtide.loadtest.replay import CHOICES, Workload
from ebbtide.loadtest.samples import CANCELLED, OK, Phase, Recorder
from ebbtide.loadtest.stamped import Stamped, stamped

ENGINE = "one process"

_PAUSE_AFTER_FAILURE_S = 0.01
"""A server that refuses at once would otherwise be asked thousands of times per second."""
_BURST = 64
"""Answers are read after at most this many late requests."""
_LONGEST_WAIT_S, _WAIT_OPENING_S = 0.05, 0.005
"""How soon Ctrl-C, and a connection that another thread opened, are noticed."""

_Ticket = tuple[int, float, float, float, int]
"""Endpoint, due time, delay of sending, time of sending (seconds from the start), and channel."""


class Generator:
    """Sends the requests of a workload to one address; use it from one thread, and close it."""

    sink_host = "127.0.0.1"
    """Where a server that does nothing must listen, to be reached."""

    def __init__(
        self,
        target: str,
        workload: Workload,
        *,
        timeout_s: float,
        connections: int = 4,
        access: Access | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Opens the connections.

        Args:
            target: ``host:port``.
            workload: Requests and their order.
            timeout_s: Deadline of each request, from when it is sent.
            connections: HTTP/2 connections that requests take turns on.
            access: Encryption and token; None for neither.
            share: Number of this generator, from 0, and how many there are; of w generators, number i sends the
                requests i, i + w, i + 2 w, ... of the workload.

        Raises:
            LoadTestError: The address is not valid, or `access` does not fit it.
        """
        self._timeout_s, self._count = timeout_s, connections
        self._access = access or Access()
        self._choices = workload.choices()
        sendable = _stamped if workload.names_users else prefixed
        self._messages = [[sendable(message) for message in workload.messages[name]] for name in workload.endpoints]
        self._next, self._step = share
        self._load: _Load | None = None
        self._channels: list[Channel[_Ticket]] = []
        self.aim(target)

    def aim(self, target: str, *, plain: bool = False) -> None:
        """Sends to this address from now on.

        Args:
            target: As at construction.
            plain: Without encryption and token.
        """
        route = Route.to(target, Access() if plain else self._access, self._timeout_s)
        self.close()
        self._channels = [Channel(route, self._ended) for _ in range(self._count)]
        for channel in self._channels:
            channel.links[0].wait_open()

    def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            channel.close()
        self._channels = []

    def interrupt(self) -> None:
        """Ends the phase under way in order, from any thread: nothing more is sent, and open requests are cancelled."""
        if self._load is not None:
            self._load.interrupt()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_model(self, send_s: Floats, duration_s: float) -> Phase:
        """Sends a request at each of the given times and waits until all have ended.

        Args:
            send_s: Seconds from the start, ascending.
            duration_s: Length of the run; requests that are still unsent after twice that time are dropped.
        """
        load = self._prepare(self._channels)
        return self._phase(load, lambda: load.send_at(send_s.tolist(), 2 * duration_s), duration_s, len(send_s))

    def closed_model(self, concurrency: int, duration_s: float) -> Phase:
        """Keeps a number of requests under way for a time and waits until all have ended."""
        # Connections that have one request between them at a time only scatter the server's work.
        load = self._prepare(self._channels[:concurrency])
        return self._phase(load, lambda: load.keep_busy(concurrency, duration_s), duration_s, None)

    def _prepare(self, channels: list[Channel[_Ticket]]) -> _Load:
        self._load = _Load(channels, self._messages, self._choices, self._timeout_s, self._next, self._step)
        return self._load

    def _ended(self, ticket: _Ticket, code: int) -> None:
        if self._load is not None:
            self._load.ended(ticket, code)

    def _phase(self, load: _Load, drive: Callable[[], None], duration_s: float, due: int | None) -> Phase:
        began_unix_s, cpu_s = time.time(), time.process_time()
        with interrupts(load.interrupt), _no_collection():
            drive()
        self._next += load.sent * self._step
        return Phase(
            records=load.recorder.records(),
            sent=load.sent,
            due=load.sent if due is None else due,
            duration_s=min(duration_s, load.stopped_s or duration_s),
            began_unix_s=began_unix_s,
            cpu_s=time.process_time() - cpu_s,
            interrupted=load.stopped_s is not None,
        )


class _Load:
    """One phase under way."""

    def __init__(
        self,
        channels: list[Channel[_Ticket]],
        messages: list[list[bytes | Stamped]],
        choices: list[int],
        timeout_s: float,
        first: int,
        step: int,
    ) -> None:
        self.recorder = Recorder()
        self.sent = 0
        self.stopped_s: float | None = None
        self._channels, self._messages, self._choices = channels, messages, choices
        self._timeout_s, self._first, self._step = timeout_s, first, step
        self._under_way = 0
        self._busy_until_s = 0.0
        """End of a closed model; 0 in an open one."""
        self._pauses: deque[tuple[float, int]] = deque()
        """When a closed model goes on after failures, and on which channel."""
        self._check_s = timeout_s
        """No deadline passes before."""
        self._began = time.perf_counter()

    def interrupt(self) -> None:
        """Sends nothing more and cancels what is under way."""
        if self.stopped_s is None:
            self.stopped_s = self._now_s()

    def send_at(self, send_s: list[float], give_up_s: float) -> None:
        """The open model."""
        self._begin()
        index, count, channels = 0, len(send_s), len(self._channels)
        while index < count and self.stopped_s is None:
            now_s = self._now_s()
            last = min(count, index + _BURST)
            while index < last and send_s[index] <= now_s:
                if now_s - send_s[index] > give_up_s:
                    index = count
                    break
                self._send(send_s[index], now_s, index % channels)
                index += 1
            if index < count:
                self._exchange(send_s[index] - self._now_s())
        self._finish()

    def keep_busy(self, concurrency: int, duration_s: float) -> None:
        """The closed model."""
        self._begin()
        self._busy_until_s = duration_s
        for number in range(concurrency):
            now_s = self._now_s()
            self._send(now_s, now_s, number % len(self._channels))
        while self.stopped_s is None and (now_s := self._now_s()) < duration_s:
            while self._pauses and self._pauses[0][0] <= now_s:
                self._send(now_s, now_s, self._pauses.popleft()[1])
            resume_s = self._pauses[0][0] if self._pauses else duration_s
            self._exchange(min(resume_s, duration_s) - now_s)
        self._finish()

    def ended(self, ticket: _Ticket, code: int) -> None:
        """Records the end of a request; in a closed model the next one follows."""
        now_s = self._now_s()
        endpoint, intended_s, late_s, _, channel = ticket
        self.recorder.add(endpoint, code, intended_s, late_s, now_s - intended_s)
        self._under_way -= 1
        if now_s < self._busy_until_s and self.stopped_s is None:
            if code == OK:
                self._send(now_s, now_s, channel)
            else:
                self._pauses.append((now_s + _PAUSE_AFTER_FAILURE_S, channel))

    def _now_s(self) -> float:
        return time.perf_counter() - self._began

    def _begin(self) -> None:
        # What the server said since the last phase: it may have closed a connection.
        self._exchange(0.0)
        self._began = time.perf_counter()

    def _send(self, intended_s: float, now_s: float, channel: int) -> None:
        number = self._first + self.sent * self._step
        endpoint = self._choices[number % CHOICES]
        messages = self._messages[endpoint]
        self.sent += 1
        self._under_way += 1
        ticket = (endpoint, intended_s, now_s - intended_s, now_s, channel)
        link = self._channels[channel].usable(time.perf_counter())
        if link is None:
            self.ended(ticket, UNAVAILABLE)
        else:
            message = messages[number % len(messages)]
            if isinstance(message, Stamped):
                message = message.at(time.time_ns() // 1_000_000)
            link.calls.start(message, ticket)

    def _finish(self) -> None:
        """Waits until every request that was sent has ended."""
        while self._under_way:
            if self.stopped_s is not None:
                self._cancel()
            self._exchange(_LONGEST_WAIT_S)
        self._exchange(0.0)

    def _cancel(self) -> None:
        for channel in self._channels:
            for link in channel.links:
                for ticket in link.calls.take_waiting():
                    self.ended(ticket, CANCELLED)
                for stream in list(link.calls.under_way):
                    self.ended(link.calls.cancel(stream), CANCELLED)

    def _exchange(self, wait_s: float) -> None:
        """Writes, waits for at most so long, reads, and ends requests whose deadline has passed."""
        readers: dict[int, tuple[Channel[_Ticket], Link[_Ticket]]] = {}
        writers: list[int] = []
        for channel in self._channels:
            for link in channel.links:
                if link.socket is None:
                    wait_s = min(wait_s, _WAIT_OPENING_S)
                    if link.error is not None:
                        self._lose(channel, link)
                        break
                    continue
                if (link.calls.has_output or link.wants_to_write) and not self._try(channel, link, link.write):
                    break
                handle = link.socket.fileno()
                readers[handle] = channel, link
                if link.wants_to_write:
                    writers.append(handle)
        # select() waits to the microsecond; epoll's timeouts are whole milliseconds, and every one would be latency.
        wait_s = max(0.0, min(wait_s, _LONGEST_WAIT_S, self._check_s - self._now_s()))
        readable, _, _ = select.select(list(readers), writers, [], wait_s)
        for handle in readable:
            channel, link = readers[handle]
            self._try(channel, link, link.read)
            if link.calls.retired:
                channel.sweep()
        if self._now_s() > self._check_s:
            self._expire()

    def _try(self, channel: Channel[_Ticket], link: Link[_Ticket], work: Callable[[], None]) -> bool:
        try:
            work()
        except (OSError, ProtocolError):
            self._lose(channel, link)
            return False
        return True

    def _lose(self, channel: Channel[_Ticket], link: Link[_Ticket]) -> None:
        for ticket in channel.lose(link, time.perf_counter()):
            self.ended(ticket, UNAVAILABLE)

    def _expire(self) -> None:
        """Ends what is older than the deadline. Deadlines are alike, so the oldest of a connection is the first."""
        now_s = self._now_s()
        self._check_s = now_s + self._timeout_s
        for channel in self._channels:
            for link in channel.links:
                calls = link.calls
                while (oldest := next(iter(calls.under_way.items()), None)) is not None:
                    if not self._is_due(oldest[1], now_s):
                        break
                    self.ended(calls.cancel(oldest[0]), DEADLINE_EXCEEDED)
                while calls.waiting and self._is_due(calls.waiting[0][1], now_s):
                    self.ended(calls.waiting.popleft()[1], DEADLINE_EXCEEDED)

    def _is_due(self, ticket: _Ticket, now_s: float) -> bool:
        """Whether a call's deadline has passed; if not, it is looked at again when it does."""
        due_s = ticket[3] + self._timeout_s
        if due_s > now_s:
            self._check_s = min(self._check_s, due_s)
        return due_s <= now_s


def _stamped(message: bytes) -> bytes | Stamped:
    """A message as it is sent, but for its times if it names a user."""
    sent = prefixed(message)
    return stamped(message, sent[: len(sent) - len(message)]) or sent


@contextmanager
def _no_collection() -> Iterator[None]:
    """While it lasts, Python collects no garbage: nothing here makes cycles, and a collection holds all up."""
    was_enabled = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


@contextmanager
def interrupts(stop: Callable[[], object]) -> Iterator[None]:
    """While it lasts, Ctrl-C ends the phase in order instead of the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(*_: Any) -> None:  # noqa: ANN401
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
