"""A server that does nothing but answer every gRPC call with the same bytes: ``python -m ebbtide.loadtest.sink HOST``.

Against it a load generator shows what it can send itself. It reads no more of a request than where it ends, so that it
takes less of the machine than any generator.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
from collections import deque

import hpack

from ebbtide.loadtest import http2

_ANSWER = http2.prefixed(bytes(1_000))
"""About as long as the answer with ten items."""
_HEAD = [(":status", "200"), ("content-type", "application/grpc")]
_TAIL = [("grpc-status", "0")]
_INITIAL_WINDOW_SIZE = 4
_REPLENISH = 2**30
_READ_BYTES = 256 * 1024


class Caller:
    """One connection of a client."""

    def __init__(self, connected: socket.socket) -> None:
        """Takes the connection over."""
        self.socket = connected
        self._encoder = hpack.Encoder()
        self._blocks: tuple[bytes, bytes] | None = None
        self._rest = b""
        self._meets = len(http2.PREFACE)
        self._window, self._received = http2.DEFAULT_WINDOW, 0
        self._held: deque[int] = deque()
        self._out = bytearray(
            http2.settings({_INITIAL_WINDOW_SIZE: http2.LARGEST_WINDOW})
            + http2.window_update(0, http2.LARGEST_WINDOW - http2.DEFAULT_WINDOW)
        )

    @property
    def wants_to_write(self) -> bool:
        """Whether the network did not take all yet."""
        return bool(self._out)

    def write(self) -> None:
        """Writes what the network takes."""
        try:
            sent = self.socket.send(self._out)
        except BlockingIOError:
            return
        del self._out[:sent]

    def read(self) -> bool:
        """Reads what there is and answers what ends; whether the client is still there."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        data = self._rest + data
        # Nothing that a client says depends on its preface.
        index = min(self._meets, len(data))
        self._meets -= index
        while len(data) - index >= http2.FRAME_HEADER_BYTES:
            upper, lower, kind, flags, stream = http2.FRAME_HEADER.unpack_from(data, index)
            size = upper << 8 | lower
            begin, stop = index + http2.FRAME_HEADER_BYTES, index + http2.FRAME_HEADER_BYTES + size
            if stop > len(data):
                break
            if kind == http2.DATA:
                self._received += size
            if kind in (http2.DATA, http2.HEADERS):
                if flags & http2.END_STREAM:
                    self._held.append(stream)
            else:
                self._control(kind, flags, stream, data[begin:stop])
            index = stop
        self._rest = data[index:]
        self._answer()
        return True

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == http2.SETTINGS and not flags & http2.ACK:
            self._out += http2.frame(http2.SETTINGS, http2.ACK, 0, b"")
        elif kind == http2.PING and not flags & http2.ACK:
            self._out += http2.frame(http2.PING, http2.ACK, 0, payload)
        elif kind == http2.WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack(">I", payload)[0]

    def _answer(self) -> None:
        """Answers what the client's window allows."""
        while self._held and self._window >= len(_ANSWER):
            self._window -= len(_ANSWER)
            stream = self._held.popleft()
            head, tail = self._blocks or self._encode()
            self._out += http2.frame(http2.HEADERS, http2.END_HEADERS, stream, head)
            self._out += http2.frame(http2.DATA, 0, stream, _ANSWER)
            self._out += http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, tail)
        if self._received > _REPLENISH:
            self._out += http2.window_update(0, self._received)
            self._received = 0

    def _encode(self) -> tuple[bytes, bytes]:
        blocks = self._encoder.encode(_HEAD), self._encoder.encode(_TAIL)
        if all(http2.is_settled(block) for block in blocks):
            self._blocks = blocks
        return blocks


def serve(host: str) -> None:
    """Serves until standard input ends, after a line with the port on standard output."""
    listener = socket.create_server((host, 0), backlog=128)
    listener.setblocking(False)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        # Until the other side closes the pipe: it ends with its parent, however that ends.
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listener:
                    connected, _ = listener.accept()
                    connected.setblocking(False)
                    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(connected, selectors.EVENT_READ, Caller(connected))
                else:
                    _attend(key.data, selector)


def _attend(caller: Caller, selector: selectors.BaseSelector) -> None:
    try:
        stays = caller.read()
        if caller.wants_to_write:
            caller.write()
    except OSError:
        stays = False
    if not stays:
        selector.unregister(caller.socket)
        caller.socket.close()
        return
    writing = selectors.EVENT_WRITE if caller.wants_to_write else 0
    selector.modify(caller.socket, selectors.EVENT_READ | writing, caller)


if __name__ == "__main__":
    serve(sys.argv[1])
