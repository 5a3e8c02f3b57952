"""Unary gRPC calls of one method over one HTTP/2 connection: bytes in, bytes out, no sockets (RFC 9113 and 7541).

A load generator needs little of a client: messages are encoded before, and of every answer only the status is read.
gRPC's own clients take several times as much processor time, which a server on the same machine then lacks.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import hpack

from ebbtide.loadtest.errors import LoadTestError

T = TypeVar("T")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER = struct.Struct(">HBBBI")
"""Length (two upper bytes, one lower), type, flags, stream."""
FRAME_HEADER_BYTES = 9

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE = 1, 2, 4, 13, 14
"""gRPC statuses."""

LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
_HEADER_TABLE_SIZE, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 3, 4, 5
_ENABLE_PUSH = 2
_CANCEL = 8
_LARGEST_TABLE = 4_096
_LAST_STREAM = 2**31 - 1
_REPLENISH = 2**30
_NUMBER = struct.Struct(">I")
_SETTING = struct.Struct(">HI")

_REFUSED_STREAM = 7
_MOST_REFUSED = 16
"""Refusals in a row after which a refused call ends: the server answers nothing any more."""
_CODE_OF_RESET = {_REFUSED_STREAM: UNAVAILABLE, 8: CANCELLED, 11: 8, 12: 7}
"""gRPC's statuses for HTTP/2 error codes (doc/PROTOCOL-HTTP2.md, "HTTP2 Transport Mapping"); others are INTERNAL."""
_CODE_OF_HTTP = {"400": INTERNAL, "401": 16, "403": 7, "404": 12, "429": 14, "502": 14, "503": 14, "504": 14}
"""gRPC's statuses for answers that are not gRPC's (doc/http-grpc-status-mapping.md); others are UNKNOWN."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return FRAME_HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in values.items()))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))


def prefixed(message: bytes) -> bytes:
    """A message as gRPC sends it: uncompressed, behind its length."""
    return b"\0" + _NUMBER.pack(len(message)) + message


def timeout_text(timeout_s: float) -> str:
    """The value of ``grpc-timeout``, which has eight digits at most."""
    micros = math.ceil(timeout_s * 1e6)
    return f"{micros}u" if micros < 10**8 else f"{min(math.ceil(timeout_s * 1e3), 10**8 - 1)}m"


def is_settled(block: bytes) -> bool:
    """Whether a block of headers only refers to the table, one byte each: it means the same until the table changes."""
    return all(0x80 < byte < 0xFF for byte in block)


class ProtocolError(LoadTestError):
    """The other side does not speak HTTP/2 as it should; the connection cannot be used any more."""


class Connection(Generic[T]):
    """The client's side of one connection.

    What is to be written piles up until `take`; what was read goes to `receive`. A call is known by a ticket of the
    caller's, given back with its gRPC status when it ended.
    """

    def __init__(self, headers: list[tuple[str, str]], ended: Callable[[T, int], None]) -> None:
        """Prepares the connection's opening.

        Args:
            headers: Of every call, ``:method`` and the like first.
            ended: Called with each call's ticket and gRPC status. It may start another call.
        """
        self._headers, self._ended = headers, ended
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._encoder.header_table_size = _LARGEST_TABLE
        self._block: bytes | None = None
        self._known: dict[bytes, int | None] = {}
        self._http_status: dict[int, str] = {}
        self._rest = b""
        self._fragments: tuple[int, int, bytes] | None = None
        self._next_stream = 1
        # No call starts before the server's settings arrive: gRPC's server also refuses early calls above its limits.
        self._max_streams, self._max_frame = 0, 16_384
        self._window, self._stream_window = DEFAULT_WINDOW, DEFAULT_WINDOW
        self._received = 0
        self._met = False
        self.waiting: deque[tuple[bytes, T]] = deque()
        """Messages and tickets of calls that start when the server allows another stream, the oldest first."""
        self._blocked: dict[int, _Blocked] = {}
        self._limited: dict[int, bytes] = {}
        self._refused = 0
        self.under_way: dict[int, T] = {}
        """Tickets by stream, in the order in which calls started."""
        self.retired = False
        """Whether no further call can start: the server said so, or stream numbers are used up."""
        self._out = [
            PREFACE,
            settings({_ENABLE_PUSH: 0, _INITIAL_WINDOW_SIZE: LARGEST_WINDOW}),
            window_update(0, LARGEST_WINDOW - DEFAULT_WINDOW),
        ]

    def start(self, message: bytes, ticket: T) -> None:
        """Starts a call.

        Args:
            message: The request as `prefixed` gives it.
            ticket: What to know the call by.
        """
        if len(self.under_way) >= self._max_streams:
            self.waiting.append((message, ticket))
            return
        stream = self._next_stream
        self._next_stream = stream + 2
        self.retired = self.retired or self._next_stream > _LAST_STREAM
        self.under_way[stream] = ticket
        if self._max_streams < LARGEST_WINDOW:
            self._limited[stream] = message
        block, size = self._block or self._encode(), len(message)
        out = self._out
        out.append(FRAME_HEADER.pack(len(block) >> 8, len(block) & 0xFF, HEADERS, END_HEADERS, stream))
        out.append(block)
        if size <= self._max_frame and size <= self._stream_window and size <= self._window and not self._blocked:
            self._window -= size
            out.append(FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, END_STREAM, stream))
            out.append(message)
        else:
            self._blocked[stream] = _Blocked(message, self._stream_window)
            self._pump()

    def cancel(self, stream: int) -> T:
        """Ends a call without its answer, and gives its ticket; `ended` is not called for it."""
        self._out.append(frame(RST_STREAM, 0, stream, _NUMBER.pack(_CANCEL)))
        return self._forget(stream)

    def abandon(self) -> list[T]:
        """The tickets of all calls under way and waiting, when the connection is lost; none of them ends any more."""
        tickets = [*self.under_way.values(), *(ticket for _, ticket in self.waiting)]
        self.under_way.clear()
        self.waiting.clear()
        self._blocked.clear()
        self._limited.clear()
        self._out.clear()
        self.retired = True
        return tickets

    def take_waiting(self) -> list[T]:
        """The tickets of calls that wait for the server to allow another stream; they no longer do."""
        tickets = [ticket for _, ticket in self.waiting]
        self.waiting.clear()
        return tickets

    @property
    def has_output(self) -> bool:
        """Whether something is to be written."""
        return bool(self._out)

    def take(self) -> bytes:
        """What is to be written now."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def receive(self, data: bytes) -> None:
        """Takes what was read.

        Raises:
            ProtocolError: It is no HTTP/2.
        """
        if self._rest:
            data = self._rest + data
        index, end = 0, len(data)
        while end - index >= FRAME_HEADER_BYTES:
            upper, lower, kind, flags, stream = FRAME_HEADER.unpack_from(data, index)
            size = upper << 8 | lower
            begin, stop = index + FRAME_HEADER_BYTES, index + FRAME_HEADER_BYTES + size
            if not self._met and kind != SETTINGS:
                raise ProtocolError("the server does not speak HTTP/2 here")
            if stop > end:
                break
            if kind == DATA:
                self._received += size
                if flags & END_STREAM:
                    self._end(stream, _CODE_OF_HTTP.get(self._http_status.get(stream, ""), UNKNOWN))
            else:
                self._control(kind, flags, stream & LARGEST_WINDOW, data[begin:stop])
            index = stop
        self._rest = data[index:]
        if self._received > _REPLENISH:
            self._out.append(window_update(0, self._received))
            self._received = 0

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            block = _unpadded(payload, flags) if flags & (PADDED | PRIORITY) else payload
            if flags & END_HEADERS:
                self._take_headers(stream, flags, block)
            else:
                self._fragments = (stream, flags, block)
        elif kind == CONTINUATION and self._fragments is not None:
            stream, first_flags, block = self._fragments
            self._fragments = (stream, first_flags, block + payload)
            if flags & END_HEADERS:
                self._fragments = None
                self._take_headers(stream, first_flags, block + payload)
        elif kind == WINDOW_UPDATE:
            self._widen(stream, _NUMBER.unpack(payload)[0] & LARGEST_WINDOW)
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self._configure(dict(_SETTING.iter_unpack(payload)))
        elif kind == RST_STREAM:
            self._reset(stream, _NUMBER.unpack(payload)[0])
        elif kind == GOAWAY:
            self._retire(_NUMBER.unpack_from(payload)[0] & LARGEST_WINDOW)

    def _take_headers(self, stream: int, flags: int, block: bytes) -> None:
        # Most blocks were seen before, and the table has not changed since.
        if (code := self._known.get(block, -1)) == -1:
            code = self._decode(stream, block)
        if flags & END_STREAM:
            self._end(stream, UNKNOWN if code is None else code)

    def _decode(self, stream: int, block: bytes) -> int | None:
        """The gRPC status in a block of headers, or what stands for it; None where there is none."""
        try:
            headers: dict[Any, Any] = dict(self._decoder.decode(block))
        except hpack.HPACKError as error:
            raise ProtocolError(f"the server's headers cannot be decoded: {error}") from error
        status = headers.get("grpc-status", "")
        code = int(status) if status.isdigit() and int(status) <= 16 else None
        http = headers.get(":status", "200")
        if code is None and http != "200":
            self._http_status[stream] = http
            code = _CODE_OF_HTTP.get(http, UNKNOWN)
        elif is_settled(block):
            self._known[block] = code
            return code
        self._known.clear()
        return code

    def _encode(self) -> bytes:
        block: bytes = self._encoder.encode(self._headers)
        if is_settled(block):
            # All of it stands in the server's table: the same bytes from now on.
            self._block = block
        return block

    def _configure(self, values: Mapping[int, int]) -> None:
        if _HEADER_TABLE_SIZE in values:
            self._encoder.header_table_size = min(_LARGEST_TABLE, values[_HEADER_TABLE_SIZE])
            self._block = None
        self._max_streams = values.get(_MAX_CONCURRENT_STREAMS, self._max_streams if self._met else LARGEST_WINDOW)
        self._max_frame = values.get(_MAX_FRAME_SIZE, self._max_frame)
        window = values.get(_INITIAL_WINDOW_SIZE, self._stream_window)
        for blocked in self._blocked.values():
            blocked.window += window - self._stream_window
        self._stream_window = window
        self._out.append(frame(SETTINGS, ACK, 0, b""))
        self._met = True
        self._pump()
        self._start_waiting()

    def _widen(self, stream: int, size: int) -> None:
        if stream == 0:
            self._window += size
        elif stream in self._blocked:
            self._blocked[stream].window += size
        if self._blocked:
            self._pump()

    def _pump(self) -> None:
        """Sends of the messages that wait for the server's windows what these allow."""
        for stream, blocked in list(self._blocked.items()):
            while blocked.left and (size := min(len(blocked.left), self._max_frame, blocked.window, self._window)) > 0:
                part, blocked.left = blocked.left[:size], blocked.left[size:]
                blocked.window -= size
                self._window -= size
                self._out.append(frame(DATA, 0 if blocked.left else END_STREAM, stream, part))
            if not blocked.left:
                del self._blocked[stream]

    def _retire(self, last_stream: int) -> None:
        self.retired = True
        for stream in [one for one in self.under_way if one > last_stream]:
            self._end(stream, UNAVAILABLE)
        for ticket in self.take_waiting():
            self._ended(ticket, UNAVAILABLE)

    def _reset(self, stream: int, error: int) -> None:
        # A server counts a call for a moment longer than its caller. What it refused it did not process, so the call
        # may be sent again (RFC 9113, 8.7).
        message = self._limited.get(stream)
        if error == _REFUSED_STREAM and message is not None and self._refused < _MOST_REFUSED and not self.retired:
            self._refused += 1
            self.waiting.appendleft((message, self.under_way[stream]))
            self._forget(stream)
        else:
            self._end(stream, _CODE_OF_RESET.get(error, INTERNAL))

    def _end(self, stream: int, code: int) -> None:
        if stream in self.under_way:
            self._refused = 0
            self._ended(self._forget(stream), code)

    def _forget(self, stream: int) -> T:
        ticket = self.under_way.pop(stream)
        if self._blocked:
            self._blocked.pop(stream, None)
        if self._limited:
            self._limited.pop(stream, None)
        if self._http_status:
            self._http_status.pop(stream, None)
        if self.waiting:
            self._start_waiting()
        return ticket

    def _start_waiting(self) -> None:
        while self.waiting and len(self.under_way) < self._max_streams and not self.retired:
            self.start(*self.waiting.popleft())


class _Blocked:
    """What is left of a message that the server's windows hold back."""

    def __init__(self, left: bytes, window: int) -> None:
        self.left, self.window = left, window


def _unpadded(payload: bytes, flags: int) -> bytes:
    padding, begin = (payload[0], 1) if flags & PADDED else (0, 0)
    return payload[begin + (5 if flags & PRIORITY else 0) : len(payload) - padding]
