"""Requests that name a user, whose times are set when they are sent.

A state moves on: an event that it has is not added again, and an answer is for a time after the newest event. So these
requests carry the clock of the machine that sends them, and no two of them are the same.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ebbtide.interest import contract
from ebbtide.loadtest._triton import content_spans, read_request

_TIME = struct.Struct("<q")
_TIMES = (contract.EVENT_TIME.name, contract.NOW.name)


class Stamped(NamedTuple):
    """A message around its times."""

    parts: tuple[bytes, ...]
    """The bytes before, between and after the times."""
    counts: tuple[int, ...]
    """How many times stand between two parts."""

    def at(self, now_ms: int) -> bytes:
        """The message, with this as all of its times, Unix milliseconds."""
        time = _TIME.pack(now_ms)
        pieces = [self.parts[0]]
        for count, part in zip(self.counts, self.parts[1:], strict=True):
            pieces += (time * count, part)
        return b"".join(pieces)


def stamped(message: bytes, prefix: bytes = b"") -> Stamped | None:
    """A serialised request whose times may be set; None for one that names no user.

    Args:
        message: A ``ModelInferRequest``.
        prefix: Bytes to send before it.
    """
    if all(tensor.name != contract.USER.name for tensor in read_request(message).inputs):
        return None
    spans = [span for name, span in content_spans(message).items() if name in _TIMES]
    parts, counts, index = [], [], 0
    for span in sorted(spans, key=lambda span: span.start):
        parts.append(message[index : span.start])
        counts.append((span.stop - span.start) // _TIME.size)
        index = span.stop
    parts.append(message[index:])
    return Stamped((prefix + parts[0], *parts[1:]), tuple(counts))
