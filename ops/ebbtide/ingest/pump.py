"""Moves messages from a source to a server."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from ebbtide.client import (
    DeadlineExceededError,
    InterestClient,
    InvalidArgumentError,
    ObserveRequest,
    ObserveResult,
    UnavailableError,
    observe_request,
)
from ebbtide.ingest.messages import FieldNames, Message, NotAnEventError, Rejection, UserEvent
from ebbtide.ingest.sources import Source
from ebbtide.interest.record import HALF_KNOWN_IDS

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_SHOWN_REJECTIONS = 10


@dataclass
class Totals:
    """What became of messages."""

    messages: int = 0
    """Read and done with."""
    added: int = 0
    """Events that are new in the store."""
    duplicates: int = 0
    """Events that the store had."""
    late: int = 0
    """Of the added ones, those that came after newer ones had been folded; they count by age alone."""
    unknown_items: int = 0
    """Events left out, because their items are not in the catalog."""
    rejected: int = 0
    """Messages that are no events, or that the server refuses."""
    first_rejections: list[Rejection] = field(default_factory=list)

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Counts rejections."""
        for rejection in rejections:
            self.rejected += 1
            if len(self.first_rejections) < _SHOWN_REJECTIONS:
                self.first_rejections.append(rejection)


class Pump:
    """Reads messages, sends their events, and acknowledges the messages when the server's store has the events.

    Rejected messages are acknowledged too, after the file of the rejected ones has them. While the server or its store
    is away, the pump waits and sends again.
    """

    def __init__(
        self,
        source: Source,
        client: InterestClient,
        names: FieldNames,
        *,
        unknown_items: Literal["error", "ignore"] | None = None,
        id_from_message: bool = True,
        rejected: IO[str] | None = None,
        messages_per_batch: int = 1000,
        wait_s: float = 0.5,
        on_wait: Callable[[str], None] = lambda _reason: None,
        on_batch: Callable[[Totals], None] = lambda _totals: None,
    ) -> None:
        """Puts the parts together.

        Args:
            source: Of the messages.
            client: Of the server.
            names: How messages are read.
            unknown_items: What the server does with events of items that are not in the catalog: None as the model was
                exported, "error" rejects them.
            id_from_message: See `FieldNames.event_of`.
            rejected: Takes the rejected messages, one line each; it must be a file.
            messages_per_batch: Messages that are read, sent and acknowledged together, at most; fewer where one user
                has many of them.
            wait_s: How long the first message of a batch is waited for, seconds.
            on_wait: Is told why the pump waits, once for each attempt that failed.
            on_batch: Is told what has become of all messages, after each batch.
        """
        self._source = source
        self._client = client
        self._names = names
        self._unknown_items = unknown_items
        self._id_from_message = id_from_message
        self._rejected = rejected
        self._messages_per_batch = messages_per_batch
        self._wait_s = wait_s
        self._on_wait = on_wait
        self._on_batch = on_batch
        self._is_stopped = False
        self.totals = Totals()

    def stop(self) -> None:
        """Lets `run` return after the present batch; for handlers of signals."""
        self._is_stopped = True

    def run(self, idle_exit_s: float | None = None) -> Totals:
        """Moves messages until the source ends, or `stop` was called.

        Args:
            idle_exit_s: Returns also when no message has come for this time, seconds.

        Raises:
            IngestError: The source cannot be read.
            EbbtideError: The server refuses what no repetition will change, such as the token. The messages of the
                batch are not acknowledged.
        """
        last = time.monotonic()
        while not self._is_stopped:
            messages = self._source.read(self._messages_per_batch, self._wait_s)
            if messages is None:
                break
            if messages:
                self._move(messages)
                last = time.monotonic()
            elif idle_exit_s is not None and time.monotonic() - last >= idle_exit_s:
                break
        return self.totals

    def _move(self, messages: Sequence[Message]) -> None:
        for part in _parts([self._read(message) for message in messages]):
            rejections = [one for one in part if isinstance(one, Rejection)]
            if not self._send([one for one in part if isinstance(one, UserEvent)], rejections):
                # Stopped while the server was away: the messages stay with the source.
                return
            self._write(rejections)
            self.totals.messages += len(part)
            self.totals.reject(rejections)
            self._source.done([one.message for one in part])
            self._on_batch(self.totals)
            if self._is_stopped:
                return

    def _read(self, message: Message) -> UserEvent | Rejection:
        try:
            return self._names.event_of(message, id_from_message=self._id_from_message)
        except NotAnEventError as error:
            return Rejection(message, str(error))

    def _send(self, events: Sequence[UserEvent], rejections: list[Rejection]) -> bool:
        """Sends events until the server has taken or refused each; adds those refused to the rejections.

        Returns:
            Whether that is so; False if it was stopped before.
        """
        queues = _queues_of(events)
        pause_s = _FIRST_PAUSE_S
        while queues:
            failure = ""
            # One request of each user at a time: events that overtake older ones would make those late.
            requests = [self._request(queue[0]) for queue in queues.values()]
            for queue, result in zip(queues.values(), self._client.observe_many(requests), strict=True):
                error = result.error
                if isinstance(error, UnavailableError | DeadlineExceededError):
                    failure = str(error)
                    continue
                group = queue.popleft()
                if error is None:
                    self._count(result)
                elif not isinstance(error, InvalidArgumentError):
                    raise error
                elif len(group) == 1:
                    rejections.append(Rejection(group[0].message, str(error)))
                else:
                    # One event refuses the whole request.
                    queue.extendleft([one] for one in reversed(group))
            queues = {user: queue for user, queue in queues.items() if queue}
            if failure:
                if self._is_stopped:
                    return False
                self._on_wait(failure)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True

    def _request(self, group: Sequence[UserEvent]) -> ObserveRequest:
        return observe_request(group[0].user_id, [one.event for one in group], unknown_items=self._unknown_items)

    def _count(self, result: ObserveResult) -> None:
        response = result.response
        assert response is not None  # noqa: S101 - a result has one of error and response
        self.totals.added += response.added_events
        self.totals.duplicates += response.duplicate_events
        self.totals.late += response.late_events
        self.totals.unknown_items += response.unknown_events

    def _write(self, rejections: Sequence[Rejection]) -> None:
        if self._rejected is None or not rejections:
            return
        self._rejected.write("".join(f"{rejection.line()}\n" for rejection in rejections))
        self._rejected.flush()
        os.fsync(self._rejected.fileno())


def _parts(messages: Sequence[UserEvent | Rejection]) -> Iterator[list[UserEvent | Rejection]]:
    """The messages in parts with so few events of each user that its record keeps the ids of all of them.

    If the process ends before a part is acknowledged, its messages come again, perhaps in other company; each of them
    is then known by its id.
    """
    part: list[UserEvent | Rejection] = []
    counts: Counter[str] = Counter()
    for one in messages:
        if isinstance(one, UserEvent):
            if counts[one.user_id] == HALF_KNOWN_IDS:
                yield part
                part = []
                counts.clear()
            counts[one.user_id] += 1
        part.append(one)
    if part:
        yield part


def _queues_of(events: Sequence[UserEvent]) -> dict[str, deque[list[UserEvent]]]:
    """The events of each user in groups that one request each can hold: either all or none of them with an id."""
    groups: dict[tuple[str, bool], list[UserEvent]] = {}
    for one in events:
        groups.setdefault((one.user_id, one.event.HasField("event_id")), []).append(one)
    queues: dict[str, deque[list[UserEvent]]] = {}
    for (user, _), group in groups.items():
        queues.setdefault(user, deque()).append(group)
    return queues
