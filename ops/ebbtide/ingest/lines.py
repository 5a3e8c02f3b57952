"""JSON Lines from a stream, such as standard input."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ebbtide.ingest.errors import IngestError
from ebbtide.ingest.messages import Message

_CHUNK_BYTES = 2**16


class LineSource:
    """One JSON object per line; blank lines are none.

    A stream cannot be read again: after a failure, whoever writes it sends it again from the beginning, and the lines
    that are done with are skipped.
    """

    def __init__(self, stream: BinaryIO, name: str = "standard input", *, progress: Path | None = None) -> None:
        """Begins where an earlier one of the same stream has ended.

        Args:
            stream: Has a file descriptor.
            name: For messages.
            progress: File that keeps the number of lines that are done with; None begins with the first line.

        Raises:
            IngestError: The file holds something else.
        """
        self.name = name
        self._file = stream.fileno()
        self._progress = progress
        self._skipped = 0 if progress is None else _lines_done(progress)
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
            if self._number > self._skipped and line.strip():
                messages.append(Message(line, f"line {self._number}"))
        return messages

    def done(self, messages: Sequence[Message]) -> None:
        """See `Source.done`."""
        if self._progress is not None:
            # A reader sees the old number or the new one.
            partial = self._progress.with_name(f".{self._progress.name}.partial")
            partial.write_text(messages[-1].where.removeprefix("line "), encoding="utf-8")
            partial.replace(self._progress)

    def close(self) -> None:
        """See `Source.close`; the stream is its owner's."""

    def _take(self, data: bytes) -> None:
        self._has_ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines += lines
        if self._has_ended and self._rest:
            self._lines.append(self._rest)
            self._rest = b""


def _lines_done(progress: Path) -> int:
    if not progress.exists():
        return 0
    text = progress.read_text(encoding="utf-8")
    if not text.isdecimal():
        raise IngestError(f"{progress}: got {text[:20]!r}; expected the number of lines that are done with")
    return int(text)
