"""JSON Lines from a stream, such as standard input."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import BinaryIO

from ebbtide.ingest.messages import Message

_CHUNK_BYTES = 2**16


class LineSource:
    """One JSON object per line; blank lines are none.

    A stream cannot be read again: after a failure, whoever writes it sends it again, from the beginning or from a line
    that `Totals` has told. Events that the server has already count once.
    """

    def __init__(self, stream: BinaryIO, name: str = "standard input") -> None:
        self.name = name
        self._file = stream.fileno()
        self._rest = b""
        self._lines: list[bytes] = []
        self._number = 0
        self._has_ended = False

    def read(self, most: int, wait_s: float) -> Sequence[Message] | None:
        """See `Source.read`."""
        until = time.monotonic() + wait_s
        while len(self._lines) < most and not self._has_ended:
            ready, _, _ = select.select([self._file], [], [], max(until - time.monotonic(), 0))
            if not ready:
                break
            self._take(os.read(self._file, _CHUNK_BYTES))
        lines, self._lines = self._lines[:most], self._lines[most:]
        if not lines and self._has_ended:
            return None
        messages = []
        for line in lines:
            self._number += 1
            if line.strip():
                messages.append(Message(line, f"line {self._number}"))
        return messages

    def done(self, messages: Sequence[Message]) -> None:
        """See `Source.done`; nothing is to be noted."""

    def close(self) -> None:
        """See `Source.close`; the stream is its owner's."""

    def _take(self, data: bytes) -> None:
        self._has_ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines += lines
        if self._has_ended and self._rest:
            self._lines.append(self._rest)
            self._rest = b""
